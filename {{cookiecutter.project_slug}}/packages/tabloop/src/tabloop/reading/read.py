"""The table at a path or URL: load the cells, decide what each column's text means, build typed columns."""

import re
from collections import Counter
from pathlib import Path

import duckdb

from tabloop.cli import UserError, correction, one_line
from tabloop.database import batches, connect
from tabloop.reading import typed
from tabloop.reading.guess import guess
from tabloop.reading.load import load
from tabloop.reading.result import Loaded, Overrides, Table
from tabloop.reading.settings import ReadColumn, Reading
from tabloop.reading.shapes import TEXT, Column, is_code, plain
from tabloop.reading.source import Source, locate
from tabloop.reading.words import Known


def read(
    source: str | Source,
    root: Path,
    reading: Reading | None = None,
    overrides: Overrides | None = None,
    *,
    stream: bool = False,
) -> Table:
    """The table at `source`: a path, relative ones from `root`, or a URL that fsspec knows; or the files of one.

    Args:
        stream: rows are typed, and of Parquet also read, when they are asked for. A value that does not fit its type is
            null, and the column `misfit(name)` is true; nothing is counted.
        reading: how it is read; nothing is guessed. Without it, all is found from all of the file.
        overrides: what is not to be guessed.

    Raises:
        UserError: there is no such file, it holds no table, or values that the reading does not allow.
    """
    said, place = overrides or Overrides(), source if isinstance(source, Source) else locate(source, root)
    source = place.name
    db = connect(sum(file.stat().st_size for file in place.files), memory=2)
    try:
        loaded = load(db, place, reading, said, stream)
        names, duplicates = unique(loaded)
        columns = [Column(loaded, i, name) for i, name in enumerate(names)]
        gone = {c.name for c in columns if not loaded.names[c.i].strip() and not c.count(n="count(*)")["n"]}
        columns = [c for c in columns if c.name not in gone]
        kinds = dict(db.execute("SELECT column_name, column_type FROM (DESCRIBE raw)").fetchall())
        texts = [c for c in columns if kinds[f"c{c.i}"] == "VARCHAR"]
        if unknown := [n for n in (*said.types, *said.dates) if n is not None and n not in names]:
            raise UserError(f"{source} has no column {unknown[0]!r}; it has: {', '.join(names)}")
        sure = stream and loaded.typed  # what is not said is text
        open_ = [c for c in texts if not reading or (c.name not in reading.columns and not sure)]
        for some in batches(open_, "looking at columns"):
            for column in some:
                column.look()
        chosen = given(texts, reading) if reading else guessed(texts, loaded, said)
        typed.build(columns, chosen, stream)
        if not db.execute("SELECT 1 FROM typed LIMIT 1").fetchall():
            raise UserError(f"{source} has no rows")
    except duckdb.Error as error:
        why = correction(error) or re.split(" Possible | file = | Try setting| LINE 1:", one_line(error))[0]
        raise UserError(f"{source} can't be read as a table: {why[:300]}") from None
    notes = [note for note in loaded.notes if note.column not in gone]
    notes += [note for column in columns for note in column.notes]
    if not stream:
        db.execute("DROP TABLE raw")
    return Table(db.table("typed"), loaded.reading, notes, duplicates, db)


def given(columns: list[Column], reading: Reading) -> dict[str, ReadColumn]:
    """What the reading says of each column; what it does not say is plain."""
    return {c.name: reading.columns.get(c.name) or plain(c) for c in columns}


def guessed(columns: list[Column], loaded: Loaded, said: Overrides) -> dict[str, ReadColumn]:
    """What each column means, found; the reading is completed by what is not plain."""
    known = Known(said)
    for _ in range(2):  # the second time it is known what the columns without doubt show of the others
        for column in columns:
            column.notes.clear()
        chosen = {column.name: guess(column, known) for column in columns}
        if not known.decimals | known.orders:
            break
    told = {
        c.name: way for c in columns
        if (way := chosen[c.name]) != plain(c) or (way == TEXT and any(map(is_code, c.shapes)))
    }  # fmt: skip
    loaded.reading = loaded.reading.model_copy(update={"columns": told})
    return chosen


def unique(loaded: Loaded) -> tuple[list[str], dict[str, list[str]]]:
    """The columns' names, each another one also without regard to case, as SQL has it; and which stood there twice."""
    counts = Counter(name.strip().lower() for name in loaded.names)
    taken, names = set(counts), []
    duplicates: dict[str, list[str]] = {}
    seen: Counter[str] = Counter()
    for i, raw in enumerate(loaded.names):
        name = raw.strip() or f"column_{i + 1}"
        low = raw.strip().lower()
        seen[low] += 1
        if not low:
            loaded.note("note", "has no name in the file", name)
        elif counts[low] > 1:
            n = seen[low]
            while n > 1 and f"{low}_{n}" in taken:
                n += 1
            first = duplicates.setdefault(low, [])
            name = name if not first else f"{name}_{n}"
            first.append(name)
            loaded.note("warning", f"{counts[low]} columns are called {raw.strip()!r}", name)
        taken.add(name.lower())
        names.append(name)
    return names, {found[0]: found for found in duplicates.values()}
