"""Redis as a copy of data/online/store.db: a hash for each entity, as Feast's Redis store has it, written by difference.

Neither is held in memory: SQLite gives its rows by entity, in the order of its key, and Redis is compared part by part. A copy
that was interrupted is completed by the next one.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import groupby, islice
from typing import Any

import yaml

from tabloop.cli import UserError, explained
from tabloop.columns import literal, quote
from tabloop.params import ROOT
from tabloop.progress import progress
from tabloop.serving.online_store import OnlineStore, redis_field, redis_index
from tabloop.serving.settings import STORE

PART = 1000  # entities that are compared at once

Hashes = dict[bytes, dict[bytes, bytes]]


def write_redis(views: list[str], url: str, password: str) -> str:
    """Let Redis hold what data/online/store.db holds; what was written. Only entities that differ are.

    Raises:
        UserError: the file lacks a view; Redis does not answer or refuses.
    """
    from redis.exceptions import AskError, ClusterCrossSlotError, ClusterError

    where, (written, known) = url.rpartition("@")[2], (0, 0)
    with connected(url, password) as (client, project), explained("data/online/store.db", sqlite3.Error):
        store = OnlineStore(str(STORE), project, None, {})
        for view in views:
            if not STORE.is_file() or not store.rows(view, "TRUE LIMIT 1"):
                raise UserError(f"data/online/store.db has no row of {view}: run `make train`")
        with (
            closing(sqlite3.connect(f"{STORE.as_uri()}?mode=ro", uri=True)) as db,
            client.pipeline() as pipe,  # transactions: an entity's features change at once
        ):
            try:
                for part in parts(db, project, views):
                    written, known = written + write_part(pipe, redis_index(project), part), known + len(part)
                gone = remove_gone(client, pipe, db, project, views)
                pipe.delete(redis_index(project)).sadd(redis_index(project), *views).execute()
            except (AskError, ClusterCrossSlotError, ClusterError):
                raise UserError(f"ONLINE_STORE={where} is a Redis Cluster: give a single server") from None
    return f"{written:,} of {known:,} entities written, {gone:,} removed -> {where}"


@contextmanager
def connected(url: str, password: str) -> Iterator[tuple[Any, str]]:
    """A client of Redis, and Feast's name of the project, with which the keys end there.

    Raises:
        UserError: Redis does not answer or refuses.
    """
    from redis import Redis, RedisError

    project = yaml.safe_load((ROOT / "feature_repo/feature_store.yaml").read_text("utf-8"))["project"]
    with explained(f"ONLINE_STORE={url.rpartition('@')[2]}", RedisError, ValueError):
        yield Redis.from_url(url, password=password or None, socket_timeout=60), project


def parts(db: sqlite3.Connection, project: str, views: list[str]) -> Iterator[Hashes]:
    """The hashes of all entities, some at a time, with a progress bar."""
    from google.protobuf.timestamp_pb2 import Timestamp

    tables = {view: quote(f"{project}_{view}") for view in views}
    columns = "entity_key, {} AS view, feature_name, value, event_ts"
    rows = [f"SELECT {columns.format(literal(view))} FROM {table}" for view, table in tables.items()]
    total = sum(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables.values())
    found = groupby(db.execute(f"{' UNION ALL '.join(rows)} ORDER BY entity_key"), lambda row: row[0])
    fields = dict[tuple[str, str], bytes]()
    with progress("copying to Redis", total) as bar:
        while True:
            hashes: Hashes = {}
            for key, values in islice(found, PART):
                own = hashes[key + project.encode()] = {}
                for _, view, column, value, known in values:
                    if (view, column) not in fields:
                        fields[view, column] = redis_field(view, column)
                    own[fields[view, column]] = value
                    own[redis_field(view, "")] = Timestamp(seconds=known).SerializeToString()
                    bar.update(1)
            if not hashes:
                return
            yield hashes


def write_part(pipe: Any, index: str, hashes: Hashes) -> int:
    """Write the entities that differ; how many do."""
    for key in hashes:
        pipe.hgetall(key)
    differing = [key for key, has in zip(hashes, pipe.execute(), strict=True) if has != hashes[key]]
    for key in differing:
        pipe.delete(key).hset(key, mapping=hashes[key])
    pipe.sadd(f"{index}:keys", *hashes).execute()
    return len(differing)


def remove_gone(client: Any, pipe: Any, db: sqlite3.Connection, project: str, views: list[str]) -> int:
    """Remove the entities that a copy wrote and that no view has any more; how many."""
    index, removed = f"{redis_index(project)}:keys", 0
    scanned = client.sscan_iter(index, count=PART)
    while part := list(islice(scanned, PART)):
        own = {key.removesuffix(project.encode()): key for key in part}
        for view in views:
            among = f"entity_key IN ({', '.join('?' * len(own))})"
            query = f"SELECT DISTINCT entity_key FROM {quote(f'{project}_{view}')} WHERE {among}"
            for (key,) in db.execute(query, list(own)).fetchall():
                del own[key]
        if own:
            removed += pipe.delete(*own.values()).srem(index, *own.values()).execute()[1]
    return removed
