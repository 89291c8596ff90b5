"""How many labels a client may send in an hour."""

import math
import mmap
import time
from collections.abc import Iterable
from tempfile import TemporaryFile

from tabloop.locks import fcntl
from tabloop.serving.direct_route import Refused
from tabloop.serving.telemetry import LABELS


class RateLimit:
    """A token bucket for each client, full at first: `per_hour` labels at once, then as many as that in an hour.

    Processes that are forked from this one share the buckets.

    Args:
        per_hour: labels of one client.
        clients: all that there can be.
    """

    def __init__(self, per_hour: int, clients: Iterable[bytes]) -> None:
        self.per_hour = per_hour
        self.places = {client: 2 * at for at, client in enumerate(clients)}
        # For each client: what was taken from its bucket, and at which time.
        self.buckets = memoryview(mmap.mmap(-1, 16 * len(self.places))).cast("d")
        self.lock = TemporaryFile()  # noqa: SIM115  # a process that is killed lets it go

    def take(self, client: bytes, labels: int) -> None:
        """Count these labels. Raises: Refused: the client has to wait, or sends more than it ever may."""
        if labels > self.per_hour:
            raise Refused(413, f"more than {self.per_hour:,} labels: send them in parts")
        fcntl.lockf(self.lock, fcntl.LOCK_EX)
        try:
            self._take(self.places[client], labels)
        finally:
            fcntl.lockf(self.lock, fcntl.LOCK_UN)

    def _take(self, at: int, labels: int) -> None:
        now = time.monotonic()
        taken, since = self.buckets[at : at + 2]
        left = self.per_hour - max(0.0, taken - (now - since) * self.per_hour / 3600)
        if labels > left:
            LABELS.labels("limited").inc(labels)
            seconds = math.ceil((labels - left) * 3600 / self.per_hour)
            reason = f"more than {self.per_hour:,} labels in an hour: try it again in {seconds:,} s"
            raise Refused(429, reason, seconds)
        self.buckets[at], self.buckets[at + 1] = self.per_hour - left + labels, now
