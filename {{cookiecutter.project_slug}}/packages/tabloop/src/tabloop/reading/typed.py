"""From text to typed columns: SQL for each column, and what got lost on the way."""

from tabloop.cli import UserError
from tabloop.columns import quote
from tabloop.database import run
from tabloop.reading import dates, numbers
from tabloop.reading.settings import ReadColumn
from tabloop.reading.shapes import Column, boolean, differs


def value(column: Column, way: ReadColumn) -> str:
    """SQL: the cell's value as its type; NULL where it is missing or does not fit."""
    words = column.missing(way)
    if way.type in ("number", "integer") or (way.type == "timestamp" and not way.format):
        words = [word for word in words if any(map(str.isdigit, word))]  # no other one fits
    return f"CASE WHEN {differs(column.text, words)} THEN {_parsed(column, way)} END"


def _parsed(column: Column, way: ReadColumn) -> str:
    if way.type == "boolean":
        return boolean(column.text)
    if way.type == "timestamp":
        return dates.parsed(column.text, way, column.loaded.reading.timezone)
    if way.type == "text":
        return column.text
    sure = 0 < column.present == column.matching(numbers.pattern(way, shape=True)).total()
    return numbers.parsed(column.number, way, sure)


def misfit(name: str) -> str:
    """The column that says where a value does not fit the type of the column `name`."""
    return f"misfit {name}"


def build(columns: list[Column], chosen: dict[str, ReadColumn], stream: bool) -> None:
    """Make the table `typed`, and say what was changed on the way; to `stream`, a view with columns `misfit`.

    Raises:
        UserError: values don't fit; the text names column, value, row and what to do.
    """
    db, parts = columns[0].loaded.db, list[str]()
    texts = [(column, chosen[column.name]) for column in columns if column.name in chosen]
    for column in columns:
        if way := chosen.get(column.name):
            found = f"v{column.i}"
            fits = dates.usable(found) if way.type == "timestamp" else found
            parts.append(f"{fits} AS {quote(column.name)}")
            if stream and way.type != "text":
                wrong = f"{found} IS NULL THEN coalesce({_given(column, way)}, false)"
                parts.append(f"CASE WHEN {wrong} ELSE false END AS {quote(misfit(column.name))}")
        else:
            parts.append(f"c{column.i} AS {quote(column.name)}")
    values = "".join(f", {value(column, way)} AS v{column.i}" for column, way in texts)
    select = f"SELECT {', '.join(parts)} FROM (SELECT *{values} FROM raw)"
    if stream:
        db.execute(f"CREATE VIEW typed AS {select}")
        return
    run(db, f"CREATE TABLE typed AS {select}", "converting")
    count = "count(*) FILTER ({}), count({}), count(s{})".format
    before = [count(column.has(way), column.text, column.i) for column, way in texts]
    had = run(db, f"SELECT {', '.join(before)} FROM raw", "checking")[0] if texts else ()
    after = ", ".join(f"count({quote(column.name)})" for column, _ in texts)
    has = run(db, f"SELECT {after} FROM typed", "checking")[0] if texts else ()
    for n, (column, way) in enumerate(texts):
        given, filled, spaces = had[3 * n : 3 * n + 3]
        if lost := given - has[n]:
            _explain(column, way, lost)
        if way.type == "text" and given < filled:
            words = f"SELECT {column.text} FROM raw WHERE NOT {column.has(way)} GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT 3"
            shown = ", ".join(repr(word) for (word,) in db.execute(words).fetchall())
            column.note("note", f"{filled - given:,} cells of text count as missing: {shown}")
        if way.type == "text" and spaces:
            column.note("note", f"spaces around {spaces:,} values removed")


def _given(column: Column, way: ReadColumn) -> str:
    """SQL: whether the cell has something that is meant as a value of its type."""
    has = column.has(way)
    return f"{has} AND NOT {dates.empty(column.text)}" if way.type == "timestamp" else has


def _explain(column: Column, way: ReadColumn, lost: int) -> None:
    row, wrong = column.loaded.row, f"{value(column, way)} IS NULL AND {_given(column, way)}"
    sql = f"SELECT count(*), min({row}), arg_min({column.text}, {row}) FROM raw WHERE {wrong}"
    misfits, first, bad = column.loaded.db.execute(sql).fetchall()[0]
    if misfits:
        raise UserError(
            f"column {column.name!r}: {misfits:,} values are no {way.type}{_of(way)}, the first is {bad[:60]!r} in row "
            f"{first + 1:,}: correct them, or list such words in data.reading.columns.{column.name}.missing"
        )
    what = f"before {dates.FIRST} or after {dates.LAST}, or of zeros only,"
    column.note("note", f"{lost:,} dates {what} count as missing")


def _of(way: ReadColumn) -> str:
    how = way.format or (
        f"like 1{way.thousands or ''}234{way.decimal}5" if way.thousands or way.decimal == "," else None
    )
    return f" ({how if isinstance(how, str) else ', '.join(how)})" if how else ""
