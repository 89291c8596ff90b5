"""The API of the service, your own routes included."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from tabloop.serving import Settings

from {{ cookiecutter.package_name }}.app import make_app


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
