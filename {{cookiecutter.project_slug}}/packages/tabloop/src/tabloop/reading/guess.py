"""What people mean by numbers and dates that not every program writes so: decided by the whole column and table."""

import re
from collections import Counter

from tabloop.cli import UserError
from tabloop.reading import dated, dates, numbers
from tabloop.reading.settings import ReadColumn
from tabloop.reading.shapes import TEXT, Column, boolean, is_code, plain
from tabloop.reading.words import Known, with_words

YEAR, OTHER, THREE = (rf"(?<!9)9{{{n}}}(?!9)" for n in ("4", "1,2", "3"))
DAY = r"(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\b"
# What text looks like, in a way that nothing here reads, by its shapes.
DOUBTS = {
    r"[^\w\s'#+-]\s?9+([.,]9+)*\D{0,8}|9+([.,]9+)*\s?[^\d.,-]\D{0,7}": "numbers of several units: write them in one",
    rf"(?=.*{YEAR})(?=.*{OTHER})(?!.*{YEAR}.*{YEAR})(?!.*{THREE})(9|{dates.WORD}|{DAY}).*|9{{1,2}}([-/.])[^\W\d_]{{3,}}\.?[-/.]9{{2}}":
    "dates: write them as 2026-01-31, or give `--date-format`; names of months are read in English only",
    r"9{1,3}:99(:99([.,]9+)?)?": "times of the day or durations: as hours, say, they are a number",
}  # fmt: skip


def guess(column: Column, known: Known) -> ReadColumn:
    """What the column's text means.

    Raises:
        UserError: a person said a type that the values don't have.
    """
    forced = known.said.types.get(column.name) or ("timestamp" if column.name in known.said.dates else None)
    if forced == "text" or not column.present:
        return TEXT
    usual, found = plain(column), None
    names = r"[-+]?[09]+|true|false|0x[09a-f]+" if column.loaded.typed else "0x[09a-f]+"
    if not forced and all(re.fullmatch(names, s.lower()) for s in column.shapes):
        column.note("note", "digits or hexadecimal: kept as text")
        return TEXT
    if usual.type == "boolean" and forced in (None, "boolean"):
        return usual
    if forced == "boolean":
        fits = f"{boolean(column.text)} IS NOT NULL"
        found = with_words(column, ReadColumn(type="boolean"), fits, forced=True)
    if forced in (None, "timestamp"):
        found = dated.date(column, known, bool(forced))
    if not found and forced in (None, "number", "integer"):
        found = _number(column, known, forced)
    if not found and forced:
        why = [note.text for note in column.notes] or [f"such as {column.others('false')[0][0]!r}"]
        raise UserError(f"column {column.name!r} can't be of type {forced}: {why[-1]}")
    if found and found.type in ("integer", "number") and column.name in column.loaded.strings:
        column.note("warning", f"text in the file, read as {found.type}; give the type text if it is a code")
    if not found and not any(note.severity == "warning" for note in column.notes):
        _doubt(column)
    return found or TEXT


def _doubt(column: Column) -> None:
    shapes = {s.replace("0", "9"): n for s, n in column.shapes.items()}
    for looks, what in DOUBTS.items():
        alike = sum(n for s, n in shapes.items() if re.fullmatch(looks, s, re.IGNORECASE))
        if 2 * alike > column.present:
            one = column.others("false")[0][0][:30]
            column.note("warning", f"text, such as {one!r}, but looks like {what}")
            break


def spelled(column: Column) -> list[tuple[ReadColumn, Counter[str]]]:
    """The ways to write a number in which most of the values are one, the plainest first."""
    units = Counter[str | None]()
    for s, n in column.shapes.items():
        if {"0", "9"} & {*s}:
            units[numbers.unit_of(s)] += n
    unit = max(filter(None, units), key=lambda u: units[u], default=None)
    if unit and len(units) > 1 and not re.fullmatch(numbers.SIGNS, unit):  # only all values can have any unit
        unit = None
    found, signs = [], "".join(column.shapes)
    for way in numbers.spellings():
        decimal = way.decimal == "." or "," in signs or "." in signs
        if decimal and (not way.thousands or way.thousands in signs):
            way = way.model_copy(update={"unit": unit})
            found.append((way, column.matching(numbers.pattern(way, shape=True))))
    most = max(shapes.total() for _, shapes in found)
    return [(way, shapes) for way, shapes in found if shapes.total() == most and most]


def _number(column: Column, known: Known, forced: str | None) -> ReadColumn | None:
    ways = spelled(column)
    if not ways or (ways[0][1].total() < column.present / 2 and not forced):
        return None
    way, shapes = ways[0]
    signs = "".join(shapes).replace(way.unit or " ", "")
    meanings = [w for w, _ in ways if w.decimal in signs or (w.thousands and w.thousands in signs)]
    if len({w.decimal for w in meanings}) > 1:
        way = _either(column, known, meanings, shapes)
    elif meanings and set(signs) & {".", ","}:
        way = meanings[0]
        known.decimals.add(way.decimal)
    whole = not any(way.decimal in s or re.search("9[eE]", s) for s in shapes)
    if not forced and any(map(is_code, column.shapes)):
        column.note("note", "has a leading zero, a plus or more digits than a number holds: read as text")
        return TEXT
    way = way.model_copy(update={"type": forced or ("integer" if whole else "number")})
    fits = f"{numbers.parsed(column.number, way)} IS NOT NULL"
    doubts, column.notes = column.notes, []
    found = with_words(column, way, fits, bool(forced), shapes.total())
    if found:
        column.notes = doubts + column.notes
        _tell(column, known, way, shapes)
    return found


def _tell(column: Column, known: Known, way: ReadColumn, shapes: Counter[str]) -> None:
    if column.loaded.typed:
        column.note("note", "text in the file: read as numbers")
    if way.thousands:
        column.note("note", f"{way.thousands!r} separates thousands, {way.decimal!r} decimals")
    elif way.decimal == ",":
        column.note("note", "the decimal sign is a comma")
    if any("(" in s or s.endswith("-") for s in shapes):
        column.note("note", "numbers in parentheses or with a minus behind them are negative")
    if any(re.fullmatch("9+[eE]9+", s) for s in shapes):
        column.note("warning", "12e3 is read as 12000; if it is a code, give the type text")
    if way.unit:
        bare = sum(n for s, n in shapes.items() if not numbers.unit_of(s))
        without = f"; {bare:,} values are without it" if bare else ""
        column.note("warning" if bare else "note", f"in {way.unit}, so that 5 {way.unit} is 5{without}")


def _either(column: Column, known: Known, ways: list[ReadColumn], shapes: Counter[str]) -> ReadColumn:
    """Whether 1.234 (or 1,234) is more than a thousand: by the table's other columns, else by what is usual."""
    sign = "." if any("." in s for s in shapes) else ","
    fraction = next((way for way in ways if way.decimal == sign and not way.thousands), ways[0])
    groups = next((way for way in ways if way.thousands == sign), ways[0])
    if len(known.decimals) == 1:
        return fraction if known.decimals == {sign} else groups
    small = [s for s in shapes if sign not in s]  # 500 beside 1,250
    likely = fraction if sign == "." or (column.loaded.reading.delimiter == ";" and not small) else groups
    meant = "decimals" if likely is fraction else "thousands"
    what = f"{sign!r} could separate thousands or decimals: {meant} taken; see data.reading.columns"
    column.note("warning", what)
    return likely
