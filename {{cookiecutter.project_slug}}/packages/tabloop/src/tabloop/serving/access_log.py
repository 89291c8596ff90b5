"""The access log: a line of JSON on stdout for each answer. Nobody who does not read it can stop or slow the service."""

import os
import sys
import threading
import time
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any

from pydantic_core import to_json

from tabloop.serving.telemetry import ACCESS_DROPPED

MAX_WAITING = 10_000  # lines; those that come while more are waiting are dropped
PATH = 500  # characters of it: a line stays below the 4,096 bytes that a pipe takes as a whole
STOP_SECONDS = 1.0  # for the lines that wait when the service ends


class AccessLog:
    """Lines that a thread of its own writes. What can't be written is dropped and counted."""

    def __init__(self) -> None:
        # Where it was closed from the start, its number may be that of another file now.
        self.out = sys.stdout.fileno() if sys.stdout else -1
        self.lines: SimpleQueue[bytes] = SimpleQueue()
        self.thread: threading.Thread | None = None

    def add(self, scope: Any, status: int) -> None:
        """Add the line of an answer that begins now. `scope`: what is known of its request; without the query."""
        if self.lines.qsize() >= MAX_WAITING:
            ACCESS_DROPPED.inc()
            return
        if self.thread is None:  # not before the service's processes are forked
            self.thread = threading.Thread(target=self._work, name="access-log", daemon=True)
            self.thread.start()
        began = scope.get("began")
        line = {
            "time": datetime.now(UTC),
            "method": scope.get("method"),
            "path": scope["path"][:PATH] if "path" in scope else None,
            "status": status,
            "seconds": None if began is None else round(time.monotonic() - began, 6),
            "trace_id": scope["trace"][3:35].decode(),
            "rows": scope.get("rows"),
        }
        self.lines.put(to_json(line) + b"\n")

    def _work(self) -> None:
        while line := self.lines.get():
            try:
                os.write(self.out, line)
            except OSError:
                ACCESS_DROPPED.inc()

    def stop(self) -> None:
        """Write the lines that wait, if somebody takes them soon."""
        if self.thread:
            self.lines.put(b"")
            self.thread.join(STOP_SECONDS)
