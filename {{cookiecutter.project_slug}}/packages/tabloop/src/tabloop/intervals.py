"""Intervals of metrics, of one model or of the difference of two on the same rows, without resampling.

A metric's influence function says how much each row moves it, and the sum of squares is the metric's variance (Hampel,
JASA 69, 1974; Efron calls it the infinitesimal jackknife, SIAM 1982). What a row moves in two models is subtracted, so
that their difference is paired. For AUC this is DeLong's interval.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tabloop import metrics
from tabloop.metrics import Estimate
from tabloop.params import Cost

GROUPS = 20  # of the jackknife


class Scored(NamedTuple):
    """A model on some rows: its P(positive), (n,), and its threshold."""

    probability: np.ndarray
    threshold: float

    def at(self, rows: np.ndarray) -> "Scored":
        """The same of some of the rows, by a mask or indices."""
        return Scored(self.probability[rows], self.threshold)

    @property
    def acted(self) -> np.ndarray:
        """Which rows are predicted positive, (n,)."""
        return self.probability >= self.threshold


def estimate(
    metric: str, target: np.ndarray, model: Scored, other: Scored | None, cost: Cost, confidence: float
) -> Estimate:
    """A metric, or by how much it is more than that of `other`, with its interval; NaN where it is undefined.

    Precision and recall of one model have Wilson's interval (JASA 22, 1927), which holds at 0 and 1, too. The
    calibration error of a calibrated model is not 0 but what chance makes of it: that is taken off the lower end.

    Args:
        metric: one of gates.HIGHER_IS_BETTER.
        target: (n,) of 0 and 1.
    """
    value, moved = influence(metric, target, model, cost)
    counts = {"precision": model.acted, "recall": target}
    if other is None and metric in counts:
        return wilson(value, int(counts[metric].sum()), metrics.quantile(confidence))
    if other is not None:
        subtracted, its = influence(metric, target, other, cost)
        value, moved = value - subtracted, moved - its
    half = metrics.half_width(moved, confidence)
    low, high = value - half, value + half
    if metric == "auc" and not metrics.enough(target):
        low, high = -1.0, 1.0
    if other is None:
        low -= chance(model.probability) if metric == "calibration_error" else 0
        low, high = max(0.0, low), high if metric == "cost_per_row" else min(1.0, high)
    return Estimate(value, low, high)


def influence(metric: str, target: np.ndarray, model: Scored, cost: Cost) -> tuple[float, np.ndarray]:
    """The metric's value, and how much each row moves it, (n,): the sum of their squares is its variance."""
    positive = target == 1
    if metric == "auc":
        return metrics.delong(target, model.probability)
    if metric == "average_precision":
        return average_precision(target, model.probability)
    if metric in ("precision", "recall"):
        return ratio(model.acted & positive, model.acted if metric == "precision" else positive)
    if metric == "brier":
        losses = (model.probability - target) ** 2
    elif metric == "cost_per_row":
        losses = metrics.errors_cost(target, *model, cost)
    else:
        losses = metrics.signed_calibration(target, model.probability)
    return ratio(losses, np.ones(len(target)))


def ratio(part: np.ndarray, whole: np.ndarray) -> tuple[float, np.ndarray]:
    """sum(part) / sum(whole), and how much each row moves it, (n,); NaN where the sum of `whole` is 0."""
    if not whole.any():
        return float("nan"), np.full(len(whole), np.nan)
    value = float(part.sum() / whole.sum())
    return value, (part - value * whole) / whole.sum()


def average_precision(target: np.ndarray, score: np.ndarray) -> tuple[float, np.ndarray]:
    """Average precision, and how much each row moves it, (n,).

    With A(s) and G(s) the shares of positives and of rows from s up, a(s) that of positives at s, and P that of all
    positives, it is the sum of a(s) A(s) / G(s), by P. A row of label y and score t, one of n, moves it by
    y (A(t) / G(t) - value) and the sum over s <= t of a(s) / G(s) (y - A(s) / G(s)), by n P.
    """
    curve = metrics.Curve.of(target, score)
    value, precision = curve.average_precision, curve.precision
    weight = np.diff(curve.true_positives, prepend=0) / (curve.true_positives + curve.false_positives)
    of_positive, of_any = (np.cumsum(part[::-1])[::-1] for part in (weight, weight * precision))
    at = np.searchsorted(-curve.threshold, -np.asarray(score, float))
    moved = target * (precision[at] - value) + target * of_positive[at] - of_any[at]
    return value, moved / curve.positives


def wilson(share: float, rows: int, z: float) -> Estimate:
    """Wilson's interval of a share of so many rows."""
    if not rows:
        return Estimate(share, float("nan"), float("nan"))
    middle = share + z**2 / (2 * rows)
    half = z * (share * (1 - share) / rows + z**2 / (4 * rows**2)) ** 0.5
    return Estimate(share, *(float((middle + s * half) / (1 + z**2 / rows)) for s in (-1, 1)))


def chance(probability: np.ndarray) -> float:
    """The calibration error to expect of a calibrated model: by bin, the mean of |N(0, p (1 - p) / n)|."""
    parts = [part for part in np.array_split(np.sort(probability), metrics.BINS) if len(part)]
    return float(np.mean([(2 / np.pi * (part * (1 - part)).mean() / len(part)) ** 0.5 for part in parts]))


def between_levels(metric: str, hits: np.ndarray, rows: np.ndarray, confidence: float) -> Estimate:
    """The largest difference, or the smallest ratio, of the levels' shares, with an interval that allows for the choice.

    Differences by Agresti and Caffo (The American Statistician 54, 2000), ratios by Walter (Biometrika 62, 1975): both
    hold at shares of 0 and 1. All pairs of levels are looked at, so each interval has Bonferroni's level.

    Args:
        metric: one of gate.PARITY.
        hits: of each level's rows, (k,), how many are predicted positive, (k,).
    """
    share, pairs = hits / rows, len(rows) * (len(rows) - 1) / 2
    if metric == "disparate_impact":
        middle, variance = np.log((hits + 0.5) / (rows + 0.5)), 1 / (hits + 0.5) - 1 / (rows + 0.5)
        value = float(share.min() / share.max()) if share.any() else float("nan")
    else:
        middle = (hits + 1) / (rows + 2)
        variance = middle * (1 - middle) / (rows + 2)
        value = float(share.max() - share.min())
    half = metrics.quantile(1 - (1 - confidence) / pairs) * np.sqrt(variance[:, None] + variance)
    np.fill_diagonal(half, 0)  # a level and itself: no difference
    gap = middle[:, None] - middle
    low, high = float((gap - half).max()), float((gap + half).max())
    if metric == "disparate_impact":
        low, high = float(np.exp(-high)), float(np.exp(-low))
    return Estimate(value, min(low, value), max(high, value))


def jackknife(target: np.ndarray, statistic: Callable[[np.ndarray], float], confidence: float) -> Estimate:
    """Any statistic, with an interval from leaving out one of GROUPS groups of rows after the other.

    The delete-a-group jackknife (Kott, Journal of Official Statistics 17, 2001), Student's t with GROUPS - 1 degrees.

    Args:
        statistic: its value on the rows at some indices; NaN where it is undefined.
    """
    from scipy.stats import t

    order = np.lexsort((np.random.default_rng(0).random(len(target)), target))
    group = np.empty(len(target), int)
    group[order] = np.arange(len(target)) % GROUPS
    value = statistic(np.arange(len(target)))
    without = np.array([statistic(np.flatnonzero(group != left_out)) for left_out in range(GROUPS)])
    half = float(t.ppf((1 + confidence) / 2, GROUPS - 1) * without.std() * (GROUPS - 1) ** 0.5)
    return Estimate(value, value - half, value + half)
