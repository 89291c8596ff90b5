"""Projects for tabloop's own tests: a folder with a params.yaml and what a test adds. Nothing is baked."""

import copy
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import AUTHOR, REACHING

TEMPLATE = Path(__file__).parents[2] / "{{cookiecutter.project_slug}}"
PARAMS: dict[str, Any] = {
    "project": "kit",
    "data": {"source": "events.csv"},
    "schema": {
        "key": ["order_id"],
        "entity": "customer_id",
        "timestamp": "ordered_at",
        "target": {"name": "returned", "positive": 1},
        "views": {
            "customer_features": {"age": {"type": "integer", "min": 18}, "country": {"type": "category"}}
        },
        "request": {"amount": {"type": "number", "min": 0}, "express": {"type": "boolean"}},
    },
    "split": {"holdout": 0.25},
    "train": {},
    "evaluate": {
        "confidence": 0.95,
        "cost": {"false_positive": 1, "false_negative": 5},
        "segments": ["country"],
    },
    "gates": [{"metric": "auc", "min": 0.5}],
}
# Columns of the log's tables and folders: a feature may be called like any of them.
LOG_COLUMNS = ["label", "variant", "prediction_id", "model_version", "predicted_at", "date", "received_at"]

Project = Callable[..., Path]


def clean(**variables: str) -> dict[str, str]:
    """This process's environment without what would reach into a project; nor tabloop's own settings."""
    reaching = (*REACHING, "PROJECT_ROOT", "PREDICTION_LOG", "ONLINE_STORE")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(reaching) or name == "PYTHONPYCACHEPREFIX"  # see tests/conftest.py
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | AUTHOR | {"PATH": path} | variables


def orders(rows: int = 400, customers: int = 40) -> pd.DataFrame:
    """A raw table that keeps the schema of PARAMS, in the order of time."""
    random = np.random.default_rng(0)
    customer = random.integers(0, customers, rows)
    amount = random.lognormal(3, 1, rows).round(2)
    return pd.DataFrame(
        {
            "order_id": [f"o{i:05d}" for i in range(rows)],
            "customer_id": [f"c{i:03d}" for i in customer],
            "ordered_at": pd.date_range("2026-01-01", periods=rows, freq="h"),
            "age": 18 + customer,
            "country": np.array(["DE", "FR", "US"])[customer % 3],
            "amount": amount,
            "express": random.random(rows) < 0.3,
            "returned": (amount * random.lognormal(0, 0.5, rows) > 25).astype(int),
        }
    )


def calls_of(work: Callable[[], object]) -> int:
    """How many calls of functions, Python's and C's, this piece of work makes in this thread.

    It says what grows with what, and is the same on a machine that is busy.
    """
    calls = 0

    def count(_: FrameType, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """`project(events, split={"holdout": 0.5})`: a folder with params.yaml, Feast's definitions and, if given, events.csv.

    Keywords replace parts of PARAMS; `schema` replaces its own parts one by one.
    """

    def project(events: pd.DataFrame | None = None, **changes: Any) -> Path:
        folder = tmp_path / f"project{len(list(tmp_path.glob('project*')))}"
        shutil.copytree(
            TEMPLATE / "feature_repo", folder / "feature_repo", ignore=shutil.ignore_patterns("*.sql")
        )
        store = folder / "feature_repo/feature_store.yaml"
        store.write_text(store.read_text().replace("{{ cookiecutter.package_name }}", "kit"))
        params = copy.deepcopy(PARAMS)
        params["schema"] |= changes.pop("schema", {})
        (folder / "params.yaml").write_text(yaml.safe_dump(params | changes, sort_keys=False))
        if events is not None:
            events.to_csv(folder / "events.csv", index=False)
        return folder

    return project
