"""The API, on a model trained here in a moment: green whatever the schema is, before any `dvc repro`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from {{ cookiecutter.package_name }}.model.estimator import fit, to_onnx
from {{ cookiecutter.package_name }}.model.graph import frame
from {{ cookiecutter.package_name }}.params import Column, load
from {{ cookiecutter.package_name }}.serving.app import create
from {{ cookiecutter.package_name }}.serving.service import Service
from {{ cookiecutter.package_name }}.serving.settings import Settings

PARAMS = load()
SCHEMA = PARAMS.schema_


def values(column: Column, rows: int) -> np.ndarray:
    """Values that the schema allows."""
    random = np.random.default_rng(0)
    if column.type == "category":
        return random.choice(column.values or ["a", "b"], rows)
    if column.type == "boolean":
        return random.integers(0, 2, rows).astype(bool)
    low = column.min or 0
    high = low + 10 if column.max is None else column.max
    return random.integers(low, high, rows) if column.type == "integer" else random.uniform(low, high, rows)


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    rows = pd.DataFrame({name: values(column, 200) for name, column in SCHEMA.features.items()})
    return dict(json.loads(rows.head(1).to_json(orient="records"))[0])


@pytest.fixture(scope="module")
def client(example: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    rows = pd.DataFrame({name: values(column, 200) for name, column in SCHEMA.features.items()})
    estimator = fit(frame(rows, SCHEMA), np.arange(200) % 2, SCHEMA, PARAMS.train)
    models: Path = tmp_path_factory.mktemp("models")
    (models / "champion").mkdir()
    (models / "champion/model.onnx").write_bytes(to_onnx(estimator, SCHEMA).SerializeToString())
    card = {"version": "test", "threshold": 0.5, "categories": {}, "example": example}
    card |= {"schema": SCHEMA.model_dump(mode="json", exclude_defaults=True)}
    (models / "champion/model.json").write_text(json.dumps(card))
    settings = Settings(models=models, prediction_log=str(models / "log"))
    with TestClient(create(Service(settings))) as client:
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
