# ruff: noqa: RUF001 - signs that people write are meant as they are
"""The shapes of a column's values, counted over all rows: `1.234,50 €` has the shape `9.999,99 €`."""

import functools
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from tabloop.columns import literal
from tabloop.reading import dates, numbers
from tabloop.reading.result import MISSING, Loaded, Note
from tabloop.reading.settings import ReadColumn

SHAPES = 2000  # a column with more has none that is a number or a date
# Numbers that can be nothing else, not 1.234 or 12.2024: they have one shape, as it takes long to find each one's own.
PLAIN = "-?(0|[1-9][0-9]*)[.]([0-9]{1,2}|[0-9]{5,})|-?([0-9]|[1-9][0-9]{2,})[.][0-9]{4}"
TEXT = ReadColumn(type="text")
FOREIGN = "\u00a0\u2007\u2009\u202f’０１２３４５６７８９．，－％٠١٢٣٤٥٦٧٨٩٫٬"
ASCII = "    ''0123456789.,-%0123456789.,"  # an apostrophe is doubled in SQL


@dataclass
class Column:
    """A column of text, as SQL and as shapes."""

    loaded: Loaded
    i: int
    name: str
    shapes: Counter[str] = field(default_factory=Counter)
    present: int = 0
    notes: list[Note] = field(default_factory=list)

    @property
    def text(self) -> str:
        """SQL: the cell."""
        return f"c{self.i}"

    @property
    def number(self) -> str:
        """SQL: the cell with one kind of space and apostrophe, and with digits of ASCII."""
        c = self.text
        return f"CASE WHEN strlen({c}) = length({c}) THEN {c} ELSE translate({c}, '{FOREIGN}', '{ASCII}') END"

    def missing(self, way: ReadColumn | None = None) -> list[str]:
        """The words that mean missing in the table, or in a column that is read so."""
        words, own = self.loaded.reading.missing, (way and way.missing) or []
        words = MISSING if words is None else words
        return own if way and way.type == "text" and way.missing is not None else [*words, *own]

    def has(self, way: ReadColumn | None = None) -> str:
        """SQL: whether the cell has something, and no word that means missing."""
        return differs(self.text, self.missing(way))

    def count(self, **tests: str) -> dict[str, Any]:
        """For each name the value of an SQL aggregate over the rows that have something."""
        sql = f"SELECT {', '.join(tests.values())} FROM raw WHERE {self.has()}"
        row = self.loaded.db.execute(sql).fetchall()[0]
        return dict(zip(tests, row, strict=True))

    def look(self) -> None:
        """Count the shapes: 9 for each digit, but 0 for a zero that leads."""
        # Where few values are different, each is looked at once.
        few = self.count(few=f"approx_count_distinct({self.text}) < count(*) / 10")["few"]
        rows = f"SELECT {self.number} AS v, {'count(*)' if few else '1'} AS m FROM raw WHERE {self.has()}"
        rows += f" GROUP BY {self.text}" if few else ""
        marked = "regexp_replace(v, '^([-+−(]?)0', '\\1\x02')"
        shape = f"translate(left({marked}, 64), '012345678\x02', '9999999990')"
        shape = f"CASE WHEN regexp_full_match(v, '{PLAIN}') THEN '9.99' ELSE {shape} END"
        counts = f"SELECT {shape} AS s, sum(m) AS n FROM ({rows}) GROUP BY 1"
        sql = f"SELECT s, n, sum(n) OVER () FROM ({counts}) ORDER BY n DESC, s LIMIT {SHAPES}"
        found = self.loaded.db.execute(sql).fetchall()
        self.shapes = Counter({s: int(n) for s, n, _ in found})
        self.present = int(found[0][2]) if found else 0

    def others(self, fits: str) -> list[tuple[str, int]]:
        """The commonest values of which the SQL `fits` is not true, and their rows; at most 1,001."""
        sql = f"SELECT {self.text}, count(*) FROM raw WHERE {self.has()} AND ({fits}) IS NOT TRUE"
        return self.loaded.db.execute(f"{sql} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1001").fetchall()

    def matching(self, pattern: str) -> Counter[str]:
        """The shapes that match as a whole."""
        compiled = re.compile(pattern)
        return Counter({s: n for s, n in self.shapes.items() if compiled.fullmatch(s)})

    def note(self, severity: Literal["note", "warning"], what: str) -> None:
        """Tell the owner."""
        self.notes.append(Note(self.name, severity, what))


def differs(text: str, words: list[str]) -> str:
    """SQL: whether there is a text, and it is none of the words."""
    return f"{text} NOT IN ({', '.join(map(literal, words))})" if words else f"{text} IS NOT NULL"


def is_code(shape: str) -> bool:
    """Whether digits are a name, not a quantity: a leading zero, a phone number, more digits than 64 bits hold."""
    return bool(re.fullmatch(r"[-+]?09+|\+9{7,}|[-+]?9{19,}", shape))


def plain(column: Column) -> ReadColumn:
    """What a column means when nothing is guessed: numbers and dates that every program writes so, else text.

    In a file that knows its types, text is text.
    """
    if not column.present or column.loaded.typed:
        return TEXT
    for kind, pattern in kinds().items():
        if column.matching(pattern).total() == column.present:
            return TEXT if any(map(is_code, column.shapes)) else ReadColumn(type=kind)
    return TEXT


@functools.cache
def kinds() -> dict[Any, str]:
    """The regular expressions of shapes that every program reads, by what it reads."""
    number, integer = (numbers.pattern(ReadColumn(type=kind), shape=True) for kind in ("number", "integer"))
    iso = dates.ISO.replace("9", "[09]")
    return {"integer": integer, "number": number, "boolean": "(?i)true|false", "timestamp": iso}


def boolean(text: str) -> str:
    """SQL: the boolean that a text means."""
    words = "WHEN lower({0}) IN ('true', 't', 'yes', 'y', '1') THEN true WHEN lower({0}) IN ('false', 'f', 'no', 'n', '0') THEN false"
    return f"CASE {words.format(text)} END"
