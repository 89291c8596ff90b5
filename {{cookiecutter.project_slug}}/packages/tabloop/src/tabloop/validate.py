"""data/raw against the schema: reports/validation.json, and for each breach an error with column, rule and rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from tabloop import database, files, labels
from tabloop.cli import UserError
from tabloop.columns import class_text, literal, quote
from tabloop.params import Column, Params, Schema
from tabloop.table import classes

SHOWN = 3  # rows shown of a breach
ROW = '"row number"'
FUTURE = "not in the future (UTC; data.reading.timezone names another zone)"


class Rule(NamedTuple):
    """What a column must be, in words; and SQL: whether a row breaks it, and the value that is shown then."""

    column: str
    words: str
    broken: str
    value: str


def column_rules(name: str, column: Column) -> Iterator[Rule]:
    """The declared type, range and values of one feature."""
    raw, text = quote(name), f"{quote(name)}::VARCHAR"
    if column.values:
        values = ", ".join(map(literal, column.values))
        yield Rule(name, f"one of {', '.join(column.values)}", f"{text} NOT IN ({values})", text)
    missing, number = f"{raw} IS NULL", f"TRY_CAST({raw} AS DOUBLE)"
    if column.numeric:
        yield Rule(name, "of the declared type", f"{raw} IS NOT NULL AND {number} IS NULL", raw)
        missing, number = f"({missing} OR isnan({number}))", f"NULLIF({number}, 'nan'::DOUBLE)"
    if not column.nullable:
        yield Rule(name, "not missing", missing, raw)
    if column.min is not None:
        yield Rule(name, f"at least {column.min:g}", f"{number} < {column.min!r}", number)
    if column.max is not None:
        yield Rule(name, f"at most {column.max:g}", f"{number} > {column.max!r}", number)
    if column.type == "integer":
        whole = f"{number} = trunc({number}) AND isfinite({number})"
        yield Rule(name, "a whole number", f"NOT ({whole})", number)
    if column.type == "boolean":
        yield Rule(name, "a boolean", f"{number} NOT IN (0, 1)", number)


def rules_of(schema: Schema, columns: list[str], now: datetime) -> Iterator[Rule]:
    """The rules of a raw table's columns, without those of the label."""
    for name, column in schema.columns.items():
        if name in columns:
            yield from column_rules(name, column)
    timestamp, known = schema.timestamp, schema.target.known_at
    for one in (schema.entity, timestamp):
        if one in columns:
            yield Rule(str(one), "not missing", f"{quote(str(one))} IS NULL", quote(str(one)))
    for one in (timestamp, known):
        if one in columns:
            raw = quote(str(one))
            yield Rule(str(one), "of the declared type", f"{raw} IS NOT NULL AND {time_of(one)} IS NULL", raw)
    if timestamp in columns:
        yield Rule(str(timestamp), FUTURE, f"{time_of(timestamp)} > {at(now)}", time_of(timestamp))


def time_of(name: str | None) -> str:
    """SQL for a column as a time in UTC; null where it is none, as infinity is."""
    time = f"TRY_CAST({quote(str(name))} AS TIMESTAMP)"
    return f"CASE WHEN isfinite({time}) THEN {time} END"


def at(time: datetime) -> str:
    """A moment as SQL."""
    return f"TIMESTAMP {literal(time.replace(tzinfo=None))}"


def label_times(schema: Schema, columns: list[str], label: str, now: datetime) -> Iterator[Rule]:
    """Labels that were known before their row happened, or are known tomorrow, as no label is."""
    known = schema.target.known_at
    if known in columns and schema.timestamp in columns:
        time, tomorrow = time_of(known), at(now + timedelta(days=1))  # a date is known when its day ends
        before = f"{label} IS NOT NULL AND {time} < {time_of(schema.timestamp)}"
        yield Rule(str(known), f"not before {schema.timestamp}", before, time)
        yield Rule(str(known), "not in the future", f"{label} IS NOT NULL AND {time} > {tomorrow}", time)


def breaches(db: duckdb.DuckDBPyConnection, name: str, schema: Schema, now: datetime) -> list[dict[str, Any]]:
    """Every breach in one raw table, a view of this name: column, rule, count and the first rows (from 1)."""
    table, target = db.view(name), schema.target.name
    rules = sorted(rules_of(schema, table.columns, now))
    label = labels.label_sql(table, target, schema.target) if target in table.columns else ""
    rules += label_times(schema, table.columns, label, now) if label else []
    counted = [f"count(*) FILTER ({rule.broken})" for rule in rules]
    if label:
        counted += [f"count(*) FILTER ({label} = {value})" for value in (1, 0)] + [f"count({quote(target)})"]
    rows = table.aggregate("count(*)").fetchall()[0][0]
    what = f"validate: {rows:,} {name}"
    counts = database.run(db, f"SELECT {', '.join([*counted, 'count(*)'])} FROM {quote(name)}", what)[0]
    found = [breach(db, name, rule, n) for rule, n in zip(rules, counts, strict=False) if n]
    if schema.key and set(schema.key) <= set(table.columns):
        found += repeated(db, name, schema.key, what)
    return found + (wrong_classes(db, name, schema, *counts[len(rules) : -1]) if label else [])


def repeated(db: duckdb.DuckDBPyConnection, name: str, key: list[str], what: str) -> list[dict[str, Any]]:
    """Rows whose key an earlier row has."""
    columns, value = ", ".join(map(quote, key)), quote(key[0])
    groups = f"SELECT count(*) AS n FROM {quote(name)} GROUP BY {columns}"
    ((twice,),) = database.run(db, f"SELECT sum(n - 1) FROM ({groups})", f"{what}, {' + '.join(key)}")
    numbered = f"row_number() OVER (PARTITION BY {columns} ORDER BY {ROW}) > 1"
    return [breach(db, name, Rule(" + ".join(key), "unique", numbered, value), int(twice))] if twice else []


def wrong_classes(
    db: duckdb.DuckDBPyConnection, name: str, schema: Schema, ones: int, zeros: int, labelled: int
) -> list[dict[str, Any]]:
    """The breach of a target that has not the classes that it must have; the first row of each of its values."""
    rule, value = schema.target, quote(schema.target.name)
    words = f"numbers on both sides of {rule.at_least:g}" if rule.at_least is not None else ""
    if not words:
        texts = {text for text, _ in classes(db.view(name), rule.name).values()}
        words = f"two classes, {class_text(rule.positive)!r} among them, not {len(texts)}"
        if len(texts) != 2 and rule.negative is None:
            ones = 0
    if ones and zeros:
        return []
    first = f"{value} IS NOT NULL AND row_number() OVER (PARTITION BY {value} ORDER BY {ROW}) = 1"
    return [breach(db, name, Rule(rule.name, words, first, value), labelled)]


def breach(db: duckdb.DuckDBPyConnection, name: str, rule: Rule, count: int) -> dict[str, Any]:
    """One breach as the report has it."""
    numbered = f"SELECT *, row_number() OVER () AS {ROW} FROM {quote(name)}"
    marked = f"SELECT {ROW}, {rule.value}::VARCHAR AS value, {rule.broken} AS broken FROM ({numbered})"
    first = db.sql(f"SELECT {ROW}, value FROM ({marked}) WHERE broken ORDER BY ALL LIMIT {SHOWN}").fetchall()
    rows = [{"row": row, "value": "null" if value is None else value} for row, value in first]
    return {"column": rule.column, "rule": rule.words, "count": count, "first": rows}


def validate(params: Params, raw: Path, report: Path) -> str:
    """Check every table of `raw` and write the report; what was checked.

    Raises:
        UserError: the data break the schema; a line for each breach.
    """
    schema, db = params.schema_, database.connect()
    tables = [path for path in sorted(raw.glob("*.parquet")) if path.stem != "feedback"]  # it is checked
    for path in tables:
        db.read_parquet(str(path)).create_view(path.stem)
    if raw / "events.parquet" not in tables:
        raise UserError("data/raw/events.parquet is missing: run `make train`")
    now, events, target = datetime.now(UTC), db.view("events"), schema.target
    rows = {path.stem: db.view(path.stem).aggregate("count(*)").fetchall()[0][0] for path in tables}
    found = [{"table": name, **b} for name in rows for b in breaches(db, name, schema, now)]
    needed = [*schema.key, schema.entity, schema.timestamp, target.known_at, target.name]
    needed += [*schema.request, *schema.sensitive]
    found += [
        {"table": "events", "column": column, "rule": "present", "count": rows["events"], "first": []}
        for column in dict.fromkeys(needed)
        if column and column not in events.columns
    ]
    unlabelled = 0
    if target.name in events.columns:
        without = f"{labels.label_sql(events, target.name, target)} IS NULL"
        unlabelled = events.filter(without).aggregate("count(*)").fetchall()[0][0]
    result = {"passed": not found, "rows": rows, "unlabelled": unlabelled, "breaches": found}
    files.write_json(report, result)
    if found:
        lines = [f"data/raw breaks the schema in params.yaml (details: reports/{report.name})"]
        raise UserError("\n  ".join([*lines, *map(line, found)]))
    return f"{', '.join(f'{n:,} {name}' for name, n in rows.items())} keep the schema"


def line(found: dict[str, Any]) -> str:
    """A breach as one line."""
    first = "".join(f", row {f['row']}: {f['value']}" for f in found["first"])
    return f"{found['table']}.{found['column']}: must be {found['rule']}; {found['count']:,} rows break it{first}"
