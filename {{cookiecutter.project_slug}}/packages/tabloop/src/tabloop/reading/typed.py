"""From text to typed columns: SQL for each column, checked in one pass over all rows."""

from tabloop.cli import UserError
from tabloop.columns import quote
from tabloop.params import ReadColumn
from tabloop.reading import dates, numbers
from tabloop.reading.database import run
from tabloop.reading.result import MISSING
from tabloop.reading.shapes import Column, boolean


def value(column: Column, way: ReadColumn) -> str:
    """SQL: the cell's value as its type; NULL also where it does not fit."""
    if way.type == "boolean":
        return boolean(column.text)
    if way.type == "timestamp":
        return dates.parsed(column.text, way)
    return column.text if way.type == "text" else numbers.parsed(column.number, way)


def missing(column: Column, way: ReadColumn) -> str:
    """SQL: whether the cell counts as missing."""
    words = column.loaded.reading.missing
    common = MISSING if words is None else words
    own = way.missing or []
    return column.absent(own if way.type == "text" and way.missing is not None else [*common, *own])


def build(columns: list[Column], chosen: dict[str, ReadColumn]) -> None:
    """Make the table `typed`, and say what was changed on the way.

    Raises:
        UserError: values don't fit; the text names column, value, row and what to do.
    """
    tests, parts, pairs = ["count(*)"], [], []
    for column in columns:
        if column.name not in chosen:
            parts.append(f"c{column.i} AS {quote(column.name)}")
            continue
        way = chosen[column.name]
        pairs.append((column, way))
        absent, cast = missing(column, way), value(column, way)
        misfit, gone = f"NOT {absent} AND {cast} IS NULL", "false"
        if way.type == "timestamp":
            misfit += f" AND NOT {dates.empty(column.text)}"
            gone = f"NOT {absent} AND ({dates.empty(column.text)} OR {dates.usable(cast)} IS NULL)"
            cast = dates.usable(cast)
        words = f"{absent} AND {column.text} <> ''" if way.type == "text" else "false"
        spaces = f"NOT {absent} AND {column.text} <> c{column.i}" if way.type == "text" else "false"
        tests += [
            f"min(rowid) FILTER ({misfit})",
            *(f"count(*) FILTER ({test})" for test in (misfit, gone, words, spaces)),
        ]
        parts.append(f"CASE WHEN NOT {absent} THEN {cast} END AS {quote(column.name)}")
    db, keep = columns[0].db, columns[0].loaded.keep
    named = ", ".join(f"{test} AS t{n}" for n, test in enumerate(tests))
    counts = run(db, f"SELECT {named} FROM raw WHERE {keep}", "checking the values")[0]
    for n, (column, way) in enumerate(pairs):
        first, misfits, gone, words, spaces = counts[5 * n + 1 : 5 * n + 6]
        if misfits:
            bad = db.execute(f"SELECT c{column.i} FROM raw WHERE rowid = {first}").fetchall()[0][0]
            raise UserError(
                f"column {column.name!r}: {misfits:,} values are no {way.type}{_of(way)}, the first is {bad[:60]!r} in row {first + 1:,}: "
                f"correct them, or list such words in data.reading.columns.{column.name}.missing"
            )
        if gone:
            column.note(
                "note",
                f"{gone:,} dates before {dates.FIRST} or after {dates.LAST}, or of zeros only, count as missing",
            )
        if words:
            shown = ", ".join(
                repr(w)
                for w, _ in db.execute(
                    f"SELECT {column.text}, count(*) FROM raw WHERE {keep} AND {missing(column, way)} AND {column.text} <> '' GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 3"
                ).fetchall()
            )
            column.note("note", f"{words:,} cells of text count as missing: {shown}")
        if spaces:
            column.note("note", f"spaces around {spaces:,} values removed")
    run(
        db,
        f"CREATE TABLE typed AS SELECT {', '.join(parts)} FROM raw WHERE {keep} ORDER BY rowid",
        "converting",
    )


def _of(way: ReadColumn) -> str:
    how = way.format or (
        f"like 1{way.thousands or ''}234{way.decimal}5" if way.thousands or way.decimal == "," else None
    )
    return f" ({how if isinstance(how, str) else ', '.join(how)})" if how else ""
