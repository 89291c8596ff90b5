"""The statistics against scikit-learn, counting and simulation."""

import numpy as np
import pytest
from tabloop.intervals import Scored, estimate
from tabloop.metrics import (
    MIN_CLASS,
    Curve,
    Estimate,
    at_threshold,
    auc,
    auc_interval,
    calibration,
    delong,
    errors_cost,
)
from tabloop.params import Cost

TARGET = np.random.default_rng(0).integers(0, 2, 500)
SCORE = (TARGET + np.random.default_rng(1).normal(0, 1.5, 500)).round(
    1
)  # rounded: many ties, some between the classes
COST = Cost(false_positive=1, false_negative=7)


def auc_difference(target: np.ndarray, score: np.ndarray, other: np.ndarray, confidence: float) -> Estimate:
    return estimate("auc", target, Scored(score, 0.5), Scored(other, 0.5), COST, confidence)


TRUE_AUC = 0.7602  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)


@pytest.mark.parametrize("digits", [0, 1, 8])
def test_auc_is_that_of_scikit_learn_with_ties(digits: int) -> None:
    from sklearn.metrics import roc_auc_score

    score = SCORE.round(digits)
    assert auc(TARGET, score) == pytest.approx(roc_auc_score(TARGET, score), abs=1e-12)
    assert auc(TARGET, -score) == pytest.approx(roc_auc_score(TARGET, -score))


def test_delongs_variance_is_that_of_its_definition() -> None:
    positive, negative = SCORE[TARGET == 1], SCORE[TARGET == 0]
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    expected = wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative)
    assert (delong(TARGET, SCORE)[1] ** 2).sum() == pytest.approx(expected)


def test_all_scores_alike_are_a_coin() -> None:
    found = auc_interval(TARGET, np.zeros(500), 0.95)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_auc_of_one_class_is_nan() -> None:
    assert np.isnan(auc(np.ones(5), np.arange(5))) and np.isnan(auc(np.zeros(5), np.arange(5)))


def test_average_precision_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import average_precision_score

    assert Curve.of(TARGET, SCORE).average_precision == pytest.approx(average_precision_score(TARGET, SCORE))


def test_the_interval_covers_the_truth_as_often_as_it_promises() -> None:
    random, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        target = random.integers(0, 2, 300)
        found = auc_interval(target, target + random.normal(0, 1, 300), 0.9)
        covered += found.low <= TRUE_AUC <= found.high
    assert 870 <= covered <= 930


def test_a_paired_difference_covers_zero_for_equal_models_and_finds_a_worse_one() -> None:
    random, covered, found_worse = np.random.default_rng(0), 0, 0
    for _ in range(400):
        target = random.integers(0, 2, 400)
        shared = random.normal(0, 1, 400)
        first, second = (target + shared + random.normal(0, 0.5, 400) for _ in range(2))
        equal = auc_difference(target, first, second, 0.9)
        covered += equal.low <= 0 <= equal.high
        worse = auc_difference(target, target + shared + random.normal(0, 2.5, 400), first, 0.9)
        found_worse += worse.high < 0
    assert 340 <= covered <= 380 and found_worse > 390


def test_the_difference_of_a_model_to_itself_is_nothing() -> None:
    same = auc_difference(TARGET, SCORE, SCORE.copy(), 0.95)
    assert (same.value, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize("positives", [1, MIN_CLASS - 1])
def test_too_few_rows_of_a_class_give_no_narrow_interval(positives: int) -> None:
    random = np.random.default_rng(0)
    for target in (np.arange(1000) < positives, np.arange(1000) >= positives):
        score = target + random.normal(0, 0.1, 1000)
        found = auc_interval(target, score, 0.95)
        assert found.value > 0.99 and (found.low, found.high) == (0, 1)
        gap = auc_difference(target, score, -score, 0.95)
        assert (gap.low, gap.high) == (-1, 1)
    enough = np.arange(1000) < MIN_CLASS
    assert auc_interval(enough, enough + random.normal(0, 0.1, 1000), 0.95).low > 0.9


def test_cost_precision_and_recall_are_those_of_counting() -> None:
    curve = Curve.of(TARGET, SCORE)
    for i, threshold in enumerate(curve.threshold):
        acted = threshold <= SCORE
        wrong, missed = (acted & (TARGET == 0)).sum(), (~acted & (TARGET == 1)).sum()
        expected = (wrong + 7 * missed) / len(TARGET)
        assert curve.cost_per_row(COST)[i] == pytest.approx(expected)
        assert errors_cost(TARGET, SCORE, threshold, COST).mean() == pytest.approx(expected)
        found = at_threshold(TARGET, SCORE, threshold, COST)
        assert found["precision"] == pytest.approx(curve.precision[i]) == pytest.approx(TARGET[acted].mean())
        assert found["recall"] == pytest.approx(curve.recall[i])


def test_threshold_precision_and_recall_belong_together() -> None:
    for cost in (COST, Cost(false_positive=5, false_negative=1), Cost(false_positive=1, false_negative=0)):
        curve = Curve.of(TARGET, SCORE)
        threshold = curve.cheapest_threshold(cost)
        found = at_threshold(TARGET, SCORE, threshold, cost)
        never = cost.false_negative * TARGET.mean()
        assert found["cost_per_row"] == pytest.approx(min(curve.cost_per_row(cost).min(), never))


def test_where_acting_never_pays_nothing_is_above_the_threshold() -> None:
    cost = Cost(false_positive=1000, false_negative=1)
    for score in (1.0 - TARGET, np.ones(500)):  # even a score of 1 is below it
        threshold = Curve.of(TARGET, score).cheapest_threshold(cost)
        assert (score < threshold).all()
        assert at_threshold(TARGET, score, threshold, cost)["precision"] is None


def test_calibration_of_a_calibrated_score() -> None:
    random = np.random.default_rng(0)
    probability = random.random(20_000)
    bins = calibration(random.random(20_000) < probability, probability)
    assert sum(b["rows"] for b in bins) == 20_000
    assert all(abs(b["predicted"] - b["observed"]) < 0.05 for b in bins)
