"""Shapley values of one row: how far each of its values moves the score from the score of a baseline row.

A coalition is a set of features that have the row's values, while the others have the baseline's. A feature's Shapley
value is the mean gain in score when it joins, over all orders in which the features can join: "baseline Shapley"
(Sundararajan and Najmi, "The many Shapley values for model explanation", ICML 2020). The values add up to the score
of the row minus that of the baseline.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import numpy as np

# So many features have 4,096 coalitions, all of which are scored; with more, orders are sampled.
EXACT_PLAYERS = 12
SAMPLED_ROWS = 16_384  # scored for a sample of orders
MIN_PAIRS = 16  # of orders, below which an error can't be estimated
GROUP_ROWS = 512  # of a sample, scored in one call

# The score of each coalition, (m,), for (m, players) of True where a player has the row's value.
Value = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Shapley:
    """The scores of baseline and row, what each player adds, (players,), and its sampling error.

    Attributes:
        errors: (players,), half of the 95 % interval over the sampled orders; 0 where all coalitions were scored.
        exact: whether all coalitions were scored.
    """

    baseline: float
    score: float
    contributions: np.ndarray
    errors: np.ndarray
    exact: bool


def shapley(value: Value, players: int, seed: int) -> Shapley:
    """The Shapley values of a game: exact if it has few players, else by a sample that `seed` determines.

    Raises:
        TimeoutError: `value` raised it. In a sample that is large enough, it ends the sample.
    """
    return _exact(value, players) if players <= EXACT_PLAYERS else _sampled(value, players, seed)


def _exact(value: Value, players: int) -> Shapley:
    """Shapley, "A value for n-person games" (1953): each gain, weighted by the orders in which it happens."""
    coalitions = np.arange(1 << players)
    members = (coalitions[:, None] >> np.arange(players) & 1).astype(bool)
    scores, sizes = value(members), members.sum(axis=1)
    weights = np.array([1 / (players * comb(players - 1, size)) for size in range(players)])
    contributions = np.empty(players)
    for player in range(players):
        without = coalitions[~members[:, player]]
        gains = scores[without | 1 << player] - scores[without]
        contributions[player] = weights[sizes[without]] @ gains
    return Shapley(float(scores[0]), float(scores[-1]), contributions, np.zeros(players), exact=True)


def _sampled(value: Value, players: int, seed: int) -> Shapley:
    """The mean gains over random orders, each with its reverse, so that much of their variance cancels out.

    Mitchell, Cooper, Frank and Holmes, "Sampling permutations for Shapley value estimation", JMLR 23 (2022), section 3.
    The gains of one order add up to the difference of the scores; so do their means.
    """
    random = np.random.default_rng(seed)
    baseline, score = value(np.repeat([[False], [True]], players, axis=1)).tolist()
    pairs = max(MIN_PAIRS, SAMPLED_ROWS // (2 * players))
    group = max(1, GROUP_ROWS // (2 * players))
    gains, steps = np.empty((0, players)), np.arange(1, players)[:, None]
    while len(gains) < pairs:
        # Of each player in its order.
        places = random.permuted(np.tile(np.arange(players), (group, 1)), axis=1)
        joined = places[:, None, :] < steps
        try:
            scores = value(np.stack([joined, ~joined]).reshape(-1, players)).reshape(2, group, players - 1)
        except TimeoutError:
            if len(gains) < MIN_PAIRS:
                raise
            break
        forward = np.diff(scores[0], prepend=baseline, append=score)
        backward = np.diff(scores[1], prepend=score, append=baseline)
        gains = np.vstack([gains, np.take_along_axis((forward - backward) / 2, places, axis=1)])
    # Student's t at 0.975 by its expansion around the normal's (Abramowitz and Stegun 26.7.5).
    t = 1.96 + (1.96**3 + 1.96) / (4 * (len(gains) - 1))
    errors = t * gains.std(axis=0, ddof=1) / np.sqrt(len(gains))
    return Shapley(baseline, score, gains.mean(axis=0), errors, exact=False)
