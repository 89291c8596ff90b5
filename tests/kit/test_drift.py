"""Drift: found where there is some, and each reason why nothing can be said."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tabloop import drift
from tabloop.cli import UserError
from tabloop.params import Params

from . import monitored
from .conftest import PARAMS
from .monitored import install, log, params, served

LOG_COLUMNS = ["label", "variant", "prediction_id", "model_version", "predicted_at", "date", "received_at"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monitored.enter(tmp_path, monkeypatch)
    install(tmp_path, "champion", params(), served(1500, seed=9))
    return tmp_path


def check(folder: Path, chosen: Params | None = None) -> dict[str, Any]:
    result = drift.check(chosen or params(), report=folder / "reports/drift.html")
    assert json.loads((folder / "reports/drift.json").read_text()) == result
    assert not list((folder / "reports").glob(".*"))
    return result


def test_the_same_distribution_is_no_drift_another_is(folder: Path) -> None:
    assert "there is no prediction log" in drift.text(check(folder))
    log(folder, params(), served(900))
    assert "1,000 predictions of champion are needed for a statement" in drift.text(check(folder))
    assert not (folder / "reports/drift.html").exists()
    log(folder, params(), served(600, seed=1))
    result = check(folder)
    assert not result["drift"] and result["rows"] == 1500 and 900 < result["sampled"] < 1100
    assert set(result["columns"]) == {*params().schema_.features, "probability"}
    page = (folder / "reports/drift.html").read_text()
    assert "<script src=" not in page and "Wasserstein" in page
    moved = served(1500, seed=2).assign(amount=lambda rows: rows.amount * 4, country="US")
    log(folder, params(), moved)
    result = check(folder)
    assert result["drift"] and "⚠️ **Drift** in 3,000 predictions" in drift.text(result)
    assert {name for name, column in result["columns"].items() if column["drift"]} == {"amount", "country"}


def test_the_score_alone_is_enough_and_so_are_missing_values(folder: Path) -> None:
    log(folder, params(), served(1200).assign(probability=lambda rows: rows.probability / 2))
    result = check(folder)
    assert result["drift"] and result["share"] == 0 and result["columns"]["probability"]["drift"]
    gaps = served(4000, seed=3)
    gaps["country"] = gaps.country.mask(gaps.index % 3 == 0)
    log(folder, params(), gaps, version="champion")
    column = check(folder)["columns"]["country"]
    assert column["drift"] and column["missing"] > 0.2 and column["distance"] < 0.1


def test_only_the_champions_predictions_of_the_window_count(folder: Path) -> None:
    strange = served(1500).assign(amount=1e6, country="US")
    log(folder, params(), strange, variant="challenger", version="champion")
    log(folder, params(), strange, version="an older champion")
    log(folder, params(), strange, at=datetime.now(UTC) - timedelta(days=8))
    log(folder, params(), served(1200, seed=4))
    result = check(folder)
    assert result["rows"] == 1200 and not result["drift"]


def test_columns_that_can_not_be_compared_are_named(folder: Path) -> None:
    reference = served(1500).drop(columns="age").assign(country=None, amount=1.0, express=True)
    install(folder, "champion", params(), reference)
    log(folder, params(), served(1200).assign(express=True))
    result = check(folder)
    assert result["notes"] == [
        "age: not in the reference",
        "country: always missing on one side",
        "amount: has one value in the reference and others in the log",
        "express: has the same single value on both sides",
    ]
    assert set(result["columns"]) == {"amount", "probability"}
    wider = params(schema={"request": PARAMS["schema"]["request"] | {"new": {"type": "number"}}})
    install(folder, "champion", wider, served(1500).assign(new=1.5))
    assert "- new: not in the log" in drift.text(check(folder, wider))


def test_features_called_like_columns_of_the_log_are_compared(folder: Path) -> None:
    request = {name: {"type": "number"} for name in LOG_COLUMNS}
    chosen = params(schema={"views": {}, "request": request}, evaluate=PARAMS["evaluate"] | {"segments": []})
    values = served(1500)
    named = values.assign(**{name: values.amount + i for i, name in enumerate(LOG_COLUMNS)})
    install(folder, "champion", chosen, named)
    log(folder, chosen, named.assign(date=values.amount * 9))
    result = check(folder, chosen)
    assert set(result["columns"]) == {*LOG_COLUMNS, "probability"} and not result["notes"]
    assert [name for name, column in result["columns"].items() if column["drift"]] == ["date"]


def test_no_champion_no_reference_an_old_report_stays(folder: Path) -> None:
    log(folder, params(), served(1200))
    check(folder)
    before = (folder / "reports/drift.json").read_text()
    (folder / "models/champion.dvc").rename(folder / "pin")
    with pytest.raises(UserError, match="there is no champion"):
        check(folder)
    (folder / "pin").rename(folder / "models/champion.dvc")
    path = folder / "models/champion/reference.parquet"
    kept = pd.read_parquet(path)
    path.write_text("no Parquet")
    with pytest.raises(UserError, match=r"models/champion\.dvc pins a model"):
        check(folder)
    path.unlink()
    install(folder, "champion", params())
    with pytest.raises(UserError, match=r"reference\.parquet can't be read") as caught:
        check(folder)
    assert "\n" not in str(caught.value) and len(kept)
    assert (folder / "reports/drift.json").read_text() == before
