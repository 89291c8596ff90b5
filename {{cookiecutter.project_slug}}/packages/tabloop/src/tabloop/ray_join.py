"""The point-in-time join on a Ray cluster: by blocks of entities, each joined by `asof` in a worker."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from tabloop import asof, database, ray_engine
from tabloop.batch import ahead
from tabloop.columns import literal, quote
from tabloop.params import Schema

EVENTS = "events."  # no name of a view has a dot
BLOCK = "tabloop.block"
BLOCKS = 2  # for each core, which are in the object store at a time: no core waits for the next one
ROWS = 250_000  # of events in a block, about


def join(db: duckdb.DuckDBPyConnection, events: str, schema: Schema, views: Path, joined: Path) -> None:
    """Write the joined events to the file `joined`: the rows of the local join, in another order.

    Args:
        events: DuckDB's SQL.
        views: the folder with `<view>.parquet`.
    """
    sources = {EVENTS: f"({events})"}
    sources |= {view: f"read_parquet({literal(views / f'{view}.parquet')})" for view in schema.views}
    entity = quote(str(schema.entity))
    kinds = {str(db.sql(f"SELECT {entity} FROM {source}").types[0]) for source in sources.values()}
    rows = db.sql(f"SELECT count(*) FROM {sources[EVENTS]}").fetchall()[0][0]
    work = partial(join_block, schema)
    with ray_engine.cluster(work) as cluster, TemporaryDirectory(dir=joined.parent) as folder:
        most = BLOCKS * cluster.cores
        # Equal values of two types may have two hashes.
        blocks = max(most, rows // ROWS) if len(kinds) == 1 else 1
        for name, source in sources.items():
            cut = f"SELECT *, hash({entity}) % {blocks} AS {quote(BLOCK)} FROM {source}"
            to = f"{literal(Path(folder, name))} (FORMAT parquet, PARTITION_BY ({quote(BLOCK)}))"
            database.run(db, f"COPY ({cut}) TO {to}", f"cutting {name.removesuffix('.')}")
            db.sql(f"FROM {source} LIMIT 0").write_parquet(str(Path(folder, f"{name}.none")))

        def read(block: int) -> dict[str, list[bytes]]:
            paths = {n: [*Path(folder, n, f"{BLOCK}={block}").glob("*")] for n in sources}
            found = {name: parts or [Path(folder, f"{name}.none")] for name, parts in paths.items()}
            return {name: [path.read_bytes() for path in parts] for name, parts in found.items()}

        for number, content in enumerate(ahead(cluster.submit, map(read, range(blocks)), most)):
            Path(folder, f"{number:05}.joined").write_bytes(content)
        # As one file: what DuckDB sorts and writes after reading several files has other bytes.
        db.read_parquet(f"{folder}/*.joined").write_parquet(str(joined))


def join_block(schema: Schema, files: dict[str, list[bytes]]) -> bytes:
    """In a worker: the joined events, for the events and views of a block; all of them Parquet."""
    with TemporaryDirectory() as folder:
        for name, contents in files.items():
            Path(folder, f"{name}.parquet").mkdir()
            for number, content in enumerate(contents):
                Path(folder, f"{name}.parquet", f"{number}.parquet").write_bytes(content)
        events = database.connect(threads=1).read_parquet(str(Path(folder, f"{EVENTS}.parquet")))
        made = Path(folder, "joined.parquet.")
        asof.asof_join(events, asof.schema_views(schema, Path(folder))).write_parquet(str(made))
        return made.read_bytes()
