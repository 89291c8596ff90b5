"""DuckDB with bounded memory: what does not fit lies in a temporary file; what takes long has a progress bar."""

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from tabloop.reading.source import progress, temporary

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")
MEMORY = "2GB"
LARGE = 100_000_000
BATCH = 8  # columns that one statement looks at: memory is bounded, and the progress is known


def connect(size: int) -> "duckdb.DuckDBPyConnection":
    """A database of its own for a source of so many bytes: in memory, or in a temporary file."""
    import duckdb

    db = duckdb.connect(str(temporary() / "table.duckdb") if size > LARGE else ":memory:")
    db.execute(f"SET memory_limit = '{MEMORY}'; SET TimeZone = 'UTC'")
    db.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
    db.execute(
        "SET disabled_compression_methods = 'dict_fsst'"
    )  # half the time of writing for twice the room
    return db


def run(db: "duckdb.DuckDBPyConnection", sql: str, what: str) -> list[tuple[Any, ...]]:
    """The rows of a statement, with a progress bar."""
    done = threading.Event()
    with progress(what, 100) as bar:

        def watch() -> None:
            while not done.wait(0.3):
                bar.update(max(db.query_progress(), bar.n) - bar.n)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            return db.execute(sql).fetchall()
        finally:
            done.set()
            thread.join()


def batches(columns: Iterable[T], what: str) -> Iterator[list[T]]:
    """Some columns at a time, with a progress bar."""
    left = list(columns)
    with progress(what, len(left)) as bar:
        for at in range(0, len(left), BATCH):
            yield left[at : at + BATCH]
            bar.update(BATCH)
