"""Watches the live metrics of a service from inside its container: `python -m tabloop.live SECONDS`.

Each is a difference from the first reading. Exit code 3: one is beyond its limit, and the line says which. `deploy/release.sh`
runs it, and falls back then. It needs nothing but Python.
"""

import os
import re
import sys
import time
import urllib.request
from operator import sub
from typing import NamedTuple

MAX_5XX = float(os.environ.get("WATCH_MAX_5XX") or 0.05)  # share of the answers, from ERRORS on
# Seconds, of single rows; the histogram's next bound counts.
MAX_P99 = float(os.environ.get("WATCH_MAX_P99") or 0.25)
ERRORS = 5
REQUESTS = 100  # with fewer, p99 is not judged
FAILED_WRITES = 3  # of the prediction log


class Counts(NamedTuple):
    """Counts since the service began, or between two readings."""

    errors: float
    single: float
    batches: float
    fast: float  # single rows, within MAX_P99
    dropped: float
    failed: float

    def since(self, first: "Counts") -> "Counts":
        """What came after the first reading."""
        return Counts(*map(sub, self, first))

    def breach(self) -> str:
        """Which limit is exceeded; empty: none."""
        answers = max(self.errors, self.single + self.batches)
        if self.errors >= ERRORS and self.errors > MAX_5XX * answers:
            return f"{self.errors:.0f} answers of {answers:.0f} were 5xx"
        if self.single >= REQUESTS and self.fast < 0.99 * self.single:
            return f"p99 of {self.single:.0f} requests is above {MAX_P99:g} s"
        if self.dropped or self.failed >= FAILED_WRITES:
            return f"the prediction log lost {self.dropped:.0f} rows and failed {self.failed:.0f} times"
        return ""

    def __str__(self) -> str:
        few = f"; fewer than {REQUESTS}: p99 says nothing" if self.single < REQUESTS else ""
        return f"{self.single:.0f} requests, {self.batches:.0f} batches, {self.errors:.0f} answers 5xx{few}"


def counts(text: str) -> Counts:
    """The counts in Prometheus' text format."""
    seen = re.findall(r"^(\w+)(\{.*\})? (\S+)$", text, re.M)

    def total(name: str, label: str = "") -> float:
        return sum(float(value) for known, labels, value in seen if known == name and label in labels)

    bounds = re.findall(r'^prediction_seconds_bucket\{le="(.+?)"', text, re.M)
    bound = min((b for b in bounds if float(b) >= MAX_P99), key=float, default="")
    return Counts(
        total("responses_total", 'status="5'),
        total("prediction_seconds_count"),
        total("batch_seconds_count"),
        total("prediction_seconds_bucket", f'le="{bound}"'),
        total("prediction_log_rows_total", "dropped"),
        total("prediction_log_errors_total"),
    )


def read() -> Counts:
    """The counts now."""
    url = f"http://127.0.0.1:{os.environ.get('PORT', 8000)}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return counts(answer.read().decode())


def watch(seconds: float) -> tuple[str, bool]:
    """What was seen in so many seconds, at most, and whether a limit is exceeded."""
    first, now, end = read(), Counts(0, 0, 0, 0, 0, 0), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, 5, seconds / 4))
        try:
            now = read().since(first)
        except OSError as error:
            return f"it no longer answers: {error}", True
        if why := now.breach():
            return why, True
    return f"{now} while it was watched", False


if __name__ == "__main__":
    said, exceeded = watch(float(sys.argv[1]))
    print(said)
    sys.exit(3 if exceeded else 0)
