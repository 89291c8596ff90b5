"""data/raw to data/features and data/online: the views' SQL, the point-in-time join, the split by time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from tabloop import files
from tabloop.cli import UserError, one_line
from tabloop.columns import quote
from tabloop.labels import label_sql
from tabloop.params import ROOT, Column, Params, Schema
from tabloop.split import REPORTED, split

if TYPE_CHECKING:
    import pandas as pd

REPO = ROOT / "feature_repo"
FEATURES, ONLINE = ROOT / "data/features", ROOT / "data/online"


def connect(raw: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB with every table of `raw` as a view of its name.

    It has one thread: sums of floats depend on their order, and the same data must give the same bytes.
    """
    db = duckdb.connect(config={"threads": 1})
    for path in sorted(raw.glob("*.parquet")):
        db.read_parquet(str(path)).create_view(path.stem)
    return db


def view_rows(
    db: duckdb.DuckDBPyConnection, schema: Schema, view: str, definitions: Path = REPO
) -> duckdb.DuckDBPyRelation:
    """One view's rows: entity, event_timestamp (when they were known), the view's columns in the schema's types.

    `definitions/<view>.sql` computes them; without that file they are the events' own columns. There is one row for
    an entity and time, and they are in order.

    Raises:
        UserError: the SQL is wrong or does not give a column that the schema declares.
    """
    path, columns = definitions / f"{view}.sql", schema.views[view]
    source = path.read_text().rstrip().rstrip(";") if path.exists() else "FROM events"
    with refused(view_name(view, definitions)):
        return db.sql(
            f"SELECT DISTINCT ON ({quote(str(schema.entity))}, event_timestamp) * "
            f"FROM (SELECT {typed(schema, columns)} FROM ({source}\n)) ORDER BY ALL"
        )


def view_name(view: str, definitions: Path = REPO) -> str:
    """What computes a view, as errors name it."""
    return f"{view}.sql" if (definitions / f"{view}.sql").exists() else f"view {view}"


@contextmanager
def refused(name: str) -> Iterator[None]:
    """DuckDB's errors as a UserError that begins with `name`."""
    try:
        yield
    except duckdb.Error as error:
        raise UserError(f"{name}: {one_line(error)}") from None


def labelled_events(db: duckdb.DuckDBPyConnection, schema: Schema) -> "pd.DataFrame":
    """The events whose label is known: key, entity, event_timestamp, request columns, target as 0 or 1."""
    target = quote(schema.target.name)
    label = label_sql(db.view("events"), schema.target.name, schema.target)
    key = [quote(name) for name in schema.own_key if name not in schema.features]
    columns = ", ".join([*key, typed(schema, schema.request)])
    return db.sql(
        f"SELECT {columns}, {label} AS {target} FROM events WHERE {label} IS NOT NULL ORDER BY ALL"
    ).df()


def typed(schema: Schema, columns: dict[str, Column]) -> str:
    """SELECT list of entity, event_timestamp and the columns in their types.

    Without a timestamp every row is of the same moment, so that the join keeps its form.
    """
    time = f"{quote(schema.timestamp)}::TIMESTAMP" if schema.timestamp else "TIMESTAMP '2000-01-01'"
    entity = [f"{quote(schema.entity)}::VARCHAR AS {quote(schema.entity)}"] if schema.entity else []
    # A whole number in text or float form ("3.0") is an integer too, hence the way through DOUBLE.
    casts = [
        f"{quote(name)}{'::DOUBLE' if c.type == 'integer' else ''}::{c.kind.sql} AS {quote(name)}"
        for name, c in columns.items()
    ]
    return ", ".join([*entity, f"{time} AS event_timestamp", *casts])


def exact_types(rows: "pd.DataFrame", schema: Schema) -> "pd.DataFrame":
    """The rows with whole numbers and booleans in types that keep missing values apart from numbers."""
    return rows.astype(
        {n: c.kind.pandas for n, c in schema.features.items() if c.type in ("integer", "boolean")}
    )


def learnable(params: Params, db: duckdb.DuckDBPyConnection, base: Path) -> "pd.DataFrame":
    """All rows with a label, features joined, in a fixed order; data/online of `base` is filled on the way."""
    import pandas as pd

    schema = params.schema_
    with refused("data/raw/events.parquet"):
        rows = labelled_events(db, schema)
    if schema.views:
        from tabloop.feature_store import join, opened, write_online

        print(f"featurize: joining {len(rows):,} events with {', '.join(schema.views)} ...", flush=True)
        with opened(base) as store:
            rows = join(rows, schema, store)
            write_online(store)
    rows = exact_types(rows, schema)
    if "feedback" in tables(db):
        logged = exact_types(db.sql("FROM feedback").df(), schema)
        apart = not params.split.feedback_in_holdout
        where = ", in train only" if apart else ""
        print(f"featurize: {len(logged):,} labelled predictions join the data{where}", flush=True)
        parts = [rows.assign(**{REPORTED: False}), logged.assign(**{REPORTED: apart})]
        rows = pd.concat(parts, ignore_index=True)
    names = [*schema.key, schema.entity, "event_timestamp", *schema.features, schema.target.name]
    columns = [name for name in dict.fromkeys(names) if name and name != schema.timestamp]
    columns += rows.columns.intersection([REPORTED]).tolist()
    return rows[columns].sort_values(["event_timestamp", *columns], ignore_index=True)


def tables(db: duckdb.DuckDBPyConnection) -> list[str]:
    """The names of the raw tables."""
    return [row[0] for row in db.sql("SHOW TABLES").fetchall()]


def featurize(params: Params, raw: Path) -> str:
    """Write data/features (`<view>.parquet`, `train.parquet`, `holdout.parquet`) and data/online; what was written.

    Raises:
        UserError: a view's SQL or feature_repo is wrong, or a part lacks a class; both folders are as they were.
    """
    schema = params.schema_
    if not (raw / "events.parquet").exists():
        raise UserError("data/raw/events.parquet is missing: run `dvc repro ingest`")
    db = connect(raw)
    with files.scratch(FEATURES) as base:
        made = base / "data/features"
        made.mkdir(parents=True)
        (base / "data/online").mkdir()
        for view in schema.views:
            with refused(view_name(view)):
                view_rows(db, schema, view).write_parquet(str(made / f"{view}.parquet"))
        rows = learnable(params, db, base)
        train, holdout = split(rows, schema, params.split.holdout)
        for name, part in (("train", train), ("holdout", holdout)):
            if schema.timestamp:
                part = part.rename(columns={"event_timestamp": schema.timestamp})
            else:
                part = part.drop(columns="event_timestamp")
            part.to_parquet(made / f"{name}.parquet", index=False)
        files.replace(FEATURES, made)
        files.replace(ONLINE, base / "data/online")
    how = "by time" if schema.timestamp else "by hash"
    label = label_sql(db.view("events"), schema.target.name, schema.target)
    unlabelled = db.view("events").filter(f"{label} IS NULL").aggregate("count(*)").fetchall()[0][0]
    waiting = f", {unlabelled:,} without a label yet" if unlabelled else ""
    left = len(rows) - len(train) - len(holdout)
    waiting += f", {left:,} labelled predictions of held-out entities left out" if left else ""
    return f"{len(train):,} train and {len(holdout):,} holdout rows, split {how}{waiting}"
