"""Files to one table in DuckDB: `raw`, with columns c0, c1, ... of text, or of the file's own types."""

import re
from pathlib import Path
from typing import Any

import duckdb

from tabloop.cli import UserError
from tabloop.columns import literal
from tabloop.database import run
from tabloop.reading import columnar, dialect, encodings, rows, sheets
from tabloop.reading.result import Loaded, Note, Overrides, cell
from tabloop.reading.settings import Reading
from tabloop.reading.source import Source


def load(
    db: duckdb.DuckDBPyConnection,
    source: Source,
    given: Reading | None,
    said: Overrides,
    stream: bool,
) -> Loaded:
    """Make the table `raw`; to `stream` Parquet, a view.

    Raises:
        UserError: the file is not what the reading says, or has rows that it does not allow.
    """
    kind = (given and given.format) or source.format
    plain = given or Reading(timezone=said.timezone)
    codec = given.encoding or "utf-8" if given else said.encoding
    if kind in ("parquet", "arrow"):
        told = {name: way.type for name, way in given.columns.items()} if given else said.types
        times = {name for name in (said.timestamp, *said.dates) if name}
        times |= {name for name, type_ in told.items() if type_ == "timestamp"}
        return columnar.load(db, source, kind, plain, times, stream)
    if kind == "json":
        return columnar.load_json(db, source, plain, codec)
    notes: list[Note] = []
    fixed: dict[str, Any] = {"timezone": said.timezone} if said.timezone else {}
    files = source.files
    if kind == "excel":
        wanted = (given and given.sheet) or said.sheet
        files = [sheets.as_csv(path, wanted, fixed, notes) for path in files]
    texts: list[Path] = []
    for path in files:
        text, codec, found = encodings.as_utf8(path, "utf-8" if kind == "excel" else codec)
        texts, notes = [*texts, text], [*notes, *found]
    if codec not in ("utf-8", None):
        fixed["encoding"] = codec
    return _load_text(db, source.name, texts, given, said, fixed, notes)


def _load_text(
    db: duckdb.DuckDBPyConnection, name: str, files: list[Path], given: Reading | None, said: Overrides,
    fixed: dict[str, Any], notes: list[Note],
) -> Loaded:  # fmt: skip
    files = [dialect.tightened(file) for file in files]
    lines = dialect.sample(files[0])
    reading = given or _guessed(lines, said, fixed)
    if reading.format == "aligned":
        files = [sheets.aligned_as_csv(path) for path in files]
        lines = dialect.sample(files[0])
    head = dialect.head(lines, reading, not given, said.header)
    for file in files[1:]:
        if (other := dialect.head(dialect.sample(file), reading, not given, said.header)).names != head.names:
            what = f"{file.name} has columns {other.names}, {files[0].name} has {head.names}"
            raise UserError(f"{name}: {what}")
    names = head.names or reading.names or [f"column_{i + 1}" for i in range(head.width)]
    if not head.names and len(names) != head.width:
        raise UserError(f"{name} has {head.width} columns, and data.reading.names has {len(names)}")
    if not given:
        before = head.skip - head.more - bool(head.names)
        plain: dict[str, Any] = {"skip": head.skip, "header": False, "names": names}
        plain = {"skip": before} if head.names and not head.more else plain
        reading = reading.model_copy(update=plain)
        if before:
            shown = " | ".join(line.strip() for line in lines[:before] if line.strip())[:80]
            notes.append(Note(None, "note", f"{before} lines before the header left out: {shown}"))
        if not head.names and said.header is None:
            what = f"no header found: the columns are called {names[0]} to {names[-1]}"
            notes.append(Note(None, "warning", what))
    notes += head.notes
    columns = ", ".join(f"'x{i}': 'VARCHAR'" for i in range(len(names)))
    cells = ", ".join(cell(f"x{i}", i) for i in range(len(names)))
    origin = (
        f"read_csv([{', '.join(map(literal, files))}], delim = {literal(reading.delimiter or ',')}, "
        f"quote = {literal(reading.quote)}, escape = {literal(reading.escape or reading.quote)}, skip = {head.skip}, "
        f"auto_detect = false, header = false, store_rejects = true, columns = {{{columns}}})"
    )
    run(db, f"CREATE TABLE raw AS SELECT {cells} FROM {origin}", f"reading {name}")
    loaded = Loaded(db, names, reading, notes, name, guess=given is None)
    rows.check(loaded, said.bad_rows, head.skip)
    return loaded


def _guessed(lines: list[str], said: Overrides, fixed: dict[str, Any]) -> Reading:
    found = dialect.find(lines, said.delimiter)
    aligned = not found and sum(len(re.split(r"\s+", line.strip())) > 1 for line in lines) > 0.9 * len(lines)
    if aligned:
        return Reading(format="aligned", **fixed)
    plain = {"delimiter": ",", "quote": '"', "escape": None}
    differing: dict[str, Any] = {k: v for k, v in (found or {}).items() if v != plain[k]}
    reading = Reading(**fixed, **differing)
    return reading.model_copy(update={"comment": dialect.comment(lines, reading)})
