"""The service's side of the prediction log: it hands every answer and outcome to a process of its own, log_writer.py.

Each row that is handed over is counted once more: as written or as dropped. Until then it waits.
"""

import asyncio
import json
import pickle
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from arro3.core import Array, DataType

from tabloop.params import Column
from tabloop.predictions import PREDICTIONS, ROUTING, feature, tables
from tabloop.serving.arrow import encode
from tabloop.serving.served_model import ServedModel
from tabloop.serving.telemetry import DRIFT_CHECKED, LOG_ERRORS, LOG_LAG, LOGGED
from tabloop.serving.trace import REQUEST, trace_id

TRACE = ""  # of a row's values its trace: no column has this name
WRITER = Path(__file__).with_name("log_writer.py")
MAX_WAITING = 8 << 20  # bytes that the writer may lag behind before rows are dropped
QUIET_SECONDS = 10.0  # beyond the flush interval: a writer that has rows and reports nothing hangs
STOP_SECONDS = 10.0  # for the writer to write the rest; deploy/ allows for them


class PredictionLog:
    """Hands rows to the writer's process. It never waits and never fails a request.

    Args:
        target: a folder or a URL; empty: no log.
        seconds: the flush interval.
        entity: the name of the entity's column.
        columns: the features.
        routing: the columns ROUTING of the log, which are the same for as long as the service runs.
    """

    def __init__(
        self, target: str, seconds: float, entity: str | None, columns: Mapping[str, Column], **routing: Any
    ) -> None:
        self.target, self.seconds, self.entity = target, seconds, entity
        options = {"target": target, "seconds": seconds, "tables": tables(columns)}
        self.options = json.dumps(options | dict.fromkeys(ROUTING) | routing)
        self.names = {name: feature(name) for name in columns}
        self.process: asyncio.subprocess.Process | None = None
        self.watcher: asyncio.Task[None] | None = None
        self.error: str | None = None
        self.stopping = False
        self.waiting = self.dropped = 0  # rows
        self.since = 0.0  # the last report, or when the first row that waits was handed over
        # When rows were handed over, to the second, and how many of them wait.
        self.handed: deque[list[float]] = deque()

    async def start(self) -> None:
        """Start the process if there is to be a log. When it dies, another one is started."""
        if not self.target or self.stopping:
            return
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            # By path and with -P: as a part of this package it would import the whole service.
            *("-P", str(WRITER), self.options),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        self.watcher = asyncio.create_task(self._watch(self.process))

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Count what the process reports, and say if it reports nothing. If it dies before `stop`, start another."""
        assert process.stdout
        while not process.stdout.at_eof():
            with suppress(TimeoutError):
                if line := await asyncio.wait_for(process.stdout.readline(), 1):
                    self._count(told := json.loads(line))
                    self._taken(told.get("written", 0) + told.get("dropped", 0))
            LOG_LAG.set(time.monotonic() - self.handed[0][0] if self.handed else 0)
            if self.waiting and time.monotonic() - self.since > self.seconds + QUIET_SECONDS:
                self._count({"failed": 1, "error": "its process hangs, rows wait"})
        lost, self.process = self.waiting, None
        self._count({"dropped": lost})
        self.handed.clear()
        LOG_LAG.set(0)
        if not self.stopping:
            self._count({"failed": 1, "error": f"its process died, {lost:,} rows are lost"})
        while not self.process and not self.stopping:
            await asyncio.sleep(1)
            with suppress(OSError):  # no process can be made now
                await self.start()

    def _count(self, report: dict[str, Any]) -> None:
        """Count what became of rows. Keep an error until rows are written, and print it if it is a new one."""
        written, dropped = report.get("written", 0), report.get("dropped", 0)
        LOGGED.labels("written").inc(written)
        LOGGED.labels("dropped").inc(dropped)
        if "checked" in report:
            DRIFT_CHECKED.set(report["checked"])
        LOG_ERRORS.inc(report.get("failed", 0))
        self.dropped += dropped
        self.waiting -= written + dropped
        self.since = time.monotonic()
        error = report.get("error", None if written else self.error)
        if error and error != self.error:
            print(f"serve: prediction log: {error}", file=sys.stderr, flush=True)
        self.error = error

    def _taken(self, rows: int) -> None:
        """So many of the oldest rows wait no more."""
        while rows and self.handed:
            first = self.handed[0]
            done = min(rows, int(first[1]))
            first[1], rows = first[1] - done, rows - done
            if not first[1]:
                self.handed.popleft()

    async def stop(self) -> None:
        """Let the process write all that it has, and wait for that, but not for ever. Say how much is lost."""
        self.stopping, before = True, self.dropped
        if self.process and self.process.stdin and self.watcher:
            self.process.stdin.close()
            await asyncio.wait({self.watcher}, timeout=STOP_SECONDS)
            if self.process:
                self.process.kill()
                await asyncio.wait({self.watcher}, timeout=1)
        if lost := self.dropped - before + self.waiting:
            print(f"serve: prediction log: {lost:,} rows are lost at the end", file=sys.stderr, flush=True)

    def describe(self) -> dict[str, Any]:
        """The state of the log as JSON's types."""
        rows = {"waiting": self.waiting, "dropped": self.dropped}
        return {"target": self.target or None, "error": self.error, "rows": rows}

    def add_predictions(
        self, model: ServedModel, ids: list[str], columns: Mapping[str, list[Any]], scores: list[float]
    ) -> None:
        """Log one model's scores of n rows: n ids, n values of the entity and of each feature, n scores."""
        rows = {column: columns[name] for name, column in self.names.items()}
        rows |= {"prediction_id": ids, "probability": scores}
        rows["trace_id"] = columns.get(TRACE) or [None] * len(ids)
        rows["entity"] = columns[self.entity] if self.entity else [None] * len(ids)
        self._send("predictions", len(ids), self._common(model), rows)

    def add_columns(
        self,
        models: Sequence[ServedModel],
        which: np.ndarray,
        ids: Array,
        keys: Array,
        columns: Mapping[str, Array],
        scores: np.ndarray,
    ) -> None:
        """The same of rows by column.

        Args:
            which: the model of each row, (n,): its place among the `models`.
            columns: (n,) of each feature, in the log's types.
        """
        if not self.target:
            return
        made = {column: columns[name] for name, column in self.names.items()}
        made |= {"prediction_id": ids, "entity": keys, "probability": Array.from_numpy(scores)}
        common, *others = [self._common(model) for model in models]
        common["trace_id"] = trace_id(REQUEST.get())
        for other in others:  # what differs is a column
            for name in [name for name in other if common[name] != other[name] and name != "predicted_at"]:
                kind = getattr(DataType, PREDICTIONS[name])()
                values = Array([common.pop(name), other[name]], kind)
                made[name] = values.take(Array.from_numpy(which.astype(np.uint32)))
        self._send("predictions", len(ids), common, encode(made))

    def _common(self, model: ServedModel) -> dict[str, Any]:
        common = {"variant": model.role, "model_version": model.version, "predicted_at": _now()}
        return common | {"threshold": model.threshold, "source_table": model.card.source_table}

    def add_feedback(self, ids: list[str], labels: list[int]) -> None:
        """Log n outcomes. Each is later than the one before it: the last label of a prediction counts."""
        times = list(range(now := _now(), now + len(ids)))
        self._send("feedback", len(ids), {}, {"prediction_id": ids, "label": labels, "received_at": times})

    def _send(
        self, table: str, rows: int, common: dict[str, Any], columns: dict[str, list[Any]] | bytes
    ) -> None:
        """Rows of `table` by column, or an Arrow IPC stream of them, and the values that all of them have in common."""
        if not self.target:
            return
        now = time.monotonic()
        if not self.waiting:
            self.since = now
        self.waiting += rows
        pipe = self.process.stdin if self.process else None
        if pipe is None or pipe.is_closing() or pipe.transport.get_write_buffer_size() > MAX_WAITING:
            self._count({"dropped": rows, "error": self.error or "its process lags behind, rows are dropped"})
        else:
            if not self.handed or now - self.handed[-1][0] > 1:
                self.handed.append([now, 0])
            self.handed[-1][1] += rows
            data = pickle.dumps((table, rows, common, columns))
            pipe.write(pickle.dumps(len(data)) + data)


def _now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000
