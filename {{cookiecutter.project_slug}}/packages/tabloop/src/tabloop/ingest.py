"""data.source or the simulator, and data.feedback, to data/raw: Parquet, with the schema's column names."""

from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tabloop import files, predictions
from tabloop.cli import UserError
from tabloop.columns import key_of, literal, quote, text_of
from tabloop.feedback import labelled_predictions
from tabloop.params import ROOT, Params, Schema
from tabloop.reading.settings import ReadColumn, Reading

if TYPE_CHECKING:
    import duckdb


def ingest(params: Params) -> str:
    """Write data/raw: `events.parquet`, other tables of the simulator, `feedback.parquet`; what was written.

    Raises:
        UserError: the source can't be read or lacks a column of the schema; data/raw is as it was.
    """
    with files.scratch(ROOT / "data/raw") as folder:
        done = simulated(params, folder) if params.data.source == "simulator" else from_source(params, folder)
        if params.data.feedback:
            log = predictions.log_of(params.data.feedback)
            feedback = labelled_predictions(params, log, folder / "events.parquet")
            if feedback is not None:
                feedback.write_parquet(str(folder / "feedback.parquet"))
                done += f", {len(feedback):,} labelled predictions"
        files.replace(ROOT / "data/raw", folder)
    return done


def simulated(params: Params, folder: Path) -> str:
    """Write the tables of the owner's simulator, which gives them at once, or block by block where they are large.

    Raises:
        UserError: params.yaml has no arguments for it, or wrong ones.
    """
    if params.data.simulator is None:
        raise UserError("params.yaml: data.simulator is missing, and data.source is simulator")
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    from tabloop import owner

    made = owner.module("simulator").simulate(params.data.simulator)
    rows, files_ = Counter[str](), dict[str, ParquetWriter]()
    with ExitStack() as stack:
        for tables in [made] if isinstance(made, dict) else made:
            for name, table in tables.items():
                zoned = {n: table[n].dt.tz_convert(None) for n in table.select_dtypes("datetimetz")}  # in UTC
                block = pa.Table.from_pandas(table.assign(**zoned), preserve_index=False)
                if name not in files_:
                    writer = ParquetWriter(folder / f"{name}.parquet", block.schema)
                    files_[name] = stack.enter_context(writer)
                files_[name].write_table(block.cast(files_[name].schema))
                rows[name] += len(table)
    return ", ".join(f"{count:,} {name}" for name, count in rows.items())


def from_source(params: Params, folder: Path) -> str:
    """Write the table at data.source as `events.parquet`.

    Raises:
        UserError: it can't be read, has values of another type, or lacks a column of the schema that no view computes.
    """
    from tabloop.reading.read import read

    found = read(params.data.source, ROOT, expected(params.schema_, params.data.reading))
    for note in found.notes:
        print(f"ingest: {note}", flush=True)
    table = found.relation
    if known := params.schema_.target.known_at:
        table = end_of_day(table, params.schema_.rename.get(known, known), params.data.reading.timezone)
    renamed = table.project(projection(dict(zip(table.columns, map(str, table.types), strict=True)), params))
    rows = renamed.aggregate("count(*)").fetchall()[0][0]
    renamed.write_parquet(str(folder / "events.parquet"))
    return f"{rows:,} events from {params.data.source}"


def end_of_day(table: "duckdb.DuckDBPyRelation", name: str, zone: str | None) -> "duckdb.DuckDBPyRelation":
    """The table as it is, or, where the column has dates only, with the end of each day in place of its beginning."""
    if name not in table.columns:
        return table
    column, utc = quote(name), literal("UTC")
    local = f"({column} AT TIME ZONE {utc} AT TIME ZONE {literal(zone or 'UTC')})"
    if not table.aggregate(f"bool_and({local} = date_trunc('day', {local}))").fetchall()[0][0]:
        return table
    print(f"ingest: {name}: dates without a time: labels count as known when the day ends", flush=True)
    return table.project(f"* REPLACE ({column} + INTERVAL 1 DAY AS {column})")


def expected(schema: Schema, reading: Reading) -> Reading:
    """The reading, completed by the types that the schema declares: a value of another type is an error, not a guess."""
    declared: dict[str, ReadColumn] = {}
    for name, column in schema.columns.items():
        raw = column.days_since or schema.rename.get(name, name)
        kind = "timestamp" if column.days_since else "text" if column.type == "category" else column.type
        declared[raw] = ReadColumn(type=kind)
    if schema.timestamp:
        declared[schema.rename.get(schema.timestamp, schema.timestamp)] = ReadColumn(type="timestamp")
    if known := schema.target.known_at:
        declared[schema.rename.get(known, known)] = ReadColumn(type="timestamp")
    return reading.model_copy(update={"columns": declared | reading.columns})


def projection(columns: dict[str, str], params: Params) -> str:
    """The SELECT list that gives the raw columns the schema's names; columns that it does not name stay.

    Args:
        columns: the raw columns and their types.

    Raises:
        UserError: a column of the schema that no view computes is missing.
    """
    schema = params.schema_
    views = {v: names for v, names in schema.views.items() if (ROOT / f"feature_repo/{v}.sql").exists()}
    computed = {name for names in views.values() for name in names}
    times = [schema.timestamp, schema.target.known_at]
    declared = [*schema.key, schema.entity, *times, *schema.columns, schema.target.name]
    raw = {name: schema.rename.get(name, name) for name in dict.fromkeys(declared) if name}
    days = {name: c.days_since for name, c in schema.columns.items() if c.days_since}
    needed = {name: days.get(name, source) for name, source in raw.items()}
    missing = [source for name, source in needed.items() if source not in columns and name not in computed]
    if missing:
        raise UserError(f"{params.data.source} lacks column {missing[0]!r}; it has: {', '.join(columns)}")
    found = {name: source for name, source in raw.items() if source in columns and name not in days}
    taken = {text.lower() for pair in found.items() for text in pair} | set(days)  # SQL's names have no case
    selected = [
        f"{value_sql(name, columns[source], source, schema)} AS {quote(name)}"
        for name, source in found.items()
    ]
    if days and schema.timestamp:
        time = f"{quote(raw[schema.timestamp])}::TIMESTAMP"
        selected += [
            f"date_diff('second', {quote(source)}::TIMESTAMP, {time}) / 86400 AS {quote(name)}"
            for name, source in days.items()
        ]
    return ", ".join([*selected, *(quote(column) for column in columns if column.lower() not in taken)])


def value_sql(name: str, kind: str, source: str, schema: Schema) -> str:
    """A raw column as SQL; keys and categories as the text that a request has, the entity without spaces around it."""
    if name == schema.entity:
        return key_of(quote(source), kind)
    column = schema.columns.get(name)
    return text_of(quote(source), kind) if column and not column.numeric else quote(source)
