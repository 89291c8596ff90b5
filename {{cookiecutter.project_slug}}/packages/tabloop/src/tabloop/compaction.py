"""The prediction log's many small files to one an hour. It may be killed, and run twice at once, at any moment.

A compacted file appears whole, under a name that nobody else can take: its generation. Whoever makes the next one begins
with it, so each has all of those before. What it covers is removed an hour later, when no reader has the old list.
"""

import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from tabloop import locks, log_files, predictions
from tabloop.cli import UserError, explained, one_line
from tabloop.log_files import KEPT, TABLES, Hour
from tabloop.progress import progress

GRACE = timedelta(hours=1)  # for which a file that no longer counts stays: a reader may have listed it
GROUP = 100_000  # rows that are in memory at once


@dataclass
class Done:
    """What a run did."""

    parts: int = 0
    files: int = 0
    removed: int = 0
    failed: str = ""  # the first reason

    def __str__(self) -> str:
        return f"{self.parts:,} files -> {self.files:,}, {self.removed:,} merged ones removed"


def compact(log: str, now: datetime | None = None) -> str:
    """Compact the hours that have been over for an hour, and remove what has been covered for an hour; what was done.

    Raises:
        UserError: the log can't be read or written, or an hour can't be compacted; the others are.
    """
    from tabloop.serving.log_writer import remove_left

    now, said = now or datetime.now(UTC), []
    end = now - GRACE  # the writer may still try a file again, with more rows
    over = f"date={end:%Y-%m-%d}", f"{end:%H}"
    for table in TABLES:
        done = Done()
        with explained(f"{log} can't be read"):
            fs, folder = fsspec.url_to_fs(f"{log}/{table}")
            if "file" in fs.protocol:
                remove_left(folder)
            found = log_files.hours(fs, folder)
        ended = {k: hour for k, hour in found.items() if k[1] and (k[0].rpartition("/")[2], k[1]) < over}
        with progress(f"compacting {table}", len(ended)) as bar:
            for (day, name), hour in ended.items():
                try:
                    compact_hour(fs, f"{day}/{name}", hour, done)
                    remove_covered(fs, hour, now, done)
                except (FileExistsError, FileNotFoundError):
                    pass  # another compaction is at work in this hour
                except Exception as error:
                    done.failed = done.failed or f"{day}/{name}: {one_line(error)}"
                bar.update(1)
        if done.failed:
            raise UserError(f"{table}: {done}; {done.failed}")
        said.append(f"{table}: {done}")
    return "; ".join(said)


def remove_old(log: str, days: int, now: datetime | None = None) -> str:
    """Let the days before the last `days` no longer count, and remove those that have not for an hour; what was done.

    A reader sees all of a day or none of it: what decides is one empty file, `from=<day>`.

    Raises:
        UserError: the log can't be read or written.
    """
    now = now or datetime.now(UTC)
    first, removed, said = (now - timedelta(days=days)).date(), 0, ""
    with explained(f"{log}: old days can't be removed"), suppress(FileNotFoundError):
        for table in TABLES:
            fs, folder = fsspec.url_to_fs(f"{log}/{table}")
            fs.invalidate_cache()
            names = sorted(fs.ls(folder, detail=False)) if fs.exists(folder) else []
            old = [path for path in names if f"{folder}/date=" <= path < f"{folder}/date={first}"]
            kept = [path for path in names if KEPT in path]
            if ended := [path for path in kept if fs.modified(path) <= now - GRACE]:
                gone = [path for path in old if path < ended[-1].replace(KEPT, "/date=")]
                for path in gone:
                    fs.rm(path, recursive=True)
                old, removed = old[len(gone) :], removed + (len(gone) if table == "predictions" else 0)
                for path in ended[:-1]:
                    fs.rm(path)
            if old and f"{folder}{KEPT}{first}" not in kept:
                said = said or leaving(log, first)
                fs.pipe_file(f"{folder}{KEPT}{first}", b"")
        return f"{said}{removed:,} expired days removed"
    return "another run is removing old days"


def leaving(log: str, first: date) -> str:
    """How many rows of days before the first one no longer count."""
    with suppress(predictions.NothingLogged):
        db = predictions.connect(log=log)
        both = "predictions LEFT JOIN outcomes USING (prediction_id)"
        query = f"SELECT count(*), count(label) FROM {both} WHERE date < '{first}'"
        with predictions.errors():
            ((rows, labels),) = db.sql(query).fetchall()
        return f"{rows:,} predictions before {first}, {labels:,} of them labelled, expired; "
    return ""


def compact_hour(fs: Any, stem: str, hour: Hour, done: Done) -> None:
    """Write the next generation of each schema that has new parts in an hour.

    Raises:
        FileExistsError: another compaction made it.
        FileNotFoundError: another compaction removed a part.
    """
    parts = log_files.uncovered(fs, hour)
    if not parts or len(parts) + len(hour.compacted) < 2:
        return
    with tempfile.TemporaryDirectory() as scratch:
        local = fetched(fs, [*hour.newest.values(), *parts], scratch)
        groups = defaultdict[str, list[str]](list)
        for part in parts:
            groups[schema_of(local[part])].append(part)
        for name, new in groups.items():
            before = hour.compacted.get(name, [])[-1:]
            names = {path.rpartition("/")[2] for path in new}
            names.update(*(log_files.listed(fs, path) for path in before))
            generation = int(before[0].split(".")[-2]) + 1 if before else 1
            path = f"{stem}.{name}.{generation:06d}.parquet"
            sources = [local[source] for source in before + new]
            schema = pq.read_schema(sources[0]).with_metadata(log_files.metadata(names))
            write(fs, path, schema, groups_of(sources))
            done.parts, done.files = done.parts + len(new), done.files + 1


def fetched(fs: Any, paths: list[str], folder: str) -> dict[str, str]:
    """Where each file is on this machine: an object store's are copied, many at once."""
    if "file" in fs.protocol:
        return {path: path for path in paths}
    local = {path: f"{folder}/{at}.parquet" for at, path in enumerate(paths)}
    fs.get(list(local), list(local.values()))
    return local


def schema_of(path: str) -> str:
    """A short name of a file's columns and types. Rows of other types are never converted, so nothing is lost."""
    fields = [(column.name, str(column.type)) for column in pq.read_schema(path)]
    return hashlib.sha256(repr(fields).encode()).hexdigest()[:8]


def write(fs: Any, path: str, schema: pa.Schema, tables: Iterable[pa.Table], replace: bool = False) -> None:
    """Write the tables as one file, in bounded memory; whole or not at all.

    Raises:
        FileExistsError: there is a file of that name, and it is not to be replaced.
    """
    local = "file" in fs.protocol
    # On disk beside it, named as the service's own: `remove_left` finds it.
    stem = path if local else f"{tempfile.gettempdir()}/tabloop"
    made = Path(f"{stem}.{os.urandom(4).hex()}.parquet.part")
    try:
        with made.open("wb") as file:
            with suppress(OSError):  # a file system without locks
                locks.fcntl.flock(file, locks.fcntl.LOCK_EX)
            with pq.ParquetWriter(file, schema, compression="zstd", compression_level=3) as writer:
                for rows in tables:
                    writer.write_table(rows.cast(schema))
            file.flush()
            os.fsync(file.fileno())
            if not local:
                fs.put_file(str(made), path, mode="overwrite" if replace else "create")
            elif replace:
                made.replace(path)
            else:
                os.link(made, path)
    finally:
        made.unlink(missing_ok=True)


def groups_of(sources: list[str]) -> Iterator[pa.Table]:
    """The rows of the files, one after another, in tables of about GROUP rows."""
    waiting = list[pa.RecordBatch]()
    for path in sources:
        for batch in pq.ParquetFile(path).iter_batches(GROUP):
            waiting.append(batch)
            if sum(b.num_rows for b in waiting) >= GROUP:
                yield pa.Table.from_batches(waiting)
                waiting = []
    if waiting:
        yield pa.Table.from_batches(waiting)


def remove_covered(fs: Any, hour: Hour, now: datetime, done: Done) -> None:
    """Remove what the newest files of an hour have covered for long enough."""
    for paths in hour.compacted.values():
        if not (hour.parts or paths[:-1]) or fs.modified(paths[-1]) > now - GRACE:
            continue
        names = log_files.listed(fs, paths[-1])
        covered = paths[:-1] + [path for path in hour.parts if path.rpartition("/")[2] in names]
        if covered:
            fs.rm(covered)
            done.removed += len(covered)
