"""The prediction log's other end, a process of its own: Parquet in dated folders.

    python -m <package>.serving.log_writer '<options as JSON>' < batches

The service hands over batches without waiting; this process gathers them and writes
`<target>/<table>/date=YYYY-MM-DD/<time>-<host>-<n>.parquet` at least every `seconds`: so much is lost by a `kill -9`
of both, nothing by one of the service alone, or by SIGTERM. Where the target can't be written, rows are kept, up to
ROWS of each table, and tried again.
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

ROWS = 50_000  # kept of each table when the target is lost; the oldest go first
FILE_ROWS = 10_000
TYPES = {
    "number": DataType.float64(),
    "integer": DataType.int64(),
    "boolean": DataType.bool(),
    "category": DataType.utf8(),
    "time": DataType.int64(),  # microseconds since 1970
}


class Table:
    """Rows waiting to be written; `columns` are their names and types."""

    def __init__(self, name: str, columns: dict[str, str], target: str) -> None:
        self.name, self.columns = name, columns
        self.fs, self.folder = fsspec.url_to_fs(f"{target}/{name}")
        self.local = "file" in self.fs.protocol
        self.waiting: dict[str, list[Any]] = {name: [] for name in columns}
        self.since = 0.0  # when the oldest of them came, or the last attempt failed
        self.failed = False
        self.written = 0

    def __len__(self) -> int:
        return len(self.waiting["prediction_id"])

    def add(self, columns: dict[str, list[Any]]) -> None:
        if not self:
            self.since = time.monotonic()
        for name, values in columns.items():
            self.waiting[name] += values
        if (dropped := len(self) - ROWS) > 0:
            self.drop(dropped)
            report(table=self.name, dropped=dropped)

    def drop(self, rows: int) -> None:
        """Forget the oldest."""
        for values in self.waiting.values():
            del values[:rows]

    def due(self, seconds: float) -> bool:
        """Whether it is time to write: the oldest has waited long enough, or a file is full."""
        full = len(self) >= FILE_ROWS and not self.failed
        return bool(self) and (full or time.monotonic() - self.since >= seconds)

    def write(self) -> None:
        """Write what is waiting as one file, whole or not at all; a failure keeps it waiting, and is reported."""
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
        except Exception as error:  # of whichever file system it is
            report(table=self.name, failed=1, error=" ".join(str(error).split()))
            self.since, self.failed = time.monotonic(), True
            return
        self.failed = False
        self.written += 1
        report(table=self.name, written=len(self))
        self.drop(len(self))

    def arrow(self) -> Arrow:
        arrays: dict[str, Any] = {
            name: Array(self.waiting[name], TYPES[type]) for name, type in self.columns.items()
        }
        times = [name for name, type in self.columns.items() if type == "time"]
        arrays |= {name: arrays[name].cast(DataType.timestamp("us", tz="UTC")) for name in times}
        return Arrow.from_pydict(arrays)


def report(**what: Any) -> None:
    """Tell the service, which counts; where it is no more, what waits must be written all the same."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), f"{json.dumps(what)}\n".encode())


def main(target: str, seconds: float, tables: dict[str, dict[str, str]]) -> None:
    """Take batches until the end of the input, then write the rest."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)  # the end of the input is the end
    made = {name: Table(name, columns, target) for name, columns in tables.items()}
    lock, ended = threading.Lock(), threading.Event()

    def take() -> None:
        while not ended.is_set():
            try:
                table, rows, common, columns = pickle.load(sys.stdin.buffer)
            except (
                EOFError,
                pickle.UnpicklingError,
            ):  # the service has ended, perhaps in the middle of a batch
                ended.set()
                return
            with lock:
                made[table].add(columns | {name: [value] * rows for name, value in common.items()})

    threading.Thread(target=take, daemon=True).start()
    while made:
        last = ended.wait(min(seconds, 1) / 10)
        for table in made.values():
            with lock:
                if table.due(0 if last else seconds):
                    table.write()
        if last:
            return


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
