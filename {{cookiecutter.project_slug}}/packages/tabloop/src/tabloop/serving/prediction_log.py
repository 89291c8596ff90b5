"""The prediction log's end in the service: every answer and every outcome, out of the request's way."""

import asyncio
import json
import pickle
import sys
import time
from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter

from ..params import Column
from .variant import Variant

LOGGED = Counter("prediction_log_rows", "Rows of the prediction log", ["outcome"])
LOG_ERRORS = Counter("prediction_log_errors", "Attempts to write the prediction log that failed")

BYTES = 8 << 20  # that the writer may lag behind before rows are dropped


class PredictionLog:
    """Hands lines to the log's own process, log_writer.py; never waits, never fails a request."""

    def __init__(self, target: str, seconds: float, entity: str | None, columns: dict[str, Column]) -> None:
        predictions = {"prediction_id": "category", "predicted_at": "time", "variant": "category"}
        predictions |= {"model_version": "category", "probability": "number"}
        predictions |= {entity: "category"} if entity else {}
        predictions |= {name: column.type for name, column in columns.items()}
        label = {"prediction_id": "category", "label": "integer", "received_at": "time"}
        self.options = {
            "target": target,
            "seconds": seconds,
            "tables": {"predictions": predictions, "feedback": label},
        }
        self.process: asyncio.subprocess.Process | None = None
        self.error: str | None = None
        self.stopping = False
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start the process, if a log is wanted, and again whenever it dies."""
        if not self.options["target"]:
            return
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", f"{__package__}.log_writer", json.dumps(self.options)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        task = asyncio.create_task(self.watch(self.process))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def watch(self, process: asyncio.subprocess.Process) -> None:
        """Count what the process reports; when it dies without having been told to, start another."""
        assert process.stdout
        async for line in process.stdout:
            said = json.loads(line)
            for outcome in ("written", "dropped"):
                LOGGED.labels(outcome).inc(said.get(outcome, 0))
            LOG_ERRORS.inc(said.get("failed", 0))
            if "error" in said:
                self.error = said["error"]
                print(f"serve: prediction log: {self.error}", file=sys.stderr, flush=True)
            elif "written" in said:
                self.error = None
        if not self.stopping:
            self.error = "the log's process died; another was started"
            LOG_ERRORS.inc()
            await asyncio.sleep(1)
            await self.start()

    async def stop(self) -> None:
        """Let the process write what it has, and wait for that."""
        self.stopping = True
        if self.process and self.process.stdin:
            self.process.stdin.close()
            await self.process.wait()
        for task in list(self.tasks):
            await task

    def predictions(
        self, variant: Variant, ids: list[str], columns: Mapping[str, list[Any]], scores: list[float]
    ) -> None:
        """Log one variant's scores of rows."""
        common = {"variant": variant.role, "model_version": variant.version, "predicted_at": now()}
        self.hand_over("predictions", common, {"prediction_id": ids, "probability": scores, **columns})

    def feedback(self, prediction_id: str, label: int) -> None:
        """Log one outcome."""
        self.hand_over(
            "feedback", {"received_at": now()}, {"prediction_id": [prediction_id], "label": [label]}
        )

    def hand_over(self, table: str, common: dict[str, Any], columns: dict[str, list[Any]]) -> None:
        """Rows, as columns of `table`, and what is common to all of them."""
        if not self.options["target"]:
            return
        rows = len(columns["prediction_id"])
        pipe = self.process.stdin if self.process else None
        if pipe is None or pipe.is_closing() or pipe.transport.get_write_buffer_size() > BYTES:
            LOGGED.labels("dropped").inc(rows)
        else:
            pipe.write(pickle.dumps((table, rows, common, columns)))


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000
