"""A model trained in a moment on rows that the schema allows: the tests need no `dvc repro`, whatever the schema is."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tabloop.card import ModelCard, Parity
from tabloop.export import check_parity, serialize
from tabloop.onnx_model import FILE, model_inputs
from tabloop.params import Column, load

from {{ cookiecutter.package_name }}.model import FRAMEWORK, fit, to_onnx

PARAMS = load()
SCHEMA = PARAMS.schema_


def values(column: Column, rows: int) -> np.ndarray:
    """Values that the schema allows, (rows,)."""
    random = np.random.default_rng(0)
    if column.type == "category":
        return random.choice(column.values or ["a", "b"], rows)
    if column.type == "boolean":
        return random.integers(0, 2, rows).astype(bool)
    low = column.min or 0
    high = low + 10 if column.max is None else column.max
    return random.integers(low, high, rows) if column.type == "integer" else random.uniform(low, high, rows)


@pytest.fixture(scope="session")
def rows() -> pd.DataFrame:
    """200 rows of features."""
    return pd.DataFrame({name: values(column, 200) for name, column in SCHEMA.features.items()})


@pytest.fixture(scope="session")
def example(rows: pd.DataFrame) -> dict[str, Any]:
    """One row as JSON has it."""
    return dict(json.loads(rows.head(1).to_json(orient="records"))[0])


@pytest.fixture(scope="session")
def models(rows: pd.DataFrame, example: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like models/, with a champion."""
    inputs = model_inputs(rows, SCHEMA)
    estimator = fit(inputs, np.arange(200) % 2, SCHEMA, PARAMS.train)
    graph = serialize(to_onnx(estimator, SCHEMA))
    check_parity(estimator.predict_proba(inputs)[:, 1], graph, rows, SCHEMA)
    card = ModelCard(
        version="test",
        data_hash="test",
        framework=FRAMEWORK,
        rows=200,
        schema=SCHEMA,
        categories={},
        ranges={},
        example=example,
        parity=Parity(rows=200, largest_difference=0),
        threshold=0.5,
    )
    folder = tmp_path_factory.mktemp("models")
    (folder / "champion").mkdir()
    (folder / "champion" / FILE).write_bytes(graph)
    card.write(folder / "champion")
    return folder
