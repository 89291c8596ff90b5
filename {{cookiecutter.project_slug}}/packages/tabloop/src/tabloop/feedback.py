"""The prediction log's labelled rows as training data: those of this table that keep the schema as it is now."""

from pathlib import Path
from typing import TYPE_CHECKING

from tabloop import predictions, roles
from tabloop.card import ModelCard
from tabloop.cli import UserError
from tabloop.columns import literal, quote, text_of
from tabloop.params import Column, Params, Schema

if TYPE_CHECKING:
    import duckdb


def labelled_predictions(params: Params, log: str, events: Path) -> "duckdb.DuckDBPyRelation | None":
    """The log's labelled rows as they were served: key, entity, event_timestamp, features, target as 0 or 1.

    Rows that can't be used are left out, counted by reason on stdout. None, with a line, while nothing was logged.

    Args:
        events: the rows of data.source, by the schema's names; what they have already is left out, where the key tells.

    Raises:
        UserError: the log can't be read.
    """
    try:
        db = predictions.connect(log=log)
    except predictions.NothingLogged as error:
        print(f"ingest: {error}", flush=True)
        return None
    with predictions.errors():
        db.read_parquet(str(events)).create_view("events")
        _rate(db, params)
        counts = "SELECT reason, count(*) FROM rated WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
        for reason, count in db.sql(counts).fetchall():
            print(f"ingest: {count:,} labelled predictions are left out: {reason}", flush=True)
        orphans = "SELECT count(*) FROM outcomes ANTI JOIN predictions USING (prediction_id)"
        for what, query in (
            ("outcomes of predictions that are not in the log are left out", orphans),
            (
                "outcomes were changed later; the last label counts",
                "SELECT count(*) FROM outcomes WHERE changed",
            ),
        ):
            if count := db.sql(query).fetchall()[0][0]:
                print(f"ingest: {count:,} {what}", flush=True)
        schema = params.schema_
        # Each is of `rated`, as a feature may be called like any of them.
        key = [f"rated.prediction_id AS {quote(n)}" for n in schema.own_key if n not in schema.features]
        entity = [f"rated.entity AS {quote(schema.entity)}"] if schema.entity else []
        features = [f"rated.{quote(predictions.feature(n))} AS {quote(n)}" for n in schema.features]
        time = "rated.predicted_at::TIMESTAMP AS event_timestamp"
        target = f"rated.label::TINYINT AS {quote(schema.target.name)}"
        listed = ", ".join([*key, *entity, *features, time, target])
        query = f"SELECT {listed} FROM rated WHERE rated.reason IS NULL ORDER BY rated.predicted_at, rated.prediction_id"
        db.sql(f"CREATE TABLE labelled AS {query}")
    return db.table("labelled")


def _rate(db: "duckdb.DuckDBPyConnection", params: Params) -> None:
    """Make the table `rated`: each labelled prediction once, its features in the schema's types, and why it can't be used."""
    schema, found = params.schema_, db.view("predictions")
    kinds = dict(zip(found.columns, map(str, found.types), strict=True))
    try:
        champion = ModelCard.read(roles.MODELS / "champion").version
    except UserError:
        champion = ""
    values, reasons = (
        {},
        [(f"NOT {predictions.own(db, params.source_table, champion)}", "they are of another table")],
    )
    for name, column in schema.features.items():
        logged = [other for other in _names(schema, name) if other in kinds]
        if not logged:
            print(f"ingest: the log has no {name}: it is missing in its rows", flush=True)
        values[name] = _first(
            [*(predictions.value(column, n, kinds[n]) for n in logged), f"NULL::{column.kind.sql}"]
        )
        given = _first([*(f"{quote(n)}::VARCHAR" for n in logged), "NULL"])
        reasons += [(test, f"{name} {words}") for test, words in _breaches(column, values[name], given)]
    nothing = _first([f"{value}::VARCHAR" for value in values.values()])
    reasons.insert(1, (f"{nothing} IS NULL", "the log has none of their features"))
    reasons += _repeated(db, schema, values)
    listed = ", ".join(f"{value} AS {quote(predictions.feature(name))}" for name, value in values.items())
    why = " ".join(f"WHEN {test} THEN {literal(words)}" for test, words in reasons)
    db.sql(
        f"CREATE TABLE rated AS SELECT prediction_id, entity, predicted_at, label, {listed}, CASE {why} END AS reason "
        "FROM predictions JOIN outcomes USING (prediction_id) "
        # In the shadow both models answer: the features are the same, one row is enough.
        "QUALIFY row_number() OVER (PARTITION BY prediction_id ORDER BY variant) = 1"
    )


def _first(values: list[str]) -> str:
    """SQL for the first value that is not missing."""
    return f"coalesce({', '.join(values)})"


def _names(schema: Schema, name: str) -> list[str]:
    """The log's columns that may hold a feature: its own, and the one by its raw name, under which it was served before."""
    raw = schema.rename.get(name, name)
    return [
        predictions.feature(n) for n in dict.fromkeys([name, raw]) if n == name or n not in schema.features
    ]


def _breaches(column: Column, value: str, given: str) -> list[tuple[str, str]]:
    """What can be wrong with a value of this column: an SQL condition and its words each. `given`: as it was logged."""
    found = [(f"{value} IS NULL AND {given} IS NOT NULL", f"is no {column.type}")]
    if not column.nullable:
        found.append((f"{value} IS NULL", "is missing"))
    if column.values:
        levels = ", ".join(map(literal, column.values))
        found.append((f"{value} NOT IN ({levels})", "has a level that the schema does not declare"))
    bounds = [
        f"{value} {sign} {bound!r}"
        for sign, bound in (("<", column.min), (">", column.max))
        if bound is not None
    ]
    return found + ([(" OR ".join(bounds), "is out of range")] if bounds else [])


def _repeated(
    db: "duckdb.DuckDBPyConnection", schema: Schema, values: dict[str, str]
) -> list[tuple[str, str]]:
    """Where the log has the whole key: a row that data.source has, too, or that was predicted again later."""
    known = values | ({schema.entity: "entity"} if schema.entity else {})
    if not schema.key or not known.keys() >= set(schema.key):
        return []
    events = db.view("events")
    kinds = dict(zip(events.columns, map(str, events.types), strict=True))
    sql = {name: column.kind.sql for name, column in schema.features.items()}
    key = ", ".join(text_of(f"({known[name]})", sql.get(name, "VARCHAR")) for name in schema.key)
    theirs = ", ".join(text_of(quote(name), kinds[name]) for name in schema.key)
    newest = f"max((predicted_at, prediction_id)) OVER (PARTITION BY {key})"
    return [
        (f"[{key}] IN (SELECT [{theirs}] FROM events)", "data.source has them"),
        (f"(predicted_at, prediction_id) < {newest}", "they were predicted again"),
    ]
