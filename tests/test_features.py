"""Feast for real: what the model learns from is what was known, and what is served is the newest of it."""

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import UV, Project, Run


@pytest.fixture
def copy(project: Project, quick: Path) -> Path:
    """A project trained on a few rows and committed."""
    return project(quick)


def learned(project: Path) -> pd.DataFrame:
    """All rows, of training and of the holdout, as the model gets them."""
    parts = [pd.read_parquet(project / f"data/features/{part}.parquet") for part in ("train", "holdout")]
    return pd.concat(parts).sort_values("transaction_id", ignore_index=True)


def test_a_future_event_changes_nothing_before_it(run: Run, copy: Path) -> None:
    before, path = learned(copy), copy / "data/raw/events.parquet"
    events = pd.read_parquet(path)
    cut = events.timestamp.quantile(0.7)
    future = events[events.timestamp > cut].assign(amount=lambda rows: rows.amount * 1000)
    more = future.assign(transaction_id="x" + future.transaction_id)
    pd.concat([events[events.timestamp <= cut], future, more]).to_parquet(path)
    run(copy, "tabloop", "featurize")
    after = learned(copy)
    pd.testing.assert_frame_equal(
        before[before.timestamp <= cut].reset_index(drop=True),
        after[after.timestamp <= cut].reset_index(drop=True),
    )
    known = after.transaction_id.isin(before.transaction_id)
    assert (
        not after[known].avg_7d_spend.reset_index(drop=True).equals(before.avg_7d_spend)
    )  # it did matter later


def test_no_row_knows_of_itself(quick: Path) -> None:
    """A user's first transaction has no spending before it, and the second has exactly the first's."""
    events = pd.read_parquet(quick / "data/raw/events.parquet").sort_values("timestamp")
    events["nth"] = events.groupby("user_id").cumcount()
    events["before"] = events.groupby("user_id").amount.shift()
    events["pause"] = events.groupby("user_id").timestamp.diff()
    rows = learned(quick)[["transaction_id", "avg_7d_spend"]].merge(events, on="transaction_id")
    first, second = rows[rows.nth == 0], rows[(rows.nth == 1) & (rows.pause < pd.Timedelta(days=7))]
    assert len(first) > 100 and first.avg_7d_spend.isna().all()
    assert len(second) > 100 and second.avg_7d_spend.to_numpy() == pytest.approx(second.before.to_numpy())


def test_earlier_features_come_back_with_their_online_store(run: Run, copy: Path) -> None:
    """Both come from DVC's cache: the stage does not run again."""
    store, sql = copy / "data/online/store.db", copy / "feature_repo/transaction_features.sql"
    before, text = store.read_bytes(), sql.read_text()
    sql.write_text(text.replace("avg(amount)", "2 * avg(amount)"))
    run(copy, "dvc", "repro", "featurize")
    assert store.read_bytes() != before
    sql.write_text(text)
    assert "featurize: joining" not in run(copy, "dvc", "repro", "featurize").stdout
    assert store.read_bytes() == before


def test_the_online_store_serves_the_newest_features(run: Run, copy: Path) -> None:
    run(copy, "make", f"UV={UV}", "materialize")
    views = {
        v: pd.read_parquet(copy / f"data/features/{v}.parquet")
        for v in ("user_features", "transaction_features")
    }
    user = views["transaction_features"].user_id.iloc[0]
    script = f"""
import json
from feast import FeatureStore
names = ["user_features:country", "user_features:account_age_days", "transaction_features:avg_7d_spend"]
rows = [{{"user_id": user}} for user in ({user!r}, "nobody")]
print(json.dumps(FeatureStore("feature_repo").get_online_features(features=names, entity_rows=rows).to_dict()))
"""
    found = json.loads(run(copy, "python", "-c", script).stdout.splitlines()[-1])
    for view, rows in views.items():
        newest = rows[rows.user_id == user].sort_values("event_timestamp").iloc[-1]
        for name in found.keys() & set(rows.columns) - {"user_id"}:
            served, unknown = found[name]
            assert served == pytest.approx(newest[name]) if name != "country" else served == newest[name], (
                view
            )
            assert unknown is None
    assert set(found) == {"user_id", "country", "account_age_days", "avg_7d_spend"}
