"""DuckDB with bounded memory: what does not fit lies in a temporary file; what takes long has a progress bar."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from tabloop.cli import UserError
from tabloop.files import temporary
from tabloop.progress import progress, watched

if TYPE_CHECKING:
    import duckdb

T = TypeVar("T")
MEMORY = 4  # GB at most; half of what the machine has where that is less
SETTING = "TABLOOP_MEMORY"  # GB: the environment's say
LARGE = 100_000_000
BATCH = 8  # columns that one statement looks at: memory is bounded, and the progress is known


def connect(
    size: int = 0, *, memory: float = MEMORY, threads: int | None = None
) -> "duckdb.DuckDBPyConnection":
    """DuckDB in UTC with at most `memory` GB; what does not fit lies on the disk while it works.

    Args:
        size: bytes of the source: the tables of a large one lie in a temporary file, too.
        memory: TABLOOP_MEMORY in the environment counts instead.
        threads: None: as many as the machine has.

    Raises:
        UserError: TABLOOP_MEMORY is no number of GB.
    """
    import duckdb
    import psutil

    if given := os.environ.get(SETTING):
        try:
            memory = float(given)
        except ValueError:
            raise UserError(f"{SETTING}={given}: give a number of GB") from None
    folder = temporary()
    config: dict[str, Any] = {
        "memory_limit": f"{min(1000 * memory, psutil.virtual_memory().total // 2_000_000)}MB",
        "temp_directory": str(folder / "spilled"),
        "disabled_optimizers": "in_clause",  # it makes a join of x IN (...), after which rows are in any order
        "disabled_compression_methods": "dict_fsst",  # half the time of writing for twice the room
    }
    if threads:
        config["threads"] = threads
    db = duckdb.connect(str(folder / "table.duckdb") if size > LARGE else ":memory:", config=config)
    db.execute("SET TimeZone = 'UTC'")
    if sys.stderr.isatty():  # where bars are shown; Jupyter refuses this without ipywidgets
        db.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
    return db


def run(db: "duckdb.DuckDBPyConnection", sql: str, what: str) -> list[tuple[Any, ...]]:
    """The rows of a statement, with a progress bar."""
    with watched(what, db.query_progress):
        return db.execute(sql).fetchall()


def batches(columns: Iterable[T], what: str) -> Iterator[list[T]]:
    """Some columns at a time, with a progress bar."""
    left = list(columns)
    with progress(what, len(left)) as bar:
        for at in range(0, len(left), BATCH):
            yield left[at : at + BATCH]
            bar.update(BATCH)
