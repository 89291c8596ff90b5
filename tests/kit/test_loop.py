"""The loop on any table: its bad challenger costs so much more that an experiment finds it."""

import re

import pytest
import yaml
from tabloop import report
from tabloop.loop import none_is_dear, with_labels
from tabloop.params import Cost


@pytest.mark.parametrize(
    ("positives", "false_negative", "candidate", "dear"),
    [
        (23, 20, 0.15, True),
        (150, 1, 0.12, False),
        (500, 1, 0.4, True),
        (900, 1, 0.05, True),
        (10, 20, 0.19, False),
    ],
)
def test_the_bad_challenger_is_found(
    positives: int, false_negative: float, candidate: float, dear: bool
) -> None:
    """Of 1,000 rows; with costs of 1:1, as `adopt` sets them, no positive at all costs little where they are rare."""
    cost = Cost(false_positive=1, false_negative=false_negative)
    evaluation = {"rows": 1000, "positives": positives, "cost_per_row": candidate}
    assert none_is_dear(evaluation, cost) is dear


def test_a_very_bad_challenger_does_not_hide_what_the_good_one_saves() -> None:
    """Its interval is cut at the edge of the picture, and its number stands there."""
    box = {"champion": "a", "challenger": "b", "mode": "ab", "share": 0.5, "rows": 9, "commits": 1}
    saved = [(0.05, 0.02, 0.08), (0.03, -0.01, 0.07), (-5.0, -11.0, 0.01), (-5.0, -6.0, -4.0)]
    story = [box | dict(zip(("saving", "low", "high"), one, strict=True)) for one in saved]
    page = report.render("loop.html", project="kit", column="amount", story=story, commits=["one"])
    drawn = re.findall(r'<line class="line" .* y1="([\d.]+)" y2="([\d.]+)"', page)
    lines = [tuple(map(float, ends)) for ends in drawn]
    assert lines[0] == pytest.approx((290, 327.5)) and lines[1] == pytest.approx((296.25, 346.25))
    assert all(290 <= high <= low <= 390 for high, low in lines)
    assert lines[3] == (390, 390) and re.findall(r">(-?[\d.]+)</text>", page)[-2:] == ["-5", "-5"]


def test_where_no_challenger_saves_the_picture_shows_what_they_cost() -> None:
    box = {"champion": "a", "challenger": "b", "mode": "ab", "share": 0.5, "rows": 9, "commits": 1}
    story = [box | {"saving": -2.0, "low": -4.0, "high": -1.0}]
    page = report.render("loop.html", project="kit", column="amount", story=story, commits=["one"])
    assert 'y1="352.5" y2="390.0"' in page


@pytest.mark.parametrize(
    "feedback", ["null # or data/log", "   # or data/log", "~", "s3://bucket/log", '"old"']
)
@pytest.mark.parametrize("in_holdout", ["false # see", "true", "False"])
def test_the_retraining_has_the_labels_however_params_yaml_is_written(feedback: str, in_holdout: str) -> None:
    """`dvc exp run --set-param` writes null as nothing, and then the loop trained the champion again."""
    text = f"data:\n  feedback: {feedback}\nsplit:\n  holdout: 2e-1 # newest\n  feedback_in_holdout: {in_holdout}\n"
    expected = {"data": {"feedback": "data/log"}, "split": {"holdout": 0.04, "feedback_in_holdout": True}}
    assert yaml.safe_load(with_labels(text)) == expected
