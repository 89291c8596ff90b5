"""What ingest and featurize take from the prediction log: outcomes that clients reported, once, under the present schema."""

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import yaml
from kit.conftest import PARAMS, Project, orders
from tabloop import predictions

from .conftest import Tabloop

NOW = pd.Timestamp("2026-03-01")

NO_SEGMENTS = {"evaluate": PARAMS["evaluate"] | {"segments": []}}


def test_what_clients_reported_is_learnt_from_and_decides_no_gate(project: Project, tabloop: Tabloop) -> None:
    """By one setting it may. Outcomes of predictions that are not in the log are left out, and that is said."""
    views: dict[str, Any] = {"views": {}, "request": {"amount": {"type": "number"}}}
    folder = project(
        orders(), schema=views, data={"source": "events.csv", "feedback": "data/log"}, **NO_SEGMENTS
    )
    reported = pd.DataFrame(
        {
            "prediction_id": [f"p{i:02d}" for i in range(60)],
            "predicted_at": pd.date_range(
                "2026-01-05", periods=60, freq="12h"
            ),  # before the holdout begins, and later
            "variant": "champion",
            "model_version": "m",
            "entity": "c001",
            "probability": 0.5,
            "source_table": "kit/returned",
            "feature_amount": 1e6,
        }
    )
    labels = pd.DataFrame(
        {
            "prediction_id": [*reported.prediction_id, *"xyz"],
            "label": 0,
            "received_at": [*(reported.predicted_at + pd.Timedelta(days=1)), NOW, NOW, NOW],
        }
    )
    for name, table in (("predictions", reported), ("feedback", labels)):
        (folder / f"data/log/{name}/date=2026-02-01").mkdir(parents=True)
        table.to_parquet(folder / f"data/log/{name}/date=2026-02-01/0.parquet")
    said = tabloop(folder, "ingest").stdout
    assert "ingest: 3 outcomes of predictions that are not in the log are left out\n" in said
    said = tabloop(folder, "featurize").stdout
    assert "60 labelled predictions join the data, in train only" in said
    begins = "2026-01-13 12:00:00, when the holdout begins"
    assert f", 44 whose label was not known at {begins}, left out (44 of them reported by clients)" in said
    train, holdout = (
        pd.read_parquet(folder / f"data/features/{part}.parquet") for part in ("train", "holdout")
    )
    assert holdout.order_id.tolist() == orders().order_id[300:].tolist() and set(train) == set(holdout)
    learnt = train[train.amount == 1e6]
    assert learnt.order_id.tolist() == [f"p{i:02d}" for i in range(16)] and len(train) == 316
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["split"]["feedback_in_holdout"] = True
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    assert "join the data\n" in tabloop(folder, "featurize").stdout
    trusted = pd.read_parquet(folder / "data/features/holdout.parquet")
    assert trusted.order_id.str.startswith("p").any() and set(trusted) == set(holdout)


def feed(folder: Path, name: str, rows: pd.DataFrame, labels: bool = True, **columns: Any) -> None:
    """Write rows with a label each as a file of the folder's log: features by their names, and columns of the log."""
    table = pd.DataFrame({predictions.feature(str(feature)): rows[feature] for feature in rows})
    ids = [f"{name}{i}" for i in range(len(rows))]
    logged: dict[str, Any] = {
        "predicted_at": NOW,
        "variant": "champion",
        "model_version": "m",
        "entity": "c001",
    }
    logged |= {"source_table": "kit/returned", "probability": 0.5} | columns
    tables = {"predictions": table.assign(prediction_id=ids, **logged)}
    if labels:
        tables["feedback"] = pd.DataFrame({"prediction_id": ids, "label": 1, "received_at": NOW})
    for kind, part in tables.items():
        (folder / f"data/log/{kind}/date=2026-03-01").mkdir(parents=True, exist_ok=True)
        part.dropna(axis=1, how="all").to_parquet(folder / f"data/log/{kind}/date=2026-03-01/{name}.parquet")


def learnt(folder: Path, *columns: str) -> list[tuple[Any, ...]]:
    """These columns of what ingest took from the log."""
    listed = ", ".join(columns)
    found = duckdb.execute(
        f"SELECT {listed} FROM '{folder}/data/raw/feedback.parquet' ORDER BY ALL"
    ).fetchall()
    return list(found)


def fed(project: Project, events: pd.DataFrame | None = None, **schema: Any) -> Path:
    """A project that learns from its log, with these parts of the schema and no views."""
    data = {"source": "events.csv", "feedback": "data/log"}
    table = orders() if events is None else events
    return project(table, schema={"views": {}} | schema, data=data, **NO_SEGMENTS)


def test_a_log_of_two_schemas_is_learnt_from_by_the_present_one(project: Project, tabloop: Tabloop) -> None:
    """Features that are new, gone, renamed, and of another type, in files of different columns."""
    events = orders().rename(columns={"amount": "total"}).assign(visits=1, zip="1")
    request = {
        "price": {"type": "number"},  # was called as the raw column is: total
        "express": {"type": "boolean"},  # was a category
        "visits": {"type": "integer"},  # is new
        "zip": {"type": "category"},  # was a number
    }
    folder = fed(project, events, request=request, rename={"price": "total"})
    before = pd.DataFrame({"total": [7.5], "express": ["true"], "zip": [10115.0], "gone": ["x"]})
    feed(folder, "before", before)
    first = tabloop(folder, "ingest").stdout
    assert "ingest: the log has no visits: its rows lack the value\n" in first
    assert learnt(folder, *request) == [(7.5, True, None, "10115")]
    feed(folder, "now", pd.DataFrame({"price": [8.5], "express": [False], "visits": [3], "zip": ["10115"]}))
    said = tabloop(folder, "ingest").stdout
    assert "2 labelled predictions" in said and "left out" not in said and "the log has no" not in said
    assert learnt(folder, "price", "express", "visits") == [(7.5, True, None), (8.5, False, 3)]
    assert "2 labelled predictions join the data" in tabloop(folder, "featurize").stdout


def test_a_raw_name_that_is_another_feature_now_is_not_taken_for_the_old_one(
    project: Project, tabloop: Tabloop
) -> None:
    events = orders().rename(columns={"amount": "b"}).assign(a=1.0)
    request = {"a": {"type": "number"}, "total": {"type": "number"}}
    folder = fed(project, events, request=request, rename={"total": "a", "a": "b"})
    feed(folder, "x", pd.DataFrame({"a": [7.5]}))
    tabloop(folder, "ingest")
    assert learnt(folder, "a", "total") == [(7.5, None)]


def test_what_can_not_be_used_is_counted_by_reason(project: Project, tabloop: Tabloop) -> None:
    request = {
        "amount": {"type": "number", "min": 0, "max": 100, "nullable": False},
        "country": {"type": "category", "values": ["DE", "FR", "US"]},
        "age": {"type": "integer"},
    }
    folder = fed(project, request=request)
    good: dict[str, Any] = {"amount": 1.0, "country": "DE", "age": "30"}
    wrong: list[dict[str, Any]] = [
        {"amount": None},
        {"amount": -1.0},
        {"amount": 101.0},
        {"country": "XX"},
        {"country": "YY"},
    ]
    wrong += [{"age": "many"}, {"age": "1.5"}]
    rows = [good, good | {"country": None, "age": None}, *(good | change for change in wrong)]
    feed(folder, "x", pd.DataFrame(rows))
    feed(folder, "other", pd.DataFrame([{"unknown": 1.0}] * 4))
    said = tabloop(folder, "ingest").stdout
    for count, reason in (
        (1, "amount is missing"),
        (2, "amount is out of range"),
        (2, "country has a level that the schema does not declare"),
        (2, "age is no integer"),
        (4, "the log has none of their features"),
    ):
        assert f"ingest: {count} labelled predictions are left out: {reason}\n" in said
    assert said.count("left out") == 5
    assert learnt(folder, "amount", "country", "age") == [(1.0, "DE", 30), (1.0, None, None)]
    tabloop(folder, "featurize")


def test_predictions_of_another_table_are_not_learnt_from(project: Project, tabloop: Tabloop) -> None:
    folder = fed(project, request={"amount": {"type": "number"}})
    rows = pd.DataFrame({"amount": [1.0, 2.0]})
    feed(folder, "own", rows)
    feed(folder, "another", rows + 2, source_table="another/returned")
    feed(folder, "unnamed", rows + 4, source_table=None)
    assert (
        "ingest: 4 labelled predictions are left out: they are of another table\n"
        in tabloop(folder, "ingest").stdout
    )
    assert learnt(folder, "amount") == [(1.0,), (2.0,)]


def test_no_row_is_learnt_from_twice_where_the_log_has_the_key(project: Project, tabloop: Tabloop) -> None:
    """One that data.source has, too; one whose client asked again; the same entity alone is not the same row."""
    request = {"order": {"type": "integer"}, "amount": {"type": "number"}}
    events = orders().assign(order=range(400))
    folder = fed(project, events, request=request, key=["customer_id", "order"])
    known = events.customer_id[5]
    feed(folder, "a", pd.DataFrame({"order": [5, 1005], "amount": [1.0, 2.0]}), entity=known)
    feed(
        folder,
        "b",
        pd.DataFrame({"order": [1005], "amount": [3.0]}),
        entity=known,
        predicted_at=NOW + pd.Timedelta("1h"),
    )
    feed(folder, "c", pd.DataFrame({"order": [1005], "amount": [4.0]}), entity="somebody")
    said = tabloop(folder, "ingest").stdout
    assert "ingest: 1 labelled predictions are left out: data.source has them\n" in said
    assert "ingest: 1 labelled predictions are left out: they were predicted again\n" in said
    assert learnt(folder, "amount") == [(3.0,), (4.0,)]


def test_a_changed_label_is_said_and_the_last_one_is_learnt(project: Project, tabloop: Tabloop) -> None:
    folder = fed(project, request={"amount": {"type": "number"}})
    feed(folder, "x", pd.DataFrame({"amount": [1.0, 2.0]}))
    later = pd.DataFrame({"prediction_id": ["x0"], "label": [0], "received_at": [NOW + pd.Timedelta("1s")]})
    later.to_parquet(folder / "data/log/feedback/date=2026-03-01/later.parquet")
    assert (
        "ingest: 1 outcomes were changed later; the last label counts\n" in tabloop(folder, "ingest").stdout
    )
    assert learnt(folder, "amount", "returned") == [(1.0, 0), (2.0, 1)]
