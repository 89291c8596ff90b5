"""The process that writes the prediction log: Parquet files in dated folders.

    python -P log_writer.py '<arguments of main as JSON>' < batches

The service hands over batches; this process writes `<target>/<table>/date=YYYY-MM-DD/<time>-<host>-<pid>-<n>.parquet`
at least every `seconds`. If both are killed, that much is lost; if only the service is killed or stopped, nothing.
"""

import io
import json
import os
import pickle
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import fsspec
from arro3.core import Array, DataType
from arro3.core import Table as Arrow
from arro3.io import write_parquet

MAX_ROWS = 50_000  # kept of each table while it can't be written; the oldest are dropped first
FILE_ROWS = 10_000


class Table:
    """Rows that wait to be written. `columns` gives each column's type: a constructor of DataType, or "timestamp"."""

    def __init__(self, name: str, columns: dict[str, str], target: str) -> None:
        self.name, self.columns = name, columns
        self.fs, self.folder = fsspec.url_to_fs(f"{target}/{name}")
        self.local = "file" in self.fs.protocol
        self.waiting: dict[str, list[Any]] = {column: [] for column in columns}
        self.since = 0.0  # when the oldest row came, or the last attempt failed
        self.failed = False
        self.written = 0

    def __len__(self) -> int:
        return len(self.waiting["prediction_id"])

    def add(self, columns: dict[str, list[Any]]) -> None:
        """Add rows, column by column."""
        if not self:
            self.since = time.monotonic()
        for name, values in columns.items():
            self.waiting[name] += values
        if (dropped := len(self) - MAX_ROWS) > 0:
            self.drop(dropped)
            report(table=self.name, dropped=dropped)

    def drop(self, rows: int) -> None:
        """Remove so many rows, the oldest."""
        for values in self.waiting.values():
            del values[:rows]

    def due(self, seconds: float) -> bool:
        """Whether to write now: the oldest row has waited for `seconds`, or a file is full."""
        full = len(self) >= FILE_ROWS and not self.failed
        return bool(self) and (full or time.monotonic() - self.since >= seconds)

    def write(self) -> None:
        """Write all rows as one file, whole or not at all. After a failure, which is reported, they wait on."""
        now = datetime.now(UTC)
        folder = f"{self.folder}/date={now:%Y-%m-%d}"
        path = f"{folder}/{now:%H%M%S}-{socket.gethostname()}-{os.getpid()}-{self.written}.parquet"
        part = f"{path}.part" if self.local else path  # an object store shows a file only when it is whole
        try:
            content = io.BytesIO()
            write_parquet(self.arrow(), content, compression="zstd(3)")
            self.fs.makedirs(folder, exist_ok=True)
            self.fs.pipe_file(part, content.getvalue())
            if part != path:
                self.fs.mv(part, path)
        except Exception as error:  # each file system has its own
            report(table=self.name, failed=1, error=" ".join(str(error).split()))
            self.since, self.failed = time.monotonic(), True
            return
        self.failed = False
        self.written += 1
        report(table=self.name, written=len(self))
        self.drop(len(self))

    def arrow(self) -> Arrow:
        """The rows as an Arrow table."""
        arrays: dict[str, Any] = {}
        for name, kind in self.columns.items():
            if kind == "timestamp":  # microseconds since 1970
                microseconds: Any = Array(self.waiting[name], DataType.int64())
                arrays[name] = microseconds.cast(DataType.timestamp("us", tz="UTC"))
            else:
                arrays[name] = Array(self.waiting[name], getattr(DataType, kind)())
        return Arrow.from_pydict(arrays)


def report(**facts: Any) -> None:
    """Tell the service, which counts. If the service has ended, the rows must be written all the same."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), f"{json.dumps(facts)}\n".encode())


def main(target: str, seconds: float, tables: dict[str, dict[str, str]]) -> None:
    """Take batches until the input ends, then write the rest."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)  # it ends when its input ends
    made = {name: Table(name, columns, target) for name, columns in tables.items()}
    lock, ended = threading.Lock(), threading.Event()

    def take() -> None:
        while not ended.is_set():
            try:
                table, rows, common, columns = pickle.load(sys.stdin.buffer)
            except (EOFError, pickle.UnpicklingError):  # the service has ended, perhaps within a batch
                ended.set()
                return
            with lock:
                made[table].add(columns | {name: [value] * rows for name, value in common.items()})

    threading.Thread(target=take, daemon=True).start()
    while True:
        last = ended.wait(min(seconds, 1) / 10)
        for table in made.values():
            with lock:
                if table.due(0 if last else seconds):
                    table.write()
        if last:
            return


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
