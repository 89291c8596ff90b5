"""Feast's online store, SQLite or Redis, read without Feast, which would add seconds to the start and 350 MB to the image.

Source of both layouts: https://github.com/feast-dev/feast/blob/master/docs/specs/online_store_format.md
"""

import asyncio
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mmh3

from tabloop.card import ModelCard
from tabloop.cli import UserError, command, explained, one_line
from tabloop.columns import quote
from tabloop.params import ROOT, Column
from tabloop.serving.breaker import Breaker
from tabloop.serving.direct_route import give_way
from tabloop.serving.settings import STORE, Settings
from tabloop.serving.telemetry import FEATURE_AGE, MISSING, STALE, STORE_ERRORS

STRING = 2  # feast.ValueType.STRING: an entity's key is always text here
BUDGET = 0.2  # seconds that a request waits for a store that is locked or silent, however many rows it has
KEY_SECONDS = 0.0002  # that each key of a batch adds, in Redis
PAUSE = 0.01  # seconds until a locked file is tried again
REST = 5.0  # seconds without a look-up after a failure
OPEN = 1.0  # seconds for which the file stays open
PART_KEYS = 50  # of a batch, looked up at once

Views = Mapping[str, Mapping[str, Column]]
# An entity's values by view and column; by view and "": when they were known, in Unix time.
Stored = dict[tuple[str, str], Any]
Found = dict[str, dict[str, Any]]  # the value of each column, by key


class StoreError(UserError):
    """The store can't be asked. `reason` is how it is counted: gone, locked, unreadable, unreachable or slow."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def open_store(settings: Settings, project: str, entity: str | None, views: Views) -> "OnlineStore":
    """The store that ONLINE_STORE names. Nothing is connected yet.

    Args:
        project: Feast's project, which is part of the names of its tables and keys.
        entity: the name of the entity's column.
        views: the columns of each feature view.

    Raises:
        UserError: the setting is no URL of Redis's.
    """
    where, password = str(settings.online_store), settings.online_store_password
    if "://" in where:
        return RedisStore(where, password, project, entity, views)
    return OnlineStore(where, project, entity, views)


def entity_key(name: str, value: str) -> bytes:
    """The key of an entity's rows: Feast's serialization, version 3, of one join key."""
    texts = name.encode(), value.encode()
    return struct.pack("<I", 1) + b"".join(struct.pack("<II", STRING, len(text)) + text for text in texts)


def redis_field(view: str, column: str) -> bytes:
    """The field of an entity's Redis hash that has a column's value; without column: when the view's were known."""
    return (
        struct.pack("<I", mmh3.hash(f"{view}:{column}", signed=False)) if column else f"_ts:{view}".encode()
    )


def redis_index(project: str) -> str:
    """The Redis set of the views that `tabloop materialize` has written; with `:keys`, of the entities."""
    return f"tabloop:{project}"


def decode(value: bytes) -> Any:
    """A serialized `feast.types.Value`: text, integer, float, boolean, or None. Of a Timestamp: its seconds.

    What is damaged is None, too.
    """
    with suppress(IndexError, TypeError, ValueError, struct.error):
        return _decoded(value)
    return None


def _decoded(value: bytes) -> Any:
    """Source: feast/types/Value.proto, a message of one field. Its first byte is the field's number and wire type."""
    if not value:
        return None
    field, data = value[0] >> 3, value[1:]
    if field in (5, 6):  # double_val, float_val
        return struct.unpack("<d" if field == 5 else "<f", data)[0]
    number, at = 0, 0
    while True:  # a varint: the value, or the length of the text
        number |= (data[at] & 0x7F) << (7 * at)
        at += 1
        if data[at - 1] < 0x80:
            break
    if number >> 64:
        raise ValueError
    if field == 2:  # string_val
        return data[at:].decode()
    if field == 7:  # bool_val
        return bool(number)
    return number - (1 << 64) if number >> 63 else number  # int32_val, int64_val, a Timestamp's seconds


class OnlineStore:
    """The newest features of each entity, in Feast's SQLite file.

    A request always gets its answer in time. What the store does not have, or has in another type, is None.
    """

    def __init__(self, where: str, project: str, entity: str | None, views: Views) -> None:
        self.where, self.project, self.entity, self.views = where, project, entity or "", views
        self.ages = {view: FEATURE_AGE.labels(view) for view in views}
        self.breaker = Breaker(REST, 1)
        self.seen = where == "none"
        self.connection: sqlite3.Connection | None = None
        self.tables: set[str] = set()
        self.inode, self.open_again = 0, 0.0

    async def read(self, keys: Sequence[str]) -> list[dict[str, Any]]:
        """The value of each column of each view, for each key. All are None for keys that could not be looked up.

        A key that stands there more than once is looked up once, and its rows get the same dict.
        """
        rows, found = Counter(keys), Found()
        if self.breaker.resting:
            STORE_ERRORS.labels("resting").inc()
        else:
            try:
                await self._look_up(rows, found)
                self.breaker.reason = None
            except StoreError as error:
                STORE_ERRORS.labels(error.reason).inc()
                self.breaker.failed(f"online store: {error}; no look-up for {self.breaker.rest:g} s")
        unknown = {} if len(found) == len(rows) else self._values(Stored())
        return [found.get(key, unknown) for key in keys]

    def _values(self, stored: Stored) -> dict[str, Any]:
        values = dict[str, Any]()
        for view, columns in self.views.items():
            if isinstance(known := stored.get((view, "")), int | float):
                self.ages[view].observe(time.time() - known)
            for name, column in columns.items():
                value = stored.get((view, name))
                values[name] = value if type(value) is column.kind.python else None
        return values

    async def check(self, views: Iterable[str]) -> None:
        """Return once the store was seen to have rows of these views; from then on always.

        A store that fails later is counted. It is no reason to stop a service that answers.

        Raises:
            UserError: it has no row of one of them, or can't be read.
            RedisError, OSError: Redis does not answer or refuses.
        """
        if lacking := [] if self.seen else [view for view in views if not await self._has(view)]:
            how = "`make materialize` writes it"
            raise UserError(f"ONLINE_STORE={self.where} has no row of {lacking[0]}: {how}")
        self.seen = True

    async def _has(self, view: str) -> bool:
        return Path(self.where).is_file() and bool(self.rows(view, "TRUE LIMIT 1"))

    async def _look_up(self, rows: Counter[str], found: Found) -> None:
        """Put the values of each key into `found`. Between parts, and while the file is locked, others are served.

        Raises:
            StoreError: the file stays locked, or can't be read.
        """
        keys, tries = list(rows), round(BUDGET / PAUSE)
        while part := keys[len(found) : len(found) + PART_KEYS]:
            try:
                self._take(rows, part, self._part([entity_key(self.entity, key) for key in part]), found)
                if len(found) < len(keys):
                    await give_way()
            except StoreError as error:
                tries -= 1
                if error.reason != "locked" or not tries:
                    raise
                await asyncio.sleep(PAUSE)

    def _take(self, rows: Counter[str], part: list[str], stored: list[Stored], found: Found) -> None:
        MISSING.inc(sum(rows[key] for key, own in zip(part, stored, strict=True) if not own))
        found |= zip(part, map(self._values, stored), strict=True)

    def _part(self, keys: Sequence[bytes]) -> list[Stored]:
        if self.where == "none":
            return [Stored() for _ in keys]
        found = {key: Stored() for key in keys}
        among = f"entity_key IN ({', '.join('?' * len(keys))})"
        for view in self.views:
            for key, name, value, known in self.rows(view, among, *keys):
                found[key][view, name], found[key][view, ""] = decode(value), known
        return [found[key] for key in keys]

    def rows(self, view: str, condition: str = "TRUE", *values: bytes) -> list[tuple[bytes, str, bytes, int]]:
        """Of a view: key of the entity, column, serialized value, and when it was known, in Unix time.

        Raises:
            StoreError: the file is missing, locked, or no store.
        """
        table = f"{self.project}_{view}"
        try:
            connection = self._open()
            if table not in self.tables:  # a view that only a new challenger has
                return []
            query = f"SELECT entity_key, feature_name, value, event_ts FROM {quote(table)} WHERE {condition}"
            return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            reason = "locked" if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) else "unreadable"
            self.connection = None  # it may be another file the next time
            raise StoreError(reason, f"{self.where}: {one_line(error)}") from None

    def _open(self) -> sqlite3.Connection:
        """The connection to the file that has its name now: it is opened again and again, as it may be replaced."""
        if self.connection and time.monotonic() < self.open_again:
            return self.connection
        path, before = Path(self.where).absolute(), self.inode
        self.inode = path.stat().st_ino if path.is_file() else 0
        if before not in (0, self.inode):
            STALE.inc()
        self.connection = None
        if not self.inode:
            raise StoreError("gone", f"{path} is missing, or no file")
        self.connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=0)
        self.open_again = time.monotonic() + OPEN
        self.tables = {name for (name,) in self.connection.execute("SELECT name FROM sqlite_master")}
        if not self.tables:
            raise sqlite3.DatabaseError("the file is empty")
        (page,) = self.connection.execute("PRAGMA page_size").fetchone()
        if path.stat().st_size % page:  # SQLite reads zeros there
            raise sqlite3.DatabaseError("the file is cut off")
        return self.connection


class RedisStore(OnlineStore):
    """The same in Redis: a hash for each entity. A request that it does not answer in time goes without."""

    def __init__(self, url: str, password: str, project: str, entity: str | None, views: Views) -> None:
        import redis.asyncio as redis
        from redis.backoff import NoBackoff

        super().__init__(url.rpartition("@")[2], project, entity, views)
        # Tried twice, as the server may have closed a connection that was idle for long.
        again: Any = {"timeout": BUDGET, "retry": redis.retry.Retry(NoBackoff(), 1)}
        with explained(f"ONLINE_STORE={self.where}", ValueError):
            pool = redis.BlockingConnectionPool.from_url(url, password=password or None, **again)
        self.client: Any = redis.Redis(connection_pool=pool)
        self.failures = (redis.RedisError, OSError)
        self.names = [(view, name) for view, columns in views.items() for name in ("", *columns)]
        self.fields = [redis_field(*name) for name in self.names]

    async def _has(self, view: str) -> bool:
        async with asyncio.timeout(2):  # connecting may take longer than a request may
            return bool(await self.client.sismember(redis_index(self.project), view))

    async def _look_up(self, rows: Counter[str], found: Found) -> None:
        keys = list(rows)
        try:
            async with asyncio.timeout(BUDGET + KEY_SECONDS * len(keys)):
                while part := keys[len(found) : len(found) + PART_KEYS]:
                    async with self.client.pipeline(transaction=False) as pipe:
                        for key in part:
                            pipe.hmget(entity_key(self.entity, key) + self.project.encode(), self.fields)
                        stored = [self._stored(values) for values in await pipe.execute()]
                    self._take(rows, part, stored, found)
        except self.failures as error:
            kind = type(error).__name__
            reason = "slow" if kind == "TimeoutError" else "unreachable"
            raise StoreError(reason, f"{self.where}: {kind} {one_line(error)}".strip()) from None

    def _stored(self, values: Sequence[bytes | None]) -> Stored:
        return {name: decode(v) for name, v in zip(self.names, values, strict=True) if v is not None}


def check_image() -> None:
    """The last step of the image's build: one line, and exit code 1, where the store of looked-up features is missing."""
    with command("image"):
        if ModelCard.read(ROOT / "models/champion").schema_.views and not STORE.exists():
            what = "the champion looks features up, and data/online/store.db is missing"
            raise UserError(f"{what}: `uv run dvc pull` fetches it")
