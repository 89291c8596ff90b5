"""A circuit breaker: what keeps failing is not asked for some seconds, and one line says so, not one a request."""

import sys
import time

QUIET = 60.0  # seconds without a failure, after which the next one is reported again


class Breaker:
    """Counts the failures of one part of the service, such as the online store.

    Args:
        rest: seconds for which it is not to be asked after `limit` failures in a row.
        limit: 0: it is asked in any case.
    """

    def __init__(self, rest: float = 0, limit: int = 0) -> None:
        self.rest, self.limit, self.failures = rest, limit, 0
        self.reason: str | None = None  # of the last failure; whoever sees it work again may clear it
        self.asked_from = self.quiet_until = 0.0

    @property
    def resting(self) -> bool:
        """Whether it is not to be asked now."""
        return time.monotonic() < self.asked_from

    @property
    def error(self) -> str | None:
        """The last failure, unless that was long ago."""
        return self.reason if time.monotonic() < max(self.quiet_until, self.asked_from) else None

    def failed(self, reason: str, rest: float = 0) -> None:
        """Count a failure. The first one is printed, those that follow closely are not, but one with a `rest` of its own is."""
        now = time.monotonic()
        if rest or now >= self.quiet_until:
            print(f"serve: {reason}", file=sys.stderr, flush=True)
        self.reason, self.quiet_until = reason, now + QUIET
        self.failures += 1
        if rest or self.failures == self.limit:
            self.failures, self.asked_from = 0, now + (rest or self.rest)
