"""What the reader gives: the table, how it was read, and what its owner must know."""

from dataclasses import dataclass, field
from typing import Literal

import duckdb

from tabloop.columns import literal
from tabloop.reading.settings import Reading

# Words that mean missing in every column, unless data.reading.missing says others: those of pandas, of SQL and "?".
MISSING = ["", "NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "null", "NULL", "None", "nan", "NaN", "?"]
MISSING += ["-nan", "-NaN", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "\\N"]


@dataclass(frozen=True)
class Note:
    """One thing that was dropped, guessed or could be meant otherwise. `column` is None if it is about all of it."""

    column: str | None
    severity: Literal["note", "warning"]
    text: str

    def __str__(self) -> str:
        return f"{self.column}: {self.text}" if self.column else self.text


@dataclass
class Table:
    """A table that was read.

    Attributes:
        relation: typed columns under their raw names, in the file's order.
        reading: how it was read; with it, the same file gives the same table and nothing is guessed.
        notes: what was dropped, guessed or could be meant otherwise, the table's first.
        db: the database that has it.
        duplicates: raw names that stand in the header more than once, with the names that their columns have here.
    """

    relation: duckdb.DuckDBPyRelation
    reading: Reading
    notes: list[Note] = field(default_factory=list)
    duplicates: dict[str, list[str]] = field(default_factory=dict)
    db: duckdb.DuckDBPyConnection | None = None


@dataclass(frozen=True)
class Overrides:
    """What a person says before anything is guessed.

    `dates` is `dayfirst`, `monthfirst`, `yearfirst` or a strptime format, by column; the key None is for all. `types`
    are the types of ReadColumn by column. `timestamp` is the column that says when a row happened, `timezone` the zone of times
    without an offset.
    """

    encoding: str | None = None
    delimiter: str | None = None
    sheet: str | None = None
    header: bool | None = None
    bad_rows: Literal["refuse", "skip"] | None = None
    dates: dict[str | None, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    timestamp: str | None = None
    timezone: str | None = None


@dataclass
class Loaded:
    """The table `raw` of a database: the names of its columns as they stand in the file."""

    db: duckdb.DuckDBPyConnection
    names: list[str]
    reading: Reading
    notes: list[Note] = field(default_factory=list)
    source: str = ""
    guess: bool = False
    row: str = "rowid"  # the column of `raw` that counts the rows of the file from 0
    typed: bool = False  # whether the columns have types of their own
    strings: set[str] = field(default_factory=set)  # columns of JSON that are text there

    def note(self, severity: Literal["note", "warning"], text: str, column: str | None = None) -> None:
        """Tell the owner."""
        self.notes.append(Note(column, severity, text))


SPACES = literal(" \t\r\n\u00a0\u2007\u2009\u202f\u3000\ufeff\u200b\u200e\u200f\u2060")


def cell(text: str, i: int) -> str:
    """SQL: a text as column c{i} without the spaces around it, NULL if nothing is left; s{i} is whether it had some."""
    clear = f"ord({text}) BETWEEN 33 AND 126 AND ord(({text})[-1]) BETWEEN 33 AND 126"
    trimmed = f"CASE WHEN {clear} THEN {text} ELSE nullif(trim({text}, {SPACES}), '') END"
    # DuckDB computes what stands here twice once; to compare the texts took a third of the time of reading a CSV.
    shorter = f"coalesce(strlen({trimmed}), 0) < strlen({text})"
    return f"{trimmed} AS c{i}, CASE WHEN {shorter} THEN true END AS s{i}"
