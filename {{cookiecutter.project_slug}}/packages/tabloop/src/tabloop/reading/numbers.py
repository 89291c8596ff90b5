# ruff: noqa: RUF001 - signs that people write are meant as they are
"""Numbers as people write them: separators, currency, percent, parentheses, a minus that is not ASCII's."""

import re
from collections.abc import Iterator
from itertools import product

from tabloop.columns import literal
from tabloop.reading.settings import ReadColumn

SIGNS = "EUR|USD|GBP|CHF|JPY|CNY|INR|SEK|NOK|DKK|PLN|CZK|HUF|TRY|RUB|BRL|CAD|AUD|Kč|zł|Fr\\.|kr\\.?|R\\$|US\\$|[$€£¥₹₽₺₩₪฿¢%‰]"
UNIT = re.compile(
    rf"^[-+−–(]*\s*({SIGNS})(?=.*[09])|[09][.,]?\s*({SIGNS})[-)]*$|[09]\s*([^\d\s.,()\x22'-][^\d\s\x22']{{0,7}}?)[-)]*$"
)


def spellings() -> Iterator[ReadColumn]:
    """Ways to write a number, the plainest first."""
    for decimal, thousands in product((".", ","), (None, ",", ".", " ", "'")):
        if decimal != thousands:
            yield ReadColumn(type="number", decimal=decimal, thousands=thousands)  # type: ignore[arg-type]


def pattern(column: ReadColumn, shape: bool = False) -> str:
    """The regular expression of a column's numbers, or of their shapes: 9 for a digit, 0 for a zero that leads."""
    decimal, group = re.escape(column.decimal), re.escape(column.thousands or "")
    nine, whole = ("9", "(9+|0)") if shape else ("[0-9]", "[0-9]+")
    if column.thousands:
        whole = rf"({nine}{{1,3}}({group}{nine}{{2,3}})*{group}{nine}{{3}}|{whole})"
    if column.type == "integer":
        core = rf"{whole}({decimal}0*)?"
    else:
        core = rf"({whole}({decimal}{nine}*)?|{decimal}{nine}+)([eE][-+]?{nine}+)?"
    unit = rf"({re.escape(column.unit)})?" if column.unit else ""
    signed = rf"[-+−–]?\s*{unit}\s*" + (rf"|{unit}\s*[-+−–]?\s*" if unit else "")
    return rf"({signed}){core}\s*{unit}-?|{unit}\s*\(\s*{unit}\s*{core}\s*{unit}\)"


def unit_of(shape: str) -> str | None:
    """The currency, percent sign or measure that a shape begins or ends with."""
    found = UNIT.search(shape.strip())
    return found and (found[1] or found[2] or found[3])


def parsed(text: str, column: ReadColumn, sure: bool = False) -> str:
    """SQL: the number that a text means; NULL where it means none. `sure`: all texts are known to be numbers."""
    kind, value = "BIGINT" if column.type == "integer" else "DOUBLE", text
    for sign, by in ((column.unit, ""), (column.thousands, ""), (column.decimal, ".")):
        if sign and sign != by:
            value = f"replace({value}, {literal(sign)}, '{by}')"
    value = f"regexp_replace(translate({value}, '−–', '--'), '[\\s()]|-$', '', 'g')"
    value = f"CASE WHEN regexp_matches({text}, '\\(|-$') THEN '-' ELSE '' END || {value}"
    cast = f"TRY_CAST({value} AS {kind})"
    if column.decimal == "." and not column.thousands and not column.unit:  # most columns, without the detour
        cast = f"coalesce(TRY_CAST({text} AS {kind}), {cast})"
    fits = f"regexp_full_match({text}, {literal(pattern(column))})"
    return cast if sure else f"CASE WHEN {fits} THEN {cast} END"
