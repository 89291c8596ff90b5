"""The service's side of the prediction log: it hands every answer and outcome to a process of its own, log_writer.py."""

import asyncio
import json
import pickle
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabloop.params import Column
from tabloop.predictions import feature, tables
from tabloop.serving.served_model import ServedModel
from tabloop.serving.telemetry import LOG_ERRORS, LOGGED

WRITER = Path(__file__).with_name("log_writer.py")
MAX_WAITING = 8 << 20  # bytes that the writer may lag behind before rows are dropped


class PredictionLog:
    """Hands rows to the writer's process. It never waits and never fails a request.

    Args:
        target: a folder or a URL; empty: no log.
        seconds: the flush interval.
        entity: the name of the entity's column.
        columns: the features.
    """

    def __init__(
        self, target: str, seconds: float, entity: str | None, columns: Mapping[str, Column]
    ) -> None:
        self.target, self.entity = target, entity
        self.options = json.dumps({"target": target, "seconds": seconds, "tables": tables(columns)})
        self.names = {name: feature(name) for name in columns} | ({entity: "entity"} if entity else {})
        self.process: asyncio.subprocess.Process | None = None
        self.error: str | None = None
        self.stopping = False
        self.watcher: asyncio.Task[None] | None = None

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
        """Count what the process reports. If it dies before `stop`, start another."""
        assert process.stdout
        async for line in process.stdout:
            report = json.loads(line)
            for outcome in ("written", "dropped"):
                LOGGED.labels(outcome).inc(report.get(outcome, 0))
            LOG_ERRORS.inc(report.get("failed", 0))
            if "error" in report:
                self.error = report["error"]
                print(f"serve: prediction log: {self.error}", file=sys.stderr, flush=True)
            elif "written" in report:
                self.error = None
        if not self.stopping:
            self.error = "the log's process died and was started again"
            LOG_ERRORS.inc()
            await asyncio.sleep(1)
            await self.start()

    async def stop(self) -> None:
        """Let the process write all that it has, and wait for that."""
        self.stopping = True
        if self.process and self.process.stdin:
            self.process.stdin.close()
            await self.process.wait()
        if self.watcher:
            await self.watcher

    def add_predictions(
        self, model: ServedModel, ids: list[str], columns: Mapping[str, list[Any]], scores: list[float]
    ) -> None:
        """Log one model's scores of n rows: n ids, n values of the entity and of each feature, n scores."""
        common = {"variant": model.role, "model_version": model.version, "predicted_at": _now()}
        rows = {self.names[name]: values for name, values in columns.items()}
        rows |= {"prediction_id": ids, "probability": scores}
        self._send("predictions", len(ids), (common if self.entity else common | {"entity": None}), rows)

    def add_feedback(self, ids: list[str], labels: list[int]) -> None:
        """Log n outcomes."""
        self._send("feedback", len(ids), {"received_at": _now()}, {"prediction_id": ids, "label": labels})

    def _send(self, table: str, rows: int, common: dict[str, Any], columns: dict[str, list[Any]]) -> None:
        """Rows of `table` by column, and the values that all of them have in common."""
        if not self.target:
            return
        pipe = self.process.stdin if self.process else None
        if pipe is None or pipe.is_closing() or pipe.transport.get_write_buffer_size() > MAX_WAITING:
            LOGGED.labels("dropped").inc(rows)
        else:
            pipe.write(pickle.dumps((table, rows, common, columns)))


def _now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000
