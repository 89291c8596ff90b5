"""The statistics of an experiment: the effect with its standard error, its confidence sequence, the sample ratio.

A unit is who is assigned to a variant: an entity. It is there at one or more of k shares of the challenger.
"""

import math
from dataclasses import dataclass

import numpy as np


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


def paired(cost: np.ndarray) -> Effect:
    """The mean difference of the units that have both costs. `cost`: (n, 2), champion's and challenger's; NaN: none."""
    both = cost[~np.isnan(cost).any(axis=1)]
    saved, means = both[:, 0] - both[:, 1], both.mean(axis=0)
    error = float(saved.std(ddof=1)) / len(saved) ** 0.5
    return Effect(float(saved.mean()), error, (float(means[0]), float(means[1])), len(saved))


def randomized(cost: np.ndarray, challenged: np.ndarray, shares: np.ndarray) -> Effect | None:
    """The effect in an A/B test whose share may have changed; None if at no share there are two units of each variant.

    Only units that were there at the same share are compared, as the time, and who was there, differ between shares:
    added up over a ramp, the variants would differ in these, too (Simpson's paradox; Crook, Frasca, Kohavi, Longbotham:
    "Seven pitfalls to avoid when running controlled experiments on the web", KDD 2009). A share's difference has the
    weight m n / (m + n) for m and n units, as in a regression with a constant for each share: where the effect is the same
    at all, no other weights are more precise.

    A unit that was there at several shares, of which a ramp may move it from champion to challenger, counts once in the
    variance: clustered (Liang and Zeger, Biometrika 73, 1986). That variance is too small where high costs are rare and
    the smaller variant has none of them by chance. Therefore the standard error is the larger one of it and the one under
    Fisher's null hypothesis, that no cost depends on the variant: there all costs tell of the spread, and chance is in the
    assignment alone (Imbens and Rubin: "Causal inference", 2015, chapter 5).

    Args:
        cost: (n, k), the mean cost of each unit at each share; NaN: it was not there.
        challenged: (n, k), whether the challenger was to answer it.
        shares: (k,)
    """
    known = ~np.isnan(cost)
    m, n = (known & challenged).sum(axis=0), (known & ~challenged).sum(axis=0)
    if not (use := np.minimum(m, n) > 1).any():
        return None
    m, n, s, known, challenged = m[use], n[use], shares[use], known[:, use], challenged[:, use]
    y = np.where(known, cost[:, use], 0)
    weight = m * n / (m + n)
    weight /= weight.sum()
    mean, challengers = y.sum(axis=0) / (m + n), np.where(challenged, y, 0).sum(axis=0) / m
    champions = np.where(challenged, 0, y).sum(axis=0) / n
    influence = known * weight * np.where(challenged, (challengers - y) / m, (y - champions) / n)
    clustered = float((influence.sum(axis=1) ** 2).sum())
    null = assignment_variance(known * weight * (y - mean) / ((m + n) * s * (1 - s)), s)
    costs = float(weight @ champions), float(weight @ challengers)
    return Effect(costs[0] - costs[1], max(clustered, null) ** 0.5, costs, int(known.any(axis=1).sum()))


def assignment_variance(values: np.ndarray, shares: np.ndarray) -> float:
    """The variance of the sum of the challenged units' values, as chance is in the assignment alone.

    A unit is challenged at a share if its hash, between 0 and 1, is below it: for shares s <= t the covariance is s (1 - t).

    Args:
        values: (n, k), of each unit at each share; 0 where it was not there.
        shares: (k,)
    """
    covariance = np.minimum.outer(shares, shares) - np.outer(shares, shares)
    return float(((values @ covariance) * values).sum())


def mismatch(there: np.ndarray, challenged: np.ndarray, shares: np.ndarray) -> float:
    """p-value of the sample ratio: a normal test of how many units were challenged, over all shares together.

    Args:
        there: (n, k), whether a unit was there at a share.
        challenged: (n, k), whether the challenger was to answer it.
        shares: (k,)
    """
    excess = float((there * (challenged - shares)).sum())
    variance = assignment_variance(there.astype(float), shares)
    return math.erfc(abs(excess) / math.sqrt(2 * variance)) if variance else 1.0
