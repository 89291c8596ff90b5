"""data/raw to data/features: the views' SQL, Feast's point-in-time join, the split into train and holdout."""

import contextlib
import io
import shutil
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from ..params import ROOT, Column, Params, Schema, UserError, load, stage

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

FEATURES = ROOT / "data/features"
PANDAS_TYPES = {"integer": "Int64", "boolean": "boolean"}  # which keep missing values apart from numbers
SQL_TYPES = {"number": "DOUBLE", "integer": "BIGINT", "boolean": "BOOLEAN", "category": "VARCHAR"}


def connect(raw: Path) -> duckdb.DuckDBPyConnection:
    """Every table of `raw` as a DuckDB view of its name."""
    connection = duckdb.connect()
    for path in sorted(raw.glob("*.parquet")):
        connection.read_parquet(str(path)).create_view(path.stem)
    return connection


def view_rows(
    db: duckdb.DuckDBPyConnection, schema: Schema, view: str, definitions: Path
) -> duckdb.DuckDBPyRelation:
    """One view's rows: entity, event_timestamp (when they were known), the view's columns in the schema's types.

    Computed by `definitions/<view>.sql`; without that file they are the events' own columns, one row per
    entity and time.

    Raises:
        UserError: the SQL is wrong or does not give a column that the schema declares.
    """
    path = definitions / f"{view}.sql"
    columns = schema.views[view]
    source = path.read_text() if path.exists() else "FROM events"
    try:
        rows = db.sql(f"SELECT {_typed(schema, columns)} FROM ({source})")
        return rows if path.exists() else rows.distinct()
    except duckdb.Error as error:
        raise UserError(
            f"{path.name if path.exists() else f'view {view}'}: {' '.join(str(error).split())}"
        ) from None


def labelled_events(db: duckdb.DuckDBPyConnection, schema: Schema) -> "pd.DataFrame":
    """The events whose label is known: key, entity, event_timestamp, request columns, target as 0 or 1."""
    target = f'"{schema.target.name}"'
    positive = str(schema.target.positive).lower().replace("'", "''")
    key = "".join(f'"{name}", ' for name in schema.key if name not in (schema.entity, schema.timestamp))
    return db.sql(
        f"SELECT {key}{_typed(schema, schema.request)}, (lower({target}::VARCHAR) = '{positive}')::TINYINT AS {target} "
        f"FROM events WHERE {target} IS NOT NULL ORDER BY ALL"
    ).df()


def _typed(schema: Schema, columns: dict[str, Column]) -> str:
    """SELECT list; without a timestamp every row is of the same moment, so that the join keeps its form."""
    time = f'"{schema.timestamp}"::TIMESTAMP' if schema.timestamp else "TIMESTAMP '2000-01-01'"
    entity = [f'"{schema.entity}"::VARCHAR AS "{schema.entity}"'] if schema.entity else []
    # A whole number in text or float form ("3.0") is an integer too, hence the way through DOUBLE.
    casts = [
        f'"{name}"{"::DOUBLE" if c.type == "integer" else ""}::{SQL_TYPES[c.type]} AS "{name}"'
        for name, c in columns.items()
    ]
    return ", ".join([*entity, f"{time} AS event_timestamp", *casts])


def feature_store(repo: Path) -> "FeatureStore":
    """Feast's store, with the definitions of `repo` applied."""
    sys.path.insert(0, str(repo))
    from definitions import entity, views
    from feast import FeatureStore

    warnings.filterwarnings("ignore", category=DeprecationWarning, module="ibis")
    store = FeatureStore(repo_path=str(repo))
    store.apply([entity, *views])
    return store


def materialize(store: "FeatureStore") -> None:
    """The newest row of every entity to the online store, where the service looks features up."""
    with contextlib.redirect_stdout(io.StringIO()):  # a page of Feast's own
        store.materialize(datetime(1970, 1, 1, tzinfo=UTC), datetime.now(UTC))


def join(events: "pd.DataFrame", schema: Schema, store: "FeatureStore") -> "pd.DataFrame":
    """Feast's point-in-time join: each event gets, of every view, the row last known at its time."""
    events = events.assign(event_timestamp=events.event_timestamp.dt.tz_localize("UTC"))
    names = [f"{view}:{column}" for view, columns in schema.views.items() for column in columns]
    joined = store.get_historical_features(entity_df=events, features=names).to_df()
    return joined.assign(event_timestamp=joined.event_timestamp.dt.tz_localize(None)).astype(
        whole_numbers(schema)
    )


def whole_numbers(schema: Schema) -> dict[str, str]:
    """The pandas types of the features that are not to become floats where values are missing."""
    return {n: PANDAS_TYPES[c.type] for n, c in schema.features.items() if c.type in PANDAS_TYPES}


def split(rows: "pd.DataFrame", schema: Schema, share: float) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Train and holdout: the newest rows are held out; without timestamps, a hash of the entity (or row) decides.

    Raises:
        UserError: one of the two lacks a class of the target.
    """
    import pandas as pd

    if schema.timestamp:
        held = rows.event_timestamp >= rows.event_timestamp.quantile(1 - share, interpolation="higher")
    else:
        unit = rows[schema.entity] if schema.entity else rows.drop(columns=schema.target.name)
        hashes = pd.util.hash_pandas_object(unit, index=False)
        held = (hashes / 2**64) < share
    parts = {"train": rows[~held], "holdout": rows[held]}
    for name, part in parts.items():
        if (classes := part[schema.target.name].nunique()) < 2:
            raise UserError(
                f"the {name} part has {len(part):,} labelled rows and {classes} of the target's 2 classes: "
                "it needs both; give more data or change split.holdout in params.yaml"
            )
    return parts["train"], parts["holdout"]


def featurize(params: Params, raw: Path) -> str:
    """Write data/features: `<view>.parquet` for Feast, `train.parquet`, `holdout.parquet`; says what was made."""
    schema, repo = params.schema_, ROOT / "feature_repo"
    if not (raw / "events.parquet").exists():
        raise UserError("data/raw/events.parquet is missing: run `dvc repro ingest`")
    db = connect(raw)
    views = {view: view_rows(db, schema, view, repo) for view in schema.views}
    rows = labelled_events(db, schema)
    shutil.rmtree(FEATURES, ignore_errors=True)
    FEATURES.mkdir(parents=True)
    for view, known in views.items():
        known.write_parquet(str(FEATURES / f"{view}.parquet"))
    unlabelled = db.sql("SELECT count(*) FROM events").fetchall()[0][0] - len(rows)
    if schema.views:
        print(f"featurize: joining {len(rows):,} events with {', '.join(schema.views)} ...", flush=True)
        store = feature_store(repo)
        rows = join(rows, schema, store)
        materialize(store)
    if (raw / "feedback.parquet").exists():
        import pandas as pd

        logged = db.sql("FROM feedback").df().astype(whole_numbers(schema))
        print(f"featurize: {len(logged):,} labelled predictions join the data", flush=True)
        rows = pd.concat([rows, logged], ignore_index=True)
    names = [*schema.key, schema.entity, "event_timestamp", *schema.features, schema.target.name]
    columns = [name for name in dict.fromkeys(names) if name and name != schema.timestamp]
    rows = rows[columns].sort_values(["event_timestamp", *columns], ignore_index=True)
    train, holdout = split(rows, schema, params.split.holdout)
    for name, part in (("train", train), ("holdout", holdout)):
        if schema.timestamp:
            part = part.rename(columns={"event_timestamp": schema.timestamp})
        else:
            part = part.drop(columns="event_timestamp")
        part.to_parquet(FEATURES / f"{name}.parquet", index=False)
    how = "by time" if schema.timestamp else "by hash"
    waiting = f", {unlabelled:,} wait for their label" if unlabelled else ""
    return f"{len(train):,} train and {len(holdout):,} holdout rows, split {how}{waiting}"


if __name__ == "__main__":
    with stage("featurize"):
        if sys.argv[1:] == ["--materialize"]:  # the views are there already, pulled from DVC's cache say
            if load().schema_.views:
                materialize(feature_store(ROOT / "feature_repo"))
            sys.exit()
        print(f"featurize: {featurize(load(), ROOT / 'data/raw')} -> data/features")
