# ruff: noqa: RUF001 - signs that people write are meant as they are
"""Words among numbers and dates count as missing; a note says so."""

import re
from dataclasses import dataclass, field

from tabloop.reading.result import Overrides
from tabloop.reading.settings import ReadColumn
from tabloop.reading.shapes import Column

WORDS = 20  # distinct words that a column of numbers or dates may have: they count as missing
ABSENT = re.compile(
    r"[-–—.*?_/\\x]+|#.*|n\W*a\W*|n\W*d\W*|[-+]?(inf|infinity|∞)|k\W*a\W*|nan|nil|none|null|empty|blank|missing|undefined|"
    r"unknown|unbekannt|desconocido|inconnu|tb[ad]|open|offen|never|not \w+|no \w+|keine?( \w+)?|\(\w+\)",
    re.IGNORECASE,
)


@dataclass
class Known:
    """What a person said, and what the columns that leave no doubt show of the others."""

    said: Overrides
    decimals: set[str] = field(default_factory=set)
    orders: set[str] = field(default_factory=set)


def with_words(
    column: Column, way: ReadColumn, fits: str, forced: bool, matched: int = 0
) -> ReadColumn | None:
    """The column with the words that mean missing in it; None if these are words of another kind.

    Args:
        fits: SQL that is true for the values that are no such words.
        matched: the number of rows whose shape fits.
    """
    if matched == column.present:
        return way
    others = column.others(fits)
    rows = sum(n for _, n in others)
    if not others:
        return way
    shown = ", ".join(f"{word!r} ({n:,})" for word, n in others[:5]) + (", ..." if len(others) > 5 else "")
    words = [word for word, _ in others if not re.search(r"\d", word) or word.startswith("#")]
    sure = all(ABSENT.fullmatch(word) for word in words)
    many = sure or column.count(n=f"count(DISTINCT {column.text})")["n"] > WORDS + len(others)
    if forced and len(others) <= 1000 and rows < column.present:
        column.note("warning", f"{rows:,} values are no {way.type} and count as missing: {shown}")
    elif len(words) == len(others) <= WORDS and rows <= column.present / 2 and many:
        column.note("note" if sure else "warning", f"{rows:,} values count as missing: {shown}")
    else:
        if rows <= column.present / 2:
            why = f"text, because {rows:,} values are no {way.type}: {shown}"
            column.note("warning", f"{why}; as type {way.type} they count as missing")
        return None
    return way.model_copy(update={"missing": [word for word, _ in others]})
