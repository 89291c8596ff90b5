"""The example's simulator and features; `make adopt` removes it with them."""

from pathlib import Path

import pandas as pd
import pytest
from tabloop.params import ROOT, load
from tabloop.validate import breaches
from tabloop.views import connect, view_rows

from {{ cookiecutter.package_name }}.simulator import simulate

SMALL = {"seed": 1, "transactions": 2000, "users": 50, "start": "2026-01-01", "days": 30}
SCHEMA = load().schema_


@pytest.fixture(scope="module")
def tables() -> dict[str, pd.DataFrame]:
    return next(simulate(SMALL))


def transaction_features(tables: dict[str, pd.DataFrame], folder: Path) -> pd.DataFrame:
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet")
    rows = view_rows(connect(folder), SCHEMA, "transaction_features", ROOT / "feature_repo").df()
    return rows.sort_values(["user_id", "event_timestamp"], ignore_index=True)


def test_simulation_repeats_itself_and_is_as_large_as_asked(tables: dict[str, pd.DataFrame]) -> None:
    for name, table in next(simulate(SMALL)).items():
        pd.testing.assert_frame_equal(table, tables[name])
    assert len(tables["events"]) == SMALL["transactions"]
    assert 0.005 < tables["events"].is_fraud.mean() < 0.1


def test_labels_arrive_late(tables: dict[str, pd.DataFrame]) -> None:
    events, end = tables["events"], pd.Timestamp("2026-01-01") + pd.Timedelta(days=30)
    assert (events.label_timestamp > events.timestamp).all()
    assert (events.is_fraud.isna() == (events.label_timestamp > end)).mean() > 0.999


def test_the_simulation_keeps_the_schema(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    for name, table in tables.items():
        table.to_parquet(tmp_path / f"{name}.parquet")
    db, now = connect(tmp_path), pd.Timestamp("2030-01-01").to_pydatetime()
    assert [found for name in tables for found in breaches(db, name, SCHEMA, now)] == []


def test_features_are_those_of_the_past_alone(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    before = transaction_features(tables, tmp_path)
    cut = tables["events"].timestamp.median()
    events = tables["events"].copy()
    later = events.timestamp > cut
    events.loc[later, "amount"] *= 1000
    extra = events[later].assign(transaction_id=lambda rows: "x" + rows.transaction_id)
    changed = tables | {"events": pd.concat([events, extra])}
    after = transaction_features(changed, tmp_path)
    past = before.event_timestamp <= cut
    pd.testing.assert_frame_equal(before[past], after[after.event_timestamp <= cut])
    assert not before[~past].equals(after[after.event_timestamp > cut])


def test_features_are_what_the_definition_says(tables: dict[str, pd.DataFrame], tmp_path: Path) -> None:
    features = transaction_features(tables, tmp_path)
    events = tables["events"].set_index("timestamp").sort_index()
    for row in features.sample(50, random_state=0).itertuples():
        mine = events[events.user_id == row.user_id]
        at = row.event_timestamp - pd.Timedelta(microseconds=1)
        week = mine.loc[at - pd.Timedelta(days=7) : at]
        assert row.avg_7d_spend == pytest.approx(week.amount.mean())
        day = mine.loc[at - pd.Timedelta(days=1) : at].index
        assert row.max_1h_velocity == max(len(mine.loc[t - pd.Timedelta(hours=1) : t]) for t in day)
