"""`tabloop tune`, on a small table with an estimator of numpy: what it searches, finds, keeps and writes."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import wait_for
from kit.conftest import PARAMS, clean, orders
from pydantic import ValidationError
from tabloop import candidate, owner, params, registry, study, tune, tune_reports
from tabloop.cli import UserError
from tabloop.params import Params
from tabloop.params_file import with_arguments
from tabloop.space import Range

MODEL = """
import os, time
from pathlib import Path
import numpy as np

class Line:
    def __init__(self, weight, shift=0): self.weight, self.shift = weight, shift
    def predict_proba(self, features):
        noise = np.sin(features["amount"].to_numpy(float) * 1e4 + self.shift)
        score = 1 / (1 + np.exp(noise * 3 - self.weight * np.log(features["amount"].to_numpy(float) + 1)))
        return np.stack([1 - score, score], axis=1)

def fit(features, target, schema, params):
    if params["weight"] < -2:
        raise RuntimeError("too\\nlight")
    HOOK
    return Line(params["weight"])
"""
TEXT = """
train: # what fit gets
  weight: 0.0 # of the amount
  layers: [1, 2]
  fixed: 7

# The space
tune:
  weight: { low: -3, high: 4.0 }
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with train alone, in which this process works. MLflow's database is made once."""
    folder, before = tmp_path_factory.mktemp("tune"), Path.cwd()
    (folder / "data/features").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        for module in (owner, params, registry, study, tune, tune_reports):
            patch.setattr(module, "ROOT", folder)
        patch.setattr(candidate, "ROOT", folder)
        patch.setattr(candidate, "FEATURES", folder / "data/features")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder
    os.chdir(before)


@pytest.fixture
def project(home: Path) -> Callable[..., Path]:
    """`project(hook="...")`: that folder with a study, a model.py and a params.yaml of its own."""

    def project(hook: str = "", text: str = TEXT, rows: int = 600) -> Path:
        for old in (*home.glob("data/tune.*"), *home.glob("src/*"), *home.glob("reports")):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        for name in [name for name in sys.modules if name.startswith("shop")]:
            del sys.modules[name]
        rest = {key: value for key, value in PARAMS.items() if key != "train"}
        (home / "params.yaml").write_text(yaml.safe_dump(rest, sort_keys=False) + text)
        package = home / "src" / f"shop{os.urandom(4).hex()}"
        package.mkdir(parents=True)
        (package / "model.py").write_text(MODEL.replace("HOOK", hook))
        orders(rows).to_parquet(home / "data/features/train.parquet")
        return home

    return project


def run(trials: int, write: bool | None = None, timeout: float = 1e9) -> str:
    return tune.tune(trials, timeout, "auc", write)


def trials(folder: Path) -> list[tuple[Any, ...]]:
    """State and value of each trial."""
    with sqlite3.connect(folder / "data/tune.db") as db:
        return db.execute(
            "SELECT state, param_value FROM trials JOIN trial_params USING (trial_id)"
        ).fetchall()


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": 1},
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 1, "high": 9, "log": True, "step": 2},
        {"low": 1, "high": 9, "step": -1},
        {"low": "x", "high": 2},
        {"low": True, "high": 2},
        {"low": float("nan"), "high": 2},
        {"choices": [1]},
        {"choices": [1, 1]},
        {"choices": [1, 2], "low": 1},
        {"from": 1, "to": 2},
        {},
    ],
)
def test_a_range_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Range.model_validate(wrong)


def test_a_range_of_an_argument_that_train_does_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS | {"tune": {"depth": {"low": 1, "high": 2}}}))
    with pytest.raises(UserError, match=r"^params.yaml: .*tune: not an argument under train: depth$"):
        params.load(tmp_path / "params.yaml")


def test_what_is_drawn_is_within_the_range_and_of_its_type() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {
        "rate": Range(low="1e-4", high=0.29996, log=True),
        "whole": Range(low=1, high=50, log=True),
        "steps": Range(low=0.1, high=0.4, step=0.1),
        "layers": Range(choices=[[64, 32], [8], None, "wide"]),
    }
    searched = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(200):
        drawn = searched.ask({name: found.distribution for name, found in space.items()}).params
        got = {name: space[name].argument(value) for name, value in drawn.items()}
        assert 1e-4 <= got["rate"] <= 0.29996 and len(f"{got['rate']:.15g}".strip("0.").split("e")[0]) <= 5
        assert type(got["whole"]) is int and 1 <= got["whole"] <= 50
        assert got["steps"] in (0.1, 0.2, 0.3, 0.4) and got["layers"] in ([64, 32], [8], None, "wide")
        assert all(found.argument(found.drawn(got[name])) == got[name] for name, found in space.items())
    assert [space["whole"].drawn(value) for value in (0, 51, 2.5, "x", None)] == [None] * 5
    assert space["layers"].drawn([64]) is None


def test_only_the_values_in_params_yaml_change() -> None:
    text = "# Mine\r\na: {b: 1} # b\r\n\ntrain:\n  x: 0.5 # rate\n  y:\n    - 64\n    - 32\n  # z\n  z: 'a'\nlast: [1,\n 2]\n"
    new = with_arguments(text, {"x": 1e-05, "y": [8, 8], "z": None}, "auc +0.1 [0, 0.2]")
    changed = text.replace("0.5", "1.0e-05").replace("- 64\n    - 32", "[8, 8]").replace("'a'", "null")
    assert new == changed.replace("train:", "train: # tuned: auc +0.1 [0, 0.2]")
    assert with_arguments(new, {"x": 0.5}, "more").splitlines()[3] == "train: # tuned: more"
    noted = with_arguments("train: # mine\r\n  x: 1\r\n", {"x": 2}, "auc +0.1 [0, 0.2]")
    assert noted == "train: # tuned: auc +0.1 [0, 0.2] # mine\r\n  x: 2\r\n"
    assert with_arguments(noted, {"x": 3}, "more") == "train: # tuned: more # mine\r\n  x: 3\r\n"
    assert with_arguments("train:\r\n  x: 1\r\n", {"x": 2}, "more").startswith("train: # tuned: more\r\n")
    assert with_arguments("train: {x: 1, y: 2}\n", {"y": 3}, "more") == "train: {x: 1, y: 3}\n"
    with pytest.raises(UserError, match=r"by hand: .*'x': 2"):
        with_arguments("a: &a 1\ntrain:\n  x: *a\n", {"x": 2}, "more")


@pytest.mark.parametrize("timestamp", ["ordered_at", None])
def test_no_model_sees_its_own_rows_nor_a_trial_the_newest(
    project: Callable[..., Path], timestamp: str | None
) -> None:
    project()
    known = Params.model_validate(PARAMS | {"schema": PARAMS["schema"] | {"timestamp": timestamp}})
    rows = tune.read_rows(known)
    newest = set(rows.inputs.index[rows.part == tune.NEWEST])
    as_in_training = candidate.in_order(candidate.read_features("train"), known.schema_).index.tolist()
    fits: list[set[int]] = []

    class Constant:
        def predict_proba(self, features: Any) -> np.ndarray:
            assert not set(features.index) & fits[-1] and len(set(features.index) | fits[-1]) <= 600
            assert not timestamp or min(features.index) > max(fits[-1])
            return np.full((len(features), 2), 0.5)

    def fit(features: Any, target: np.ndarray, *_: Any) -> Constant:
        fits.append(set(features.index))
        assert features.index.tolist() == [row for row in as_in_training if row in fits[-1]]
        assert (orders(600).returned.to_numpy()[features.index] == target).all()
        return Constant()

    for part in (*tune.FOLDS, tune.NEWEST):
        assert len(tune.predict(fit, rows, known, part)) == (rows.part == part).sum() > 5
    assert not set.union(*fits) & newest and all(len(seen) > 150 for seen in fits)


def test_the_best_is_written_with_what_it_gained_and_the_study_goes_on(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project()
    assert run(8).startswith("written to params.yaml; next: `make train`")
    said = capsys.readouterr().out
    assert "failed: too light" in said and "is the best so far: auc" in said and "no trial saw" in said
    states = [state for state, _ in trials(folder)]
    assert len(states) == 8 and {"COMPLETE", "FAIL"} <= {*states} and "RUNNING" not in states
    text = (folder / "params.yaml").read_text()
    weight = yaml.safe_load(text)["train"]["weight"]
    changed = (
        rf"train: # tuned: auc .* # what fit gets\n  weight: {weight} # of the amount\n  layers: \[1, 2\]\n"
    )
    assert weight > 0.1 and re.search(changed, text)
    page = (folder / "reports/tune.html").read_text()
    assert page.count("<svg") == 3 and "Hyperparameter Importances" in page
    assert not {"<script", "<link", "src="} & {*page.split()}
    # Dark where the reader's screen is; and on a log scale no labels that lie on each other, such as 2 x 10^-2.
    assert "prefers-color-scheme: dark" in page and "\\times" not in page
    client = registry.connect(params.load(folder / "params.yaml"))
    (experiment,) = client.search_experiments(filter_string="name = 'kit'")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "study" in run.data.tags)
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 8 and {r.info.status for r in children} >= {"FINISHED", "FAILED"}
    best = max(children, key=lambda r: r.data.metrics.get("auc", 0))
    assert best.data.params["weight"] == str(weight) and best.data.params["fixed"] == "7"

    assert run(8).startswith("these are the arguments of params.yaml")
    said = capsys.readouterr().out
    assert "has 8 of 8 trials" in said and "a new study" not in said
    run(9)
    assert len(trials(folder)) == 9 and "has 8 of 9 trials" in capsys.readouterr().out
    orders(599).to_parquet(folder / "data/features/train.parquet")
    run(1)
    said = capsys.readouterr().out
    assert "tune: a new study" in said and "has 0 of 1 trials" in said and len(trials(folder)) == 10


def test_what_may_be_chance_is_written_only_if_asked(project: Callable[..., Path]) -> None:
    folder = project('return Line(1, 1e3 * params["weight"])')  # its trials differ by chance alone
    before = (folder / "params.yaml").read_bytes()
    assert "nothing is written; the gain may be chance" in run(5)
    assert run(5, write=False).startswith("nothing is written ->")
    assert (folder / "params.yaml").read_bytes() == before
    assert run(5, write=True).startswith("written") and (folder / "params.yaml").read_bytes() != before


def test_params_yaml_that_was_edited_meanwhile_keeps_the_edits(project: Callable[..., Path]) -> None:
    edit = """
    import yaml
    path = next(p for p in Path(__file__).parents if (p / "params.yaml").exists()) / "params.yaml"
    if params["weight"] > 0.01: path.write_text(path.read_text().replace("OLD", "NEW"))"""
    folder = project(edit.replace("OLD", "min: 0.5").replace("NEW", "min: 0.6"))
    assert run(4).startswith("written")
    now = yaml.safe_load((folder / "params.yaml").read_text())
    assert now["gates"][0]["min"] == 0.6 and now["train"]["weight"] > 0
    folder = project(edit.replace("OLD", "fixed: 7").replace("NEW", "fixed: 8"))
    with pytest.raises(
        UserError, match=r"nothing is written, because `train` in params.yaml was edited meanwhile"
    ):
        run(4)
    assert yaml.safe_load((folder / "params.yaml").read_text())["train"] == {
        "weight": 0.0,
        "layers": [1, 2],
        "fixed": 8,
    }


def test_arguments_that_fail_in_params_yaml_end_the_search(project: Callable[..., Path]) -> None:
    project("if True: raise ValueError('no')")
    with pytest.raises(UserError, match=r"these are the arguments of params.yaml"):
        run(8)
    project("if True: raise ValueError('no')", TEXT.replace("weight: 0.0", "weight: 9.0"))
    with pytest.raises(UserError, match="none of 3 trials finished"):
        run(3)


def test_what_is_missing_is_said(project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = project(text=TEXT.replace("weight: { low: -3, high: 4.0 }", "{}"))
    with pytest.raises(UserError, match=r"params.yaml has no `tune`"):
        run(2)
    project_text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(project_text.replace("{}", "weight: { low: -3, high: 4.0 }"))
    orders(12).to_parquet(folder / "data/features/train.parquet")
    with pytest.raises(UserError, match="each of its 6 parts needs both classes"):
        run(2)
    orders(600).to_parquet(folder / "data/features/train.parquet")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(UserError, match=r"MLflow at http://127.0.0.1:1 does not answer"):
            run(2)
    (folder / "data/features/train.parquet").unlink()
    with pytest.raises(UserError, match=r"train.parquet is missing: run `make train`"):
        run(2)


def test_an_mlflow_that_fails_meanwhile_gets_the_trials_later(
    project: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project()
    run(3)
    with sqlite3.connect(folder / "mlflow.db") as db:
        before = db.execute("SELECT count(*) FROM runs").fetchone()[0]
        db.execute(
            "CREATE TRIGGER broken BEFORE INSERT ON runs BEGIN SELECT raise(ABORT, 'disk is gone'); END"
        )
    run(6)
    said = capsys.readouterr().out
    assert said.count("MLflow does not answer") == 1 and "disk is gone" in said and len(trials(folder)) == 6
    with sqlite3.connect(folder / "mlflow.db") as db:
        db.execute("DROP TRIGGER broken")
    run(7)
    with sqlite3.connect(folder / "mlflow.db") as db:
        assert db.execute("SELECT count(*) FROM runs").fetchone()[0] == before + 4


def test_ctrl_c_is_a_line_and_keeps_the_trials(project: Callable[..., Path]) -> None:
    folder = project("if os.path.exists('stop'): raise KeyboardInterrupt")
    run(3)
    (folder / "stop").touch()
    with pytest.raises(SystemExit, match=r"^tune: stopped; 3 trials are kept"):
        run(5)
    (folder / "stop").unlink()
    run(5)
    assert sum(state in ("COMPLETE", "PRUNED") for state, _ in trials(folder)) >= 5


def test_two_at_once_share_a_study_and_one_that_is_killed_gives_its_trial_back(
    project: Callable[..., Path],
) -> None:
    """`tabloop tune` for real, which waits in its second trial; and this process beside it."""
    folder = project(
        """
    while os.environ.get("WAIT") and params["weight"] != 0 and not time.sleep(0.05):
        Path("waits").touch()"""
    )
    command = [sys.executable, "-m", "tabloop", "tune", "--trials", "6"]
    env = clean(WAIT="yes", PROJECT_ROOT=str(folder))
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True) as other:
        wait_for((folder / "waits").exists)
        (left,) = [value for state, value in trials(folder) if state == "RUNNING"]
        assert run(6).startswith("another search still runs a trial of this study")
        assert [state for state, _ in trials(folder)].count("RUNNING") == 1 and len(trials(folder)) == 6
        os.kill(other.pid, signal.SIGKILL)
    assert run(6).startswith("written")
    found = trials(folder)
    assert "RUNNING" not in [state for state, _ in found] and len(found) == 7
    assert [value for _, value in found].count(left) == 2 and found[-1][1] == left
