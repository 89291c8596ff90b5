"""The contract of the prediction log: the columns of its two tables, where they lie, how they are read.

`<log>/predictions/date=YYYY-MM-DD/*.parquet` has a row for each answer, `<log>/feedback/date=.../*.parquet` one for
each outcome that was reported. `log_files` says which of the files count. A feature's column begins with `feature_`, so
that no feature can have the name of another column of the log.
"""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from tabloop import database
from tabloop.cli import UserError, explained, one_line
from tabloop.columns import literal, quote, text_of
from tabloop.params import ROOT, Column, Params

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

CHECKED = "drift-checked"  # beside the tables: Unix time of the last drift check, which the service shows
LOG = "data/log"  # where the log is by default, from the project's folder
# Column name -> its type as the log's writer takes it: a constructor of arro3's DataType, or "timestamp".
PREDICTIONS = {
    "prediction_id": "utf8",
    "predicted_at": "timestamp",
    "variant": "utf8",
    "model_version": "utf8",
    "entity": "utf8",
    "probability": "float64",
    "threshold": "float64",  # by which the model decided
    "source_table": "utf8",  # that the model was trained on: ModelCard.source_table
    "mode": "utf8",  # of the service: off, shadow or ab
    "share": "float64",  # of the entities, that the challenger is to answer; null unless the mode is ab
    "champion": "utf8",  # both models' versions, whichever variant the row is of
    "challenger": "utf8",  # null in the mode off
    "trace_id": "utf8",  # of the request: W3C Trace Context
}
ROUTING = ("mode", "share", "champion", "challenger")
FEEDBACK = {"prediction_id": "utf8", "label": "int64", "received_at": "timestamp"}


class NothingLogged(UserError):
    """There is no prediction, or none since the given time."""


def set_aside() -> list[Path]:
    """The logs of tables that the project had before, which `adopt` moved aside. Readers look for LOG/predictions alone."""
    return list((ROOT / LOG).glob("before-*"))


def location() -> str:
    """Where the log is: PREDICTION_LOG, a folder or a URL of fsspec's, or LOG."""
    return os.environ.get("PREDICTION_LOG") or str(ROOT / LOG)


def window(params: Params) -> datetime:
    """When the time begins that checks look at: `monitoring.window_days` ago, UTC."""
    return datetime.now(UTC) - timedelta(days=params.monitoring.window_days)


def feature(name: str) -> str:
    """The column of a feature in the log."""
    return f"feature_{name}"


def tables(columns: Mapping[str, Column]) -> dict[str, dict[str, str]]:
    """Both tables, their columns and types, for these features."""
    features = {feature(name): column.kind.arrow for name, column in columns.items()}
    return {"predictions": PREDICTIONS | features, "feedback": dict(FEEDBACK)}


def select(db: "duckdb.DuckDBPyConnection", columns: Mapping[str, Column]) -> list[str]:
    """SQL that gives the features that the log has their own names and the schema's types again."""
    logged = kinds(db, "predictions")
    known = {name: column for name, column in columns.items() if feature(name) in logged}
    return [f"{value(c, feature(n), logged[feature(n)])} AS {quote(n)}" for n, c in known.items()]


def kinds(db: "duckdb.DuckDBPyConnection", name: str) -> dict[str, str]:
    """The columns of a table or view and their types in DuckDB."""
    found = db.sql(f"FROM {name}")
    return dict(zip(found.columns, map(str, found.types), strict=True))


def value(column: Column, name: str, kind: str) -> str:
    """SQL for a logged value in the column's type now. Of another type, logged before the schema changed, it is missing.

    Args:
        name: the log's column.
        kind: its type in DuckDB.
    """
    logged, number = quote(name), f"TRY_CAST({quote(name)} AS DOUBLE)"
    if kind == column.kind.sql:
        return logged
    if column.type == "category":
        return text_of(logged, kind)
    # A cast would round to a whole number, and take every number but 0 for true.
    fits = {"integer": f"{number} % 1 = 0", "boolean": f"coalesce({number} IN (0, 1), true)"}
    return f"CASE WHEN {fits.get(column.type, 'true')} THEN TRY_CAST({logged} AS {column.kind.sql}) END"


def own(source_table: str | None) -> str:
    """The SQL condition for predictions of this table: the service logs of which one a row is."""
    return (
        f"predictions.source_table IS NOT DISTINCT FROM {literal(source_table) if source_table else 'NULL'}"
    )


def connect(since: datetime | None = None, log: str | None = None) -> "duckdb.DuckDBPyConnection":
    """DuckDB with the views `predictions` (from `since` on) and `outcomes`: the last label of each prediction.

    `received_at` says when it came, `changed` whether there was another one before it.

    Raises:
        NothingLogged: there is no prediction; no failure where the service is new.
        UserError: the log can't be read.
    """
    log = log or location()
    db = database.connect()
    if "://" in log:
        import fsspec

        with explained(log, ImportError, ValueError):  # a package is missing, or there is no such protocol
            db.register_filesystem(fsspec.filesystem(log.split("://")[0]))
    # The folder's date leaves most files unread. `union_by_name`: a feature newer than a file is missing there.
    day = f"WHERE date >= '{since:%Y-%m-%d}' AND predicted_at >= '{since:%Y-%m-%d %H:%M:%S}'" if since else ""
    last = (
        "SELECT prediction_id, arg_max(label, (received_at, label)) AS label, max(received_at) AS received_at, "
        "min(label) < max(label) AS changed"
    )
    if not _view(db, log, "predictions", "CREATE VIEW predictions AS FROM {} " + day, since):
        raise NothingLogged(f"there is no prediction log in {log}: set PREDICTION_LOG to the service's")
    if not _view(db, log, "feedback", f"CREATE VIEW outcomes AS {last} FROM {{}} GROUP BY prediction_id"):
        types = "'' AS prediction_id, 0::BIGINT AS label, now() AS received_at, false AS changed"
        db.sql(f"CREATE VIEW outcomes AS SELECT {types} WHERE false")
    with errors():
        empty = not db.sql("SELECT 1 FROM predictions LIMIT 1").fetchall()
    if empty:
        ever = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
        raise NothingLogged(f"no prediction was logged in {log}{ever}")
    return db


def _view(
    db: "duckdb.DuckDBPyConnection", log: str, table: str, statement: str, since: datetime | None = None
) -> bool:
    """Make a view of one of the log's tables; whether the table has a file.

    Raises:
        UserError: a file can't be read.
    """
    import duckdb

    if not (files := _files(log, table, since)):
        return False
    listed = f"[{', '.join(map(literal, files))}]"
    try:
        db.sql(statement.format(f"read_parquet({listed}, union_by_name = true, hive_partitioning = true)"))
        return True
    except duckdb.Error as error:
        # A remote file system's error ends with the last line of its traceback.
        reason = str(error).partition("\n\nLINE")[0].strip().splitlines()[-1]
        raise UserError(f"{log} can't be read: {reason}") from None


def _files(log: str, table: str, since: datetime | None) -> list[str]:
    """The files of a table that count, from a day on; where there is none, of all days.

    Raises:
        UserError: they can't be listed.
    """
    import fsspec

    from tabloop import log_files

    with explained(f"{log} can't be read"):
        fs, folder = fsspec.url_to_fs(f"{log}/{table}")
        if "://" not in log and Path(log).exists():
            any(Path(log).iterdir())  # it is a folder
        return log_files.current(fs, folder, since) or log_files.current(fs, folder)


def mark_checked() -> None:
    """Tell the service, beside the log, that drift was checked now. Where that can't be written, a line says so."""
    import fsspec

    marker = f"{location()}/{CHECKED}"
    try:
        fs, path = fsspec.url_to_fs(marker)
        fs.pipe_file(path, b"%d" % time.time())
    except Exception as error:  # each file system has its own
        what = f"{marker} can't be written: {one_line(error)}"
        print(f"drift: {what}; the alert DriftNotChecked will fire", file=sys.stderr)


def table(db: "duckdb.DuckDBPyConnection", query: str) -> "pd.DataFrame":
    """The rows of a query of the log.

    Raises:
        UserError: a file can't be read.
    """
    with errors():
        return db.sql(query).df()


def errors() -> AbstractContextManager[None]:
    """Raises: UserError: a file can't be read, or lacks a column."""
    import duckdb

    return explained("the prediction log can't be read", duckdb.Error)


def served(version: str, variant: str) -> str:
    """The SQL condition for the predictions of a model version as this variant."""
    return f"(predictions.variant = {literal(variant)} AND predictions.model_version = {literal(version)})"


def log_of(source: str) -> str:
    """The log that `data.feedback` names: a URL, or a path from the project's folder."""
    return source if "://" in source else str(ROOT / source)
