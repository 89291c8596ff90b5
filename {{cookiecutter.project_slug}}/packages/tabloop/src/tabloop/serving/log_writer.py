"""The process that writes the prediction log: Parquet files in dated folders.

    python -P log_writer.py '<arguments of main as JSON>' < batches > reports

The service hands over batches; this process writes `<target>/<table>/date=YYYY-MM-DD/<time>-<host>-<pid>-<n>.parquet`
at least every `seconds`. If both are killed, that much is lost; if only the service is killed or stopped, nothing. It
reports each row once: as written or as dropped.
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
from math import ceil, inf
from pathlib import Path
from typing import Any

import fsspec
from arro3.core import Array, DataType
from arro3.core import Table as Arrow
from arro3.io import read_ipc_stream, write_parquet

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHECKED = "drift-checked"  # predictions.CHECKED: this process imports nothing of the project
LOOK = 6  # flush intervals until it is read again
# Kept of each table while it can't be written; the oldest are dropped first. Bytes are those that the service sent:
# in memory texts may take four times as many.
MAX_ROWS, MAX_BYTES = 50_000, 24 << 20
FILE_ROWS, FILE_BYTES = 10_000, 4 << 20
# Columns whose values differ in each row need no dictionary, and the ids of a batch begin alike: smaller, and faster to write.
PARQUET: Any = {
    "compression": "snappy",
    "column_dictionary_enabled": dict.fromkeys(("prediction_id", "entity", "probability"), False),
    "column_encoding": {"prediction_id": "delta_byte_array"},
}
LAST_SECONDS = 60  # after the end of its input this process ends, even if the target hangs


class Table:
    """Rows that wait to be written. `columns` gives each column's type: a constructor of DataType, or "timestamp".

    `constants` are values of columns that no batch brings, as they are the same for as long as the service runs.
    """

    def __init__(self, name: str, columns: dict[str, str], target: str, **constants: Any) -> None:
        self.name, self.columns, self.constants = name, columns, constants
        self.fs, self.folder = fsspec.url_to_fs(f"{target}/{name}")
        self.local = "file" in self.fs.protocol
        self.waiting: dict[str, list[Any]] = {name: [] for name in columns if name not in self.constants}
        self.blocks: list[Arrow] = []  # rows that came by column
        self.bytes = 0.0  # of all rows that wait
        self.since = 0.0  # when the oldest row came, or the last attempt failed
        self.failed = False
        self.written = 0
        self.path = ""  # of the latest attempt

    def __len__(self) -> int:
        return len(self.waiting["prediction_id"]) + sum(map(len, self.blocks))

    def add(self, columns: dict[str, list[Any]], size: int = 0) -> None:
        """Add rows of so many bytes, column by column."""
        if not self:
            self.since = time.monotonic()
        for name, values in columns.items():
            self.waiting[name] += values
        self._bound(size)

    def add_block(self, rows: Arrow, common: dict[str, Any], size: int = 0) -> None:
        """Add rows that came as Arrow's columns, with the values that all of them have in common."""
        if not self:
            self.since = time.monotonic()
        given = dict(zip(rows.column_names, rows.columns, strict=True))
        common, places = self.constants | common, Array([0] * len(rows), DataType.uint32())
        arrays = {
            n: given[n].combine_chunks() if n in given else self.array(n, [common[n]]).take(places)
            for n in self.columns
        }
        self.blocks.append(Arrow.from_pydict(arrays))
        self._bound(size)

    def _bound(self, more: int) -> None:
        self.bytes += more
        heavy = ceil(len(self) * (1 - MAX_BYTES / max(self.bytes, 1)))
        if (surplus := max(len(self) - MAX_ROWS, heavy)) > 0:
            self.remove(surplus, "dropped")

    def remove(self, rows: int, outcome: str, **reason: Exception) -> None:
        """Remove so many rows, the oldest, and report what became of them."""
        self.bytes -= self.bytes * rows / max(len(self), 1)
        first = min(rows, len(self.waiting["prediction_id"]))
        for values in self.waiting.values():
            del values[:first]
        left = rows - first
        while left:
            block = self.blocks.pop(0)
            if len(block) > left:
                self.blocks.insert(0, block.slice(left))
            left -= min(left, len(block))
        report(**{outcome: rows}, **reason)

    def due(self, seconds: float) -> bool:
        """Whether to write now: the oldest row has waited for `seconds`, or a file is full."""
        full = len(self) >= FILE_ROWS or self.bytes >= FILE_BYTES
        return bool(self) and ((full and not self.failed) or time.monotonic() - self.since >= seconds)

    def write(self) -> None:
        """Write all rows as one file, whole or not at all. After a failure, which is reported, they wait on."""
        now = datetime.now(UTC)
        if not self.failed:  # else the same file: an object store may have it, though its answer was an error
            name = f"{now:%H%M%S}-{socket.gethostname()}-{os.getpid()}-{self.written}.parquet"
            self.path = f"{self.folder}/date={now:%Y-%m-%d}/{name}"
        try:
            content = self.parquet()
        except Exception as error:  # a value is not of its column's type; it never will be
            self.remove(len(self), "dropped", error=error)
            return
        try:
            self.fs.makedirs(self.path.rpartition("/")[0], exist_ok=True)
            # An object store shows a file only when it is whole.
            (write_whole if self.local else self.fs.pipe_file)(self.path, content)
        except Exception as error:  # each file system has its own
            report(failed=1, error=error)
            self.since, self.failed = time.monotonic(), True
            return
        self.failed = False
        self.written += 1
        self.remove(len(self), "written")

    def parquet(self) -> bytes:
        """The rows as a Parquet file."""
        tables, rows = self.blocks, len(self.waiting["prediction_id"])
        if rows:
            values = {name: self.waiting.get(name) or [self.constants[name]] * rows for name in self.columns}
            tables = [
                Arrow.from_pydict({name: self.array(name, own) for name, own in values.items()}),
                *tables,
            ]
        content, batches = io.BytesIO(), [b for t in tables for b in t.to_batches()]
        write_parquet(Arrow.from_batches(batches), content, **PARQUET)
        return content.getvalue()

    def array(self, name: str, values: list[Any]) -> Any:
        """A column's values in its type."""
        kind = self.columns[name]
        if kind == "timestamp":  # microseconds since 1970
            return Array(values, DataType.int64()).cast(DataType.timestamp("us", tz="UTC"))
        return Array(values, getattr(DataType, kind)())


def write_whole(path: str, content: bytes) -> None:
    """Write a file that has its name only when all of it is on the disk. If that fails, nothing is left."""
    part = Path(f"{path}.part")
    try:
        with part.open("wb") as file:
            with suppress(OSError, AttributeError):  # a file system or an operating system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def remove_left(folder: str) -> None:
    """Remove the unfinished files of writers that were killed. A writer that lives has a lock on its file."""
    for part in Path(folder).glob("date=*/*.parquet.part"):
        with suppress(OSError, AttributeError), part.open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()


def report(**facts: Any) -> None:
    """Tell the service, which counts. If the service has ended, the rows must be written all the same."""
    with suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), f"{json.dumps(facts, default=one_line)}\n".encode())


def one_line(error: Exception) -> str:
    """An error's type and reason."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def main(target: str, seconds: float, tables: dict[str, dict[str, str]], **constants: Any) -> None:
    """Take batches until the input ends, then write the rest."""
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, signal.SIG_IGN)  # it ends when its input ends
    made = {name: Table(name, columns, target, **constants) for name, columns in tables.items()}
    for table in made.values():
        if table.local:
            remove_left(table.folder)
    lock, ended = threading.Lock(), threading.Event()

    def take() -> None:
        while not ended.is_set():
            try:
                size = pickle.load(sys.stdin.buffer)
                table, rows, common, columns = pickle.load(sys.stdin.buffer)
            except (EOFError, pickle.UnpicklingError):  # the service has ended, perhaps within a batch
                signal.alarm(LAST_SECONDS)
                ended.set()
                return
            with lock:
                if isinstance(columns, bytes):
                    made[table].add_block(read_ipc_stream(columns).read_all(), common, size)
                else:
                    common = {name: [value] * rows for name, value in common.items()}
                    made[table].add(columns | common, size)

    fs, marker = fsspec.url_to_fs(f"{target}/{CHECKED}")
    asked = -inf
    threading.Thread(target=take, daemon=True).start()
    while True:
        last = ended.wait(min(seconds, 1) / 10)
        if not last and time.monotonic() - asked > LOOK * seconds:
            asked = time.monotonic()
            with suppress(Exception):  # never written, or the store can't be read: the time shown grows old
                report(checked=float(fs.cat_file(marker)))
        for table in made.values():
            with lock:
                if table.due(0 if last else seconds):
                    table.write()
                if last:
                    table.remove(len(table), "dropped")
        if last:
            return


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
