"""What `tabloop.live` reads are the metrics of the service, by their names; its limits. Real containers: test_reconcile.py."""

import pytest
from tabloop import live
from tabloop.live import Counts
from tabloop.serving import telemetry


def test_it_counts_what_the_service_counts() -> None:
    first = live.counts(telemetry.exposition().decode())
    for status, times in ((200, 7), (422, 3), (500, 2), (503, 1)):
        telemetry.responses(status).inc(times)
    for seconds in (0.001, 0.2, 0.3):
        telemetry.observe(seconds)
    telemetry.BATCH_LATENCY.observe(3)
    telemetry.LOGGED.labels("written").inc(9)
    telemetry.LOGGED.labels("dropped").inc(4)
    telemetry.LOG_ERRORS.inc(5)
    now = live.counts(telemetry.exposition().decode())
    assert now.since(first) == Counts(errors=3, single=3, batches=1, fast=2, dropped=4, failed=5)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (Counts(4, 4, 0, 4, 0, 0), ""),  # few
        (Counts(5, 5, 0, 5, 0, 0), "5 answers of 5 were 5xx"),
        (Counts(5, 60, 40, 60, 0, 0), ""),
        (Counts(6, 60, 40, 60, 0, 0), "6 answers of 100 were 5xx"),
        (Counts(7, 0, 0, 0, 0, 0), "7 answers of 7 were 5xx"),
        (Counts(0, 99, 0, 0, 0, 0), ""),
        (Counts(0, 200, 0, 198, 0, 0), ""),
        (Counts(0, 200, 0, 197, 0, 0), "p99 of 200 requests is above 0.25 s"),
        (Counts(0, 0, 0, 0, 1, 0), "the prediction log lost 1 rows and failed 0 times"),
        (Counts(0, 0, 0, 0, 0, 2), ""),
        (Counts(0, 0, 0, 0, 0, 3), "the prediction log lost 0 rows and failed 3 times"),
    ],
)
def test_each_limit(seen: Counts, why: str) -> None:
    assert seen.breach() == why


def test_a_service_that_stops_answering_is_a_breach(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([Counts(0, 0, 0, 0, 0, 0)])

    def read() -> Counts:
        for counts in answers:
            return counts
        raise TimeoutError("timed out")

    monkeypatch.setattr(live, "read", read)
    assert live.watch(0.01) == ("it no longer answers: timed out", True)
