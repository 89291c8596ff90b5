"""What each column of a table holds, counted in one pass; and what was decided about it."""

import re
from dataclasses import dataclass, field
from typing import Any

import duckdb

from tabloop.cli import UserError
from tabloop.columns import INFERRED, quote
from tabloop.database import batches
from tabloop.reading.result import Note

LEVELS = 255  # a text column with more distinct values is no category: trees bin no finer
# Rows from which distinct values are estimated where no decision depends on their exact number.
MANY = 1_000_000
HEAD = 1000  # rows from which examples are taken


@dataclass
class Facts:
    """What one column holds.

    Attributes:
        kind: DuckDB's type without its arguments.
        whole: of numbers: none has a fraction.
        consecutive: whole numbers without a gap.
        largest: of whole numbers: the greatest, without its sign.
        longest: of texts: the number of characters.
    """

    kind: str
    rows: int
    present: int
    distinct: int
    whole: bool
    consecutive: bool
    largest: float
    longest: int
    examples: list[str]

    @property
    def missing(self) -> int:
        """The number of rows without a value."""
        return self.rows - self.present

    @property
    def dated(self) -> bool:
        """Whether it holds dates or times."""
        return "DATE" in self.kind or "TIMESTAMP" in self.kind

    @property
    def unique(self) -> bool:
        """Whether every row has another value."""
        return self.distinct == self.rows


@dataclass
class Decision:
    """What was decided about one column of the table, and why; `warnings` are what the owner must look at."""

    column: str
    decision: str
    why: str
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Choices:
    """What the owner says; the rest is decided. `types` are feature types or `days`, by column."""

    target: str
    entity: str | None = None
    timestamp: str | None = None
    known_at: str | None = None
    key: tuple[str, ...] = ()
    types: dict[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    positive: str | None = None
    negative: tuple[str, ...] = ()
    at_least: float | None = None


@dataclass(frozen=True)
class Survey:
    """A table whose columns are decided on.

    Attributes:
        label: SQL for 1, 0 or NULL, no label.
        decisions: those that were taken already, by column.
        notes: what the reader changed.
    """

    table: duckdb.DuckDBPyRelation
    said: Choices
    rows: int
    facts: dict[str, Facts]
    label: str
    decisions: dict[str, Decision]
    notes: list[Note]

    def refuse_gaps(self, role: str, name: str, rows: int) -> None:
        """Raises: UserError: rows lack the column; the text says which values count as missing."""
        if not rows:
            return
        why = [f" ({n.text})" for n in self.notes if n.column == name and "missing" in n.text]
        raise UserError(f"{role}={name}: {rows:,} rows lack it{''.join(why)}; fill or remove them")


def describe(table: duckdb.DuckDBPyRelation) -> tuple[int, dict[str, Facts]]:
    """Number of rows, and each column's facts."""
    rows = table.aggregate("count(*)").fetchall()[0][0]
    kinds = dict(zip(table.columns, map(base, table.types), strict=True))
    found: list[Any] = []
    for names in batches(kinds, "counting"):
        parts = [part for name in names for part in _parts(quote(name), kinds[name], rows >= MANY)]
        counts = table.aggregate(", ".join(f"{part} AS c{i}" for i, part in enumerate(parts)))
        found += counts.fetchall()[0]
    head = table.limit(HEAD).fetchall()
    facts = {}
    for i, (name, kind) in enumerate(kinds.items()):
        present, distinct, whole, span, largest, longest, some = found[7 * i : 7 * i + 7]
        # Estimated, but near what decides: the hashes are counted, which takes 8 bytes a row, whatever the column.
        if rows >= MANY and (distinct < 1000 or distinct > 0.9 * present):
            hashed = f"count(DISTINCT hash({quote(name)})) - {int(present < rows)}"
            distinct = table.aggregate(hashed).fetchall()[0][0]
        values = dict.fromkeys(str(row[i]).removesuffix(" 00:00:00") for row in head if row[i] is not None)
        shown = [text if len(text) <= 24 else f"{text[:23]}…" for text in list(values)[:3] or [some] if text]
        consecutive = bool(whole) and distinct > 1 and span == distinct - 1
        sizes = largest or 0, longest or 0
        facts[name] = Facts(kind, rows, present, distinct, bool(whole), consecutive, *sizes, shown)
    return rows, facts


def _parts(column: str, kind: str, many: bool) -> list[str]:
    """SQL of a column's count, distinct values, wholeness, span, greatest size, greatest length and any value."""
    integer, real = INFERRED.get(kind) == "integer", INFERRED.get(kind) == "number"
    finite = f"CASE WHEN isfinite({column}::DOUBLE) THEN {column}::DOUBLE END" if real else column
    return [
        f"count({column})",
        f"approx_count_distinct({column})" if many else f"count(DISTINCT {column})",
        "true" if integer else f"bool_and({finite} = trunc({finite}))" if real else "false",
        f"max({finite})::DOUBLE - min({finite})::DOUBLE" if integer or real else "NULL",
        f"greatest(abs(max({column})::DOUBLE), abs(min({column})::DOUBLE))" if integer else "0",
        f"max(length({column}))" if kind == "VARCHAR" else "0",
        f"any_value({column})::VARCHAR",
    ]


def constant_within(table: duckdb.DuckDBPyRelation, entity: str, names: list[str]) -> list[str]:
    """The columns that never change within an entity, given as SQL: what can be looked up by its key alone."""
    # min and max, not count(DISTINCT): that took minutes for hundreds of columns.
    same = "count({c}) IN (0, count(*)) AND min({c}) IS NOT DISTINCT FROM max({c}) AS s{i}"
    steady: list[str] = []
    for some in batches(names, "comparing rows of an entity"):
        listed = ", ".join(same.format(c=quote(name), i=i) for i, name in enumerate(some))
        every = ", ".join(f"bool_and(s{i})" for i in range(len(some)))
        found = table.aggregate(f"{entity}, {listed}", entity).aggregate(every).fetchall()[0]
        steady += [name for name, yes in zip(some, found, strict=True) if yes]
    return steady


def base(kind: object) -> str:
    """DuckDB's type without its arguments: DECIMAL(9,2) is DECIMAL, INTEGER[] is INTEGER[]."""
    return re.sub(r"\(.*", "", str(kind)) + ("[]" if str(kind).endswith("]") else "")
