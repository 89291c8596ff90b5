"""The rows that a batch scores: any table that `data.source` takes, with the features that it lacks looked up."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pyarrow as pa

from tabloop import asof, database
from tabloop.cli import UserError
from tabloop.columns import literal, quote
from tabloop.ingest import expected, value_sql
from tabloop.params import ROOT, Column, Schema, load
from tabloop.reading.settings import Reading
from tabloop.reading.typed import misfit
from tabloop.views import require_files

FEATURES = ROOT / "data/features"


@dataclass
class BatchTable:
    """The table.

    Attributes:
        relation: keys, entity, time and features, as far as they are there, under the schema's names, and `misfit` columns.
        keys: the columns that name a row.
        looked_up: the features that the input lacks and the views have.
        views: those that have one of `looked_up`.
        files: the input's.
        reading: how they are read.
    """

    db: duckdb.DuckDBPyConnection
    relation: duckdb.DuckDBPyRelation
    keys: list[str]
    looked_up: dict[str, Column]
    views: list[str]
    files: list[Path]
    reading: Reading

    def blocks(self, first: int, rows: int) -> Iterator[pa.RecordBatch]:
        """The rows from `first` on, counted from 0, in order, at most so many at once."""
        left = self.relation.limit(1 << 62, first) if first else self.relation
        yield from left.to_arrow_reader(rows)

    def digest(self) -> str:
        """The SHA-256 of all that is read, and of how."""
        digest = hashlib.sha256(f"{self.reading} {self.relation.columns}".encode())
        for path in [*self.files, *(FEATURES / f"{view}.parquet" for view in self.views)]:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def open_table(source: str, schema: Schema) -> BatchTable:
    """The table at `source`; nothing is looked up yet.

    Raises:
        UserError: it can't be read, or lacks a column that the model needs, or a view is missing.
    """
    from tabloop.reading.read import read
    from tabloop.reading.source import locate

    place = locate(source, Path.cwd())
    settings = ROOT / "params.yaml"
    reading = load(settings).data.reading if settings.exists() else Reading()
    if place.format != "csv":  # how the training data's text is read says nothing of another format
        reading = Reading(timezone=reading.timezone, missing=reading.missing)
    for names in (schema, schema.model_copy(update={"rename": {}})):  # the raw names, or the schema's own
        reading = expected(names, reading)
    table = read(place, Path.cwd(), reading, stream=True)
    for note in table.notes:
        print(f"batch: {note}", flush=True)
    kinds = dict(zip(table.relation.columns, map(str, table.relation.types), strict=True))
    selected = projection(kinds, schema)
    check_columns(source, set(selected), set(kinds), schema)
    keys = [
        name for name in dict.fromkeys([*schema.key, schema.entity, schema.timestamp]) if name in selected
    ]
    looked_up = {n: c for view in schema.views.values() for n, c in view.items() if n not in selected}
    relation = table.relation.project(", ".join(f"{sql} AS {quote(name)}" for name, sql in selected.items()))
    views = [view for view, columns in schema.views.items() if looked_up.keys() & columns.keys()]
    require_files(views, FEATURES)
    assert table.db is not None
    return BatchTable(table.db, relation, list(map(str, keys)), looked_up, views, place.files, reading)


def projection(kinds: dict[str, str], schema: Schema) -> dict[str, str]:
    """The columns of the schema that the table has, under the raw name or the schema's own, as SQL."""
    selected = dict[str, str]()
    for name in dict.fromkeys([*schema.key, schema.entity, schema.timestamp, *schema.features]):
        source = next((n for n in (schema.rename.get(name or "", name), name) if n in kinds), None)
        if name and source:
            selected[name] = value_sql(name, kinds[source], source, schema)
            if misfit(source) in kinds:
                selected[misfit(name)] = quote(misfit(source))
    time = selected.get(schema.timestamp or "")
    for name, column in schema.features.items():
        if time and column.days_since in kinds and name not in selected:
            day = quote(str(column.days_since))
            selected[name] = f"date_diff('second', {day}::TIMESTAMP, {time}::TIMESTAMP) / 86400"
    return selected


def check_columns(source: str, names: set[str], raw: set[str], schema: Schema) -> None:
    """Say which columns the table lacks, and count as null.

    Raises:
        UserError: the model needs one of them.
    """
    has = f"it has: {', '.join(sorted(name for name in raw if not name.startswith(misfit(''))))}"
    stored = {name: column for view in schema.views.values() for name, column in view.items()}
    absent = [name for name in schema.features if name not in names]
    asked = [name for name in absent if name not in stored]
    needed = [name for name in asked if not schema.features[name].nullable]
    if not needed and len(asked) == len(schema.request) > 0:
        needed = asked
    if needed:
        raise UserError(f"{source} lacks column {schema.rename.get(needed[0], needed[0])!r}; {has}")
    if (looked_up := [name for name in absent if name in stored]) and schema.entity not in names:
        raise UserError(f"{source} lacks {schema.entity!r}, or all of: {', '.join(looked_up)}; {has}")
    if asked:
        print(f"batch: {source} lacks {', '.join(asked)}: null in all rows", flush=True)


def look_up(table: BatchTable, schema: Schema, target: Path) -> BatchTable:
    """The table with the looked-up features, in the same order. They are in `target`, if it is complete, or written there.

    The row of a view that counts is the newest at the row's time, or, for a row without one, the newest of all.
    """
    wanted = {
        view: {n: c for n, c in schema.views[view].items() if n in table.looked_up} for view in table.views
    }
    joined = asof.schema_views(schema.model_copy(update={"views": wanted}), FEATURES)
    timed = schema.timestamp in table.relation.columns
    given = f"coalesce({quote(str(schema.timestamp))}::TIMESTAMP, 'infinity')"
    time = given if timed else "'infinity'::TIMESTAMP"
    how = "at the time of each row" if timed else "the newest"
    number = quote("row number")
    events = table.relation.project(f"*, {time} AS event_timestamp, row_number() OVER () AS {number}")
    rows = asof.asof_join(events, joined).order(number).project(f"* EXCLUDE (event_timestamp, {number})")
    rows.create_view("looked_up")
    if not target.exists():
        part = target.with_suffix(".writing")
        database.run(table.db, f"COPY looked_up TO {literal(part)} (FORMAT parquet)", "looking up features")
        part.rename(target)
    print(f"batch: {', '.join(table.views)} looked up, {how}", flush=True)
    return replace(table, relation=table.db.read_parquet(str(target)))
