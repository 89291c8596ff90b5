"""Intervals in closed form: against scikit-learn, resampling, and by how often they hold the truth."""

import functools
import itertools

import numpy as np
import pytest
from tabloop.gates import HIGHER_IS_BETTER
from tabloop.intervals import Scored, between_levels, estimate, influence, jackknife
from tabloop.metrics import calibration_error
from tabloop.params import Cost

from .conftest import calls_of

COST = Cost(false_positive=1, false_negative=4)
CLOSED = [*HIGHER_IS_BETTER]


def sample(rows: int, random: np.random.Generator, noise: float = 0.0) -> tuple[np.ndarray, Scored, Scored]:
    """Outcomes with the probability that they have, and two models: the truth and one that sees it through noise."""
    logit = random.normal(-1, 1.5, rows)
    target = (random.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    first, second = (
        1 / (1 + np.exp(-logit - random.normal(0, sigma, rows))) for sigma in (noise, noise + 0.5)
    )
    return target, Scored(first, 0.3), Scored(second, 0.3)


def value(metric: str, target: np.ndarray, model: Scored) -> float:
    return influence(metric, target, model, COST)[0]


def test_values_are_those_of_scikit_learn() -> None:
    from sklearn import metrics

    target, model, _ = sample(500, np.random.default_rng(0))
    model = Scored(model.probability.round(2), 0.3)  # with ties
    probability, acted = model.probability, model.acted
    assert value("auc", target, model) == pytest.approx(metrics.roc_auc_score(target, probability))
    assert value("average_precision", target, model) == pytest.approx(
        metrics.average_precision_score(target, probability)
    )
    assert value("brier", target, model) == pytest.approx(metrics.brier_score_loss(target, probability))
    assert value("precision", target, model) == pytest.approx(metrics.precision_score(target, acted))
    assert value("recall", target, model) == pytest.approx(metrics.recall_score(target, acted))
    errors = 1 * (acted & (target == 0)).mean() + 4 * (~acted & (target == 1)).mean()
    assert value("cost_per_row", target, model) == pytest.approx(errors)
    assert value("calibration_error", target, model) == pytest.approx(calibration_error(target, probability))


@pytest.mark.parametrize(
    "metric", [m for m in CLOSED if m != "calibration_error"]
)  # its bins move with a row
def test_what_a_row_moves_is_what_leaving_it_out_changes(metric: str) -> None:
    target, model, _ = sample(400, np.random.default_rng(1))
    whole, moved = influence(metric, target, model, COST)
    rows = np.arange(400)
    without = np.array([value(metric, target[rows != i], model.at(rows != i)) for i in rows])
    assert np.corrcoef(whole - without, moved)[0, 1] > 0.99
    assert (moved**2).sum() == pytest.approx(without.var() * 400, rel=0.15)


@pytest.mark.parametrize("metric", CLOSED)
def test_intervals_hold_the_truth_as_often_as_they_promise(metric: str) -> None:
    """Of one model and of the difference of two, which is paired: it is narrower than two models side by side."""
    random = np.random.default_rng(2)
    target, model, other = sample(400_000, random, 0.4)
    truth, second = value(metric, target, model), value(metric, target, other)
    alone = paired = 0
    for _ in range(400):
        some = random.integers(0, len(target), 800)
        part = target[some], model.at(some)
        found = estimate(metric, *part, None, COST, 0.9)
        gap = estimate(metric, *part, other.at(some), COST, 0.9)
        alone += found.low <= truth <= found.high
        paired += gap.low <= truth - second <= gap.high
    assert 335 <= alone <= (400 if metric == "calibration_error" else 382)  # 360, and three standard errors
    if metric != "calibration_error":
        assert 340 <= paired <= 380


def test_a_calibrated_model_is_not_shown_to_be_miscalibrated() -> None:
    random, above = np.random.default_rng(3), 0
    for _ in range(200):
        probability = random.beta(1, 8, 2000)
        target = (random.random(2000) < probability).astype(int)
        found = estimate("calibration_error", target, Scored(probability, 0.5), None, COST, 0.9)
        above += found.low > 0
    assert above <= 20
    shifted = estimate("calibration_error", target, Scored(probability + 0.1, 0.5), None, COST, 0.9)
    assert 0.05 < shifted.low < 0.1 < shifted.high


def test_shares_of_0_and_1_have_an_interval() -> None:
    target = np.repeat([1, 0], 30)
    for score, recall in ((target, 1.0), (1.0 - target, 0.0)):
        found = estimate("recall", target, Scored(score.astype(float), 0.5), None, COST, 0.95)
        assert found.value == recall and 0.1 < found.high - found.low < 0.2
    nothing = estimate("precision", target, Scored(target * 0.1, 0.5), None, COST, 0.95)
    assert np.isnan(nothing.value) and np.isnan(nothing.low)


@pytest.mark.parametrize("metric", ["equal_opportunity_difference", "disparate_impact"])
@pytest.mark.parametrize("shares", [[0.5, 0.5, 0.5, 0.5], [0.3, 0.4, 0.4], [0.05, 0.1]])
def test_intervals_between_levels_allow_for_the_choice_of_the_extremes(
    metric: str, shares: list[float]
) -> None:
    random, covered = np.random.default_rng(4), 0
    truth = max(shares) - min(shares) if metric.startswith("equal") else min(shares) / max(shares)
    rows = np.array([300, 500, 900, 700])[: len(shares)]
    for _ in range(500):
        found = between_levels(metric, random.binomial(rows, shares), rows, 0.9)
        assert found.low <= found.value <= found.high
        covered += found.low <= truth <= found.high
    assert covered >= 435  # 450, and two standard errors; more, where Bonferroni is too careful


def test_a_level_of_which_none_is_selected_has_no_impact_ratio_but_0() -> None:
    found = between_levels("disparate_impact", np.array([0, 60]), np.array([200, 200]), 0.95)
    assert found.value == found.low == 0 and found.high < 0.2
    none = between_levels("disparate_impact", np.array([0, 0]), np.array([200, 200]), 0.95)
    assert np.isnan(none.value)


def test_the_jackknife_of_any_metric_is_about_the_closed_form() -> None:
    random = np.random.default_rng(5)
    target, model, _ = sample(4000, random)
    for metric in ("auc", "brier", "precision"):

        def statistic(at: np.ndarray, metric: str = metric) -> float:
            return value(metric, target[at], model.at(at))

        found, closed = jackknife(target, statistic, 0.95), estimate(metric, target, model, None, COST, 0.95)
        assert found.value == pytest.approx(closed.value)
        assert found.high - found.low == pytest.approx(closed.high - closed.low, rel=0.5)
        assert jackknife(target, statistic, 0.95) == found  # the groups are the same in each run

    def undefined(at: np.ndarray) -> float:
        return float("nan") if len(at) < 4000 else 1.0

    assert np.isnan(jackknife(target, undefined, 0.95).low)


def test_no_metric_is_computed_again_for_rows_or_resamples() -> None:
    """Each takes the same few calls of numpy's and pandas', however many rows there are."""
    calls = []
    for rows in (1000, 100_000):
        target, model, other = sample(rows, np.random.default_rng(6))
        for metric, beside in itertools.product(CLOSED, (None, other)):
            given = metric, target, model, beside, COST, 0.95
            calls.append(calls_of(functools.partial(estimate, *given)))
    half = len(calls) // 2
    assert calls[:half] == calls[half:] and max(calls) < 2000
