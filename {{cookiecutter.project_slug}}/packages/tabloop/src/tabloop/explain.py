"""Which features move the model: permutation importance on the holdout, by the ONNX graph."""

from typing import Any

import numpy as np
import pandas as pd

from tabloop.card import ModelCard
from tabloop.metrics import delong, enough, half_width
from tabloop.onnx_model import FILE, OnnxModel
from tabloop.roles import CANDIDATE

SCORED_ROWS = 72_000  # in all: a wide table is measured on fewer rows, with fewer draws of each column
MAX_DRAWS, MIN_ROWS = 3, 500


def importance(rows: pd.DataFrame, target: np.ndarray, confidence: float) -> list[dict[str, Any]]:
    """The AUC that the candidate loses when a column's values are those of random rows, the most important first.

    Breiman, "Random forests" (2001), section 10. The values are drawn anew for each row, so that a row's score stays
    independent of other rows; then DeLong's covariance of the AUCs covers the chance in the rows and in the draws.

    Args:
        rows: the holdout. target: (n,) of 0 and 1.
        confidence: of the interval.

    Returns:
        Of each feature: `feature`, `value`, `low`, `high`, and `rows`, the number of rows that it was measured on.
    """
    card, random = ModelCard.read(CANDIDATE), np.random.default_rng(0)
    model = OnnxModel(CANDIDATE / FILE, card.schema_)
    inputs = model.inputs(rows)
    draws = min(MAX_DRAWS, max(1, SCORED_ROWS // (MIN_ROWS * len(inputs))))
    at = sample(target, max(MIN_ROWS, SCORED_ROWS // (draws * len(inputs))), random)
    chosen, labels = {name: values[at] for name, values in inputs.items()}, target[at]
    area, moved = delong(labels, model.score(chosen))
    found = []
    for name, values in inputs.items():
        others = (chosen | {name: random.choice(values, len(at))} for _ in range(draws))
        drawn = [delong(labels, model.score(each)) for each in others]
        value = area - float(np.mean([other for other, _ in drawn]))
        spread = moved - np.mean([other for _, other in drawn], axis=0)
        half = half_width(spread, confidence)
        low, high = (value - half, value + half) if enough(labels) else (-1, 1)
        # Six digits: the last ones of float32 depend on the processor.
        figures = {"value": round(value, 6), "low": round(low, 6), "high": round(high, 6)}
        found.append({"feature": name, **figures, "rows": len(at)})
    return sorted(found, key=lambda one: -one["value"])


def sample(target: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
    """The places of at most `size` rows, in order. AUC does not depend on the shares of the classes: the rarer one is kept."""
    if len(target) <= size:
        return np.arange(len(target))
    rarer, other = sorted((np.flatnonzero(target == label) for label in (0, 1)), key=len)
    rarer = random.permutation(rarer)[: size // 2]
    return np.sort(np.r_[rarer, random.permutation(other)[: size - len(rarer)]])
