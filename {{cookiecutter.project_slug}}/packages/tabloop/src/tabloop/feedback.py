"""The prediction log's labelled rows as training data: those of this table that keep the schema as it is now."""

from pathlib import Path
from typing import TYPE_CHECKING

from tabloop import predictions, split
from tabloop.columns import literal, quote, text_of
from tabloop.params import Params, Schema

if TYPE_CHECKING:
    import duckdb


def labelled_predictions(params: Params, log: str, events: Path) -> "duckdb.DuckDBPyRelation | None":
    """The log's labelled rows as they were served: key, entity, event_timestamp, features, KNOWN, target as 0 or 1.

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
    schema = params.schema_
    # Each is of `rated`, as a feature may be called like any of them.
    columns = [f"rated.prediction_id AS {quote(n)}" for n in schema.own_key if n not in schema.features]
    columns += [f"rated.entity AS {quote(schema.entity)}"] if schema.entity else []
    columns += [f"rated.{quote(predictions.feature(n))} AS {quote(n)}" for n in schema.features]
    columns += ["rated.predicted_at::TIMESTAMP AS event_timestamp"]
    columns += [f"rated.received_at::TIMESTAMP AS {quote(split.KNOWN)}"]
    columns += [f"rated.label::TINYINT AS {quote(schema.target.name)}"]
    usable = "rated WHERE rated.reason IS NULL ORDER BY rated.predicted_at, rated.prediction_id"
    with predictions.errors():
        db.read_parquet(str(events)).create_view("events")
        _rate(db, params)
        _leave_out_twice(db, schema)
        db.sql(f"CREATE TABLE labelled AS SELECT {', '.join(columns)} FROM {usable}")
        reasons = "FROM rated WHERE reason IS NOT NULL GROUP BY reason ORDER BY reason"
        for count, reason in db.sql(f"SELECT count(*), reason {reasons}").fetchall():
            print(f"ingest: {count:,} labelled predictions are left out: {reason}", flush=True)
        said = {
            "of predictions that are not in the log are left out": "ANTI JOIN predictions USING (prediction_id)",
            "were changed later; the last label counts": "WHERE changed",
        }
        for what, rows in said.items():
            if count := db.sql(f"SELECT count(*) FROM outcomes {rows}").fetchall()[0][0]:
                print(f"ingest: {count:,} outcomes {what}", flush=True)
    return db.table("labelled")


def _rate(db: "duckdb.DuckDBPyConnection", params: Params) -> None:
    """Make the table `rated`: each labelled prediction once, features in the schema's types, and why it can't be used."""
    schema, logged = params.schema_, predictions.kinds(db, "predictions")
    values, breaches = dict[str, str](), dict[str, str]()  # SQL by feature, and conditions by their words
    for name, column in schema.features.items():
        if not (names := [other for other in _names(schema, name) if other in logged]):
            print(f"ingest: the log has no {name}: its rows lack the value", flush=True)
        found = [predictions.value(column, other, logged[other]) for other in names]
        values[name] = value = f"coalesce({', '.join([*found, f'NULL::{column.kind.sql}'])})"
        given = " OR ".join([*(f"{quote(other)} IS NOT NULL" for other in names), "false"])
        breaches[f"{name} is no {column.type}"] = f"{value} IS NULL AND ({given})"
        breaches[f"{name} is missing"] = f"{value} IS NULL AND {not column.nullable}"
        levels = ", ".join(map(literal, column.values)) or value
        breaches[f"{name} has a level that the schema does not declare"] = f"{value} NOT IN ({levels})"
        bounds = {"<": column.min, ">": column.max}.items()
        wrong = [f"{value} {sign} {bound!r}" for sign, bound in bounds if bound is not None]
        breaches[f"{name} is out of range"] = " OR ".join([*wrong, "false"])
    reasons = {
        "they are of another table": f"NOT {predictions.own(params.source_table)}",
        "the log has none of their features": " AND ".join(f"{value} IS NULL" for value in values.values()),
    }
    why = " ".join(f"WHEN {test} THEN {literal(words)}" for words, test in (reasons | breaches).items())
    listed = ", ".join(f"{value} AS {quote(predictions.feature(name))}" for name, value in values.items())
    db.sql(
        f"CREATE TABLE rated AS SELECT prediction_id, entity, predicted_at, received_at, label, {listed}, CASE {why} END AS reason "
        "FROM predictions JOIN outcomes USING (prediction_id) "
        # In the shadow both models answer: the features are the same, one row is enough.
        "QUALIFY row_number() OVER (PARTITION BY prediction_id ORDER BY variant) = 1"
    )


def _names(schema: Schema, name: str) -> list[str]:
    """The log's columns that may hold a feature: its own, and that of its raw name, which it had before it was renamed."""
    raw = schema.rename.get(name, name)
    return [predictions.feature(n) for n in (name, *({raw} - schema.features.keys()))]


def _leave_out_twice(db: "duckdb.DuckDBPyConnection", schema: Schema) -> None:
    """Where the log has the whole key, leave out what data.source has, too, and what was predicted again later."""
    ours = {name: predictions.feature(name) for name in schema.features}
    ours |= {schema.entity: "entity"} if schema.entity else {}
    if not schema.key or not ours.keys() >= set(schema.key):
        return
    rated, events = predictions.kinds(db, "rated"), predictions.kinds(db, "events")
    # A key of which a part is missing is none.
    key = " || chr(0) || ".join(text_of(quote(ours[name]), rated[ours[name]]) for name in schema.key)
    theirs = " || chr(0) || ".join(text_of(quote(name), events[name]) for name in schema.key)
    newest = f"SELECT arg_max(prediction_id, (predicted_at, prediction_id)) FROM rated WHERE reason IS NULL GROUP BY {key}"
    for reason, test in {
        "data.source has them": f"{key} IN (SELECT {theirs} FROM events)",
        "they were predicted again": f"{key} IS NOT NULL AND prediction_id NOT IN ({newest})",
    }.items():
        db.sql(f"UPDATE rated SET reason = '{reason}' WHERE reason IS NULL AND {test}")
