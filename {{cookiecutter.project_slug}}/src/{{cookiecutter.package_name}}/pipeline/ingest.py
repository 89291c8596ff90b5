"""data.source, or the simulator, to data/raw: every raw table as Parquet, columns named as in the schema."""

import shutil
import tempfile
from pathlib import Path

from ..params import ROOT, Params, UserError, load, stage

RAW = ROOT / "data/raw"


def ingest(params: Params, out: Path) -> str:
    """Write `out/events.parquet` (the simulator: `out/users.parquet` too); says what was made.

    Raises:
        UserError: the source can't be read or lacks a column of the schema.
    """
    if params.data.source == "simulator":
        if params.data.simulator is None:
            raise UserError("params.yaml: data.simulator is missing, and data.source is simulator")
        from ..simulator import simulate

        tables = simulate(params.data.simulator)
        for name, made in tables.items():
            made.to_parquet(out / f"{name}.parquet", index=False)
        return ", ".join(f"{len(made):,} {name}" for name, made in tables.items())

    from ..table import quote, read

    table = read(params.data.source, ROOT)
    schema = params.schema_
    declared = [*schema.key, schema.entity, schema.timestamp, *schema.features]
    sources = {n: schema.sources.get(n, n) for n in declared if n}
    sources |= {n: c.source for n, c in schema.features.items() if c.source}
    sources[schema.target.name] = schema.target.source or schema.target.name
    if missing := [s for n, s in sources.items() if s not in table.columns and not _computed(n, params)]:
        raise UserError(
            f"{params.data.source} lacks column {missing[0]!r}; it has: {', '.join(table.columns)}"
        )
    renamed = {s: n for n, s in sources.items()}
    table = table.project(", ".join(f"{quote(c)} AS {quote(renamed.get(c, c))}" for c in table.columns))
    table.write_parquet(str(out / "events.parquet"))
    rows = table.aggregate("count(*)").fetchall()[0][0]
    return f"{rows:,} events from {params.data.source}"


def _computed(name: str, params: Params) -> bool:
    """Whether SQL in feature_repo makes the column, so that the raw table need not have it."""
    return any(
        name in columns and (ROOT / f"feature_repo/{view}.sql").exists()
        for view, columns in params.schema_.views.items()
    )


if __name__ == "__main__":
    with stage("ingest"), tempfile.TemporaryDirectory(dir=ROOT) as temporary:
        made = ingest(load(), Path(temporary))
        shutil.rmtree(RAW, ignore_errors=True)
        shutil.copytree(temporary, RAW)
        print(f"ingest: {made} -> data/raw")
