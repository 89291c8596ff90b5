"""The threshold, chosen on training rows by models that were not fitted on them (cross-fitting)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from tabloop import candidate, onnx_model, split
from tabloop.cli import UserError
from tabloop.metrics import MIN_CLASS, Curve, enough
from tabloop.params import Params
from tabloop.progress import progress

FOLDS = 2  # two fits on half of the rows take as long as one on all
ROWS = 1_000_000  # of more, a sample
PERIODS = 30  # of time, whose rows stay together; each fold has every second


def choose_threshold(fit: Callable[..., Any], rows: pd.DataFrame, params: Params) -> float:
    """The threshold that costs least by `evaluate.cost` on rows of train, each scored by a model that has not seen it.

    A threshold that is chosen on the rows it is reported on looks better than it is. So each of FOLDS folds is scored by
    a model that was fitted on the others. A fold has every second of PERIODS in order of time ("blocked"
    cross-validation: Bergmeir and Benitez, Information Sciences 191, 2012). So neighbours in time are in one fold, and
    after the data have changed, all models have seen some of the change, as the final one has; models of earlier rows
    alone have not, and their scores would give a threshold that does not suit it. Without a timestamp a hash of the
    entity (or row) makes the folds.

    Of more than ROWS rows a sample is taken.

    A fold is left out where the others have fewer than MIN_CLASS rows of a class. With fewer than MIN_CLASS scored rows
    of a class the threshold is the best one for calibrated probabilities: the cost of a false positive, divided by the
    sum of both costs (Elkan, "The Foundations of Cost-Sensitive Learning", IJCAI 2001).

    Args:
        fit: the owner's: the estimator for features, target, schema and `train` of params.yaml.

    Raises:
        UserError: a model gives probabilities that are not finite.
    """
    schema, cost = params.schema_, params.evaluate.cost
    if len(rows) > ROWS:
        rows = rows.iloc[np.sort(np.random.default_rng(0).choice(len(rows), ROWS, replace=False))]
    target, fold = rows[schema.target.name].to_numpy(), split.parts(rows, schema, PERIODS) % FOLDS
    score, scored = np.full(len(rows), np.nan), np.zeros(len(rows), bool)
    inputs = onnx_model.model_inputs(rows, schema)
    with progress("train: choosing the threshold", FOLDS) as bar:
        for number in range(FOLDS):
            at = fold == number
            if at.any() and enough(target[~at]):
                estimator = candidate.fit_or_explain(fit, inputs[~at], target[~at], params)
                score[at], scored[at] = estimator.predict_proba(inputs[at])[:, 1], True
            bar.update()
    if not np.isfinite(score[scored]).all():
        raise UserError("fitted on a part of train, the model gives probabilities that are not finite")
    what = f"{scored.sum():,} rows of train ({target[scored].sum():,} positive)"
    by = "other times" if schema.timestamp else f"other {schema.entity or 'row'}s"
    if enough(target[scored]):
        threshold = Curve.of(target[scored], score[scored]).cheapest_threshold(cost)
        print(f"train: threshold {threshold:.4g} costs least on {what}, scored by models of {by}", flush=True)
        return threshold
    threshold = cost.false_positive / ((cost.false_positive + cost.false_negative) or 1)
    why = f"models of {by} could score {what}, and {MIN_CLASS} of each class are needed to choose it"
    print(f"train: threshold {threshold:.4g}, the ratio of the costs: {why}", flush=True)
    return threshold
