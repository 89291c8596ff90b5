# ruff: noqa: RUF001 - signs that people write are meant as they are
"""The shapes of a column's values, counted over all rows: `1.234,50 €` has the shape `9.999,99 €`."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

import duckdb

from tabloop.columns import literal
from tabloop.params import ReadColumn
from tabloop.reading import dates, numbers
from tabloop.reading.database import run
from tabloop.reading.result import MISSING, Loaded, Note

SPACES = " \t\r\n\u00a0\u2007\u2009\u202f\u3000\ufeff"
SHAPES = 2000  # a column with more has none that is a number or a date
TEXT = ReadColumn(type="text")


@dataclass
class Column:
    """A column of text, as SQL and as shapes."""

    db: duckdb.DuckDBPyConnection
    loaded: Loaded
    i: int
    name: str
    shapes: Counter[str] = field(default_factory=Counter)
    present: int = 0
    notes: list[Note] = field(default_factory=list)

    @property
    def text(self) -> str:
        """SQL: the cell without the spaces around it."""
        return f"trim(c{self.i}, {literal(SPACES)})"

    @property
    def number(self) -> str:
        """SQL: the cell with one kind of space."""
        return f"translate({self.text}, '\u00a0\u2007\u2009\u202f', '    ')"

    def absent(self, words: list[str]) -> str:
        """SQL: whether the cell is empty or one of these words."""
        return f"(c{self.i} IS NULL OR {self.text} IN ({', '.join(map(literal, ['', *words]))}))"

    @property
    def given(self) -> str:
        """SQL: whether the row counts and the cell has something that the table's words don't make missing."""
        words = self.loaded.reading.missing
        return f"{self.loaded.keep} AND NOT {self.absent(MISSING if words is None else words)}"

    def count(self, **tests: str) -> dict[str, Any]:
        """For each name the value of an SQL aggregate over the rows that have something."""
        row = self.db.execute(f"SELECT {', '.join(tests.values())} FROM raw WHERE {self.given}").fetchall()[0]
        return dict(zip(tests, row, strict=True))

    def is_empty(self) -> bool:
        """Whether no cell has something."""
        some = f"SELECT 1 FROM raw WHERE {self.loaded.keep} AND trim(c{self.i}::VARCHAR) <> '' LIMIT 1"
        return not self.db.execute(some).fetchall()

    def look(self) -> "Column":
        """Count the shapes: 9 for each digit, but 0 for a zero that leads."""
        marked = f"regexp_replace({self.number}, '^([-+−(]?)0', '\\1\x02')"
        shape = f"translate({marked}, '012345678\x02', '9999999990')"
        counts = f"SELECT {shape} AS s, count(*) AS n FROM raw WHERE {self.given} GROUP BY 1"
        sql = f"SELECT s, n, sum(n) OVER () FROM ({counts}) ORDER BY n DESC, s LIMIT {SHAPES}"
        found = run(self.db, sql, f"looking at {self.name}")
        self.shapes, self.present = Counter({s: n for s, n, _ in found}), int(found[0][2]) if found else 0
        return self

    def others(self, fits: str) -> list[tuple[str, int]]:
        """The commonest values of which the SQL `fits` is not true, and their rows; at most 1,001."""
        sql = f"SELECT {self.text}, count(*) FROM raw WHERE {self.given} AND ({fits}) IS NOT TRUE"
        return self.db.execute(f"{sql} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1001").fetchall()

    def matching(self, pattern: str) -> Counter[str]:
        """The shapes that match as a whole."""
        compiled = re.compile(pattern)
        return Counter({s: n for s, n in self.shapes.items() if compiled.fullmatch(s)})

    def note(self, severity: Literal["note", "warning"], what: str) -> None:
        """Tell the owner."""
        self.notes.append(Note(self.name, severity, what))


def is_code(shape: str) -> bool:
    """Whether digits are a name, not a quantity: a leading zero, a phone number, more digits than 64 bits hold."""
    return bool(re.fullmatch(r"[-+]?09+|\+9{7,}|[-+]?9{19,}", shape))


def plain(column: Column) -> ReadColumn:
    """What a column means when nothing is guessed: numbers and dates that every program writes so, else text.

    In a file that knows its types, text is text.
    """
    if not column.present or column.loaded.typed:
        return TEXT
    for kind in ("integer", "number"):
        spelling = ReadColumn(type=kind)
        if column.matching(numbers.pattern(spelling, shape=True)).total() == column.present:
            return TEXT if any(map(is_code, column.shapes)) else spelling
    if all(s.lower() in ("true", "false") for s in column.shapes) and column.shapes.total() == column.present:
        return ReadColumn(type="boolean")
    if (
        sum(n for s, n in column.shapes.items() if re.fullmatch(dates.ISO, s.replace("0", "9")))
        == column.present
    ):
        return ReadColumn(type="timestamp")
    return TEXT


def boolean(text: str) -> str:
    """SQL: the boolean that a text means."""
    words = "WHEN lower({0}) IN ('true', 't', 'yes', 'y', '1') THEN true WHEN lower({0}) IN ('false', 'f', 'no', 'n', '0') THEN false"
    return f"CASE {words.format(text)} END"
