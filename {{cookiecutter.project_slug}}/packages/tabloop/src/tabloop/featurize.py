"""data/raw to data/features and data/online: the views' SQL, the point-in-time join, the split by time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from tabloop import database, files, leaks
from tabloop.asof import unique_metadata
from tabloop.cli import UserError, one_line
from tabloop.columns import literal, quote
from tabloop.labels import label_sql
from tabloop.params import ROOT, Column, Params, Schema
from tabloop.progress import watched
from tabloop.split import KNOWN, REPORTED, Split, split

if TYPE_CHECKING:
    import pandas as pd

REPO = ROOT / "feature_repo"
FEATURES, ONLINE = ROOT / "data/features", ROOT / "data/online"
TOLERANCE = 1e-6  # by which two numbers may differ, relatively, and be the same sum in another order


def connect(raw: Path, threads: int | None = 1) -> duckdb.DuckDBPyConnection:
    """DuckDB with every table of `raw` as a view of its name.

    By default it has one thread: sums of floats depend on their order, and the same data must give the same bytes.
    """
    db = database.connect(memory=2, threads=threads)
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
    key = f"{quote(str(schema.entity))}, event_timestamp"
    ordered = f"(FROM ({view_sql(schema, view, definitions)}) ORDER BY ALL)"
    # As they are in order, a row of the same entity and time comes right after: a hash table of all would take twice as long.
    with refused(view_name(view, definitions)):
        return db.sql(f"FROM {ordered} QUALIFY ({key}) IS DISTINCT FROM lag(({key})) OVER ()")


def view_sql(schema: Schema, view: str, definitions: Path = REPO) -> str:
    """SQL for all rows of a view, in no order."""
    path = definitions / f"{view}.sql"
    source = path.read_text().rstrip().rstrip(";") if path.exists() else "FROM events"
    return f"SELECT {typed(schema, schema.views[view])} FROM ({source}\n)"


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


def labelled_events(db: duckdb.DuckDBPyConnection, schema: Schema) -> duckdb.DuckDBPyRelation:
    """The events whose label is known: key, entity, event_timestamp, request columns, target as 0 or 1, KNOWN."""
    target = quote(schema.target.name)
    label = label_sql(db.view("events"), schema.target.name, schema.target)
    key = [quote(name) for name in schema.own_key if name not in schema.features]
    known = (
        f"{quote(schema.target.known_at or schema.timestamp or '')}::TIMESTAMP"
        if schema.timestamp
        else "NULL::TIMESTAMP"
    )
    columns = ", ".join(
        [*key, typed(schema, schema.request), f"{label} AS {target}", f"{known} AS {quote(KNOWN)}"]
    )
    return db.sql(f"SELECT {columns} FROM events WHERE {label} IS NOT NULL")


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


def with_feedback(
    db: duckdb.DuckDBPyConnection, events: duckdb.DuckDBPyRelation, in_holdout: bool
) -> duckdb.DuckDBPyRelation:
    """The events and the labelled predictions, of which REPORTED says whether they are in train only."""
    if "feedback" not in tables(db):
        return events
    both = f"SELECT *, false AS {quote(REPORTED)} FROM own UNION ALL BY NAME SELECT *, {not in_holdout} AS {quote(REPORTED)} FROM feedback"
    joined = events.query("own", both)
    assert joined is not None  # as it is of any SELECT
    return joined


def write_views(raw: Path, made: Path, schema: Schema, view: str) -> None:
    """Compute a view and write `made/<view>.parquet`, which says that no two rows have the same entity and time."""
    with refused(view_name(view)):
        db = connect(raw)
        rows = view_rows(db, schema, view).sql_query()
        unique = unique_metadata([str(schema.entity), "event_timestamp"])
        database.run(
            db, f"COPY ({rows}) TO {literal(made / f'{view}.parquet')} ({unique})", f"computing {view}"
        )


def write_part(
    db: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation, schema: Schema, path: Path
) -> None:
    """Write rows to `path` in a fixed order, with what pandas needs to give whole numbers and booleans their types."""
    import pyarrow as pa

    names = [*schema.key, schema.entity, "event_timestamp", *schema.features, schema.target.name]
    columns = {name: name for name in dict.fromkeys(names) if name and name != schema.timestamp}
    if schema.timestamp:
        columns["event_timestamp"] = schema.timestamp
    else:
        del columns["event_timestamp"]
    shown = ", ".join(f"{quote(name)} AS {quote(as_name)}" for name, as_name in columns.items())
    everything = ", ".join(map(quote, columns))
    key = [quote(name) for name in schema.own_key]
    order = ", ".join(
        ["event_timestamp", *key, f"hash({everything})"]
    )  # of rows with one key, any fixed order
    part = rows.order(order).project(shown)
    kinds = exact_types(part.limit(0).df(), schema)
    pandas = pa.Schema.from_pandas(kinds, preserve_index=False).metadata[b"pandas"].decode()
    options = f"KV_METADATA {{pandas: {literal(pandas)}}}"
    database.run(db, f"COPY ({part.sql_query()}) TO {literal(path)} ({options})", f"writing {path.stem}")


def refuse_to_look_ahead(
    raw: Path, made: Path, schema: Schema, moment: str, definitions: Path = REPO
) -> None:
    """Compute the views of what was known at a moment; rows until then must be the same as in `made`.

    Events after it are not there, and labels that were known later are missing. Numbers are compared as float32, so that a
    sum in another order is not another value.

    Raises:
        UserError: some rows differ.
    """
    db, target, entity = connect(raw), quote(schema.target.name), quote(str(schema.entity))
    known = f"{quote(schema.target.known_at)}::TIMESTAMP" if schema.target.known_at else ""
    label = f"REPLACE (CASE WHEN {known} <= '{moment}' THEN {target} END AS {target})" if known else ""
    db.sql("ALTER VIEW events RENAME TO every_event")
    until = f"{quote(schema.timestamp or '')}::TIMESTAMP <= '{moment}'"
    db.sql(f"CREATE VIEW events AS SELECT * {label} FROM every_event WHERE {until}")
    for view, columns in schema.views.items():
        if not (definitions / f"{view}.sql").exists():
            continue
        written = f"read_parquet({literal(made / f'{view}.parquet')})"
        values = [f"{quote(n)}{'::FLOAT' if c.type == 'number' else ''}" for n, c in columns.items()]
        # A sum of hashes needs no memory. Mostly it is the same, and the rows then are; else each is compared.
        total = f"SELECT count(*), sum(hash({', '.join([entity, 'event_timestamp', *values])})) FROM "
        early = f" WHERE event_timestamp <= '{moment}'"
        with refused(view_name(view, definitions)):
            sums = [
                database.run(db, f"{total}{rows}{early}", f"checking {view}")
                for rows in (written, f"({view_sql(schema, view, definitions)})")
            ]
            if sums[0] == sums[1]:
                continue
            view_rows(db, schema, view, definitions).create_view("then_rows")
            others = " OR ".join(["t.event_timestamp IS NULL", *(differs(n, c) for n, c in columns.items())])
            match = f"n.{entity} IS NOT DISTINCT FROM t.{entity} AND n.event_timestamp = t.event_timestamp"
            rows = f"(FROM {written}{early}) n LEFT JOIN then_rows t ON {match}"
            differing = db.sql(f"SELECT count(*) FROM {rows} WHERE {others}").fetchall()[0][0]
            db.sql("DROP VIEW then_rows")
        if differing:
            raise UserError(
                f"{view}.sql looks ahead: {differing:,} of its rows until {moment}, when the holdout begins, would be others "
                "without the events and labels that came later; a row's time must be when all of it was known"
            )


def differs(name: str, column: Column) -> str:
    """SQL for whether `n` and `t` have other values; of a sum in another order, the last digits are others."""
    now, then = f"n.{quote(name)}", f"t.{quote(name)}"
    if column.type != "number":
        return f"{now} IS DISTINCT FROM {then}"
    near = f"abs({now} - {then}) <= {TOLERANCE} * greatest(abs({now}), abs({then}))"
    return f"({now} IS DISTINCT FROM {then} AND NOT coalesce({near}, false))"


def tables(db: duckdb.DuckDBPyConnection) -> list[str]:
    """The names of the raw tables."""
    return [row[0] for row in db.sql("SHOW TABLES").fetchall()]


def featurize(params: Params, raw: Path) -> str:
    """Write data/features (`<view>.parquet`, `train.parquet`, `holdout.parquet`) and data/online; what was written.

    Raises:
        UserError: a view's SQL or feature_repo is wrong, or a part lacks a class; both folders are as they were.
    """
    schema, raw = params.schema_, raw.absolute()  # Feast changes the working directory
    if not (raw / "events.parquet").exists():
        raise UserError("data/raw/events.parquet is missing: run `dvc repro ingest`")
    db = connect(raw, threads=None)
    with files.scratch(FEATURES) as base, refused("data/raw/events.parquet"):
        made = base / "data/features"
        made.mkdir(parents=True)
        (base / "data/online").mkdir()
        events = labelled_events(db, schema)
        rows = with_feedback(db, events, params.split.feedback_in_holdout)
        parts = split(rows, schema, params.split.holdout)
        if "feedback" in tables(db):
            where = "" if params.split.feedback_in_holdout else ", in train only"
            count = db.view("feedback").aggregate("count(*)").fetchall()[0][0]
            print(f"featurize: {count:,} labelled predictions join the data{where}", flush=True)
        if schema.views:
            events = join_views(db, raw, base, schema, str(parts.begins or ""))
            rows = with_feedback(db, events, params.split.feedback_in_holdout)
        for name, condition in (("train", parts.train), ("holdout", parts.holdout)):
            write_part(db, rows.filter(condition), schema, made / f"{name}.parquet")
        leaks.refuse(made / "train.parquet", schema)
        files.replace(FEATURES, made)
        files.replace(ONLINE, base / "data/online")
    label = label_sql(db.view("events"), schema.target.name, schema.target)
    unlabelled = db.view("events").filter(f"{label} IS NULL").aggregate("count(*)").fetchall()[0][0]
    waiting = f", {unlabelled:,} without a label yet" if unlabelled else ""
    how = "by time" if schema.timestamp else "by hash"
    sizes = f"{parts.rows['train']:,} train and {parts.rows['holdout']:,} holdout rows"
    return f"{sizes}, split {how}{waiting}{left_out(parts)}"


def join_views(
    db: duckdb.DuckDBPyConnection, raw: Path, base: Path, schema: Schema, begins: str
) -> duckdb.DuckDBPyRelation:
    """Write the views and the online store, and join the labelled events with the views; the file of the joined events.

    Each view is computed in one thread, for the same bytes each time; so two are at a time.
    """
    from tabloop.feature_store import join, opened
    from tabloop.online_file import write_online

    made, joined = base / "data/features", base / "joined.parquet"
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write_views, raw, made, schema, view) for view in schema.views]:
            done.result()
        check = pool.submit(refuse_to_look_ahead, raw, made, schema, begins) if begins else None
        print(f"featurize: joining the labelled events with {', '.join(schema.views)} ...", flush=True)
        with opened(base) as store:
            source = f"FROM read_parquet({literal(raw / 'events.parquet')})"
            events = f"WITH events AS ({source}) FROM ({labelled_events(db, schema).sql_query()})"
            with watched("joining"):
                join(store, schema, db, events).write_parquet(str(joined))
            write_online(store)
        if check:
            check.result()
    return db.read_parquet(str(joined))


def left_out(parts: Split) -> str:
    """How many labelled rows are in neither part, and why."""
    if not (count := parts.rows["left out"]):
        return ""
    why = "of held-out entities"
    if parts.begins:
        why = f"whose label was not known at {parts.begins:%Y-%m-%d %H:%M:%S}, when the holdout begins,"
    reported = parts.rows["reported"]
    clients = f" ({reported:,} of them reported by clients)" if reported else ""
    return f", {count:,} {why} left out{clients}"
