"""Shapley values against their definition, on games small enough to play through, and the axioms on games that are not."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from tabloop import shapley as module
from tabloop.shapley import EXACT_PLAYERS, MIN_PAIRS, Value, shapley

RANDOM = np.random.default_rng(0)  # for games whose values do not depend on it


def game(players: int, strength: float = 1.0) -> Value:
    """A score with interactions of each pair of players; the last player does nothing, the first two are alike."""
    weights = np.random.default_rng(players).normal(size=(players, players)) * strength
    weights[-1] = weights[:, -1] = 0
    weights[1], weights[:, 1] = weights[0], weights[:, 0]
    weights[1, 1] = weights[0, 0]
    weights[0, 1] = weights[1, 0]

    def value(coalitions: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(2 - np.einsum("mi,ij,mj->m", coalitions, weights, coalitions)))

    return value


def played_through(value: Value, players: int) -> np.ndarray:
    """The definition: the mean gain over all orders."""
    orders = list(permutations(range(players)))
    gains = np.zeros(players)
    for order in orders:
        coalitions = np.zeros((players + 1, players), bool)
        for step, player in enumerate(order):
            coalitions[step + 1 :, player] = True
        gains[list(order)] += np.diff(value(coalitions))
    return gains / len(orders)


@pytest.mark.parametrize("players", [2, 3, 6])
def test_exact_values_are_the_mean_over_all_orders(players: int) -> None:
    value = game(players)
    found = shapley(value, players, seed=0)
    assert found.exact and not found.errors.any()
    assert found.contributions == pytest.approx(played_through(value, players), abs=1e-12)


def test_without_a_player_there_is_nothing_to_explain() -> None:
    found = shapley(lambda coalitions: np.full(len(coalitions), 0.25), 0, seed=0)
    assert (found.baseline, found.score, len(found.contributions)) == (0.25, 0.25, 0)


def test_what_two_features_do_together_leaves_no_sampling_error() -> None:
    """An order and its reverse give half of it to each, whichever comes first."""
    players = EXACT_PLAYERS + 1
    weights = np.random.default_rng(1).normal(size=(players, players))
    found = shapley(lambda c: np.einsum("mi,ij,mj->m", c, weights, c), players, seed=0)
    assert not found.exact and found.errors.max() < 1e-9
    assert found.contributions == pytest.approx((weights.sum(axis=0) + weights.sum(axis=1)) / 2)


@pytest.mark.parametrize("players", [5, EXACT_PLAYERS, EXACT_PLAYERS + 1, 80])
def test_of_a_linear_score_a_value_is_weight_times_distance_from_the_baseline(players: int) -> None:
    weights, row, baseline = RANDOM.normal(size=(3, players))

    def value(coalitions: np.ndarray) -> np.ndarray:
        return np.where(coalitions, row, baseline) @ weights

    found = shapley(value, players, seed=0)
    assert found.exact == (players <= EXACT_PLAYERS)
    assert found.contributions == pytest.approx(weights * (row - baseline), abs=1e-12)
    assert found.errors == pytest.approx(0, abs=1e-12)  # each order gives the same


@pytest.mark.parametrize("players", [8, EXACT_PLAYERS + 8])
def test_values_add_up_and_a_player_that_does_nothing_has_none(players: int) -> None:
    found = shapley(game(players, 0.3), players, seed=0)
    assert found.contributions.sum() == pytest.approx(found.score - found.baseline, abs=1e-12)
    assert found.contributions[-1] == pytest.approx(0, abs=1e-12)
    first, second = found.contributions[:2]
    assert abs(first) > 1e-4
    assert abs(first - second) <= found.errors[0] + found.errors[1] + 1e-12  # alike


def test_of_a_sample_about_95_percent_of_the_intervals_hold_the_exact_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    players = EXACT_PLAYERS
    value = game(players, 0.4)
    exact = shapley(value, players, seed=0).contributions
    monkeypatch.setattr(module, "EXACT_PLAYERS", players - 1)
    monkeypatch.setattr(module, "SAMPLED_ROWS", 2_000)
    held = [
        np.abs(found.contributions - exact) <= found.errors + 1e-12
        for found in (shapley(value, players, seed) for seed in range(60))
    ]
    moving = np.array(held)[:, :-1]
    assert 0.91 < moving.mean() < 0.99
    assert found_by(value, players, 1).tolist() == found_by(value, players, 1).tolist()
    assert found_by(value, players, 1).tolist() != found_by(value, players, 2).tolist()


def found_by(value: Value, players: int, seed: int) -> np.ndarray:
    return shapley(value, players, seed).contributions


def limited(value: Value, calls: int) -> Callable[[np.ndarray], np.ndarray]:
    """The same score, for so many calls."""
    left = iter(range(calls))

    def score(coalitions: np.ndarray) -> np.ndarray:
        if next(left, None) is None:
            raise TimeoutError
        return value(coalitions)

    return score


def test_a_sample_that_runs_out_of_time_is_smaller_but_never_too_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    players = 40
    monkeypatch.setattr(module, "GROUP_ROWS", 2 * players)  # a pair of orders in each call
    value = game(players, 0.1)
    whole = shapley(value, players, seed=0)
    part = shapley(limited(value, 1 + MIN_PAIRS), players, seed=0)
    assert part.errors.max() > whole.errors.max() > 0
    assert part.contributions.sum() == pytest.approx(part.score - part.baseline, abs=1e-12)
    with pytest.raises(TimeoutError):
        shapley(limited(value, MIN_PAIRS), players, seed=0)
