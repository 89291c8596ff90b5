"""The statistics against scikit-learn, brute force and simulation."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from {{ cookiecutter.package_name }}.metrics import Curve, Ranking, auc, bootstrap_auc, calibration, interval

RNG = np.random.default_rng(0)
TARGET = RNG.integers(0, 2, 500)
SCORE = (TARGET + RNG.normal(0, 1.5, 500)).round(1)  # rounded: many ties


def test_auc_is_that_of_scikit_learn_with_ties_and_weights() -> None:
    weights = RNG.poisson(1, (3, 500))
    assert auc(TARGET, SCORE) == pytest.approx(roc_auc_score(TARGET, SCORE))
    expected = [roc_auc_score(TARGET, SCORE, sample_weight=row) for row in weights]
    assert Ranking(TARGET, SCORE).auc(weights) == pytest.approx(expected)


def test_auc_of_one_class_is_nan() -> None:
    assert np.isnan(auc(np.ones(5), np.arange(5)))


def test_average_precision_is_that_of_scikit_learn() -> None:
    assert Curve.of(TARGET, SCORE).average_precision == pytest.approx(average_precision_score(TARGET, SCORE))


def test_cost_is_that_of_counting() -> None:
    curve = Curve.of(TARGET, SCORE)
    for threshold, cost in zip(curve.threshold, curve.cost(1, 7), strict=True):
        acted = threshold <= SCORE
        assert cost == (acted & (TARGET == 0)).sum() + 7 * (~acted & (TARGET == 1)).sum()


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        target = rng.integers(0, 2, 300)
        low, high = interval(bootstrap_auc(target, [target + rng.normal(0, 1, 300)], 200, seed)[0], 0.9)
        covered += low <= 0.7602 <= high  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    assert 80 <= covered <= 98


def test_a_paired_bootstrap_tells_a_worse_model_but_not_an_equal_one() -> None:
    target = RNG.integers(0, 2, 2000)
    good, equal, worse = (target + RNG.normal(0, spread, 2000) for spread in (1.0, 1.0, 1.6))
    first, second, third = bootstrap_auc(target, [good, equal, worse], 500)
    low, high = interval(second - first, 0.99)
    assert low < 0 < high
    assert interval(third - first, 0.95)[1] < 0


def test_calibration_of_a_calibrated_score() -> None:
    probability = RNG.random(20_000)
    bins = calibration(RNG.random(20_000) < probability, probability)
    assert sum(b["rows"] for b in bins) == 20_000
    assert all(abs(b["predicted"] - b["observed"]) < 0.05 for b in bins)
