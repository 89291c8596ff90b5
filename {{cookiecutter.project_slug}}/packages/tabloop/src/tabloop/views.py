"""The feature views: their SQL over data/raw, and the check that none looks ahead."""

from contextlib import AbstractContextManager
from pathlib import Path

import duckdb

from tabloop import database
from tabloop.cli import UserError, explained
from tabloop.columns import literal, quote
from tabloop.params import ROOT, Column, Schema

REPO = ROOT / "feature_repo"
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
    source = path.read_text("utf-8").rstrip().rstrip(";") if path.exists() else "FROM events"
    return f"SELECT {typed(schema, schema.views[view])} FROM ({source}\n)"


def require_files(views: list[str], features: Path) -> None:
    """Raises: UserError: the folder `features` lacks the file of a view."""
    for view in views:
        if not (features / f"{view}.parquet").exists():
            how = "run `make train`, or `uv run dvc pull`"
            raise UserError(f"data/features/{view}.parquet is missing: {how}")


def view_name(view: str, definitions: Path = REPO) -> str:
    """What computes a view, as errors name it."""
    return f"{view}.sql" if (definitions / f"{view}.sql").exists() else f"view {view}"


def refused(name: str) -> AbstractContextManager[None]:
    """DuckDB's errors as a UserError that begins with `name`."""
    return explained(name, duckdb.Error)


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


def refuse_to_look_ahead(
    raw: Path, made: Path, schema: Schema, view: str, moment: str, definitions: Path = REPO
) -> None:
    """Compute a view of what was known at a moment; its rows until then must be the same as in `made`.

    Events after it are not there, and labels that were known later are missing. Numbers are compared as float32, so that a
    sum in another order is not another value.

    Raises:
        UserError: some rows differ.
    """
    if not (definitions / f"{view}.sql").exists():
        return
    db, target, entity = connect(raw), quote(schema.target.name), quote(str(schema.entity))
    known = f"{quote(schema.target.known_at)}::TIMESTAMP" if schema.target.known_at else ""
    label = f"REPLACE (CASE WHEN {known} <= '{moment}' THEN {target} END AS {target})" if known else ""
    db.sql("ALTER VIEW events RENAME TO every_event")
    until = f"{quote(schema.timestamp or '')}::TIMESTAMP <= '{moment}'"
    db.sql(f"CREATE VIEW events AS SELECT * {label} FROM every_event WHERE {until}")
    columns, written = schema.views[view], f"read_parquet({literal(made / f'{view}.parquet')})"
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
            return
        view_rows(db, schema, view, definitions).create_view("then_rows")
        others = " OR ".join(["t.event_timestamp IS NULL", *(differs(n, c) for n, c in columns.items())])
        match = f"n.{entity} IS NOT DISTINCT FROM t.{entity} AND n.event_timestamp = t.event_timestamp"
        rows = f"(FROM {written}{early}) n LEFT JOIN then_rows t ON {match}"
        differing = db.sql(f"SELECT count(*) FROM {rows} WHERE {others}").fetchall()[0][0]
    if differing:
        raise UserError(
            f"{view}.sql looks ahead: {differing:,} of its rows up to {moment}, where the holdout begins, change "
            "without later events and labels; a row's time must be when all of it was known"
        )


def differs(name: str, column: Column) -> str:
    """SQL for whether `n` and `t` have other values; of a sum in another order, the last digits are others."""
    now, then = f"n.{quote(name)}", f"t.{quote(name)}"
    if column.type != "number":
        return f"{now} IS DISTINCT FROM {then}"
    near = f"abs({now} - {then}) <= {TOLERANCE} * greatest(abs({now}), abs({then}))"
    return f"({now} IS DISTINCT FROM {then} AND NOT coalesce({near}, false))"
