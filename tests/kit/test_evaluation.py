"""What is said of a candidate: metrics at the threshold that is reported, curves, segments, the comparison."""

import numpy as np
import pandas as pd
import pytest
from tabloop.evaluation import by_segment, curves
from tabloop.metrics import at_threshold, auc_interval, errors_cost
from tabloop.params import Cost
from tabloop.report import CURVES, draw, mermaid

RANDOM = np.random.default_rng(0)
TARGET = RANDOM.integers(0, 2, 600)
SCORE = np.clip(TARGET * 0.3 + RANDOM.random(600) * 0.7, 0, 1)
COST = Cost(false_positive=1, false_negative=3)


def test_curves_end_where_they_must_and_their_cost_is_that_of_counting() -> None:
    points = curves(TARGET, SCORE, COST)
    assert points.keys() == CURVES.keys()
    last = points["roc"][-1]
    assert (last["false_positive_rate"], last["true_positive_rate"]) == (1, 1)
    for point in points["threshold"][:: len(points["threshold"]) // 7]:
        at = SCORE[np.argmin(abs(SCORE - point["threshold"]))]  # points are rounded
        assert point["cost"] == pytest.approx(errors_cost(TARGET, SCORE, at, COST).mean(), abs=1e-5)


def test_curves_of_a_model_that_gives_one_score_to_all() -> None:
    points = curves(TARGET, np.full(600, 0.5), COST)
    assert len(points["roc"]) == 1 and points["precision_recall"][0]["recall"] == 1
    assert "<svg" in draw("threshold", points, points, 0.5)
    assert "xychart-beta" in mermaid("roc", points["roc"])


def test_precision_and_recall_belong_to_the_threshold() -> None:
    found = at_threshold(TARGET, SCORE, 0.6, COST)
    acted = SCORE >= 0.6
    assert found["precision"] == TARGET[acted].mean()
    assert found["recall"] == acted[TARGET == 1].mean()
    never = at_threshold(TARGET, SCORE, 2.0, COST)
    assert never["precision"] is None and never["recall"] == 0
    assert never["cost_per_row"] == pytest.approx(3 * TARGET.mean())


def test_a_segment_of_one_class_has_no_auc() -> None:
    levels = pd.Series(np.where(TARGET[:100] == 1, "yes", "no"))
    levels[::10] = None
    found = by_segment(TARGET[:100], SCORE[:100], pd.DataFrame({"level": levels}), ["level"])["level"]
    assert found["yes"]["auc"] is None and found["no"]["positives"] == 0
    assert found["(missing)"]["rows"] == 10 and 0 <= found["(missing)"]["auc"] <= 1
    assert found["(missing)"]["low"] is None  # too few rows of a class for an interval


def test_a_segment_has_the_interval_of_its_own_rows() -> None:
    rows = pd.DataFrame({"level": np.where(np.arange(len(TARGET)) % 2, "odd", "even")})
    wide, narrow = (
        by_segment(TARGET, SCORE, rows, ["level"], level)["level"]["odd"] for level in (0.99, 0.5)
    )
    own = auc_interval(TARGET[1::2], SCORE[1::2], 0.99)
    assert (wide["auc"], wide["low"], wide["high"]) == (pytest.approx(own.value), own.low, own.high)
    assert wide["low"] < narrow["low"] < narrow["auc"] < narrow["high"]
