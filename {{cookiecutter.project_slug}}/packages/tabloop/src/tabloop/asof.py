"""The point-in-time join: each event with the row of every view that was the newest at its time, as DuckDB's ASOF JOIN.

https://duckdb.org/docs/stable/guides/sql_features/asof_join
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from tabloop.columns import literal, quote
from tabloop.params import Schema

UNIQUE = "tabloop_unique"


@dataclass(frozen=True)
class AsofView:
    """A table of which a row is known from its time on.

    Attributes:
        source: what SQL reads: `read_parquet('...')`, or a table's name.
        columns: the names that the join gives its columns, by their names in the table.
        keys: the events' columns that must be equal, by their names in the table; none: its rows are of every event.
        timestamp: since when a row is known.
        created: of rows with the same key and time, the one with the highest value counts; null is the lowest.
        ttl: a row that is older than this is not known any more; zero: it always is.
        unique: whether no two rows have the same key and time; else they are looked for first, which takes time.
    """

    source: str
    columns: Mapping[str, str]
    keys: Mapping[str, str]
    timestamp: str = "event_timestamp"
    created: str | None = None
    ttl: timedelta = timedelta(0)
    unique: bool = False

    def sql(self) -> str:
        """The rows that the join needs: k0, k1, ..., t, and c0, c1, ...; one for a key and time."""
        own = [f"{quote(name)} AS k{i}" for i, name in enumerate(self.keys)]
        own += [f"{quote(self.timestamp)}::TIMESTAMP AS t"]
        own += [f"{quote(name)} AS c{i}" for i, name in enumerate(self.columns)]
        known = " AND ".join(f"{quote(name)} IS NOT NULL" for name in [self.timestamp, *self.keys])
        rows = f"SELECT {', '.join(own)} FROM {self.source} WHERE {known}"
        if self.unique:
            return rows
        key = ", ".join([*(f"k{i}" for i in range(len(self.keys))), "t"])
        # All columns: the same row in every process, also among rows that differ in nothing but their values.
        last = f"{quote(self.created)} DESC NULLS LAST, ALL" if self.created else "ALL"
        order = last.replace("ALL", ", ".join([key, *(f"c{i}" for i in range(len(self.columns)))]))
        return rows.replace("SELECT", f"SELECT DISTINCT ON ({key})", 1) + f" ORDER BY {order}"


def unique_metadata(key: Sequence[str]) -> str:
    """The option of DuckDB's COPY by which a Parquet file says that no two of its rows have the same key and time."""
    return f"KV_METADATA {{{UNIQUE}: {literal(json.dumps(list(key)))}}}"


def is_unique(db: DuckDBPyConnection, path: str, key: Sequence[str]) -> bool:
    """Whether `path` is one Parquet file that says by its metadata that no two of its rows have the same key and time."""
    found = db.sql(f"FROM parquet_kv_metadata({literal(path)})").filter(f"key = '{UNIQUE}'").fetchall()
    files = db.sql(f"SELECT count(*) FROM glob({literal(path)})").fetchall()[0][0]
    return files == len(found) == 1 and json.loads(found[0][2]) == list(key)


def schema_views(schema: Schema, folder: Path) -> list[AsofView]:
    """The schema's views, whose rows `tabloop featurize` wrote to `folder/<view>.parquet`."""
    key = {str(schema.entity): str(schema.entity)}
    tables = {view: f"read_parquet({literal(folder / f'{view}.parquet')})" for view in schema.views}
    views = schema.views.items()
    return [AsofView(tables[view], {n: n for n in columns}, key, unique=True) for view, columns in views]


def asof_join(
    events: DuckDBPyRelation, views: Sequence[AsofView], timestamp: str = "event_timestamp"
) -> DuckDBPyRelation:
    """All events, once each and in any order, with the views' columns: those of the newest row at or before the event's time.

    They are null where there is no such row, it is too old, or the event's key or time is null. Times without a zone are in
    UTC. Nothing is computed before the result is read or written; what does not fit into memory lies on the disk.

    Args:
        events: of a connection in UTC, as `database.connect` opens it.
        timestamp: the events' column with their time.

    Raises:
        ValueError: two columns of the result would have the same name.
        duckdb.Error: a view's file or column is missing.
    """
    names = [*events.columns, *(name for view in views for name in view.columns.values())]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"two columns are called {', '.join(twice)}")
    columns, joins = ["e.*"], []
    for i, view in enumerate(views):
        kept = f"v{i}.t >= e.{quote(timestamp)}::TIMESTAMP - INTERVAL {view.ttl / timedelta(microseconds=1):.0f} MICROSECONDS"
        columns += [
            f"{f'CASE WHEN {kept} THEN v{i}.c{j} END' if view.ttl else f'v{i}.c{j}'} AS {quote(name)}"
            for j, name in enumerate(view.columns.values())
        ]
        equal = [f"e.{quote(name)} = v{i}.k{j}" for j, name in enumerate(view.keys.values())]
        on = " AND ".join([*equal, f"e.{quote(timestamp)}::TIMESTAMP >= v{i}.t"])
        joins.append(f"ASOF LEFT JOIN ({view.sql()}) v{i} ON {on}")
    joined = events.query("asof_events", f"SELECT {', '.join(columns)} FROM asof_events e {' '.join(joins)}")
    assert joined is not None  # as it is of any SELECT
    return joined
