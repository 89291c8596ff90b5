"""Which dates a column's text means: day or month first by all that the table shows, never in silence."""

import re
from collections import Counter

from tabloop.reading import dates
from tabloop.reading.settings import ReadColumn
from tabloop.reading.shapes import Column
from tabloop.reading.words import Known, with_words

Formats = Counter[str]


def date(column: Column, known: Known, forced: bool) -> ReadColumn | None:
    """How the column's dates are read; None if it has none, or, with a note, if they are ambiguous."""
    said = known.said.dates.get(column.name) or known.said.dates.get(None)
    shapes = Counter[str]()
    for s, n in column.shapes.items():
        shapes[s.replace("0", "9")] += n
    allowed = {s: dates.formats(s) for s in shapes}
    rows = sum(n for s, n in shapes.items() if allowed[s])
    if said and "%" in said and (column.name in known.said.dates or rows > column.present / 2):
        way = ReadColumn(type="timestamp", format=said)
        return with_words(column, way, _fits(column, way), forced=True)
    if all(s.isdigit() for s in shapes):
        if epoch := _epoch(column, shapes, forced or column.name == known.said.timestamp):
            return epoch
        if len(shapes) != 1 and not forced:
            return None
    elif rows <= column.present / 2:
        return None
    ways: dict[str, ReadColumn] = {}
    for order in dates.ORDERS:
        found = Counter[str]()
        for s, n in shapes.items():
            found[allowed[s].get(order, "")] += n
        iso = all(re.fullmatch(dates.ISO, s) for s in shapes if allowed[s])
        listed = None if iso else [f for f, _ in found.most_common() if f]
        way = ReadColumn(type="timestamp", format=listed)
        covers = found[""] + rows == column.present
        if said in (None, order) and covers and way not in ways.values():
            ways[order] = way
    # 20251231, 12.2025: or numbers
    digits = all(re.fullmatch(r"\d+(\.\d+)?", s) for s in shapes if allowed[s])
    return _chosen(column, known, ways, rows, said, digits) if rows and ways else None


def _fits(column: Column, way: ReadColumn, years: bool = False) -> str:
    value = dates.parsed(column.text, way)
    known = f"year({value}) BETWEEN 1900 AND 2100" if years else f"{value} IS NOT NULL"
    return f"({known} OR {dates.empty(column.text)})"


def _chosen(
    column: Column, known: Known, ways: dict[str, ReadColumn], rows: int, said: str | None, digits: bool
) -> ReadColumn | None:
    tests = {order: f"count(*) FILTER ({_fits(column, way, years=digits)})" for order, way in ways.items()}
    counts = column.count(**tests)
    if not (possible := [order for order in ways if counts[order] == rows]):
        if said or (not digits and any(counts[order] for order in ways)):
            parts = ", ".join(f"{n:,} {order}" for order, n in counts.items() if order in ways)
            column.note("warning", f"text, because no one way reads all of its {rows:,} dates: {parts}")
        return None
    likely = [order for order in possible if order != "yearfirst"] or possible
    if likely != possible:  # 25/01/31 was, 31/01/25 is to come
        future = {o: f"count(*) FILTER ({dates.parsed(column.text, ways[o])} > now())" for o in possible}
        later = column.count(**future)
        likely = ["yearfirst"] if later["yearfirst"] < min(later[o] for o in likely) else likely
    order = likely[0] if len(likely) == 1 else _order(column, known, {o: ways[o] for o in likely})
    if order is None:
        column.note("warning", "text, because its dates could be day first or month first: say which")
        return None
    way = ways[order]
    if likely == [order] != ["yearfirst"] and {"dayfirst", "monthfirst"} <= ways.keys():
        known.orders.add(order)
    shown = [way.format] if isinstance(way.format, str) else way.format or []
    if shown:
        column.note("note", f"dates read as {', '.join(shown)}" + (" (as said)" if said else ""))
    if any("%z" in one for one in shown) or any(re.search(r":99.*(Z|[+-]99)", s) for s in column.shapes):
        column.note("note", "times with an offset are in UTC here")
    if any("%y" in one for one in shown):
        column.note("note", "years have two digits: 69 to 99 are of the 20th century")
    if len(shown) == 1:
        way = way.model_copy(update={"format": shown[0]})
    return with_words(column, way, _fits(column, way), forced=bool(said), matched=rows)


def _order(column: Column, known: Known, ways: dict[str, ReadColumn]) -> str | None:
    """Day or month first where every value allows both: other columns, dots, the order of rows, the decimal comma."""
    if len(known.orders) == 1 and (order := next(iter(known.orders))) in ways:
        column.note("note", f"{order}, as another column of the table shows")
        return order
    if any(re.match(r"9+\.9+\.", s.replace("0", "9")) for s in column.shapes):
        return "dayfirst"
    first, second = (dates.parsed(column.text, way) for way in ways.values())
    if not column.count(n=f"count(*) FILTER ({first} IS DISTINCT FROM {second})")["n"]:
        column.note("warning", "dayfirst, though each day is its month; else give the format")
        return "dayfirst"
    jumps = {}
    for order, way in ways.items():
        times = f"SELECT epoch({dates.parsed(column.text, way)}) AS t, rowid FROM raw WHERE {column.has()}"
        steps = f"SELECT t, abs(t - lag(t) OVER (ORDER BY rowid)) AS step FROM ({times})"
        jump = f"SELECT avg(step) / nullif(max(t) - min(t), 0) FROM ({steps})"
        found = column.loaded.db.execute(jump).fetchall()
        jumps[order] = found[0][0] or 0
    best, other = sorted(jumps, key=lambda o: jumps[o])
    if 4 * jumps[best] < jumps[other] and column.present >= 30:
        what = f"{best}, because the rows are then in the order of time; else give the format"
        column.note("warning", what)
        return best
    if known.decimals == {","} or column.loaded.reading.delimiter == ";":
        column.note("warning", "dayfirst: the table has decimal commas or semicolons; else give the format")
        return "dayfirst"
    return None


def _epoch(column: Column, shapes: Formats, forced: bool) -> ReadColumn | None:
    """Seconds (or parts of them) since 1970, of the years 2001 to 2100."""
    digits = len(next(iter(shapes)))
    name = next((name for name, one in dates.EPOCHS.items() if len(str(one)) == digits), None)
    if not name or len(shapes) != 1 or not (forced or dates.SIGN_OF_TIME.search(column.name)):
        return None
    way = ReadColumn(type="timestamp", format=name)
    outside = f"year({dates.parsed(column.text, way)}) NOT BETWEEN 2001 AND 2100"
    if column.count(n=f"count(*) FILTER ({outside})")["n"]:
        return None
    column.note("warning", f"read as {dates.UNITS[name]} since 1970")
    return way
