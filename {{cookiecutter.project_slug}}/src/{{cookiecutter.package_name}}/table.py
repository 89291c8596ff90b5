"""Tables as users have them: CSV or Parquet, a path or a URL."""

import shutil
import tempfile
from pathlib import Path

import duckdb

from .params import UserError

MISSING = ["", " ", "NA", "N/A", "n/a", "null", "NULL", "None", "nan", "NaN", "?"]


def read(source: str, root: Path) -> duckdb.DuckDBPyRelation:
    """The table at `source`: a path, relative ones from `root`, or a URL that fsspec knows.

    Delimiter, types and encoding of a CSV are found from all of it; what is in MISSING is null.

    Raises:
        UserError: there is no such file, or it holds no table.
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
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{source} can't be read as a table: {reason}") from None
    return table


def quote(name: str) -> str:
    """A column's name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def _csv(path: Path) -> duckdb.DuckDBPyRelation:
    failed: duckdb.Error | None = None
    for encoding in ("utf-8", "latin-1"):
        try:
            table = duckdb.read_csv(
                str(path), header=True, sample_size=-1, na_values=MISSING, encoding=encoding
            )
            table.aggregate("count(COLUMNS(*))").fetchall()  # reads it all: a bad byte may stand anywhere
            return table
        except duckdb.Error as error:
            failed = failed or error
    assert failed
    raise failed


def _fetched(url: str) -> Path:
    import atexit

    import fsspec

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / Path(url.split("?")[0]).name
    print(f"fetching {url} ...", flush=True)
    try:
        with fsspec.open(url) as remote, path.open("wb") as local:
            shutil.copyfileobj(remote, local)
    except Exception as error:  # whatever its protocol raises
        raise UserError(f"{url} can't be fetched: {error}") from None
    return path
