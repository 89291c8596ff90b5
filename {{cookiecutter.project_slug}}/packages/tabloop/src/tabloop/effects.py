"""The statistics of an experiment: the effect with its standard error, its confidence sequence, the sample ratio.

A unit is who is assigned to a variant: an entity. It is there at one or more of k shares of the challenger.
"""

import math
from dataclasses import dataclass

import numpy as np

UNSEEN = 3  # rows of the largest cost


@dataclass(frozen=True)
class Effect:
    """What the challenger saves, its standard error, the mean cost of champion and challenger, and from how many units."""

    saving: float
    error: float
    costs: tuple[float, float]
    units: int


def radius(n: float, deviation: float, error: float, tuned: float) -> float:
    """Half width of an asymptotic confidence sequence of a mean of n values: it holds at all n at once.

    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: "Time-uniform central limit theory and asymptotic confidence
    sequences" (2021), theorem 2.2.

    Args:
        deviation: the standard deviation of the values.
        error: the chance that the sequence ever excludes the true mean.
        tuned: the n at which the sequence is narrowest (their equation for rho).
    """
    rho2 = (-2 * math.log(error) + math.log(-2 * math.log(error)) + 1) / tuned
    scale = 2 * (n * rho2 + 1) / (n**2 * rho2)
    return deviation * math.sqrt(scale * math.log(math.sqrt(n * rho2 + 1) / error))


def unseen(rows: np.ndarray, largest: float) -> np.ndarray:
    """What is added to the variance of a mean cost, (k,): as if UNSEEN more rows had had the largest cost.

    Where high costs are rare, a variant often has had none of them by chance; its variance is then far too small, and a
    model that makes dear errors instead of cheap ones seems to be better. With none in n rows, their rate may still be 3 / n
    (the rule of three; Hanley and Lippman-Hand, JAMA 249, 1983). The more rows there are, the less it matters.

    Args:
        rows: (n, k), how many rows of each unit are in its mean; 0: it is not there.
        largest: the largest cost of a row. In a unit of r rows it changes the mean by its r-th part.
    """
    inverse = np.divide(1, rows, out=np.zeros(rows.shape), where=rows > 0).sum(axis=0)
    return UNSEEN * largest**2 * inverse / rows.sum(axis=0) / (rows > 0).sum(axis=0) ** 2


def paired(total: np.ndarray, rows: np.ndarray, largest: float) -> Effect:
    """The mean difference of the units that both models scored, with what is `unseen`.

    Args:
        total, rows: (n, 2), the sum of the costs of each unit's rows, and how many they are; champion, challenger.
        largest: the largest cost of a row.
    """
    both = rows.all(axis=1)
    cost = total[both] / rows[both]
    saved, means = cost[:, 0] - cost[:, 1], cost.mean(axis=0)
    variance = saved.var(ddof=1) / len(saved) + unseen(rows[both, :1], largest)[0]
    return Effect(float(saved.mean()), float(variance) ** 0.5, (float(means[0]), float(means[1])), len(saved))


def randomized(
    total: np.ndarray, rows: np.ndarray, challenged: np.ndarray, shares: np.ndarray, largest: float
) -> Effect | None:
    """The effect in an A/B test whose share may have changed; None if at no share there are two units of each variant.

    Only units that were there at the same share are compared, as the time, and who was there, differ between shares:
    added up over a ramp, the variants would differ in these, too (Simpson's paradox; Crook, Frasca, Kohavi, Longbotham:
    "Seven pitfalls to avoid when running controlled experiments on the web", KDD 2009). A share's difference has the
    weight m n / (m + n) for m and n units, as in a regression with a constant for each share: where the effect is the same
    at all, no other weights are more precise.

    A unit that was there at several shares, of which a ramp may move it from champion to challenger, counts once in the
    variance: clustered (Liang and Zeger, Biometrika 73, 1986). To that comes what is `unseen` of each variant.

    Args:
        total, rows: (n, k), the sum of the costs of each unit's rows at each share, and how many they are.
        challenged: (n, k), whether the challenger was to answer it.
        shares: (k,)
        largest: the largest cost of a row.
    """
    m, n = ((rows > 0) & challenged).sum(axis=0), ((rows > 0) & ~challenged).sum(axis=0)
    if not (use := np.minimum(m, n) > 1).any():
        return None
    m, n, total, rows, challenged = m[use], n[use], total[:, use], rows[:, use], challenged[:, use]
    y, weight = total / np.maximum(rows, 1), m * n / (m + n)
    weight /= weight.sum()
    sides = (challenged, m), (~challenged, n)
    challengers, champions = (np.where(of, y, 0).sum(axis=0) / size for of, size in sides)
    influence = (rows > 0) * weight * np.where(challenged, (challengers - y) / m, (y - champions) / n)
    variance = (influence.sum(axis=1) ** 2).sum()
    for of in (challenged, ~challenged):
        variance += (weight**2 * unseen(np.where(of, rows, 0), largest)).sum()
    costs = float(weight @ champions), float(weight @ challengers)
    return Effect(costs[0] - costs[1], float(variance) ** 0.5, costs, int(rows.any(axis=1).sum()))


def mismatch(there: np.ndarray, challenged: np.ndarray, shares: np.ndarray) -> float:
    """p-value of the sample ratio: a normal test of how many units were challenged, over all shares together.

    A unit is challenged at a share if its hash, between 0 and 1, is below it: for shares s <= t the covariance is s (1 - t).

    Args:
        there: (n, k), whether a unit was there at a share.
        challenged: (n, k), whether the challenger was to answer it.
        shares: (k,)
    """
    excess = float((there * (challenged - shares)).sum())
    covariance = np.minimum.outer(shares, shares) - np.outer(shares, shares)
    variance = float(((there @ covariance) * there).sum())
    return math.erfc(abs(excess) / math.sqrt(2 * variance)) if variance else 1.0
