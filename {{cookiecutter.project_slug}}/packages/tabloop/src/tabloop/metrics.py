"""Statistics of a binary classifier, without SciPy: importing it would take longer than computing them."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd

from tabloop.params import Cost

BINS = 10  # of calibration
MIN_CLASS = 20  # rows of each class below which DeLong's normal approximation says nothing


def midranks(values: np.ndarray) -> np.ndarray:
    """The rank of each of (n,) values from 1, ties sharing their mean rank."""
    return pd.Series(values).rank().to_numpy()


def delong(target: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """The AUC, and how much each row moves it, (n,): the sum of their squares is its variance. NaN where a class is missing.

    DeLong, DeLong and Clarke-Pearson (Biometrics 44, 1988), by the ranks of Sun and Xu (IEEE Signal Processing
    Letters 21, 2014): O(n log n). Ties count half. Of two models on the same rows, subtract row by row.

    Args:
        target: (n,) of 0 and 1.
        score: (n,), higher for the positive class.
    """
    positive = np.asarray(target, bool)
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return float("nan"), np.full(len(positive), np.nan)
    score = np.asarray(score, float)
    ranks, moved = midranks(score), np.empty(len(score))
    # The share of negatives that it exceeds.
    moved[positive] = (ranks[positive] - midranks(score[positive])) / n
    moved[~positive] = 1 - (ranks[~positive] - midranks(score[~positive])) / m  # of positives that exceed it
    value = float(moved[positive].mean())
    for part, size in ((positive, m), (~positive, n)):
        moved[part] = (moved[part] - value) / max(1, size * (size - 1)) ** 0.5
    return value, moved


def auc(target: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve of (n,) scores; NaN if `target` has one class only."""
    return delong(target, score)[0]


@dataclass(frozen=True)
class Estimate:
    """A value and its confidence interval."""

    value: float
    low: float
    high: float


def enough(target: np.ndarray) -> bool:
    """Whether both classes have MIN_CLASS rows, so that an interval means something."""
    positives = int(np.sum(target))
    return min(positives, len(target) - positives) >= MIN_CLASS


def auc_interval(target: np.ndarray, score: np.ndarray, confidence: float) -> Estimate:
    """AUC with DeLong's interval, within 0 and 1. With fewer than MIN_CLASS rows of a class the interval is [0, 1]."""
    value, moved = delong(target, score)
    if not enough(target):
        return Estimate(value, 0.0, 1.0)
    half = half_width(moved, confidence)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def half_width(moved: np.ndarray, confidence: float) -> float:
    """Half of the interval of a value, by how much each row moves it, (n,)."""
    return quantile(confidence) * float((moved**2).sum() ** 0.5)


def quantile(confidence: float) -> float:
    """How many standard errors an interval reaches to each side."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


@dataclass(frozen=True)
class Curve:
    """Counts at every distinct threshold, from the highest down: (k,) each; positive where score >= threshold."""

    threshold: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    positives: int
    negatives: int

    @classmethod
    def of(cls, target: np.ndarray, score: np.ndarray) -> "Curve":
        """The curve of (n,) targets of 0 and 1, and scores."""
        order = np.argsort(-score, kind="stable")
        ranked, hits = np.asarray(score, float)[order], np.cumsum(np.asarray(target)[order])
        last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
        positives = int(hits[-1])
        return cls(ranked[last], hits[last], last + 1 - hits[last], positives, len(target) - positives)

    @property
    def precision(self) -> np.ndarray:
        """True positives of all that are predicted positive, (k,)."""
        return self.true_positives / (self.true_positives + self.false_positives)

    @property
    def recall(self) -> np.ndarray:
        """True positives of all positives, (k,)."""
        return self.true_positives / self.positives

    @property
    def false_positive_rate(self) -> np.ndarray:
        """False positives of all negatives, (k,)."""
        return self.false_positives / self.negatives

    @property
    def average_precision(self) -> float:
        """Precision summed over the steps in recall, not interpolated."""
        return float(np.sum(np.diff(self.recall, prepend=0) * self.precision))

    def cost_per_row(self, cost: Cost) -> np.ndarray:
        """The mean cost of acting on each threshold, (k,)."""
        missed = self.positives - self.true_positives
        total = cost.false_positive * self.false_positives + cost.false_negative * missed
        return total / (self.positives + self.negatives)

    def cheapest_threshold(self, cost: Cost) -> float:
        """The threshold of least cost; above every score if acting on none is cheapest."""
        costs = self.cost_per_row(cost)
        best = int(costs.argmin())
        never = cost.false_negative * self.positives / (self.positives + self.negatives)
        if costs[best] < never:
            return float(self.threshold[best])
        return float(np.nextafter(max(1.0, self.threshold[0]), np.inf))


def errors_cost(
    target: np.ndarray, score: np.ndarray, threshold: float | np.ndarray, cost: Cost
) -> np.ndarray:
    """The cost of each decision, (n,): 0 where it is right. `threshold` is one, or (n,)."""
    acted, positive = np.asarray(score) >= threshold, np.asarray(target) == 1
    return cost.false_positive * (acted & ~positive) + cost.false_negative * (~acted & positive)


def at_threshold(
    target: np.ndarray, score: np.ndarray, threshold: float | np.ndarray, cost: Cost
) -> dict[str, float | None]:
    """Precision, recall and cost per row of acting on `score >= threshold`; precision is None if none is."""
    acted, positive = np.asarray(score) >= threshold, np.asarray(target) == 1
    hits = int((acted & positive).sum())
    return {
        "precision": hits / int(acted.sum()) if acted.any() else None,
        "recall": hits / int(positive.sum()) if positive.any() else None,
        "cost_per_row": float(errors_cost(target, score, threshold, cost).mean()),
    }


def calibration(target: np.ndarray, probability: np.ndarray) -> list[dict[str, float]]:
    """Predicted against observed share of positives, in at most BINS bins of equal size."""
    order = np.argsort(probability, kind="stable")
    target, parts = np.asarray(target), [part for part in np.array_split(order, BINS) if len(part)]
    means = [(float(probability[part].mean()), float(target[part].mean()), len(part)) for part in parts]
    return [{"predicted": mean, "observed": share, "rows": rows} for mean, share, rows in means]


def signed_calibration(target: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Each row's predicted minus observed, with the sign of its bin's mean, (n,): the mean is the calibration error."""
    gap = np.asarray(probability, float) - target
    for part in np.array_split(np.argsort(probability, kind="stable"), BINS):
        gap[part] *= np.sign(gap[part].sum())
    return gap


def calibration_error(target: np.ndarray, probability: np.ndarray) -> float:
    """The expected calibration error: the mean distance of predicted and observed share, in bins of equal size.

    Naeini, Cooper and Hauskrecht (AAAI 2015), with the bins of `calibration`. Of a calibrated model, too, it is above zero,
    the more so the fewer the rows (Roelofs et al., AISTATS 2022): compare it on the same rows.
    """
    return float(signed_calibration(target, probability).mean())
