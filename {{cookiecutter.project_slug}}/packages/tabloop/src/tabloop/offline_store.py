"""Feast's offline store of Parquet files, in DuckDB: a join is the ASOF JOIN of `asof`, memory is bounded, results can be streamed.

`feature_store.yaml: offline_store: type: tabloop.offline_store.DuckDBAsofOfflineStore` lets Feast use it.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from duckdb import DuckDBPyConnection, DuckDBPyRelation
from feast.data_source import DataSource
from feast.errors import EntityTimestampInferenceException, SavedDatasetLocationAlreadyExists
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import OfflineStore, RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import FeastConfigBaseModel, RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from tabloop import database
from tabloop.asof import AsofView, asof_join, is_unique
from tabloop.columns import literal, quote

TIME = "event_timestamp"


class DuckDBAsofOfflineStoreConfig(FeastConfigBaseModel):
    """What feature_store.yaml may say of the store.

    Attributes:
        memory: GB that DuckDB may use; what does not fit lies on the disk.
    """

    type: Literal["tabloop.offline_store.DuckDBAsofOfflineStore"] = (
        "tabloop.offline_store.DuckDBAsofOfflineStore"
    )
    memory: int = database.MEMORY


class DuckDBRetrievalJob(RetrievalJob):
    """A result that is computed when it is asked for.

    Attributes:
        relation: the result to DuckDB; `job.relation.write_parquet(path)` streams it to a file.
    """

    full_feature_names = False
    on_demand_feature_views: Any = ()

    def __init__(self, relation: DuckDBPyRelation, repo: Path | None) -> None:
        self.relation, self.repo = relation, repo
        self.described: Callable[[], RetrievalMetadata | None] = lambda: None

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self.relation.df()

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self.relation.to_arrow_table()

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self.described()

    def persist(
        self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None
    ) -> None:
        """Stream the result to a Parquet file, which is there once it is complete."""
        path = Path(path_of(storage.to_data_source(), self.repo))
        if path.exists() and not allow_overwrite:
            raise SavedDatasetLocationAlreadyExists(location=str(path))
        part = path.with_name(f".{path.name}.part")
        self.relation.write_parquet(str(part))
        part.replace(path)


def path_of(source: DataSource | None, repo: Path | None) -> str:
    """The path or glob of a source's Parquet files.

    Raises:
        ValueError: it is a source of another kind.
    """
    if not isinstance(source, FileSource) or type(source.file_format).__name__ == "DeltaFormat":
        raise ValueError(f"{getattr(source, 'name', source)}: it must be a FileSource of Parquet files")
    return str(FileSource.get_uri_for_file_path(repo_path=repo, uri=source.path))


def table_of(source: DataSource, repo: Path | None) -> str:
    """A source's rows as SQL reads them, by the names that its field mapping gives."""
    table = f"read_parquet({literal(path_of(source, repo))}, union_by_name = true)"
    if not source.field_mapping:
        return table
    renamed = ", ".join(f"{quote(old)} AS {quote(new)}" for old, new in source.field_mapping.items())
    return f"(SELECT * RENAME ({renamed}) FROM {table})"


def asof_view(
    db: DuckDBPyConnection, view: FeatureView, refs: Sequence[str], full: bool, repo: Path | None
) -> AsofView:
    """What the join needs to know of a feature view.

    Args:
        refs: the features asked for, `view:feature`, of all views.
        full: whether the view's name goes before the features' names.
    """
    path = path_of(view.batch_source, repo)
    source: Any = view.batch_source
    projection: Any = view.projection
    named = source.field_mapping
    names = [name for own, _, name in (r.partition(":") for r in refs) if own == projection.name_to_use()]
    prefix = f"{projection.name_alias or view.name}__" if full else ""
    fields = [field.name for field in view.entity_columns if field.name != DUMMY_ENTITY_ID]
    created = source.created_timestamp_column
    time = named.get(source.timestamp_field, source.timestamp_field)
    return AsofView(
        source=table_of(source, repo),
        columns={name: prefix + name for name in names},
        keys={name: projection.join_key_map.get(name, name) for name in fields},
        timestamp=time,
        created=named.get(created, created) or None,
        ttl=view.ttl or timedelta(0),
        unique=is_unique(db, path, [*fields, time]),
    )


def event_rows(db: DuckDBPyConnection, entity_df: pd.DataFrame | str | None) -> tuple[DuckDBPyRelation, str]:
    """The events, and the name of their time.

    Raises:
        ValueError: there are none.
        EntityTimestampInferenceException: no column or several may be the time.
    """
    if entity_df is None:
        raise ValueError("entity_df is missing: give the events as a DataFrame or as DuckDB's SQL")
    events = db.sql(entity_df) if isinstance(entity_df, str) else db.from_df(entity_df)
    kinds = dict(zip(events.columns, map(str, events.types), strict=True))
    times = (
        [TIME] if TIME in kinds else [name for name, kind in kinds.items() if kind.startswith("TIMESTAMP")]
    )
    if len(times) != 1:
        raise EntityTimestampInferenceException(TIME)
    if kinds[times[0]] == "VARCHAR":
        events = events.project(f"* REPLACE ({quote(times[0])}::TIMESTAMPTZ AS {quote(times[0])})")
    return events, times[0]


class DuckDBAsofOfflineStore(OfflineStore):
    """Feast's interface. `entity_df` may also be DuckDB's SQL, such as `FROM 'events.parquet'`."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        **options: Any,
    ) -> DuckDBRetrievalJob:
        """Each event with the newest row of every view that was known at its time; see `asof`."""
        db = connected(config)
        events, time = event_rows(db, entity_df)
        repo = config.repo_path
        views = [asof_view(db, view, feature_refs, full_feature_names, repo) for view in feature_views]

        def metadata() -> RetrievalMetadata:
            first, last = events.aggregate(f"min({quote(time)}), max({quote(time)})").fetchall()[0]
            return RetrievalMetadata(feature_refs, [n for n in events.columns if n != time], first, last)

        job = DuckDBRetrievalJob(asof_join(events, views, time), repo)
        job.described, job.full_feature_names = metadata, full_feature_names
        job.on_demand_feature_views = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        return job

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig, data_source: DataSource, join_key_columns: list[str], *asked: Any, **named: Any
    ) -> DuckDBRetrievalJob:
        """The newest row of each entity; of two of the same time, the one that was created last."""
        rows, time, columns = between(config, data_source, join_key_columns, *asked, **named)
        db, keys = connected(config), ", ".join(map(quote, join_key_columns))
        if not keys:
            return DuckDBRetrievalJob(db.sql(f"{rows} ORDER BY {time} DESC LIMIT 1"), config.repo_path)
        # Only the newest time of each entity is kept in memory, not a row of each.
        newest = f"SELECT {keys}, max({time}) AS {time} FROM ({rows}) GROUP BY {keys}"
        order = ", ".join([keys, *(f"{name} DESC NULLS LAST" for name in columns)])
        last = f"FROM ({rows}) SEMI JOIN ({newest}) USING ({keys}, {time}) ORDER BY {order}"
        return DuckDBRetrievalJob(db.sql(f"SELECT DISTINCT ON ({keys}) * {last}"), config.repo_path)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig, data_source: DataSource, join_key_columns: list[str], *asked: Any, **named: Any
    ) -> DuckDBRetrievalJob:
        """All rows of a time."""
        rows, *_ = between(config, data_source, join_key_columns, *asked, **named)
        return DuckDBRetrievalJob(connected(config).sql(rows), config.repo_path)


def connected(config: RepoConfig) -> DuckDBPyConnection:
    """DuckDB with the memory that feature_store.yaml allows."""
    return database.connect(memory=config.offline_store.memory)


def between(
    config: RepoConfig,
    source: DataSource,
    keys: Sequence[str],
    feature_name_columns: Sequence[str],
    timestamp_field: str,
    created_timestamp_column: str | None = None,
    start_date: datetime | None = None,
    end_date: datetime | None = None,
) -> tuple[str, str, list[str]]:
    """SQL for a source's rows from one time to another, both included; their time; all columns, first what makes one newer."""
    time = quote(timestamp_field)
    newer = [quote(name) for name in (created_timestamp_column, *feature_name_columns) if name]
    moments = [
        f"{time}::TIMESTAMP {sign} TIMESTAMP '{at.astimezone(UTC).replace(tzinfo=None)}'"
        for sign, at in ((">=", start_date), ("<=", end_date))
        if at
    ]
    columns = ", ".join(dict.fromkeys([*map(quote, keys), *newer, time]))
    where = " AND ".join([*moments, "true"])
    return f"SELECT {columns} FROM {table_of(source, config.repo_path)} WHERE {where}", time, newer
