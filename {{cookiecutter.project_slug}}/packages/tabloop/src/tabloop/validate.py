"""data/raw against the schema: reports/validation.json, and for each breach an error with column, rule and rows."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabloop import files
from tabloop.cli import UserError
from tabloop.columns import class_text
from tabloop.params import Column, Params, Schema

if TYPE_CHECKING:
    import pandas as pd
    import pandera.pandas as pa

SHOWN = 3  # rows shown of a breach
FUTURE = "not in the future (UTC; data.reading.timezone says which zone it is else)"


def column_rules(column: Column) -> "pa.Column":
    """The declared type, range and values of one column as pandera's rules."""
    import pandas as pd
    import pandera.pandas as pa

    rules = []
    if column.min is not None:
        rules.append(pa.Check.ge(column.min, error=f"at least {column.min:g}"))
    if column.max is not None:
        rules.append(pa.Check.le(column.max, error=f"at most {column.max:g}"))
    if column.values:
        rules.append(pa.Check.isin(column.values, error=f"one of {', '.join(column.values)}"))
    if column.type == "integer":
        rules.append(pa.Check(lambda values: values % 1 == 0, error="a whole number"))
    if column.type == "boolean":
        rules.append(pa.Check.isin([0, 1], error="a boolean"))
    dtype: Any = pd.StringDtype() if column.type == "category" else float
    return pa.Column(dtype, rules, nullable=column.nullable, coerce=True)


def breaches(table: "pd.DataFrame", schema: Schema, now: datetime) -> list[dict[str, Any]]:
    """Every breach in one raw table: column, rule, count and the first rows (from 1) with their values."""
    import pandera.pandas as pa
    from pandera.errors import SchemaErrors

    columns = {n: column_rules(c) for n, c in schema.features.items() if n in table}
    if schema.entity and schema.entity in table:
        columns[schema.entity] = pa.Column(nullable=False)
    if schema.timestamp and schema.timestamp in table:
        past = pa.Check.le(now.replace(tzinfo=None), error=FUTURE)
        columns[schema.timestamp] = pa.Column("datetime64[ns]", past, nullable=False, coerce=True)
    if (known := schema.target.known_at) and known in table:
        columns[known] = pa.Column("datetime64[ns]", coerce=True, nullable=True)
    found = []
    try:
        pa.DataFrameSchema(columns).validate(table, lazy=True)
    except SchemaErrors as error:
        failures = error.failure_cases.assign(rule=lambda cases: cases.check.map(_words))
        # A case without a row only follows from a value of a wrong type, which has a case of its own.
        cases = (
            failures.dropna(subset="index").drop_duplicates(["column", "rule", "index"]).sort_values("index")
        )
        if cases.empty:
            raise
        for (column, rule), broken in cases.groupby(["column", "rule"]):
            found.append(breach(column, rule, broken["index"], broken["failure_case"]))
    if schema.key and set(schema.key) <= set(table):
        twice = table[table.duplicated(schema.key, keep="first")]
        if len(twice):
            found.append(breach(" + ".join(schema.key), "unique", twice.index, twice[schema.key[0]]))
    found += label_times(table, schema, now)
    if (target := schema.target.name) in table:
        first, rule = table[target].dropna().drop_duplicates(), schema.target
        labels, classes = set(first.map(rule.label)), set(first.map(class_text))
        two = len(classes) == 2 or rule.negative is not None or rule.at_least is not None
        if not ({0, 1} <= labels and two):
            words = f"two classes, {class_text(rule.positive)!r} among them, not {len(classes)}"
            if rule.at_least is not None:
                words = f"numbers on both sides of {rule.at_least:g}"
            found.append(breach(target, words, first.index, first) | {"count": int(table[target].count())})
    return found


def label_times(table: "pd.DataFrame", schema: Schema, now: datetime) -> list[dict[str, Any]]:
    """Labels that were known before their row happened, or are known tomorrow, as no label is."""
    import pandas as pd

    target, known = schema.target, schema.target.known_at
    if known is None or not {known, target.name, schema.timestamp} <= set(table):
        return []
    at, time = (pd.to_datetime(table[n], errors="coerce") for n in (known, str(schema.timestamp)))
    label = {value: target.label(value) for value in table[target.name].dropna().unique()}
    labelled = table[target.name].map(label).notna()
    tomorrow = pd.Timestamp(now.replace(tzinfo=None)) + pd.Timedelta(
        days=1
    )  # a date is known when its day ends
    rules = {f"not before {schema.timestamp}": at < time, "not in the future": at > tomorrow}
    wrong = {rule: table[labelled & broken] for rule, broken in rules.items()}
    return [breach(known, rule, rows.index, rows[known]) for rule, rows in wrong.items() if len(rows)]


def breach(column: str, rule: str, rows: Any, values: Any) -> dict[str, Any]:
    """One breach as the report has it."""
    first = [{"row": int(r) + 1, "value": str(v)} for r, v in list(zip(rows, values, strict=True))[:SHOWN]]
    return {"column": column, "rule": rule, "count": len(rows), "first": first}


def _words(rule: str) -> str:
    return {"not_nullable": "not missing"}.get(rule, "of the declared type" if "dtype" in rule else rule)


def validate(params: Params, raw: Path, report: Path) -> str:
    """Check every table of `raw` and write the report; what was checked.

    Raises:
        UserError: the data break the schema; a line for each breach.
    """
    import pandas as pd

    schema = params.schema_
    tables = {
        path.stem: pd.read_parquet(path, dtype_backend="numpy_nullable")
        for path in sorted(raw.glob("*.parquet"))
        if path.stem != "feedback"  # which the service checked, row by row
    }
    if "events" not in tables:
        raise UserError("data/raw/events.parquet is missing: run `dvc repro ingest`")
    now, events = datetime.now(UTC), tables["events"]
    times = [schema.timestamp, schema.target.known_at]
    needed = [*schema.key, schema.entity, *times, schema.target.name, *schema.request]
    absent = [name for name in dict.fromkeys(needed) if name and name not in events]
    found = [{"table": name, **b} for name, table in tables.items() for b in breaches(table, schema, now)]
    found += [
        {"table": "events", "column": c, "rule": "present", "count": len(events), "first": []} for c in absent
    ]
    rows = {name: len(table) for name, table in tables.items()}
    target = events.get(schema.target.name, pd.Series(dtype=object))
    label = {value: schema.target.label(value) for value in target.dropna().unique()}
    unlabelled = int(target.map(label).isna().sum())
    result = {"passed": not found, "rows": rows, "unlabelled": unlabelled, "breaches": found}
    files.write(report, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    if found:
        lines = [f"data/raw breaks the schema in params.yaml (all of it is in reports/{report.name})"]
        raise UserError("\n  ".join([*lines, *map(line, found)]))
    return f"{', '.join(f'{n:,} {name}' for name, n in rows.items())} keep the schema"


def line(found: dict[str, Any]) -> str:
    """A breach as one line."""
    first = "".join(f", row {f['row']}: {f['value']}" for f in found["first"])
    return f"{found['table']}.{found['column']}: must be {found['rule']}; {found['count']:,} rows break it{first}"
