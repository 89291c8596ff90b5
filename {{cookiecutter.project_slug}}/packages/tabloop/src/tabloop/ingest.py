"""data.source, or the simulator, and data.feedback to data/raw: all as Parquet, columns named as in the schema."""

import shutil
from typing import TYPE_CHECKING

from ..params import ROOT, Params, Schema, UserError, load, stage

if TYPE_CHECKING:
    import duckdb

RAW = ROOT / "data/raw"


def ingest(params: Params) -> str:
    """Write data/raw: `events.parquet`, by the simulator `users.parquet`, `feedback.parquet`; says what was made.

    Raises:
        UserError: the source can't be read or lacks a column of the schema; data/raw is as it was.
    """
    feedback = labelled_predictions(params.schema_, params.data.feedback) if params.data.feedback else None
    made = from_source(params) if params.data.source != "simulator" else simulated(params)
    if feedback is None:
        return made
    feedback.write_parquet(str(RAW / "feedback.parquet"))
    return f"{made}, {len(feedback):,} labelled predictions"


def simulated(params: Params) -> str:
    """Write the simulator's tables.

    Raises:
        UserError: params.yaml does not say how large.
    """
    if params.data.simulator is None:
        raise UserError("params.yaml: data.simulator is missing, and data.source is simulator")
    from ..simulator import simulate

    tables = simulate(params.data.simulator)
    empty_raw()
    for name, table in tables.items():
        table.to_parquet(RAW / f"{name}.parquet", index=False)
    return ", ".join(f"{len(table):,} {name}" for name, table in tables.items())


def from_source(params: Params) -> str:
    """Write the table at data.source as `events.parquet`, its columns renamed to the schema's."""
    from ..table import quote, read

    table = read(params.data.source, ROOT)
    schema = params.schema_
    declared = [*schema.key, schema.entity, schema.timestamp, *schema.features]
    sources = {n: schema.sources.get(n, n) for n in declared if n}
    sources |= {n: c.source for n, c in schema.features.items() if c.source}
    sources[schema.target.name] = schema.target.source or schema.target.name
    computed = {n for view, columns in schema.views.items() for n in columns if has_sql(view)}
    if missing := [s for n, s in sources.items() if s not in table.columns and n not in computed]:
        raise UserError(
            f"{params.data.source} lacks column {missing[0]!r}; it has: {', '.join(table.columns)}"
        )
    names = {s: n for n, s in sources.items()}
    table = table.project(", ".join(f"{quote(c)} AS {quote(names.get(c, c))}" for c in table.columns))
    rows = table.aggregate("count(*)").fetchall()[0][0]
    empty_raw()
    table.write_parquet(str(RAW / "events.parquet"))
    return f"{rows:,} events from {params.data.source}"


def labelled_predictions(schema: Schema, target: str) -> "duckdb.DuckDBPyRelation | None":
    """The log's labelled rows as they were served: key, entity, event_timestamp, features, target as 0 or 1.

    None, said on stdout, while nothing was logged. The service has checked them by the schema, one by one.

    Raises:
        UserError: the log can't be read.
    """
    from ..monitoring.log import NothingLogged, connect
    from ..table import quote

    try:
        db = connect(target=target if "://" in target else str(ROOT / target))
    except NothingLogged as error:
        print(f"ingest: {error}", flush=True)
        return None
    key = [name for name in schema.key if name not in (schema.entity, schema.timestamp)]
    columns = [*([schema.entity] if schema.entity else []), *schema.features]
    listed = [*(f"prediction_id AS {quote(name)}" for name in key), *map(quote, columns)]
    db.sql(
        f"CREATE TABLE labelled AS SELECT {', '.join(listed)}, predicted_at::TIMESTAMP AS event_timestamp, "
        f"label::TINYINT AS {quote(schema.target.name)} FROM predictions JOIN outcomes USING (prediction_id) "
        "QUALIFY row_number() OVER (PARTITION BY prediction_id) = 1"
    )
    return db.table("labelled")


def has_sql(view: str) -> bool:
    """Whether feature_repo computes the view, so that the raw table need not have its columns."""
    return (ROOT / f"feature_repo/{view}.sql").exists()


def empty_raw() -> None:
    """Begin data/raw anew."""
    shutil.rmtree(RAW, ignore_errors=True)
    RAW.mkdir(parents=True)


if __name__ == "__main__":
    with stage("ingest"):
        print(f"ingest: {ingest(load())} -> data/raw")
