"""What the service counts and times, summed over its processes. `/metrics` gives all of it to Prometheus."""

import mmap
import os
from functools import cache
from itertools import cycle
from tempfile import TemporaryDirectory

import numpy as np
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

# Each of several processes counts in files of its own, which outlive it. The library decides by this variable, when a metric
# is made.
if SEVERAL := os.environ.get("WEB_CONCURRENCY", "1").strip() not in ("", "1"):
    FILES = TemporaryDirectory(prefix="metrics-", ignore_cleanup_errors=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = FILES.name
    values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]

PREDICTIONS = Counter("predictions", "Rows answered", ["variant", "model_version"])
SHADOWED = Counter("shadow_predictions", "Rows that the challenger scored for the log only")
SHADOW_DROPPED = Counter("shadow_dropped", "Rows that the challenger did not score: it is too slow or rests")
UNSCORED = Counter("unscored_rows", "Rows that the champion could not score")
CHALLENGER_ERRORS = Counter("challenger_errors", "Failures of the challenger, when loaded or asked")
UNSEEN = Counter("unseen_categories", "Values that the champion never saw in training", ["column"])
OUTSIDE = Counter("values_outside_range", "Numbers outside the champion's training range", ["column"])
STORE_ERRORS = Counter("online_store_errors", "Requests whose look-up in the online store failed", ["reason"])
STALE = Counter("online_store_stale", "Times that the open store was found replaced or gone")
MISSING = Counter("missing_online_features", "Rows whose entity the online store does not know")
RESPONSES = Counter("responses", "Responses of any route and of the server itself", ["status"])
LABELS = Counter("feedback_labels", "Labels that clients sent", ["outcome"])
LOGGED = Counter("prediction_log_rows", "Rows of the prediction log", ["outcome"])
LOG_ERRORS = Counter("prediction_log_errors", "Failed attempts to write the prediction log")
ACCESS_DROPPED = Counter("access_log_dropped", "Lines of the access log that were lost")
# Of several processes: the one that knows it latest, or of those that live the largest.
READY = Gauge("service_ready", "1: /health/ready answers 200", multiprocess_mode="mostrecent")
LOG_LAG = Gauge(
    "prediction_log_lag_seconds",
    "Age of the oldest row that waits to be written",
    multiprocess_mode="livemax",
)
NEWEST_ROW = Gauge(
    "model_newest_row_timestamp_seconds",
    "Unix time of the end of the model's training rows",
    ["variant"],
    multiprocess_mode="max",
)
DRIFT_CHECKED = Gauge(
    "drift_checked_timestamp_seconds",
    "Unix time of the last drift check of the log; 0: never",
    multiprocess_mode="max",
)

_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)  # seconds
_LATENCY = Histogram("prediction_seconds", "From the whole body of a row to its answer", buckets=_BOUNDS)
_BATCH_BOUNDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
BATCH_LATENCY = Histogram("batch_seconds", "From a batch's body to its answer", buckets=_BATCH_BOUNDS)
EXPLANATION = Histogram("explanation_seconds", "From a row to its explanation", buckets=_BATCH_BOUNDS)
_AGES = (60, 600, 3600, 21600, 86400, 259200, 604800, 2592000, 7776000)  # seconds: a minute to 90 days
FEATURE_AGE = Histogram("online_feature_age_seconds", "Of features looked up", ["view"], buckets=_AGES)
LATEST = 1000  # single rows whose latency is kept, in memory that all processes share
_latest, _places = memoryview(mmap.mmap(-1, 8 * LATEST)).cast("d"), cycle(range(LATEST))


def exposition() -> bytes:
    """All metrics, in the text format of Prometheus."""
    registry = REGISTRY
    if SEVERAL:
        MultiProcessCollector(registry := CollectorRegistry())  # type: ignore[no-untyped-call]
    return generate_latest(registry)


@cache
def responses(status: int) -> Counter:
    """The counter of the responses with a status."""
    return RESPONSES.labels(status)


def observe(seconds: float) -> None:
    """Record how long a request for the prediction of one row took."""
    _LATENCY.observe(seconds)
    _latest[next(_places)] = seconds


def percentiles() -> dict[str, float]:
    """p50, p95 and p99 of the latest 1,000 requests with one row, in milliseconds; empty if there was none."""
    known = [seconds for seconds in _latest if seconds]
    found = (np.percentile(known, (50, 95, 99)) * 1000).tolist() if known else []
    return {f"p{p}": round(ms, 3) for p, ms in zip((50, 95, 99), found, strict=False)}
