"""A schema from a table: which columns are features, of what type, and why the others are left out."""

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import duckdb

from tabloop.cli import UserError
from tabloop.columns import INFERRED, TYPES, quote
from tabloop.table import classes, safe_names, snake

LEVELS = 255  # a text column with more distinct values is no category: trees bin no finer
YES = {"1", "true", "t", "yes", "y", "positive", "pos"}
NO = {"0", "false", "f", "no", "n", "negative", "neg"}
ID = re.compile(r"(^|[^a-z])(id|uuid|guid|key|no|nr|number|index|idx|row|unnamed)([^a-z]|$)")


@dataclass
class Inferred:
    """The schema as params.yaml has it, and for each column of the table what was decided and why."""

    schema: dict[str, Any]
    decisions: list[tuple[str, str, str]]
    segments: list[str]


@dataclass
class Facts:
    """What one column holds."""

    kind: str  # DuckDB's type
    present: int
    distinct: int
    consecutive: bool


def infer(table: duckdb.DuckDBPyRelation, target: str, entity: str | None, timestamp: str | None) -> Inferred:
    """Decide on every column.

    Raises:
        UserError: a named column is missing or can't play its part, or no feature is left.
    """
    roles = {"TARGET": target, "ENTITY": entity, "TIMESTAMP": timestamp}
    given = check_names(table, {role: name for role, name in roles.items() if name is not None})
    rows, facts = describe(table)
    names = safe_names(table.columns)
    positive, why = positive_class(table, target)
    decisions = [(target, "target", why)]
    for role, name in given.items():
        if role != "TARGET" and (lacking := rows - facts[name].present):
            raise UserError(f"{role}={name}: {lacking:,} rows lack it; fill or remove them")
    if entity:
        decisions.append((entity, "entity", f"{facts[entity].distinct:,} of them"))
    if timestamp:
        check_timestamp(table, timestamp, facts[timestamp].kind)
        decisions.append((timestamp, "timestamp", "splits by time"))

    features: dict[str, dict[str, Any]] = {}
    key: list[str] = []
    for name in (column for column in table.columns if column not in given.values()):
        kind, why = decide(name, facts[name], rows)
        if kind == "id" and not key:
            key, kind = [name], "key"
        decisions.append((name, kind, why))
        if kind in TYPES:
            features[name] = {"type": kind}
    if not features:
        raise UserError("no column is left to learn from: each is constant, an id, a date or free text")
    key = key or key_of_roles(table, [name for name in (entity, timestamp) if name], rows)
    steady = constant_within(table, entity, list(features)) if entity else []
    view = {names[n]: features[n] for n in steady}
    used = [*key, *given.values(), *features]
    schema = {
        "key": [names[name] for name in key],
        "entity": names[entity] if entity else None,
        "timestamp": names[timestamp] if timestamp else None,
        "target": {"name": names[target], "positive": positive},
        "views": {f"{names[entity]}_features": view} if entity and view else {},
        "request": {names[n]: f for n, f in features.items() if n not in steady},
        "rename": {names[n]: n for n in dict.fromkeys(used) if names[n] != n},
    }
    few = [names[n] for n, f in features.items() if f["type"] == "category" and facts[n].distinct <= 10]
    return Inferred(schema, decisions, few[:2])


def check_names(table: duckdb.DuckDBPyRelation, given: dict[str, str]) -> dict[str, str]:
    """The columns named for each role, as given.

    Raises:
        UserError: the table has no such column, or one has two roles.
    """
    for role, name in given.items():
        if name not in table.columns:
            near = difflib.get_close_matches(name, table.columns, 1, 0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"{role}={name}: no such column; {hint}it has: {', '.join(table.columns)}")
        if other := [r for r, n in given.items() if n == name and r != role]:
            raise UserError(f"{role}={name} and {other[0]}={name}: name another column for one of them")
    return given


def key_of_roles(table: duckdb.DuckDBPyRelation, names: list[str], rows: int) -> list[str]:
    """The entity, with the timestamp if there is one, if no two rows share them; else no key."""
    if not names:
        return []
    different = table.aggregate(f"count(DISTINCT ({', '.join(map(quote, names))}))").fetchall()[0][0]
    return names if different == rows else []


def describe(table: duckdb.DuckDBPyRelation) -> tuple[int, dict[str, Facts]]:
    """Number of rows, and each column's facts, in one pass."""
    parts = ["count(*)"]
    for name, kind in zip(table.columns, table.types, strict=True):
        column = quote(name)
        whole = INFERRED.get(base(kind)) == "integer"
        parts += [
            f"count({column})",
            f"count(DISTINCT {column})",
            f"max({column})::HUGEINT - min({column})::HUGEINT" if whole else "NULL",
        ]
    named = ", ".join(f"{part} AS c{i}" for i, part in enumerate(parts))
    rows, *values = table.aggregate(named).fetchall()[0]
    facts = {}
    for i, (name, kind) in enumerate(zip(table.columns, table.types, strict=True)):
        present, distinct, span = values[3 * i : 3 * i + 3]
        facts[name] = Facts(base(kind), present, distinct, span is not None and span == distinct - 1)
    return rows, facts


def base(kind: object) -> str:
    """DuckDB's type without its arguments: DECIMAL(9,2) is DECIMAL."""
    return re.sub(r"[(\[].*", "", str(kind))


def decide(name: str, facts: Facts, rows: int) -> tuple[str, str]:
    """A column's feature type, or `id` or `left out`; and why."""
    kind = INFERRED.get(facts.kind)
    missing = f"; {rows - facts.present:,} missing" if facts.present < rows else ""
    if facts.distinct <= 1:
        return "left out", "always the same" if facts.distinct else "always missing"
    if kind is None:
        dated = "DATE" in facts.kind or "TIME" in facts.kind
        return "left out", "a date: not a feature as it is" if dated else f"of type {facts.kind}"
    counted = kind == "integer" and (facts.consecutive or ID.search(snake(name)))
    if facts.distinct == rows > 20 and (kind == "category" or counted):
        return "id", "another one in every row"
    if kind == "category" and facts.distinct > LEVELS:
        return "left out", f"text with {facts.distinct:,} distinct values; more than {LEVELS} are no category"
    if kind == "category":
        return kind, f"{facts.distinct} levels{missing}"
    return kind, f"{facts.distinct:,} distinct values{missing}"


def positive_class(table: duckdb.DuckDBPyRelation, target: str) -> tuple[str, str]:
    """Which of the target's two classes is 1, as `class_text` has it; and why.

    Raises:
        UserError: it has another number of classes.
    """
    counts: Counter[str] = Counter()
    for text, rows in classes(table, target).values():
        counts[text] += rows
    if len(counts) != 2:
        shown = ", ".join(sorted(counts)[:5]) + (", ..." if len(counts) > 5 else "")
        raise UserError(f"TARGET={target} has {len(counts)} values ({shown}): it must have two")
    rarest_first = sorted(counts, key=lambda text: (counts[text], text))
    affirmative = [text for text in rarest_first if text in YES]
    not_negative = [text for text in rarest_first if text not in NO]
    positive = (affirmative or not_negative or rarest_first)[0]
    (negative,) = counts.keys() - {positive}
    reason = (
        f"{positive!r} is positive ({counts[positive]:,} rows), {negative!r} is not ({counts[negative]:,})"
    )
    unlabelled = table.filter(f"{quote(target)} IS NULL").aggregate("count(*)").fetchall()[0][0]
    return positive, reason + (f"; {unlabelled:,} rows have no label yet" if unlabelled else "")


def check_timestamp(table: duckdb.DuckDBPyRelation, name: str, kind: str) -> None:
    """Raises: UserError: the column holds something that is no date or time."""
    if "DATE" in kind or "TIMESTAMP" in kind:
        return
    column = table.project(quote(name))
    bad = column.filter(f"TRY_CAST({quote(name)} AS TIMESTAMP) IS NULL") if kind == "VARCHAR" else column
    if found := bad.limit(1).fetchall():
        advice = "write them like 2026-01-31 or 2026-01-31 12:00:00"
        raise UserError(f"TIMESTAMP={name}: {found[0][0]!r} is no date or time; {advice}")


def constant_within(table: duckdb.DuckDBPyRelation, entity: str, names: list[str]) -> list[str]:
    """The columns that never change within an entity: what can be looked up by its key alone."""
    # min and max, not count(DISTINCT): that took minutes for hundreds of columns.
    same = ", ".join(
        f"count({c}) IN (0, count(*)) AND min({c}) IS NOT DISTINCT FROM max({c}) AS s{i}"
        for i, c in enumerate(map(quote, names))
    )
    every = ", ".join(f"bool_and(s{i})" for i in range(len(names)))
    per_entity = table.aggregate(f"{quote(entity)}, {same}", quote(entity))
    return [n for n, steady in zip(names, per_entity.aggregate(every).fetchall()[0], strict=True) if steady]
