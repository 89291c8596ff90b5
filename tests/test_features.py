"""Feast for real: what the model learns from is what was known, and what is served is the newest of it."""

import json
import re
import subprocess
from pathlib import Path

import httpx
import pandas as pd
import pytest
from conftest import UV, Project, Run, Serve, answers, free_port, wait_for, within
from redis import Redis
from redis_server import redis_server
from test_workflows import Forge, another  # noqa: F401 - a fixture


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
    # The holdout begins later, so that labels of other rows were known by then.
    before, after = (
        rows[rows.transaction_id.isin(others.transaction_id)].reset_index(drop=True)
        for rows, others in ((before, after), (after, before))
    )
    past = before.timestamp <= cut
    assert past.sum() > 1000
    pd.testing.assert_frame_equal(before[past], after[past])
    assert not after.avg_7d_spend.equals(before.avg_7d_spend)  # it did matter later


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


ROWS = [
    {"user_id": f"u{i:06d}", "amount": 12.5, "merchant_category": "fuel", "channel": "online"}
    for i in range(50)
]


def test_the_store_is_redis_by_one_setting(
    run: Run, serve: Serve, copy: Path, environment: Path, tmp_path: Path
) -> None:
    """The service waits for it, reads it, outlives it; definitions that change reach it though DVC has the features."""
    port = free_port()
    with serve(copy) as server:
        by_sqlite = [
            answer["probability"] for answer in server.client.post("/predict/batch", json=ROWS).json()
        ]

    def probabilities() -> list[float]:
        answers = client.post("/predict/batch", json=ROWS).raise_for_status().json()
        assert client.post("/predict", json=ROWS[7]).json()["probability"] == answers[7]["probability"]
        return [answer["probability"] for answer in answers]

    def metric(name: str) -> float:
        lines = client.get("/metrics").text
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", lines, re.MULTILINE))

    with redis_server(tmp_path, "--requirepass", "secret") as address:
        setting = {"ONLINE_STORE": f"redis://{address}/0", "ONLINE_STORE_PASSWORD": "secret"}
        env = within(copy, environment) | setting | {"PORT": str(port), "PREDICTION_LOG": ""}
        service = subprocess.Popen(
            ["python", "-m", "fraud_detection.app"], cwd=copy, env=env, stderr=subprocess.PIPE, text=True
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                wait_for(lambda: service.poll() is not None or answers(client, "/health/live"))
                unready = client.get("/health/ready")
                assert unready.status_code == 503
                assert (
                    f"ONLINE_STORE=redis://{address}/0 has no row of user_features"
                    in unready.json()["detail"]
                )
                assert "200 of 200 entities written" in run(copy, "tabloop", "materialize", **setting).stdout
                assert client.get("/health/ready").status_code == 200
                assert probabilities() == by_sqlite
                assert metric("missing_online_features_total") == 0 == metric("online_store_errors_total")
                assert metric("online_feature_age_seconds_count") == 2 * (len(ROWS) + 1)

                sql = copy / "feature_repo/transaction_features.sql"
                before = sql.read_text()
                sql.write_text(before.replace("avg(amount)", "1000 * avg(amount)"))
                run(copy, "dvc", "repro", "featurize", **setting)
                assert (
                    probabilities() == by_sqlite
                )  # the stage, of a branch perhaps, changes nothing that is shared
                run(copy, "tabloop", "materialize", **setting)
                assert probabilities() != by_sqlite
                sql.write_text(before)
                assert "featurize: joining" not in run(copy, "dvc", "repro", "featurize", **setting).stdout
                assert "of 200 entities written" in run(copy, "tabloop", "materialize", **setting).stdout
                assert probabilities() == by_sqlite
                assert " 0 of 200 entities written" in run(copy, "tabloop", "materialize", **setting).stdout

                Redis.from_url(f"redis://:secret@{address}").shutdown(nosave=True)
                assert probabilities() != by_sqlite
                assert metric("online_store_errors_total") == 2
                assert metric("missing_online_features_total") == 0  # nobody was looked up
                assert client.get("/health/ready").status_code == 200  # what answers is not stopped
                assert client.get("/model").json()["online_store"]["error"]
        finally:
            service.terminate()
            said = service.communicate(timeout=30)[1]
    assert f"serve: not ready: UserError: ONLINE_STORE=redis://{address}/0 has no row" in said
    assert "secret" not in said


def test_the_workflow_materialize_refreshes_redis_and_is_skipped_without(
    another: Forge,  # noqa: F811
    tmp_path: Path,
) -> None:
    # The run of an old commit, which has 200 users, works on the newest main.
    another.change("users: 200", "users: 150")
    another.commit("Fewer users")
    another.git("reset", "--quiet", "--hard", "HEAD~")

    def act(*options: str, code: int = 0) -> str:
        ended, said = another.run("schedule", "--workflows", ".github/workflows/materialize.yml", *options)
        assert bool(ended) == bool(code), said[-5000:]
        return said

    assert "tabloop materialize" not in act()
    with redis_server(tmp_path, "--requirepass", "secret") as address:
        setting = ["--var", f"ONLINE_STORE=redis://{address}/0", "--secret", "ONLINE_STORE_PASSWORD=secret"]
        assert "materialize: 150 of 150 entities written" in act(*setting)
        assert "materialize: 0 of 150 entities written" in act(*setting)
    assert f"materialize: ONLINE_STORE=redis://{address}/0: " in act(*setting, code=1)
