"""PyTorch in place of scikit-learn: what other tests promise of a trained project, held for it too; and its training."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import (
    Bake,
    Project,
    Run,
    know_types,
    runner,
    torch_environment_of,
    trained_quickly,
    wait_for,
    within,
)
from programs.test_round_trip import model_of, test_the_service_gives_each_row_what_the_model_gives_it
from tabloop.candidate import fit_or_explain, in_order
from tabloop.cli import UserError
from tabloop.export import check_parity, serialize
from tabloop.onnx_model import model_inputs
from tabloop.params import Column, Params, Schema, Target
from test_pipeline import (
    test_a_second_repro_asks_for_the_champion_and_changes_nothing,
    test_the_lines_in_the_readme_load_the_estimator_that_the_graph_is,
)
from test_serving import (
    test_a_row_is_answered_and_logged_and_so_is_its_outcome,
    test_the_graph_answers_as_in_training,
)

# These run here with a project of torch: this module's fixtures take the place of the others.
__all__ = [
    "test_a_row_is_answered_and_logged_and_so_is_its_outcome",
    "test_a_second_repro_asks_for_the_champion_and_changes_nothing",
    "test_the_graph_answers_as_in_training",
    "test_the_lines_in_the_readme_load_the_estimator_that_the_graph_is",
    "test_the_service_gives_each_row_what_the_model_gives_it",
]
NUMBERS, LEVELS = ("label", "probabilities", "late"), ("word", "network")


@pytest.fixture(scope="session")
def baked(bake: Bake) -> Path:
    return bake(framework="torch")


@pytest.fixture(scope="module")
def environment(baked: Path) -> Path:
    return torch_environment_of(baked)


@pytest.fixture(scope="module")
def run(environment: Path) -> Run:
    return runner(environment)


@pytest.fixture(scope="module")
def quick(baked: Path, run: Run, shared: Path) -> Path:
    return trained_quickly(baked, run, shared / "quick-torch")


@pytest.fixture
def small(project: Project, quick: Path) -> Path:
    return project(quick)


@pytest.fixture(scope="module")
def packages(environment: Path) -> Iterator[None]:
    """This process finds torch after its own packages."""
    (folder,) = map(str, environment.glob("lib/python3*/site-packages"))
    sys.path.append(folder)
    yield
    sys.path.remove(folder)


@pytest.fixture
def model(packages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The owner's model.py, whose checkpoints lie in the test's folder."""
    from tabloop import torch_training

    monkeypatch.setattr(torch_training, "CHECKPOINTS", tmp_path / "checkpoints")
    return model_of("torch")


@pytest.fixture
def training(model: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module torch_training, with checkpoints from the first epoch on."""
    from tabloop import torch_training

    monkeypatch.setattr(torch_training, "SAVE_AFTER", 0)
    return torch_training


def table(n: int = 2000, shift: float = 0) -> tuple[pd.DataFrame, Schema, np.ndarray]:
    """Features as every model takes them, their schema, and the target, (n,); a fifth of the rows is positive."""
    random = np.random.default_rng(0)
    rows = pd.DataFrame({name: random.normal(size=n) + shift for name in NUMBERS})
    rows.loc[::7, "late"] = None
    rows = rows.assign(
        **{name: random.choice(np.array(["a", "b", "ä,", None], object), n) for name in LEVELS}
    )
    kinds = dict.fromkeys(NUMBERS, "number") | dict.fromkeys(LEVELS, "category")
    schema = Schema(
        target=Target(name="y"),
        request={n: Column.model_validate({"type": kind}) for n, kind in kinds.items()},
    )
    signal = rows.label + (rows.word == "a") + 0.5 * rows.late.isna() + random.normal(size=n) * 0.5
    return model_inputs(rows, schema), schema, (signal > 1.5 + shift).to_numpy().astype(int)


def weights(estimator: Any) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in estimator.network.state_dict().values()]


def test_a_killed_training_goes_on_and_gives_the_same_bytes(small: Path, environment: Path, run: Run) -> None:
    """In the middle of the second of three trainings; and with another order of sets and other threads."""
    made = {path.name: path.read_bytes() for path in (small / "models/candidate").iterdir()}
    code = (
        "import runpy; from tabloop import torch_training; torch_training.SAVE_AFTER = 0; "
        "runpy.run_module('fraud_detection.train', run_name='__main__')"
    )
    chosen = {"PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}  # bytes: on a CPU
    process = subprocess.Popen(
        ["python", "-c", code], cwd=small, env=within(small, environment) | chosen, stdout=subprocess.PIPE
    )
    wait_for(lambda: len(list(small.glob(".checkpoints/*.pt"))) == 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = run(small, "python", "-c", code, **chosen).stdout
    assert (
        said.startswith("train: ") and "\ntrain: continues after epoch 5, " in said
    )  # the first one is done
    assert said.count("continues after epoch") == 2 and said.count("train: on cpu in float32: ") == 3
    again = {path.name: path.read_bytes() for path in (small / "models/candidate").iterdir()}
    assert again.keys() == made.keys() and {"network.pt", "model.onnx"} < made.keys()
    assert [name for name in made if again[name] != made[name]] == []
    assert not (small / ".checkpoints").exists()
    assert run(small, "git", "status", "--porcelain").stdout == ""


def test_the_torch_models_parts_add_up_when_explained(run: Run, small: Path) -> None:
    assert "(torch, " in run(small, "tabloop", "summary").stdout
    code = (
        "from fastapi.testclient import TestClient; from fraud_detection.app import make_app; "
        "row = {'user_id': 'u000001', 'amount': 900, 'merchant_category': 'fuel', 'channel': 'online'}; "
        "print(TestClient(make_app()).post('/explain', json=row).text)"
    )
    found = json.loads(run(small, "python", "-c", code).stdout)
    moved = [part["contribution"] for part in found["contributions"]]
    assert found["method"] == "exact" and sum(map(bool, moved)) > 2
    assert found["base_value"] + sum(moved) == pytest.approx(found["probability"], abs=1e-9)


def test_the_notebook_fits_a_network(run: Run, small: Path) -> None:
    assert "AUC gained by the idea: " in run(small, "python", "notebooks/explore.py").stdout


def test_the_projects_own_tests_and_types_pass(run: Run, small: Path, environment: Path) -> None:
    know_types(small, environment)
    assert " passed" in run(small, "pytest", "-q").stdout
    run(small, "mypy")


def test_a_mistake_under_train_is_one_line(training: Any, model: ModuleType) -> None:
    features, schema, target = table(300)
    params = Params.model_construct(schema_=schema, train={"device": "cuda:1"})
    with pytest.raises(UserError) as error:
        fit_or_explain(model.fit, features, target, params)
    said = str(error.value)
    assert said.startswith("params.yaml: train: device: cuda:1: ") and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"learning_rate": -1}, "learning_rate: Input should be greater than 0"),
        ({"hiden": [3]}, "hiden: Extra inputs are not permitted"),
        ({"learning_rate": 1e30}, "the log loss is .* after epoch .: lower learning_rate"),
        ({"device": "gpu"}, "device: gpu: "),
    ],
)
def test_a_setting_that_can_not_be_is_named(
    training: Any, model: ModuleType, setting: dict[str, Any], message: str
) -> None:
    features, schema, target = table(300)
    with pytest.raises(ValueError, match=message):
        model.fit(features, target, schema, setting)


def test_training_stops_by_the_last_rows_and_keeps_the_best_epoch(
    training: Any, model: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    from tabloop.torch_rows import Rows

    features, schema, target = table()
    target[-200:] = target[-200:][::-1]  # the last rows have another truth: learning more makes it worse
    estimator = model.fit(features, target, schema, {"patience": 3, "epochs": 40})
    said = capsys.readouterr().out
    taken, done, loss = (float(word.strip(",")) for word in np.array(said.split())[[6, 8, 11]])
    assert done == taken + 3 < 40
    rows = Rows.of(features, estimator.levels, target)[1800:]
    scores = training.logits(estimator.network, rows)
    found = training.log_loss(scores, rows.target)
    assert float(found) == pytest.approx(loss, abs=1e-4)


def test_with_few_of_a_class_all_rows_are_trained_on(
    training: Any, model: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    features, schema, target = table(150)
    model.fit(features, target, schema, {"epochs": 3})
    why = "epoch 3 of 3, fewer than 20 rows of a class among the last 15 to stop by"
    assert capsys.readouterr().out.endswith(f": {why}\n")


def test_a_training_goes_on_only_with_the_same_rows_settings_and_code(
    training: Any, model: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    features, schema, target = table(300)
    monkeypatch.setattr(training, "source_of", lambda code: training.__file__)  # else it is not known here

    def goes_on(features: pd.DataFrame = features, target: np.ndarray = target, **settings: Any) -> bool:
        model.fit(features, target, schema, {"epochs": 2, **settings})
        return "continues after epoch 2, which a checkpoint has" in capsys.readouterr().out

    assert not goes_on() and goes_on()
    assert not goes_on(features.assign(label=features.label.to_numpy()[::-1]))
    assert not goes_on(target=1 - target)
    assert not goes_on(learning_rate=0.01) and not goes_on(seed=1) and not goes_on(hidden=[64, 33])
    monkeypatch.setattr(training, "source_of", lambda code: __file__)
    assert not goes_on() and goes_on()
    monkeypatch.undo()  # a class of a notebook: its code is not known


def test_bfloat16_is_another_training_whose_weights_are_float32(
    training: Any, model: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """A GPU's path, on the CPU: only matrix products are in bfloat16, and answers are in float32."""
    features, schema, target = table()
    half, whole = (
        model.fit(features, target, schema, {"epochs": 5, "precision": precision, "device": "cpu"})
        for precision in ("bfloat16", "float32")
    )
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("train: on cpu in bfloat16: ") and said[1].startswith(
        "train: on cpu in float32: "
    )
    assert {str(parameter.dtype) for parameter in half.network.parameters()} == {"torch.float32"}
    assert weights(half) != weights(whole)
    one, other = (estimator.predict_proba(features)[:, 1] for estimator in (half, whole))
    assert np.abs(one - other).max() > 0 and np.abs(one - other).mean() < 0.05


@pytest.mark.parametrize("kind", ["both", "numbers", "categories"])
def test_the_graph_is_the_network_whatever_the_columns(training: Any, model: ModuleType, kind: str) -> None:
    features, schema, target = table()
    names = {"both": (*NUMBERS, *LEVELS), "numbers": NUMBERS, "categories": LEVELS}[kind]
    schema = Schema(target=schema.target, request={name: schema.request[name] for name in names})
    features = features[list(names)].copy()
    if kind != "categories":
        features["late"] = np.float32(3)  # one value alone
    estimator = model.fit(features, target, schema, {"epochs": 2})
    other = table(400, shift=1e6)[0].replace("a", "never seen")[list(names)]
    for rows in (features, other):
        expected = estimator.predict_proba(rows)[:, 1]
        parity = check_parity(expected, serialize(model.to_onnx(estimator, schema)), rows, schema)[1]
        assert parity.largest_difference < 1e-6 and len(set(expected.round(6))) > 1
    assert weights(model.fit(features, target, schema, {"epochs": 2})) == weights(estimator)


def test_what_training_never_had_is_trained(training: Any, model: ModuleType) -> None:
    """A new level has weights of its own, and so has a missing number where none was missing."""
    features, schema, target = table()
    first, trained = (
        model.fit(features, target, schema, {"epochs": 3, "learning_rate": rate, "weight_decay": 0}).network
        for rate in (1e-30, 2e-3)
    )
    for network in (first, trained):
        assert network.complete.tolist() == [True, True, False]
    new = first.first[:-1]  # the embeddings of new levels
    moved = (trained.embedding.weight - first.embedding.weight).abs().max(1).values
    assert len(new) == 2 and all(moved[new] > 1e-3)
    indicator = len(NUMBERS) * (8 + 1)  # after bins and distances
    change = (
        (trained.layers[0].weight - first.layers[0].weight)[:, indicator : indicator + 3].abs().max(0).values
    )
    assert all(change > 1e-3)


@pytest.mark.parametrize("timestamp", ["at", None])
def test_rows_are_in_the_order_of_time_or_of_a_hash_of_the_entity(timestamp: str | None) -> None:
    random = np.random.default_rng(0)
    rows = pd.DataFrame(
        {"who": random.integers(0, 20, 200).astype(str), "at": random.permutation(200), "y": 0}
    )
    schema = Schema(
        entity="who", timestamp=timestamp, target=Target(name="y"), request={"x": Column(type="number")}
    )
    found = in_order(rows, schema)
    assert sorted(found.index) == list(range(200))
    if timestamp:
        assert found["at"].tolist() == list(range(200)) and in_order(found, schema) is found
    else:
        assert (found.who != found.who.shift()).sum() == 20  # each entity's rows side by side
