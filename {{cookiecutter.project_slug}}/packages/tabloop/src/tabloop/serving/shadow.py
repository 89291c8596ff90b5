"""The challenger in the shadow: a thread of its own scores rows for the log, so that no answer waits for it."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from tabloop.serving.breaker import Breaker
from tabloop.serving.served_model import Columns, Scored, ServedModel
from tabloop.serving.telemetry import SHADOW_DROPPED, SHADOWED

# Rows, and characters of their texts; those that come while more are waiting are dropped.
MAX_WAITING, MAX_TEXTS = 10_000, 4_000_000
STOP_SECONDS = 2.0  # for the rows that wait when the service ends


class Shadow:
    """Scores rows later. All but `_work` runs on the event loop's thread; `keep` takes what was scored."""

    def __init__(
        self, challenger: ServedModel, keep: Callable[[ServedModel, list[Scored]], list[Any]]
    ) -> None:
        self.challenger, self.keep = challenger, keep
        self.lag = Breaker()
        self.waiting = self.characters = 0  # rows, characters
        self.parts: SimpleQueue[tuple[list[str], Columns, int]] = SimpleQueue()
        self.texts = {*challenger.texts, challenger.schema.entity or ""}
        self.loop: asyncio.AbstractEventLoop | None = None

    def add(self, ids: list[str], columns: Columns) -> None:
        """Let these rows be scored, unless too many are waiting."""
        if self.loop is None:
            self.loop = asyncio.get_running_loop()
            # A daemon, as a graph that hangs must not keep the process from ending.
            threading.Thread(target=self._work, name="shadow", daemon=True).start()
        if self.waiting > MAX_WAITING or self.characters > MAX_TEXTS:
            SHADOW_DROPPED.inc(len(ids))
            self.lag.failed("challenger: too slow for the shadow; rows are dropped")
        else:
            texts = [text for name in self.texts & columns.keys() for text in columns[name] if text]
            size = sum(map(len, texts))
            self.waiting, self.characters = self.waiting + len(ids), self.characters + size
            self.parts.put((ids, columns, size))

    def _work(self) -> None:
        assert self.loop
        while True:
            ids, columns, size = self.parts.get()
            scored = [] if self.challenger.breaker.resting else self.challenger.score_apart(ids, columns)
            with suppress(RuntimeError):  # the event loop has ended
                self.loop.call_soon_threadsafe(self._scored, len(ids), size, scored)

    def _scored(self, rows: int, size: int, scored: list[Scored]) -> None:
        self.waiting, self.characters = self.waiting - rows, self.characters - size
        SHADOW_DROPPED.inc(0 if scored else rows)
        SHADOWED.inc(sum(answer is not None for answer in self.keep(self.challenger, scored)))

    async def stop(self) -> None:
        """Wait a little for the rows that wait, and count the rest as dropped."""
        end = time.monotonic() + STOP_SECONDS
        while self.waiting and time.monotonic() < end:
            await asyncio.sleep(0.01)
        SHADOW_DROPPED.inc(self.waiting)
