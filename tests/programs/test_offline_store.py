"""Feast's offline store of our own gives what Feast's own stores give, and streams it."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import pandas as pd
import pytest
from tabloop.feature_store import import_feast

OURS = "tabloop.offline_store.DuckDBAsofOfflineStore"
START = datetime(2026, 1, 1)
FEATURES = ["spending:total", "spending:country", "profile:age", "weather:rain"]
KNOWN = ["1", "11", "a", "b"]
KEYS = [*KNOWN, "unknown", None]


def rows(draw: random.Random, n: int, **columns: list[Any]) -> pd.DataFrame:
    """Rows of which many have the same key and time; no two have the same creation, as Feast then chooses by chance."""
    made = draw.sample(range(10 * n), n)
    return pd.DataFrame(
        {
            "user": [draw.choice(KNOWN) for _ in range(n)],
            "at": [START + timedelta(hours=draw.randrange(12)) for _ in range(n)],
            "made": [START + timedelta(minutes=m) for m in made],
        }
        | {name: [draw.choice(values) for _ in range(n)] for name, values in columns.items()}
    )


def store_of(folder: Path, kind: str) -> Any:
    """A store of three views: one whose rows expire, one with names of its own, one without an entity."""
    FeatureStore, _ = import_feast()
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64, String

    repo = folder / kind.rpartition(".")[2]
    repo.mkdir()
    settings = f"project: kit\nprovider: local\nregistry: {repo}/r.db\nentity_key_serialization_version: 3\n"
    settings += f"online_store: {{type: sqlite, path: {repo}/o.db}}\noffline_store: {{type: {kind}}}\n"
    (repo / "feature_store.yaml").write_text(settings)
    user = Entity(name="user", value_type=ValueType.STRING)

    def view(name: str, ttl: timedelta, mapping: dict[str, str], *fields: Field, entity: bool = True) -> Any:
        source = FileSource(
            name=name, path=str(folder / f"{name}.parquet"), timestamp_field="at", created_timestamp_column="made",
            field_mapping=mapping,
        )  # fmt: skip
        key = [Field(name="user", dtype=String)] if entity else []
        return FeatureView(
            name=name, entities=[user] if entity else [], ttl=ttl, schema=[*key, *fields], source=source
        )

    store = FeatureStore(str(repo))
    spending = view(
        "spending", timedelta(hours=2), {}, Field(name="total", dtype=Float64), Field(name="country", dtype=String)
    )  # fmt: skip
    profile = view("profile", timedelta(0), {"years": "age"}, Field(name="age", dtype=Int64))
    weather = view("weather", timedelta(hours=1), {}, Field(name="rain", dtype=Int64), entity=False)
    store.apply([user, spending, profile, weather])
    return store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("stores"), random.Random(2)
    rows(draw, 80, total=[1.5, None, -0.0, 1e300], country=["DE", None, ""]).to_parquet(
        folder / "spending.parquet"
    )
    aware = rows(draw, 60, years=[20, 30, 40]).assign(
        at=lambda t: t["at"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")
    )
    aware.to_parquet(folder / "profile.parquet")
    rows(draw, 9, rain=[0, 1]).drop(columns="user").to_parquet(folder / "weather.parquet")
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path) -> Any:
    return store_of(folder, OURS)


def events(zone: str | None) -> pd.DataFrame:
    """Rows, some of them twice, before the first of any entity, at the very moment, of nobody."""
    draw = random.Random(3)
    times = [START + timedelta(minutes=30 * draw.randrange(-4, 30)) for _ in range(150)]
    frame = pd.DataFrame({"user": [draw.choice(KEYS) for _ in times], "event_timestamp": times})
    frame["row"] = range(len(times))
    frame = pd.concat([frame, frame[:20]], ignore_index=True)
    return frame.assign(event_timestamp=frame.event_timestamp.dt.tz_localize(zone)) if zone else frame


def table(job: Any) -> pd.DataFrame:
    frame: pd.DataFrame = job.to_df()
    frame["event_timestamp"] = pd.to_datetime(frame.event_timestamp, utc=True).dt.as_unit("us")
    frame = frame.astype(
        {n: "float64" for n in frame if frame[n].dtype.kind in "if" or str(frame[n].dtype) == "Int64"}
    )
    return frame.sort_values([*frame.columns], ignore_index=True)[sorted(frame.columns)]


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return store_of(folder, "duckdb")


@pytest.mark.parametrize(("zone", "full"), [(None, False), ("America/New_York", True)])
def test_the_join_is_that_of_feasts_own_store(ours: Any, theirs: Any, zone: str | None, full: bool) -> None:
    own, other = (
        table(store.get_historical_features(events(zone), FEATURES, full_feature_names=full))
        for store in (ours, theirs)
    )
    assert len(own) == 170 and own.notna().any().all() and own.isna().any().sum() == 5
    pd.testing.assert_frame_equal(own, other, check_dtype=False)


def test_a_view_joins_by_another_name_of_its_key(ours: Any, theirs: Any) -> None:
    from feast import FeatureService

    frame = events(None).assign(payee=lambda rows: rows.user.iloc[::-1].to_numpy())
    joined = []
    for store in (ours, theirs):
        view = store.get_feature_view("spending")
        named = [
            view.with_name("payer")[["total"]],
            view.with_name("to").with_join_key_map({"user": "payee"}),
        ]
        service = FeatureService(name="both", features=named)
        store.apply([service])
        joined.append(table(store.get_historical_features(frame, service, full_feature_names=True)))
    assert {"payer__total", "to__total", "to__country"} <= set(joined[0])
    pd.testing.assert_frame_equal(joined[0], joined[1], check_dtype=False)


def test_what_is_materialized_is_the_newest_row_of_each_entity(ours: Any, theirs: Any) -> None:
    span = (START + timedelta(hours=2)).replace(tzinfo=UTC), (START + timedelta(hours=9)).replace(tzinfo=UTC)
    pulled = []
    for store in (ours, theirs):
        source = store.get_feature_view("spending").batch_source
        latest, everything = (
            pull(
                config=store.config,
                data_source=source,
                join_key_columns=["user"],
                feature_name_columns=["total", "country"],
                timestamp_field="at",
                created_timestamp_column="made",
                start_date=span[0],
                end_date=span[1],
            ).to_df()
            for pull in (
                store._get_provider().offline_store.pull_latest_from_table_or_query,
                store._get_provider().offline_store.pull_all_from_table_or_query,
            )
        )
        assert sorted(latest.user) == KNOWN and len(everything) > 40
        pulled += [
            latest.sort_values("user", ignore_index=True),
            everything.sort_values("made", ignore_index=True),
        ]
    for own, other in zip(pulled[:2], pulled[2:], strict=True):
        pd.testing.assert_frame_equal(own, other[own.columns], check_dtype=False)


def test_events_may_be_sql_and_the_result_a_file(ours: Any, tmp_path: Path) -> None:
    """So nothing is ever held in memory; in a notebook both are frames."""
    from feast.errors import EntityTimestampInferenceException, SavedDatasetLocationAlreadyExists
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    frame = events("UTC")
    frame.to_parquet(tmp_path / "events.parquet")
    job = ours.get_historical_features(f"FROM '{tmp_path}/events.parquet'", FEATURES)
    assert job.metadata.min_event_timestamp.replace(tzinfo=None) == frame.event_timestamp.min().tz_localize(
        None
    )
    storage = SavedDatasetFileStorage(str(tmp_path / "joined.parquet"))
    job.persist(storage)
    same = table(ours.get_historical_features(frame, FEATURES))
    pd.testing.assert_frame_equal(
        table(SimpleNamespace(to_df=lambda: pd.read_parquet(tmp_path / "joined.parquet"))), same
    )
    with pytest.raises(SavedDatasetLocationAlreadyExists):
        job.persist(storage)
    texts = frame.assign(event_timestamp=frame.event_timestamp.dt.tz_convert("Asia/Tokyo").astype(str))
    pd.testing.assert_frame_equal(table(ours.get_historical_features(texts, FEATURES)), same)
    with pytest.raises(EntityTimestampInferenceException):
        ours.get_historical_features(
            frame.assign(other=frame.event_timestamp).rename(columns={"event_timestamp": "x"}), FEATURES
        )
    with pytest.raises(ValueError, match="entity_df is missing"):
        ours.get_historical_features(features=FEATURES)


def test_a_file_that_is_gone_and_a_disk_that_is_full_leave_nothing(
    ours: Any, folder: Path, tmp_path: Path
) -> None:
    from feast.infra.offline_stores.file_source import SavedDatasetFileStorage

    job = ours.get_historical_features(events(None), FEATURES)
    (folder / "weather.parquet").rename(folder / "gone")
    try:
        with pytest.raises(duckdb.IOException, match=r"weather\.parquet"):
            ours.get_historical_features(events(None), FEATURES)
    finally:
        (folder / "gone").rename(folder / "weather.parquet")
    with pytest.raises(duckdb.IOException, match="No such file or directory"):
        job.persist(SavedDatasetFileStorage(str(tmp_path / "no/such/folder/joined.parquet")))
    assert not list(tmp_path.rglob("*"))
