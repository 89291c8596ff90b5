"""A schema from a table: which columns are features, of what type, and why the others are left out."""

import difflib
import re
from dataclasses import dataclass
from typing import Any

import duckdb

from tabloop import identity, labels, leaks
from tabloop.cli import UserError
from tabloop.columns import INFERRED, TYPES, key_of, quote, text_of
from tabloop.facts import LEVELS, Choices, Decision, Facts, Survey, constant_within, describe
from tabloop.params import EXACT, Target
from tabloop.reading.result import Table
from tabloop.serving.request import MAX_TEXT
from tabloop.table import safe_names

DATED = re.compile(r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}($|[ T])")  # texts that the reader could not tell
DAYS = "days"  # the type of a date whose age is a feature


@dataclass
class Inferred:
    """The schema as params.yaml has it; every column's facts and decision; what concerns the whole table."""

    schema: dict[str, Any]
    rows: int
    facts: dict[str, Facts]
    decisions: dict[str, Decision]
    warnings: list[str]
    segments: list[str]


def infer(table: Table, said: Choices, holdout: float) -> Inferred:
    """Decide on every column.

    Args:
        holdout: the share of the newest rows that is held out.

    Raises:
        UserError: a named column is missing or can't play its part, or no feature is left.
    """
    relation = table.relation
    roles = check_names(table, said)
    rows, facts = describe(relation)
    numeric = INFERRED.get(facts[said.target].kind) in ("number", "integer")
    target, why, warnings = labels.decide(relation, said, numeric)
    label = labels.label_sql(relation, said.target, Target(name=said.target, **target))
    decisions = {said.target: Decision(said.target, "target", why, warnings)}
    survey = Survey(relation, said, rows, facts, label, decisions, table.notes)
    if said.entity:
        decisions[said.entity] = identity.entity(survey, said.entity)
    if said.timestamp:
        decisions[said.timestamp] = identity.timestamp(survey, said.timestamp, holdout)
    if said.known_at:
        decisions[said.known_at] = identity.known_at(survey, said.known_at)
    for name in relation.columns:
        if name not in decisions:
            decisions[name] = decide(survey, name)
    if said.timestamp and not said.known_at:
        identity.suggest_known_at(survey, said.timestamp)
    key = identity.key(survey)
    kinds = {name: found.decision for name, found in decisions.items() if name not in key}
    features = {name: kind for name, kind in kinds.items() if kind in (*TYPES, DAYS)}
    told = leaks.watch(survey, features)
    for name, more in spelled_twice(relation, features).items():
        text = f"{more:,} levels differ from another one only by case or accents"
        decisions[name].warnings.append(text)
    if not features:
        why = "each is constant, an id, a date, free text or a copy of the target"
        raise UserError(f"no column is left to learn from: {why}")
    unique = said.entity is not None and facts[said.entity].unique
    plain = [name for name, kind in features.items() if kind != DAYS]
    steady = []
    if said.entity and not unique and plain:
        steady = constant_within(relation, key_of(quote(said.entity), facts[said.entity].kind), plain)
    schema = schema_of(relation, roles, key, features, steady, target, told)
    twice = [] if key else identity.duplicates(survey)
    few = [n for n, kind in features.items() if kind == "category" and facts[n].distinct <= 10]
    names = safe_names(relation.columns)
    ordered = {name: decisions[name] for name in (*roles.values(), *relation.columns)}
    return Inferred(schema, rows, facts, ordered, twice, [names[n] for n in few[:2]])


def spelled_twice(table: duckdb.DuckDBPyRelation, features: dict[str, str]) -> dict[str, int]:
    """How many levels of each category another one is, without regard to case and the form of accents."""
    names = [name for name, kind in features.items() if kind == "category"]
    more = "count(DISTINCT {0}::VARCHAR) - count(DISTINCT lower(nfc_normalize({0}::VARCHAR)))"
    counts = ", ".join([*(more.format(quote(name)) for name in names), "0"])
    found = dict(zip([*names, ""], table.aggregate(counts).fetchall()[0], strict=True))
    return {name: count for name, count in found.items() if count}


def check_names(table: Table, said: Choices) -> dict[str, str]:
    """The column of each role.

    Raises:
        UserError: the table has no such column, or has it twice, or one has two roles.
    """
    given = {"TARGET": said.target, "ENTITY": said.entity, "TIMESTAMP": said.timestamp}
    given["--known-at"] = said.known_at
    roles = {role: name for role, name in given.items() if name is not None}
    columns = table.relation.columns
    named = [*roles.items(), *(("--key", n) for n in said.key), *(("--drop", n) for n in said.drop)]
    for role, name in (*named, *(("--type", n) for n in said.types)):
        if name not in columns:
            near = difflib.get_close_matches(name, columns, 1, 0.4)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"{role}={name}: no such column; {hint}it has: {', '.join(columns)}")
        others = [n for n in table.duplicates.get(name, ()) if n != name and n not in said.drop]
        if others and role in roles:
            what = f"{len(others) + 1} columns have this name; the others are {', '.join(others)} here"
            how = f"give one of those, or leave them out by `--drop {others[0]}`"
            raise UserError(f"{role}={name}: {what}: {how}")
    for role, name in roles.items():
        if other := [r for r, n in roles.items() if n == name and r != role]:
            raise UserError(f"{role}={name} and {other[0]}={name}: name another column for one of them")
        if name in said.drop or name in said.types:
            option = "drop" if name in said.drop else "type"
            raise UserError(f"{role}={name} and --{option} {name}: give one of them")
    return roles


def decide(survey: Survey, name: str) -> Decision:
    """A column's feature type, or `id` or `left out`; and why."""
    said, facts = survey.said, survey.facts[name]
    if name in said.drop:
        return Decision(name, "left out", "as you said")
    if name in said.types:
        return as_told(survey, name)
    kind = INFERRED.get(facts.kind)
    levels = f"{facts.distinct:,} levels" if kind == "category" else f"{facts.distinct:,} distinct values"
    if facts.distinct <= 1:
        return Decision(name, "left out", "always the same" if facts.distinct else "always missing")
    if kind is None:  # the reader gives no other type that is no feature's
        days = f"; `--type {name}=days` takes the days from it to TIMESTAMP" if said.timestamp else ""
        return Decision(name, "left out", f"a date: not a feature as it is{days}")
    if found := identity.of(name, facts, kind):
        return Decision(name, *found)
    if kind == "category" and all(DATED.match(text) for text in facts.examples):
        return Decision(name, "left out", "dates in several formats: give `--date-format`")
    if kind == "category" and facts.longest > MAX_TEXT:
        return Decision(name, "left out", f"text of up to {facts.longest:,} characters")
    if kind == "category" and facts.distinct > LEVELS:
        why = f"text with {facts.distinct:,} distinct values; more than {LEVELS} are no category"
        return Decision(name, "left out", why, [f"left out: {why}"])
    if facts.largest >= EXACT:
        text = "whole numbers beyond 2^53: a model uses only seven digits of them"
        return Decision(name, kind if facts.largest < 2**63 else "number", levels, [text])
    code = f"a code? `--type {name}=category` if its order means nothing"
    return Decision(name, kind, levels, [code] if identity.coded(name, facts) else [])


def as_told(survey: Survey, name: str) -> Decision:
    """The type that the owner gave.

    Raises:
        UserError: the column's values are not of that type.
    """
    said, facts, table = survey.said, survey.facts[name], survey.table
    kind, column = said.types[name], quote(name)
    if kind == DAYS and not (facts.dated and said.timestamp):
        lacking = "it is no date" if not facts.dated else "give TIMESTAMP, the row's time"
        raise UserError(f"--type {name}=days: {lacking}")
    text = text_of(column, facts.kind)
    tests = {
        "number": f"TRY_CAST({text} AS DOUBLE)",
        "integer": f"CASE WHEN TRY_CAST({text} AS DOUBLE) % 1 = 0 THEN TRY_CAST({text} AS BIGINT) END",
        "boolean": f"TRY_CAST({text} AS BOOLEAN)",
    }
    if kind in tests and facts.kind != "BOOLEAN":
        bad = table.filter(f"{column} IS NOT NULL AND ({tests[kind]}) IS NULL")
        count, one = bad.aggregate(f"count(*), any_value({text})").fetchall()[0]
        if count:
            raise UserError(f"--type {name}={kind}: {count:,} rows have other values, such as {one!r}")
    after = f"{column}::TIMESTAMP > {quote(said.timestamp or '')}::TIMESTAMP"
    later = table.filter(after).aggregate("count(*)").fetchall()[0][0] if kind == DAYS else 0
    warnings = [f"{later:,} rows have a date after TIMESTAMP: was it known then?"] if later else []
    if kind == "category" and facts.distinct > LEVELS:
        warnings.append(f"{facts.distinct:,} levels: trees bin no finer than {LEVELS}")
    return Decision(name, kind, f"as you said; {facts.distinct:,} distinct values", warnings)


def schema_of(
    table: duckdb.DuckDBPyRelation,
    roles: dict[str, str],
    key: list[str],
    features: dict[str, str],
    steady: list[str],
    target: dict[str, Any],
    told: set[str],
) -> dict[str, Any]:
    """The `schema` of params.yaml. `told` are features that alone tell the target, as the owner knows."""
    names = safe_names(table.columns)
    entity, timestamp = (names.get(roles.get(role, "")) for role in ("ENTITY", "TIMESTAMP"))
    allowed: dict[str, Any] = {name: {"allow_leak": True} for name in told}
    view = {names[n]: {"type": features[n], **allowed.get(n, {})} for n in features if n in steady}
    request: dict[str, Any] = {}
    for name, kind in features.items():
        if kind == DAYS:
            request[f"{names[name]}_days"] = {"type": "number", "days_since": name, **allowed.get(name, {})}
        elif name not in steady:
            request[names[name]] = {"type": kind, **allowed.get(name, {})}
    if "--known-at" in roles:
        target = target | {"known_at": names[roles["--known-at"]]}
    used = [*key, *roles.values(), *(name for name, kind in features.items() if kind != DAYS)]
    return {
        "key": [names[name] for name in key],
        "entity": entity,
        "timestamp": timestamp,
        "target": {"name": names[roles["TARGET"]], **target},
        "views": {f"{entity}_features": view} if view else {},
        "request": request,
        "rename": {names[n]: n for n in dict.fromkeys(used) if names[n] != n},
    }
