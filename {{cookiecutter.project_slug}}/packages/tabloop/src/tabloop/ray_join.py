"""The point-in-time join on a Ray cluster: by blocks of entities, each joined by `asof` in a worker."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tabloop import database, ray_engine
from tabloop.asof import asof_join, schema_views
from tabloop.batch import ahead
from tabloop.columns import literal, quote
from tabloop.params import Schema

if TYPE_CHECKING:
    import duckdb

EVENTS = "events."  # no name of a view has a dot
BLOCKS = 2  # for each core: of blocks that differ in size, no core waits long for the last one


def join(db: "duckdb.DuckDBPyConnection", events: str, schema: Schema, views: Path, joined: Path) -> None:
    """Write the joined events to the file `joined`: the rows of the local join, in another order.

    Args:
        events: DuckDB's SQL.
        views: the folder with `<view>.parquet`.
    """
    sources = {EVENTS: f"({events})"}
    sources |= {view: f"read_parquet({literal(views / f'{view}.parquet')})" for view in schema.views}
    entity = quote(str(schema.entity))
    kinds = {str(db.sql(f"SELECT {entity} FROM {source}").types[0]) for source in sources.values()}
    with ray_engine.cluster(Block(schema)) as cluster, TemporaryDirectory(dir=joined.parent) as folder:
        # Equal values of two types may have two hashes.
        blocks = BLOCKS * cluster.cores if len(kinds) == 1 else 1

        def cut() -> Iterator[dict[str, bytes]]:
            for block in range(blocks):
                files = {}
                for name, source in sources.items():
                    rows = f"FROM {source} WHERE hash({entity}) % {blocks} = {block}"
                    db.sql(rows).write_parquet(str(path := Path(folder) / "rows.parquet"))
                    files[name] = path.read_bytes()
                yield files

        for number, rows in enumerate(ahead(cluster.submit, cut(), blocks)):
            Path(folder, f"{number:05}.joined").write_bytes(rows)
        # As one file: what DuckDB sorts and writes after reading several files has other bytes.
        db.read_parquet(f"{folder}/*.joined").write_parquet(str(joined))


class Block:
    """The join of one block of entities."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def __call__(self, files: dict[str, bytes]) -> bytes:
        """The joined events, for the events and views of the block; all of them Parquet."""
        with TemporaryDirectory() as folder:
            for name, content in files.items():
                Path(folder, f"{name}.parquet").write_bytes(content)
            db = database.connect(threads=1)
            events = db.read_parquet(str(Path(folder, f"{EVENTS}.parquet")))
            made = Path(folder, "joined.parquet.")
            asof_join(events, schema_views(self.schema, Path(folder))).write_parquet(str(made))
            return made.read_bytes()
