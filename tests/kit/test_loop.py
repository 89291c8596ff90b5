"""The loop on any table: its bad challenger costs so much more that an experiment finds it."""

import pytest
from tabloop.loop import dearest
from tabloop.params import Cost


@pytest.mark.parametrize(
    ("positives", "false_negative", "threshold"),
    [(23, 20, 0.0), (23, 50, 1.0), (150, 1, 0.0), (500, 1, 0.0), (600, 1, 1.0)],
)
def test_the_bad_challenger_is_the_dearer_class(
    positives: int, false_negative: float, threshold: float
) -> None:
    """Of 1,000 rows; with costs of 1:1, as `adopt` sets them, no positive at all costs little where they are rare."""
    cost = Cost(false_positive=1, false_negative=false_negative)
    assert dearest({"rows": 1000, "positives": positives}, cost) == threshold
