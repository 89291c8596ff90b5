"""The loop on any table: its bad challenger costs so much more that an experiment finds it."""

import pytest
from tabloop.loop import none_is_dear
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
