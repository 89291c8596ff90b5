"""The prediction log as tables: what was answered, and what turned out to be true."""

import os
from datetime import datetime

import duckdb

from ..params import ROOT, UserError

TARGET = os.environ.get("PREDICTION_LOG", str(ROOT / "data/log"))


class NothingLogged(UserError):
    """No prediction is there, or none since then."""


def connect(since: datetime | None = None, target: str = TARGET) -> duckdb.DuckDBPyConnection:
    """DuckDB with the views `predictions` (of `since` on) and `outcomes` (label of a prediction, its last one).

    Raises:
        NothingLogged: which is no failure where the service is new.
        UserError: the place can't be read.
    """
    db = duckdb.connect()
    db.sql("SET TimeZone = 'UTC'")
    if "://" in target:
        import fsspec

        try:
            db.register_filesystem(fsspec.filesystem(target.split("://")[0]))
        except (ImportError, ValueError) as error:  # it needs a package, or there is no such protocol
            raise UserError(f"{target}: {error}") from None
    try:
        # The folder's date leaves most files unread; a column that is newer than a file is missing there.
        day = (
            f"WHERE date >= '{since:%Y-%m-%d}' AND predicted_at >= '{since:%Y-%m-%d %H:%M:%S}'"
            if since
            else ""
        )
        db.sql(
            f"CREATE VIEW predictions AS FROM read_parquet('{target}/predictions/date=*/*.parquet', "
            f"union_by_name = true, hive_partitioning = true) {day}"
        )
        if not db.sql("SELECT 1 FROM predictions LIMIT 1").fetchall():
            ever = f" since {since:%Y-%m-%d %H:%M} UTC" if since else ""
            raise NothingLogged(f"no prediction was logged in {target}{ever}")
    except duckdb.IOException:
        raise NothingLogged(
            f"there is no prediction log in {target}: set PREDICTION_LOG to where the service writes"
        ) from None
    except duckdb.Error as error:  # the last line of a traceback of the file system's
        reason = str(error).partition("\n\nLINE")[0].strip().splitlines()[-1]
        raise UserError(f"{target} can't be read: {reason}") from None
    try:
        db.sql(
            "CREATE VIEW outcomes AS SELECT prediction_id, arg_max(label, received_at) AS label "
            f"FROM read_parquet('{target}/feedback/date=*/*.parquet') GROUP BY prediction_id"
        )
    except duckdb.IOException:  # no label yet
        db.sql(
            "CREATE VIEW outcomes AS SELECT NULL::VARCHAR AS prediction_id, NULL::BIGINT AS label WHERE false"
        )
    return db


def say(**outputs: object) -> None:
    """Outputs of a workflow's step, where this is one."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        with open(path, "a") as file:  # noqa: PTH123
            file.writelines(f"{name}={str(value).lower()}\n" for name, value in outputs.items())
