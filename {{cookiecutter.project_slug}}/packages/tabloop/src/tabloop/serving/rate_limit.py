"""How many labels a client may send in an hour."""

import math
import time

from tabloop.serving.direct_route import Refused
from tabloop.serving.telemetry import LABELS


class RateLimit:
    """A token bucket for each client, full at first: `per_hour` labels at once, then as many as that in an hour.

    Args:
        per_hour: labels of one client.
    """

    def __init__(self, per_hour: int) -> None:
        self.per_hour = per_hour
        self.buckets: dict[bytes, tuple[float, float]] = {}  # what is left, and at which time

    def take(self, client: bytes, labels: int) -> None:
        """Count these labels. Raises: Refused: the client has to wait, or sends more than it ever may."""
        if labels > self.per_hour:
            raise Refused(413, f"more than {self.per_hour:,} labels: send them in parts")
        now = time.monotonic()
        left, since = self.buckets.get(client, (float(self.per_hour), now))
        left = min(float(self.per_hour), left + (now - since) * self.per_hour / 3600)
        if labels > left:
            LABELS.labels("limited").inc(labels)
            seconds = math.ceil((labels - left) * 3600 / self.per_hour)
            reason = f"more than {self.per_hour:,} labels in an hour: try it again in {seconds:,} s"
            raise Refused(429, reason, seconds)
        self.buckets[client] = left - labels, now
