"""Stages as commands: the same bytes in every process, replaced whole; what stops them is one line."""

import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kit.conftest import PARAMS, Project, orders
from kit.test_batch import expected, here, read  # noqa: F401
from kit.test_batch import orders as unscored
from kit.test_card import CARD
from kit.test_featurize import NO_VIEWS, SETTINGS
from kit.test_gates import measure
from kit.test_sensitive import CHANGES, SENSITIVE, people
from tabloop import candidate
from tabloop.evaluation import Holdout, Scored, by_segment, judge
from tabloop.onnx_model import model_inputs
from tabloop.params import load

from .conftest import Tabloop

# Called like Python's, SQL's or the log's own words, in a view and in the request.
NAMES = ["label", "variant", "select", "model_version", "predicted_at", "date", "received_at", "entity"]


MEAN = """
SELECT customer_id, ordered_at + INTERVAL 1 SECOND AS ordered_at, avg(amount) OVER past AS label, 'x' AS variant,
  count(*) OVER past AS "select", NULL AS model_version
FROM events WINDOW past AS (PARTITION BY customer_id ORDER BY ordered_at);
"""


def features(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data/features").iterdir())}


def learned(folder: Path) -> pd.DataFrame:
    parts = [pd.read_parquet(folder / f"data/features/{part}.parquet") for part in ("train", "holdout")]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def shuffled() -> pd.DataFrame:
    """Orders in no order, with two at one moment and the newest without a label."""
    events = orders().sample(frac=1, random_state=1, ignore_index=True)
    events.loc[events.order_id == "o00101", "ordered_at"] = events.ordered_at[
        events.order_id == "o00100"
    ].iloc[0]
    for name in NAMES[4:]:
        events[name] = 1.5
    return events.assign(returned=events.returned.astype("Int64").mask(events.order_id > "o00395"))


def test_a_rerun_in_another_process_gives_the_same_bytes(
    project: Project, tabloop: Tabloop, shuffled: pd.DataFrame
) -> None:
    view = {"label": {"type": "number"}, "variant": {"type": "category"}}
    view |= {"select": {"type": "integer"}, "model_version": {"type": "number"}}
    views = {
        "customer_features": view,
        "profile": {"age": {"type": "integer"}, "country": {"type": "category"}},
    }
    folder = project(shuffled, schema={"views": views, "request": {n: {"type": "number"} for n in NAMES[4:]}})
    (folder / "feature_repo/customer_features.sql").write_text(MEAN)
    tabloop(folder, "ingest")
    done = tabloop(folder, "featurize", PYTHONHASHSEED="1").stdout
    assert "4 without a label yet" in done
    first = features(folder)
    assert set(first) == {"train.parquet", "holdout.parquet", "customer_features.parquet", "profile.parquet"}
    assert {path.name for path in folder.iterdir()} == {"data", "events.csv", "feature_repo", "params.yaml"}
    assert not list((folder / "feature_repo").rglob("*.pyc"))  # it is an input of the stage
    assert sorted(path.name for path in (folder / "data/online").iterdir()) == ["store.db"]

    rows = learned(folder)
    assert len(rows) == 396 and list(rows.ordered_at) == sorted(rows.ordered_at)
    assert list(rows.columns) == [
        "order_id",
        "customer_id",
        "ordered_at",
        *view,
        "age",
        "country",
        *NAMES[4:],
        "returned",
    ]
    raw = shuffled.sort_values("ordered_at")
    past = raw.groupby("customer_id").amount.transform(lambda amounts: amounts.expanding().mean().shift())
    expected = past.set_axis(raw.order_id).reindex(rows.order_id)
    alone = ~rows.order_id.isin(["o00100", "o00101"])
    np.testing.assert_allclose(rows.label[alone], expected[alone.to_numpy()])

    (folder / "data/online/store.db").unlink()
    tabloop(folder, "featurize", PYTHONHASHSEED="2", TABLOOP_MEMORY="0.2")
    assert features(folder) == first
    with sqlite3.connect(folder / "data/online/store.db") as store:
        assert store.execute("SELECT count(DISTINCT entity_key) FROM kit_profile").fetchone() == (40,)
    broken = MEAN.replace("amount", "amuont")
    (folder / "feature_repo/customer_features.sql").write_text(broken)
    failed = tabloop(folder, "featurize", code=1).stderr
    assert failed.startswith("featurize: customer_features.sql: ") and len(failed.splitlines()) == 1
    assert features(folder) == first and not list((folder / "data").glob(".*"))


def test_without_views_there_is_an_online_folder_and_no_store(project: Project, tabloop: Tabloop) -> None:
    folder = project(orders(), schema=NO_VIEWS, **SETTINGS)
    tabloop(folder, "ingest")
    assert "300 train and 100 holdout rows, split by time" in tabloop(folder, "featurize").stdout
    assert list((folder / "data/online").iterdir()) == []
    assert "nothing is looked up" in tabloop(folder, "materialize").stdout


def test_before_the_stages_that_it_needs_it_says_which(project: Project, tabloop: Tabloop) -> None:
    folder = project(orders())
    assert "run `make train`" in tabloop(folder, "featurize", code=1).stderr
    assert "customer_features.parquet is missing" in tabloop(folder, "materialize", code=1).stderr


SQL = "SELECT customer_id, ordered_at, amount + 1000 * returned AS refund FROM events"


def test_the_pipeline_stops_at_a_leak_of_the_table_and_of_a_view(project: Project, tabloop: Tabloop) -> None:
    request = {"amount": {"type": "number"}, "bonus": {"type": "number"}}
    schema = {"views": {"history": {"refund": {"type": "number"}}}, "request": request}
    folder = project(
        orders().assign(bonus=lambda rows: rows.amount * rows.returned), schema=schema, **SETTINGS
    )
    (folder / "feature_repo/history.sql").write_text(SQL)
    tabloop(folder, "ingest")
    said = tabloop(folder, "featurize", code=1).stderr
    assert said.startswith("featurize: each of these alone") and said.count("\n") == 1
    assert "refund (AUC 1.0000), bonus (AUC 1.0000)" in said and not (folder / "data/features").exists()


def part(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"data/features/{name}.parquet")


def test_parity_by_a_column_that_the_model_never_gets(
    project: Project, tabloop: Tabloop, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"views": {}, "sensitive": SENSITIVE, "rename": {"gender": "sex"}}
    changes = CHANGES | {"evaluate": PARAMS["evaluate"] | {"segments": ["gender"]}}
    folder = project(people(), schema=schema, **changes)
    for stage in ("ingest", "validate", "featurize"):
        tabloop(folder, stage)
    params, train = load(folder / "params.yaml"), part(folder, "train")
    monkeypatch.setattr(candidate, "FEATURES", folder / "data/features")
    rows = candidate.read_features("holdout", params.schema_)  # as evaluate does
    assert not {"gender", "sex", "minor"} & set(train) and set(rows.gender) == {"f", "m"}
    assert candidate.read_features("train", params.schema_).shape[1] < train.shape[1]
    assert rows.minor.dtype == "boolean" and "gender" not in model_inputs(rows, params.schema_)

    target = rows.returned.to_numpy()
    unfair = np.where(rows.gender == "f", target * 0.9, target * 0.3)
    found = Holdout(params, measure, rows, target, Scored(unfair, 0.5), None)
    (check,) = judge(found, "", None)["checks"]
    assert check["passed"] is False and check["value"] == 1
    assert set(by_segment(target, unfair, rows, ["gender"])["gender"]) == {"f", "m"}

    broken = people().assign(sex="x")
    broken.to_csv(folder / "events.csv", index=False)
    tabloop(folder, "ingest")
    assert (
        "events.gender: must be one of f, m; 600 rows break it" in tabloop(folder, "validate", code=1).stderr
    )
    broken.drop(columns="sex").to_csv(folder / "events.csv", index=False)
    assert "lacks column 'sex'" in tabloop(folder, "ingest", code=1).stderr


def test_a_batch_gets_the_features_of_the_time_of_each_row(here: Path, tabloop: Tabloop) -> None:  # noqa: F811
    rows = unscored()
    rows.to_parquet("in.parquet")
    done = tabloop(here, "batch", "in.parquet", "out.parquet", code=3)
    known = rows[rows.customer != "c6"]  # its label is null, with which this model can't score
    found, refused = read("out.parquet"), read("out.refused.parquet")
    assert found.columns.tolist() == [
        "order_id", "customer", "ordered_at", "probability", "prediction", "model_version"
    ]  # fmt: skip
    assert found.order_id.tolist() == known.order_id.tolist()
    np.testing.assert_allclose(found.probability, expected(known, known.ordered_at.dt.day), rtol=1e-5)
    assert found.prediction.tolist() == (found.probability >= CARD.threshold).astype(int).tolist()
    assert set(found.model_version) == {"v1"}
    assert refused.order_id.tolist() == rows.order_id[rows.customer == "c6"].tolist()
    assert refused.row.tolist() == [i for i in range(60) if i % 7 == 6]
    assert set(refused.reasons) == {"the model can't score this row"}
    last = done.stdout.splitlines()[-1]
    assert last.startswith("batch: 52 rows scored by the champion v1 -> out.parquet, 8 refused -> ")
    assert not list(here.glob(".out*"))
