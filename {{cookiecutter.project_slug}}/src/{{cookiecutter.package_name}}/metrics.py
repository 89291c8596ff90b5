"""Statistics of a binary classifier, in numpy alone: importing more would take longer than computing them."""

import sys
import time
from dataclasses import dataclass

import numpy as np

CELLS = 4_000_000  # weights held at once while resampling: bounds memory


class Ranking:
    """Rows sorted by score once, so that every weighted AUC after that takes O(n).

    Args:
        target: (n,) of 0 and 1.
        score: (n,), higher for the positive class.
    """

    def __init__(self, target: np.ndarray, score: np.ndarray) -> None:
        self.order = np.argsort(score, kind="stable")
        self.positive = np.asarray(target, bool)[self.order]
        ranked = np.asarray(score)[self.order]
        self.ties = np.flatnonzero(
            np.r_[True, ranked[1:] != ranked[:-1]]
        )  # where each run of equal scores begins

    def auc(self, weights: np.ndarray) -> np.ndarray:
        """AUC under each row of weights, (b, n) -> (b,); NaN where a class has no weight.

        The Mann-Whitney form: the share of positive-negative pairs ranked right, ties counting half
        (Hanley and McNeil, Radiology 143, 1982).
        """
        weights = weights[:, self.order].astype(np.float64)
        positive = np.add.reduceat(weights * self.positive, self.ties, axis=1)
        negative = np.add.reduceat(weights * ~self.positive, self.ties, axis=1)
        below = np.cumsum(negative, axis=1) - negative / 2
        with np.errstate(invalid="ignore"):
            return (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))


def auc(target: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve of (n,) scores; NaN if `target` has one class only."""
    return float(Ranking(target, score).auc(np.ones((1, len(score))))[0])


def bootstrap_auc(target: np.ndarray, scores: list[np.ndarray], resamples: int, seed: int = 0) -> np.ndarray:
    """AUC of several models under the same resamples of the rows, (models, resamples): a paired bootstrap.

    A row's weight is Poisson(1) instead of multinomial (Oza and Russell, 2001), which needs no second pass.
    """
    rankings = [Ranking(target, score) for score in scores]
    rng, chunk = np.random.default_rng(seed), max(1, CELLS // len(target))
    found: list[np.ndarray] = []
    began = told = time.monotonic()
    for start in range(0, resamples, chunk):
        weights = rng.poisson(1.0, (min(chunk, resamples - start), len(target))).astype(np.uint8)
        found.append(np.stack([ranking.auc(weights) for ranking in rankings]))
        if (now := time.monotonic()) - told > 2:
            told = now
            left = (now - began) * (resamples / (start + chunk) - 1)
            print(
                f"bootstrap: {min(start + chunk, resamples)}/{resamples}, {left:.0f} s left", file=sys.stderr
            )
    return np.concatenate(found, axis=1)


def interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """The percentile interval of resampled values."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return float(low), float(high)


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
        order = np.argsort(-score, kind="stable")
        ranked, hits = np.asarray(score, float)[order], np.cumsum(np.asarray(target)[order])
        last = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
        return cls(
            ranked[last], hits[last], last + 1 - hits[last], int(hits[-1]), int(len(target) - hits[-1])
        )

    @property
    def precision(self) -> np.ndarray:
        return self.true_positives / (self.true_positives + self.false_positives)

    @property
    def recall(self) -> np.ndarray:
        return self.true_positives / self.positives

    @property
    def false_positive_rate(self) -> np.ndarray:
        return self.false_positives / self.negatives

    @property
    def average_precision(self) -> float:
        """Precision summed over the steps in recall, not interpolated."""
        return float(np.sum(np.diff(self.recall, prepend=0) * self.precision))

    def cost(self, false_positive: float, false_negative: float) -> np.ndarray:
        """Cost of acting on each threshold, (k,), in the unit of the two arguments."""
        return false_positive * self.false_positives + false_negative * (self.positives - self.true_positives)


def calibration(target: np.ndarray, probability: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Predicted against observed share of positives, in at most `bins` bins of equal size."""
    order = np.argsort(probability, kind="stable")
    return [
        {
            "predicted": float(probability[part].mean()),
            "observed": float(np.asarray(target)[part].mean()),
            "rows": len(part),
        }
        for part in np.array_split(order, bins)
        if len(part)
    ]
