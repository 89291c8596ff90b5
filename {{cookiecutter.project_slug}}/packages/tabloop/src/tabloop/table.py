"""Tables as users have them: CSV or Parquet, a path or a URL."""

import atexit
import keyword
import re
import shutil
import tempfile
from pathlib import Path

import duckdb

from tabloop.cli import UserError, one_line
from tabloop.columns import class_text, quote
from tabloop.params import RESERVED, Reading
from tabloop.reading.result import Note, Overrides, Table

__all__ = ["Note", "Overrides", "Table", "read"]

YAML_WORDS = {
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
    "true",
    "false",
    "null",
}  # which YAML reads as other than text
MISSING = ["", " ", "NA", "N/A", "n/a", "null", "NULL", "None", "nan", "NaN", "?"]


def read(
    source: str, root: Path, reading: Reading | None = None, overrides: Overrides | None = None
) -> Table:
    """The table at `source`: a path, relative ones from `root`, or a URL that fsspec knows.

    Args:
        reading: how it is read; nothing is guessed. Without it, all is found from all of the file.
        overrides: what is not to be guessed.

    Raises:
        UserError: there is no such file, it holds no table, or values that the reading does not allow.
    """
    path = _fetched(source) if "://" in source else root / source
    if not path.is_file():
        raise UserError(f"{source}: no such file")
    if not path.stat().st_size:
        raise UserError(f"{source} is empty")
    try:
        table = duckdb.read_parquet(str(path)) if path.suffix in (".parquet", ".pq") else _csv(path)
        if not table.limit(1).fetchall():
            raise UserError(f"{source} has no rows")
    except duckdb.Error as error:
        raise UserError(f"{source} can't be read as a table: {one_line(error)[:300]}") from None
    return Table(table, reading or Reading())


def classes(table: duckdb.DuckDBPyRelation, target: str) -> dict[str, tuple[str, int]]:
    """The target's values as DuckDB writes them: the class of each by `class_text`, and its rows.

    SQL has no part in the rule: its lower() and trim() differ from Python's. At most 1,000 values are read.
    """
    column = f"{quote(target)}::VARCHAR"
    counts = table.aggregate(f"{column} AS value, count(*) AS n").filter("value IS NOT NULL")
    return {
        value: (class_text(value), rows) for value, rows in counts.order("n, value").limit(1000).fetchall()
    }


def snake(name: str) -> str:
    """A name in snake case and ASCII: TotalCharges is total_charges, Größe is grosse."""
    from slugify import slugify

    return slugify(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name), separator="_")


def safe_names(columns: list[str]) -> dict[str, str]:
    """Each column's name in snake case and ASCII, as Python, YAML, SQL, Feast and JSON all take it."""
    names: dict[str, str] = {}
    for column in columns:
        name = snake(column) or "column"
        if not name[0].isalpha():
            name = f"c_{name}"
        if keyword.iskeyword(name) or name in (*RESERVED, *YAML_WORDS):
            name += "_"
        unique, n = name, 2
        while unique in names.values():
            unique, n = f"{name}_{n}", n + 1
        names[column] = unique
    return names


def _csv(path: Path) -> duckdb.DuckDBPyRelation:
    try:
        return _sniffed(path)
    except duckdb.Error as error:
        if "utf-8" not in str(error):
            raise
    print(f"{path.name} is not UTF-8: read as Windows-1252", flush=True)
    copy = _temporary() / path.name
    with path.open(encoding="cp1252", errors="replace") as source, copy.open("w", encoding="utf-8") as target:
        shutil.copyfileobj(source, target)
    return _sniffed(copy)


def _sniffed(path: Path) -> duckdb.DuckDBPyRelation:
    table = duckdb.read_csv(str(path), header=True, sample_size=-1, na_values=MISSING)
    table.aggregate("count(COLUMNS(*))").fetchall()  # reads it all: a bad byte may stand anywhere
    return table


def _fetched(url: str) -> Path:
    import fsspec

    path = _temporary() / Path(url.split("?")[0]).name
    print(f"fetching {url} ...", flush=True)
    try:
        with fsspec.open(url) as remote, path.open("wb") as local:
            shutil.copyfileobj(remote, local)
    except Exception as error:  # each protocol has exceptions of its own
        raise UserError(f"{url} can't be fetched: {one_line(error)}") from None
    return path


def _temporary() -> Path:
    """A folder that lasts as long as the process: DuckDB reads a table when it is asked for rows."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
