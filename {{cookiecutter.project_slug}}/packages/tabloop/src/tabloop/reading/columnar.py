"""Files that know their types: Parquet, Arrow, JSON. What has no use in a table is left out, with a note."""

import codecs
import re

import duckdb

from tabloop.cli import UserError, explained
from tabloop.columns import literal, quote
from tabloop.database import run
from tabloop.reading import dates, encodings
from tabloop.reading.result import Loaded, cell
from tabloop.reading.settings import Reading
from tabloop.reading.source import Source

BIG = ("UBIGINT", "HUGEINT", "UHUGEINT")
# DuckDB's types by what becomes of them; {c} is the column.
CASTS = {
    r"(U?(TINY|SMALL)INT|U?INTEGER|BIGINT)": "{c}::BIGINT",
    r"FLOAT|DOUBLE": "CASE WHEN isfinite({c}) THEN {c}::DOUBLE END",
    r"BOOLEAN": "{c}",
    r"DATE|TIMESTAMP(_NS|_MS|_S)?": dates.usable("{local}"),
    r"TIMESTAMP WITH TIME ZONE|TIMESTAMPTZ_NS": dates.usable("({c}::TIMESTAMPTZ AT TIME ZONE 'UTC')"),
    r"DECIMAL\(.*": "{c}::DOUBLE",
    r"VARCHAR|UUID|ENUM.*|TIME|\"NULL\"": "{c}::VARCHAR",
    r"BLOB": "decode({c})",
}


def load(
    db: duckdb.DuckDBPyConnection, source: Source, kind: str, reading: Reading, times: set[str], stream: bool
) -> Loaded:
    """Make the table `raw` of Parquet or Arrow files.

    Args:
        stream: whether it is a view.
        times: columns that are timestamps, whatever their type: numbers are text here, which is then read as a date.
    """
    import pyarrow as pa
    import pyarrow.parquet

    with explained(f"{source.name} can't be read as a table", pa.ArrowException, OSError):
        if kind == "parquet":
            files, several = ", ".join(map(literal, source.files)), len(source.files) > 1
            hive = f"hive_partitioning = {source.folder is not None}, hive_types_autocast = false"
            origin = f"read_parquet([{files}], union_by_name = {several}, {hive})"
            names = pa.parquet.read_schema(source.files[0]).names
        else:
            origin, names = "arrow", _register(db, source)
    described = db.execute(f"DESCRIBE FROM {origin}").fetchall()
    if len(source.files) > 1:
        names = [row[0] for row in described]
    names += [row[0] for row in described[len(names) :]]  # hive partitions
    loaded = Loaded(db, [], reading, typed=True)
    parts: list[str] = []
    for name, (column, sql, *_) in zip(names, described, strict=True):
        if name.startswith("__index_level_"):
            loaded.note("note", "the index of pandas is left out", name)
        elif cast := _cast(loaded, origin, name, column, sql):
            if name in times and re.fullmatch("DOUBLE|FLOAT|U?[A-Z]*INT(EGER)?", sql):
                cast = f"{quote(column)}::HUGEINT::VARCHAR"
            i = len(loaded.names)
            parts.append(cell(cast, i) if cast.endswith("VARCHAR") or sql == "BLOB" else f"{cast} AS c{i}")
            loaded.names.append(name)
    if not parts:
        raise UserError(f"{source.name} has no usable column: all are nested")
    made = "VIEW" if stream and kind == "parquet" else "TABLE"
    run(db, f"CREATE {made} raw AS SELECT {', '.join(parts)} FROM {origin}", f"reading {source.name}")
    return loaded


def _register(db: duckdb.DuckDBPyConnection, source: Source) -> list[str]:
    """Make `arrow` of Arrow's files, or of a stream, which can be read once; the names of its columns."""
    import pyarrow as pa
    import pyarrow.dataset

    with source.files[0].open("rb") as file:
        stream = not file.read(6).startswith(b"ARROW1")
    files = source.files
    arrow = pa.ipc.open_stream(files[0]) if stream else pa.dataset.dataset(files, format="feather")
    db.register("stream", arrow)
    db.execute(f"CREATE {'TABLE' if stream else 'VIEW'} arrow AS FROM stream")
    return list(arrow.schema.names)


def _cast(loaded: Loaded, origin: str, name: str, column: str, sql: str) -> str | None:
    """How a column, which DuckDB calls `column`, is read; None if it can't be."""
    c = quote(column)

    def lacking(expression: str) -> int:
        test = f"count(*) FILTER ({c} IS NOT NULL AND {expression} IS NULL)"
        return int(loaded.db.execute(f"SELECT {test} FROM {origin}").fetchall()[0][0])

    if sql in BIG or re.fullmatch(r"DECIMAL\(\d+,0\)", sql):
        if not lacking(f"TRY_CAST({c} AS BIGINT)"):
            return f"{c}::BIGINT"
        loaded.note("warning", "integers past 64 bits: read as text, so that no digit is lost", name)
        return f"{c}::VARCHAR"
    if sql == "BLOB" and lacking(f"try(decode({c}))"):
        loaded.note("warning", "bytes that are no text: left out", name)
        return None
    cast = next((cast for pattern, cast in CASTS.items() if re.fullmatch(pattern, sql)), None)
    if cast is None:
        loaded.note("warning", f"of type {sql[:60]}, nested or unknown to a model: left out", name)
        return None
    cast = cast.format(c=c, local=dates.in_utc(f"{c}::TIMESTAMP", loaded.reading.timezone))
    if re.match("FLOAT|DOUBLE|DATE|TIMESTAMP", sql) and (count := lacking(cast)):
        number = sql in ("FLOAT", "DOUBLE")
        what = "NaN or infinite" if number else f"before {dates.FIRST} or after {dates.LAST}"
        loaded.note("note", f"{count:,} values {what} count as missing", name)
    return cast


def load_json(db: duckdb.DuckDBPyConnection, source: Source, reading: Reading, codec: str | None) -> Loaded:
    """Make the table `raw` of JSON: records in a list, or one a line. `codec` is the encoding; None: it is guessed."""
    loaded = Loaded(db, [], reading)
    files: list[str] = []
    for path in source.files:
        mark = path.open("rb").read(3) == codecs.BOM_UTF8
        file, codec, notes = encodings.as_utf8(path, "utf-8-sig" if mark else codec)
        files, loaded.notes = [*files, literal(file)], loaded.notes + notes
    if codec != "utf-8":
        loaded.reading = reading.model_copy(update={"encoding": codec})
    origin = f"read_json([{', '.join(files)}], maximum_depth = 1, sample_size = -1, union_by_name = true)"
    run(db, f"CREATE TABLE json AS FROM {origin}", f"reading {source.name}")
    names = [row[0] for row in db.execute("DESCRIBE json").fetchall()]
    nested = ", ".join(f"list(DISTINCT json_type({quote(name)}))" for name in names)
    parts: list[str] = []
    for name, types in zip(names, db.execute(f"SELECT {nested} FROM json").fetchall()[0], strict=True):
        if {"OBJECT", "ARRAY"} & set(types or ()):
            loaded.note("warning", "nested: left out", name)
        else:
            parts.append(cell(f"({quote(name)} ->> '$')", len(parts)))
            loaded.strings |= {name} if "VARCHAR" in (types or ()) else set()
            loaded.names.append(name)
    alone = db.execute("SELECT count(*) FROM json").fetchall()[0][0] == 1
    if not parts or (alone and len(parts) < len(names)):
        what = "it must hold a list of flat records, [{...}, {...}], or one a line, as to_json(orient='records') writes"
        raise UserError(f"{source.name} has no usable column: {what}")
    db.execute(f"CREATE TABLE raw AS SELECT {', '.join(parts)} FROM json; DROP TABLE json")
    return loaded
