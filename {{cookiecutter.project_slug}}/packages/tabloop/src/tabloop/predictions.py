"""The contract of the prediction log: the columns of its two tables, where they lie, how they are read.

`<log>/predictions/date=YYYY-MM-DD/*.parquet` has a row for each answer, `<log>/feedback/date=.../*.parquet` one for
each outcome that was reported. A feature's column begins with `feature_`, so that no feature can have the name of
another column of the log.
"""

import os
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from tabloop.cli import UserError
from tabloop.columns import literal, quote
from tabloop.params import ROOT, Column

if TYPE_CHECKING:
    import duckdb

# Column name -> its type as the log's writer takes it: a constructor of arro3's DataType, or "timestamp".
PREDICTIONS = {
    "prediction_id": "utf8",
    "predicted_at": "timestamp",
    "variant": "utf8",
    "model_version": "utf8",
    "entity": "utf8",
    "probability": "float64",
}
FEEDBACK = {"prediction_id": "utf8", "label": "int64", "received_at": "timestamp"}


class NothingLogged(UserError):
    """There is no prediction, or none since the given time."""


def location() -> str:
    """Where the log is: PREDICTION_LOG, a folder or a URL of fsspec's, or data/log."""
    return os.environ.get("PREDICTION_LOG") or str(ROOT / "data/log")


def feature(name: str) -> str:
    """The column of a feature in the log."""
    return f"feature_{name}"


def tables(columns: Mapping[str, Column]) -> dict[str, dict[str, str]]:
    """Both tables, their columns and types, for these features."""
    features = {feature(name): column.kind.arrow for name, column in columns.items()}
    return {"predictions": PREDICTIONS | features, "feedback": dict(FEEDBACK)}


def select(columns: Mapping[str, Column]) -> list[str]:
    """SQL that gives the features their own names again."""
    return [f"{quote(feature(name))} AS {quote(name)}" for name in columns]


def connect(since: datetime | None = None, log: str | None = None) -> "duckdb.DuckDBPyConnection":
    """DuckDB with the views `predictions` (from `since` on) and `outcomes` (the last label of each prediction).

    Raises:
        NothingLogged: there is no prediction; no failure where the service is new.
        UserError: the log can't be read.
    """
    import duckdb

    log = log or location()
    db = duckdb.connect()
    db.sql("SET TimeZone = 'UTC'")
    if "://" in log:
        import fsspec

        try:
            db.register_filesystem(fsspec.filesystem(log.split("://")[0]))
        except (ImportError, ValueError) as error:  # a package is missing, or there is no such protocol
            raise UserError(f"{log}: {error}") from None
    # The folder's date leaves most files unread. `union_by_name`: a column newer than a file is missing there.
    day = f"WHERE date >= '{since:%Y-%m-%d}' AND predicted_at >= '{since:%Y-%m-%d %H:%M:%S}'" if since else ""
    files = literal(f"{log}/predictions/date=*/*.parquet")
    options = "union_by_name = true, hive_partitioning = true"
    try:
        db.sql(f"CREATE VIEW predictions AS FROM read_parquet({files}, {options}) {day}")
        if not db.sql("SELECT 1 FROM predictions LIMIT 1").fetchall():
            ever = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
            raise NothingLogged(f"no prediction was logged in {log}{ever}")
    except duckdb.IOException:
        raise NothingLogged(
            f"there is no prediction log in {log}: set PREDICTION_LOG to where the service writes"
        ) from None
    except duckdb.Error as error:  # the last line of the file system's traceback
        reason = str(error).partition("\n\nLINE")[0].strip().splitlines()[-1]
        raise UserError(f"{log} can't be read: {reason}") from None
    outcomes = literal(f"{log}/feedback/date=*/*.parquet")
    last = "SELECT prediction_id, arg_max(label, received_at) AS label"
    try:
        db.sql(f"CREATE VIEW outcomes AS {last} FROM read_parquet({outcomes}) GROUP BY prediction_id")
    except duckdb.IOException:  # no label yet
        db.sql(
            "CREATE VIEW outcomes AS SELECT NULL::VARCHAR AS prediction_id, NULL::BIGINT AS label WHERE false"
        )
    return db


def log_of(source: str) -> str:
    """The log that `data.feedback` names: a URL, or a path from the project's folder."""
    return source if "://" in source else str(ROOT / source)
