"""The files of the prediction log: which of them count.

    <log>/<table>/date=YYYY-MM-DD/HHMMSS-<host>-<pid>-<n>.parquet   part: the service wrote it
    <log>/<table>/date=YYYY-MM-DD/HH.<schema>.<generation>.parquet  compacted: `tabloop compact` wrote it
    <log>/<table>/from=YYYY-MM-DD                                   older days no longer count, and are being removed

A compacted file lists its parts, with whose rows it begins its life and which it covers for ever. Of an hour and a schema the
newest generation counts: it has all that the ones before have. A part counts unless a file that counts lists it. So it does
not matter when parts are removed, or whether at all, and each row is counted once.
"""

import base64
import re
import zlib
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

TABLES = ("predictions", "feedback")
PART = re.compile(r"(\d\d)\d{4}-.+\.parquet")
COMPACTED = re.compile(r"(\d\d)\.([0-9a-f]{8})\.(\d{6})\.parquet")
KEPT = "/from="
PARTS = b"tabloop.parts"  # the key of the list in the file's metadata


@dataclass
class Hour:
    """The files of an hour: parts, and of each schema the compacted ones in the order of their generations."""

    parts: list[str] = field(default_factory=list)
    compacted: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def newest(self) -> dict[str, str]:
        """The compacted file that counts, of each schema."""
        return {schema: paths[-1] for schema, paths in self.compacted.items()}


def hours(fs: Any, folder: str, since: datetime | None = None) -> dict[tuple[str, str], Hour]:
    """The files of a table by day and hour; those that nobody here wrote are parts of the hour "".

    Args:
        fs: fsspec's file system.
        folder: `<log>/<table>` in it.
        since: days before it are left out.
    """
    fs.invalidate_cache()
    found = defaultdict[tuple[str, str], Hour](Hour)
    first = f"{folder}/date={since:%Y-%m-%d}" if since else f"{folder}/date="
    paths = _paths(fs, folder, first, since is None)
    first = max([first, *(path.replace(KEPT, "/date=") for path in paths if path.startswith(folder + KEPT))])
    for path in sorted(paths):
        day, _, name = path.rpartition("/")
        if day < first or day.rpartition("/")[0] != folder or not name.endswith(".parquet"):
            continue
        if made := COMPACTED.fullmatch(name):
            found[day, made[1]].compacted[made[2]].append(path)
        else:
            part = PART.fullmatch(name)
            found[day, part[1] if part else ""].parts.append(path)
    return found


def _paths(fs: Any, folder: str, first: str, every: bool) -> list[str]:
    """The paths in the days from the folder `first` on, in few requests: an object store lists every day at once."""
    with suppress(FileNotFoundError):
        if every and "file" not in fs.protocol:
            return list(fs.find(folder))
        names = fs.ls(folder, detail=False)
        days = [path for path in names if path >= first and "/date=" in path]
        return [path for day in days for path in fs.ls(day, detail=False)] + [p for p in names if KEPT in p]
    return []


def listed(fs: Any, path: str) -> set[str]:
    """The names of the parts that a compacted file has."""
    import pyarrow.parquet as pq

    with fs.open(path) as file:
        text = pq.read_metadata(file).metadata[PARTS]
    return set(zlib.decompress(base64.b85decode(text)).decode().split("\n"))


def metadata(parts: set[str]) -> dict[bytes, bytes]:
    """The metadata of a compacted file that has these parts."""
    return {PARTS: base64.b85encode(zlib.compress("\n".join(sorted(parts)).encode()))}


def uncovered(fs: Any, hour: Hour) -> list[str]:
    """The parts of an hour that no compacted file has."""
    if not hour.parts:
        return []
    covered = set[str]().union(*(listed(fs, path) for path in hour.newest.values()))
    return [path for path in hour.parts if path.rpartition("/")[2] not in covered]


def current(fs: Any, folder: str, since: datetime | None = None) -> list[str]:
    """The files that count, as URLs or local paths."""
    found = list[str]()
    for hour in hours(fs, folder, since).values():
        found += [*hour.newest.values(), *uncovered(fs, hour)]
    return found if "file" in fs.protocol else [fs.unstrip_protocol(path) for path in found]
