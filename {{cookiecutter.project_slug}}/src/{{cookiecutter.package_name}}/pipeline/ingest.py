"""data.source, or the simulator, to data/raw: every raw table as Parquet, columns named as in the schema."""

import shutil

from ..params import ROOT, Params, UserError, load, stage

RAW = ROOT / "data/raw"


def ingest(params: Params) -> str:
    """Write data/raw: `events.parquet`, and by the simulator `users.parquet`; says what was made.

    Raises:
        UserError: the source can't be read or lacks a column of the schema; data/raw is as it was.
    """
    if params.data.source != "simulator":
        return from_source(params)
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
