"""What people mean by numbers and dates that not every program writes so: decided by the whole column and table."""

import re
from collections import Counter

from tabloop.cli import UserError
from tabloop.params import ReadColumn
from tabloop.reading import dated, numbers
from tabloop.reading.shapes import TEXT, Column, boolean, is_code, plain
from tabloop.reading.words import Known, with_words


def guess(column: Column, known: Known) -> ReadColumn:
    """What the column's text means.

    Raises:
        UserError: a person said a type that the values don't have.
    """
    forced, usual = known.said.types.get(column.name), plain(column)
    if forced == "text" or (not forced and not column.present):
        return TEXT
    if known.typed and not forced and usual.type in ("integer", "boolean"):
        column.note("note", "text in the file: kept as text")
        return TEXT
    if usual.type == "boolean" and forced in (None, "boolean"):
        return usual
    found = None if forced in ("number", "integer", "boolean") else dated.date(column, known, bool(forced))
    if forced == "boolean":
        found = with_words(
            column, ReadColumn(type="boolean"), f"{boolean(column.text)} IS NOT NULL", forced=True
        )
    elif not found and forced != "timestamp":
        found = _number(column, known, forced)
    if forced and found is None:
        raise UserError(
            f"{column.name}: its values are not of type {forced}, such as {next(iter(column.others('false')), ('',))[0]!r}"
        )
    return found or TEXT


def spelled(column: Column) -> list[tuple[ReadColumn, Counter[str]]]:
    """The ways to write a number in which most of the values are one, the plainest first."""
    units: Counter[str] = Counter()
    for s, n in column.shapes.items():
        if u := numbers.unit_of(s):
            units[u] += n
    unit = max(units, key=lambda u: units[u], default=None)
    found, signs = [], "".join(column.shapes)
    for way in numbers.spellings():
        if (way.decimal == "," and not {",", "."} & set(signs)) or (
            way.thousands and way.thousands not in signs
        ):
            continue
        way = way.model_copy(update={"unit": unit})
        found.append((way, column.matching(numbers.pattern(way, shape=True))))
    most = max(shapes.total() for _, shapes in found)
    return [(way, shapes) for way, shapes in found if shapes.total() == most and most]


def _number(column: Column, known: Known, forced: str | None) -> ReadColumn | None:
    ways = spelled(column)
    if not ways or (ways[0][1].total() < column.present / 2 and not forced):
        return None
    way, shapes = ways[0]
    if len({w.decimal for w, _ in ways}) > 1:
        way = _either(column, known, ways, shapes)
    elif way.thousands in (".", ",") or any(way.decimal in s for s in shapes):
        known.decimals.add(way.decimal)
    whole = not any(way.decimal in s or re.search("9[eE]", s) for s in shapes)
    if whole and not forced and any(map(is_code, shapes)):
        column.note("note", "has a leading zero, a plus or more digits than a number holds: read as text")
        return TEXT
    way = way.model_copy(update={"type": forced or ("integer" if whole else "number")})
    if known.typed and not forced:
        column.note("note", "text in the file: read as numbers")
    if way.thousands:
        column.note("note", f"{way.thousands!r} separates thousands, {way.decimal!r} decimals")
    elif way.decimal == ",":
        column.note("note", "the decimal sign is a comma")
    if way.unit:
        bare = sum(n for s, n in shapes.items() if not numbers.unit_of(s))
        without = f"; {bare:,} values are without it" if bare else ""
        column.note("warning" if bare else "note", f"in {way.unit}, so that 5 {way.unit} is 5{without}")
    return with_words(
        column, way, f"{numbers.parsed(column.number, way)} IS NOT NULL", bool(forced), shapes.total()
    )


def _either(
    column: Column, known: Known, ways: list[tuple[ReadColumn, Counter[str]]], shapes: Counter[str]
) -> ReadColumn:
    """Whether 1.234 (or 1,234) is more than a thousand: by the table's other columns, else by what is usual."""
    sign = "." if any("." in s for s in shapes) else ","
    fraction = next(way for way, _ in ways if way.decimal == sign)
    groups = next(way for way, _ in ways if way.thousands == sign)
    if len(known.decimals) == 1:
        return fraction if known.decimals == {sign} else groups
    small = [s for s in shapes if sign not in s]  # 500 beside 1,250
    likely = fraction if sign == "." or (known.delimiter == ";" and not small) else groups
    meant = "decimals" if likely is fraction else "thousands"
    column.note(
        "warning",
        f"{sign!r} could separate thousands or decimals: {meant} taken; say it by data.reading.columns",
    )
    return likely
