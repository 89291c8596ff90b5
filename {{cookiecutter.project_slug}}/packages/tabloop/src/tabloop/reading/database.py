"""DuckDB with bounded memory: what does not fit lies in a temporary file; long statements show their progress."""

import threading
from typing import TYPE_CHECKING, Any

from tabloop.reading.source import temporary

if TYPE_CHECKING:
    import duckdb

MEMORY = "2GB"
LARGE = 100_000_000


def connect(size: int) -> "duckdb.DuckDBPyConnection":
    """A database of its own for a source of so many bytes: in memory, or in a temporary file."""
    import duckdb

    db = duckdb.connect(str(temporary() / "table.duckdb") if size > LARGE else ":memory:")
    db.execute(f"SET memory_limit = '{MEMORY}'; SET TimeZone = 'UTC'")
    db.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
    return db


def run(db: "duckdb.DuckDBPyConnection", sql: str, what: str) -> list[tuple[Any, ...]]:
    """The rows of a statement; on a terminal with a progress bar if it takes more than a second."""
    import sys

    if not sys.stderr.isatty():
        return db.execute(sql).fetchall()
    from tqdm import tqdm

    done = threading.Event()
    with tqdm(
        total=100, desc=what, delay=1, leave=False, bar_format="{desc}: {percentage:3.0f}%|{bar}|"
    ) as bar:

        def watch() -> None:
            while not done.wait(0.3):
                bar.n = max(db.query_progress(), 0)
                bar.refresh()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            return db.execute(sql).fetchall()
        finally:
            done.set()
            thread.join()
