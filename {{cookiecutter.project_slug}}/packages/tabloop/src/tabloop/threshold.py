"""The threshold, chosen on training rows by models that were not fitted on them (cross-fitting)."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tabloop.candidate import fit_or_explain
from tabloop.cli import UserError
from tabloop.metrics import MIN_CLASS, Curve, enough
from tabloop.onnx_model import model_inputs
from tabloop.params import Params, Schema
from tabloop.split import hashes

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = 4  # fitting on 1, 2 and 3 of 4 blocks takes 1.5 times as long as on all


def choose_threshold(fit: Callable[..., Any], rows: "pd.DataFrame", params: Params) -> float:
    """The threshold that costs least by `evaluate.cost` on rows of train, each scored by a model that has not seen it.

    A threshold that is chosen on the rows it is reported on looks better than it is. So the training rows are in
    BLOCKS blocks in order of time, and each is scored by a model that was fitted on the earlier ones; without a
    timestamp a hash of the entity (or row) makes the blocks, and the model is fitted on the other ones. A block is
    left out where there are fewer than MIN_CLASS rows of a class to fit on. With fewer than MIN_CLASS scored rows of a
    class the threshold is the best one for calibrated probabilities: the cost of a false positive, divided by the sum
    of both costs (Elkan, "The Foundations of Cost-Sensitive Learning", IJCAI 2001).

    Args:
        fit: the owner's: the estimator for features, target, schema and `train` of params.yaml.

    Raises:
        UserError: a model gives probabilities that are not finite.
    """
    schema, cost = params.schema_, params.evaluate.cost
    target, block = rows[schema.target.name].to_numpy(), blocks(rows, schema)
    score, scored = np.full(len(rows), np.nan), np.zeros(len(rows), bool)
    inputs = model_inputs(rows, schema)
    for number in range(BLOCKS):
        at, known = block == number, block < number if schema.timestamp else block != number
        if at.any() and enough(target[known]):
            estimator = fit_or_explain(fit, inputs[known], target[known], params)
            score[at], scored[at] = estimator.predict_proba(inputs[at])[:, 1], True
    if not np.isfinite(score[scored]).all():
        raise UserError("fitted on a part of train, the model gives probabilities that are not finite")
    what = f"{scored.sum():,} rows of train ({target[scored].sum():,} positive)"
    by = "earlier rows" if schema.timestamp else f"other {schema.entity or 'row'}s"
    if enough(target[scored]):
        threshold = Curve.of(target[scored], score[scored]).cheapest_threshold(cost)
        print(f"train: threshold {threshold:.4g} costs least on {what}, scored by models of {by}", flush=True)
        return threshold
    threshold = cost.false_positive / ((cost.false_positive + cost.false_negative) or 1)
    print(
        f"train: threshold {threshold:.4g}, the ratio of the costs: models of {by} could score {what}, "
        f"and {MIN_CLASS} of each class are needed to choose it",
        flush=True,
    )
    return threshold


def blocks(rows: "pd.DataFrame", schema: Schema) -> np.ndarray:
    """The block of each row, (n,), from 0: of about equal size; rows of one time, or entity, are in one block."""
    if not schema.timestamp:
        return hashes(rows, schema) % BLOCKS  # the split into train and holdout takes the hash's first bits
    earlier = rows[schema.timestamp].rank(method="min").to_numpy() - 1
    return (earlier * BLOCKS // len(rows)).astype(int)
