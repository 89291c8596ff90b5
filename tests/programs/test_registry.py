"""MLflow for real, in a folder of its own: registered once, aliases that follow git, a project that was moved."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import importlib_metadata
import pandas as pd
import pytest
from kit.conftest import PARAMS, clean
from onnx import TensorProto, helper
from tabloop import candidate, registry, tracking
from tabloop.card import ModelCard, Parity
from tabloop.cli import UserError
from tabloop.params import Params

PROJECT = Params.model_validate(PARAMS)
EVALUATION = {"auc": 0.9, "gate": {"passed": True, "reason": "fine"}}


def card(version: str) -> ModelCard:
    return ModelCard(
        version=version,
        data_hash="d",
        framework="sklearn",
        rows=1,
        schema=PROJECT.schema_,
        categories={},
        ranges={},
        example={"age": 30, "country": None, "amount": 1.5, "express": True},
        parity=Parity(rows=1, largest_difference=0.0),
        threshold=0.5,
    )


def register(folder: Path, version: str) -> int:
    """Write a graph and register it, as train and register do."""
    inputs = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT if column.numeric else TensorProto.STRING, [None, 1]
        )
        for name, column in PROJECT.schema_.features.items()
    ]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None])]
    node = helper.make_node("ReduceMax", ["amount"], ["probability"], axes=[1], keepdims=0)
    graph = helper.make_model(
        helper.make_graph([node], "graph", inputs, outputs), opset_imports=[helper.make_opsetid("", 17)]
    )
    candidate = folder / version
    candidate.mkdir(exist_ok=True)
    (candidate / "model.onnx").write_bytes(graph.SerializeToString())
    return registry.register(PROJECT, card(version), EVALUATION, candidate)


def aliases() -> dict[str, str]:
    """The model version of each alias."""
    client = registry.connect(PROJECT)
    found = client.get_registered_model("kit").aliases
    return {alias: client.get_model_version("kit", v).tags["version"] for alias, v in found.items()}


def test_registering_twice_makes_one_version(folder: Path) -> None:
    assert [register(folder, version) for version in ("a", "b", "a")] == [1, 2, 1]


def test_a_run_has_the_schema_of_all_rows_and_its_experiment_a_link_to_all_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pd.DataFrame(
        {
            "age": pd.array([1, 2, 3, None], "Int64"),
            "country": ["DE", "FR", None, "DE"],
            "amount": [0.5, 0.2, 0.1, 0.9],
            "express": pd.array([True, False, None, True], "boolean"),
            "returned": [0, 1, 0, 1],
        }
    )
    (folder / "data/features").mkdir(parents=True)
    rows.to_parquet(folder / tracking.TRAIN)
    monkeypatch.setattr(tracking, "ROOT", folder)
    from mlflow.data import from_pandas  # type: ignore[attr-defined]

    monkeypatch.setattr(candidate, "FEATURES", folder / "data/features")
    listed: list[str] = []

    def list_packages() -> dict[str, list[str]]:
        listed.append("all")
        return {}

    monkeypatch.setattr(importlib_metadata, "packages_distributions", list_packages)
    register(folder, "rows")
    assert not listed
    client = registry.connect(PROJECT)
    run = client.get_run(str(registry.run_of(client, PROJECT, "rows")))
    experiment, inputs = client.get_experiment(run.info.experiment_id), run.inputs
    assert (
        f"(#/experiments/{run.info.experiment_id}/runs?workflowType=machine_learning)"
        in experiment.tags["mlflow.note.content"]
    )
    assert inputs
    (data,) = inputs.dataset_inputs
    read = from_pandas(pd.read_parquet(folder / tracking.TRAIN))
    assert json.loads(str(data.dataset.schema))["mlflow_colspec"] == read.schema.to_dict()
    assert json.loads(str(data.dataset.profile)) == {"num_rows": 4, "num_elements": 20}


def test_aliases_follow_git(folder: Path) -> None:
    register(folder, "a"), register(folder, "b")
    registry.mirror(PROJECT, {"champion": "a", "challenger": "b"})
    assert aliases() == {"champion": "a", "challenger": "b"}
    for _ in range(2):
        registry.mirror(PROJECT, {"champion": "b", "challenger": None})
        assert aliases() == {"champion": "b"}


def test_a_project_that_was_moved_keeps_its_registry(folder: Path, tmp_path: Path) -> None:
    register(folder, "a")
    registry.mirror(PROJECT, {"champion": "a", "challenger": None})
    moved = shutil.copytree(folder, tmp_path / "elsewhere it's")
    script = (
        "import mlflow; from tabloop import registry; from tabloop.params import load;"
        "registry.connect(load()); print(mlflow.artifacts.download_artifacts('models:/kit@champion'))"
    )
    hidden = folder.rename(folder.with_name("hidden"))  # what the moved project reads is its own
    try:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=moved, env=clean(), capture_output=True, text=True
        )
    finally:
        hidden.rename(folder)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(moved)


def test_a_server_that_is_down_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        UserError, match=r"^MLflow at http://127\.0\.0\.1:1 does not answer: .+; run this again$"
    ):
        registry.connect(PROJECT)
