"""The model and the service: what they answer to rows like those of training, to missing values, to values never seen."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from tabloop.card import ModelCard
from tabloop.onnx_model import FILE, OnnxModel
from tabloop.params import ROOT
from tabloop.serving import Settings

from {{ cookiecutter.package_name }}.app import make_app

TRAINED = [path for path in sorted((ROOT / "models").glob("*")) if (path / "model.json").exists()]


def answers(folder: Path) -> None:
    """Check the model in a folder on its example row."""
    card = ModelCard.read(folder)
    graph = OnnxModel(folder / FILE, card.schema_)
    row = pd.DataFrame([card.example])
    categories = [name for name, column in card.schema_.features.items() if column.type == "category"]
    empty = row.astype(object).where(row.isna(), None)
    unseen = row.assign(**dict.fromkeys(categories, "never seen"))
    for changed in (row, empty, unseen):
        (probability,) = graph.probability(changed)
        assert 0 <= probability <= 1


def test_a_model_of_this_schema_answers(models: Path) -> None:
    answers(models / "champion")


@pytest.mark.parametrize("folder", TRAINED, ids=lambda path: path.name)
def test_a_trained_model_answers(folder: Path) -> None:
    answers(folder)


@pytest.fixture(scope="module")
def client(models: Path) -> Iterator[TestClient]:
    """A client of the service, which has a log of its own."""
    settings = Settings(
        models=models,
        prediction_log=str(models / "log"),
        online_store="none",  # rows have all features here
        api_keys="",
        challenger_mode="off",
    )
    with TestClient(make_app(settings)) as client:
        yield client


def test_a_row_is_answered(client: TestClient, example: dict[str, Any]) -> None:
    answer = client.post("/predict", json=example).json()
    assert 0 <= answer["probability"] <= 1 and answer["variant"] == "champion"
    assert client.post("/predict/batch", json=[example] * 3).json()[2]["probability"] == answer["probability"]


def test_an_unknown_field_is_refused(client: TestClient, example: dict[str, Any]) -> None:
    answer = client.post("/predict", json=example | {"no_such_feature": 1})
    assert answer.status_code == 422 and "no_such_feature" in answer.json()["detail"][0]["loc"]


def test_it_is_ready_and_counts(client: TestClient) -> None:
    assert client.get("/health/ready").status_code == 200
    assert "predictions_total" in client.get("/metrics").text
