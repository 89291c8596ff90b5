"""data/raw to data/features and data/online: the views' SQL, the point-in-time join, the split by time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from tabloop import database, files, leaks
from tabloop.cli import UserError, one_line
from tabloop.columns import quote
from tabloop.labels import label_sql
from tabloop.params import ROOT, Column, Params, Schema
from tabloop.split import KNOWN, REPORTED, split

if TYPE_CHECKING:
    import pandas as pd

REPO = ROOT / "feature_repo"
FEATURES, ONLINE = ROOT / "data/features", ROOT / "data/online"


def connect(raw: Path) -> duckdb.DuckDBPyConnection:
    """DuckDB with every table of `raw` as a view of its name.

    It has one thread: sums of floats depend on their order, and the same data must give the same bytes.
    """
    db = database.connect(threads=1)
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
    """The events whose label is known: key, entity, event_timestamp, request columns, target as 0 or 1, KNOWN."""
    target = quote(schema.target.name)
    label = label_sql(db.view("events"), schema.target.name, schema.target)
    key = [quote(name) for name in schema.own_key if name not in schema.features]
    known = (
        f"{quote(schema.target.known_at or schema.timestamp or '')}::TIMESTAMP"
        if schema.timestamp
        else "NULL"
    )
    columns = ", ".join(
        [*key, typed(schema, schema.request), f"{label} AS {target}", f"{known} AS {quote(KNOWN)}"]
    )
    return db.sql(f"SELECT {columns} FROM events WHERE {label} IS NOT NULL ORDER BY ALL").df()


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
    columns += rows.columns.intersection([REPORTED, KNOWN]).tolist()
    return rows[columns].sort_values(["event_timestamp", *columns], ignore_index=True)


def refuse_to_look_ahead(
    raw: Path, made: Path, schema: Schema, moment: str, definitions: Path = REPO
) -> None:
    """Compute the views of what was known at a moment; rows until then must be the same as in `made`.

    Events after it are not there, and labels that were known later are missing. Numbers are compared as float32, so that a
    sum in another order is not another value.

    Raises:
        UserError: some rows differ.
    """
    db, target = connect(raw), quote(schema.target.name)
    known = f"{quote(schema.target.known_at)}::TIMESTAMP" if schema.target.known_at else ""
    label = f"REPLACE (CASE WHEN {known} <= '{moment}' THEN {target} END AS {target})" if known else ""
    db.sql("ALTER VIEW events RENAME TO every_event")
    until = f"{quote(schema.timestamp or '')}::TIMESTAMP <= '{moment}'"
    db.sql(f"CREATE VIEW events AS SELECT * {label} FROM every_event WHERE {until}")
    for view, columns in schema.views.items():
        if not (definitions / f"{view}.sql").exists():
            continue
        values = (f"{quote(n)}{'::FLOAT' if c.type == 'number' else ''}" for n, c in columns.items())
        shown = ", ".join([quote(str(schema.entity)), "event_timestamp", *values])
        now, then = (
            rows.filter(f"event_timestamp <= '{moment}'").project(shown)
            for rows in (
                db.read_parquet(str(made / f"{view}.parquet")),
                view_rows(db, schema, view, definitions),
            )
        )
        if differing := now.except_(then).aggregate("count(*)").fetchall()[0][0]:
            raise UserError(
                f"{view}.sql looks ahead: {differing:,} of its rows until {moment}, when the holdout begins, would be others "
                "without the events and labels that came later; a row's time must be when all of it was known"
            )


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
        if schema.timestamp:
            refuse_to_look_ahead(raw, made, schema, str(holdout.event_timestamp.min()))
        leaks.refuse(train, schema)
        for name, part in (("train", train), ("holdout", holdout)):
            if schema.timestamp:
                part = part.rename(columns={"event_timestamp": schema.timestamp})
            else:
                part = part.drop(columns="event_timestamp")
            part.to_parquet(made / f"{name}.parquet", index=False)
        files.replace(FEATURES, made)
        files.replace(ONLINE, base / "data/online")
    label = label_sql(db.view("events"), schema.target.name, schema.target)
    unlabelled = db.view("events").filter(f"{label} IS NULL").aggregate("count(*)").fetchall()[0][0]
    waiting = f", {unlabelled:,} without a label yet" if unlabelled else ""
    how = "by time" if schema.timestamp else "by hash"
    out = left_out(rows.drop(index=train.index.union(holdout.index)), holdout, schema)
    return f"{len(train):,} train and {len(holdout):,} holdout rows, split {how}{waiting}{out}"


def left_out(rows: "pd.DataFrame", holdout: "pd.DataFrame", schema: Schema) -> str:
    """How many labelled rows are in neither part, and why."""
    if rows.empty:
        return ""
    why = "of held-out entities"
    if schema.timestamp:
        begins = f"{holdout.event_timestamp.min():%Y-%m-%d %H:%M:%S}"
        why = f"whose label was not known at {begins}, when the holdout begins,"
    reported = int(rows[REPORTED].sum()) if REPORTED in rows else 0
    clients = f" ({reported:,} of them reported by clients)" if reported else ""
    return f", {len(rows):,} {why} left out{clients}"
