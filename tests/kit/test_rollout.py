"""Register, challenge, promote, withdraw with real git, DVC and MLflow: interrupted anywhere, repeated, finished."""

import json
import os
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import onnx
import pytest
import yaml
from dvc.repo import Repo
from onnx import TensorProto, helper
from tabloop import model_card, params, register, registry, release, roles, rollout
from tabloop.cli import UserError

from .conftest import PARAMS, clean
from .test_card import CARD, METRICS

assert mlflow and onnx  # each step runs in a fork of this process, which has imported what takes seconds
PROJECT = params.Params.model_validate(PARAMS)
Step = Callable[[], str]
STEPS: dict[str, Step] = {
    "register": lambda: register.register(PROJECT, Path("reports/registration.json").absolute()),
    "challenge": lambda: rollout.challenge(PROJECT),
    "promote": lambda: rollout.promote(PROJECT),
    "withdraw": lambda: rollout.withdraw(PROJECT),
}
BEFORE = {"register": "trained", "challenge": "retrained", "promote": "challenged", "withdraw": "challenged"}
# What holds after each step: the versions of champion and challenger.
AFTER = {"register": ("a", None), "challenge": ("a", "b"), "promote": ("b", None), "withdraw": ("a", None)}


def enter(folder: Path) -> None:
    """Let this process work on the project in `folder`."""
    os.chdir(folder)
    for module in (model_card, params, register, registry, release, roles):
        module.ROOT = folder  # type: ignore[attr-defined]
    roles.MODELS, roles.CANDIDATE = folder / "models", folder / "models/candidate"
    roles.EVALUATION, rollout.CHAMPION = folder / "metrics/evaluation.json", folder / "metrics/champion.json"


def run(
    folder: Path, step: Step, sabotage: Callable[[], Any] = lambda: None, **variables: str
) -> tuple[int, str]:
    """Run a step in a process of its own; its exit status, negative for a signal, and what it returned or refused."""
    answer = folder.parent / f"{folder.name}.answer"
    answer.write_text("")
    if not (pid := os.fork()):
        status = 2
        try:
            here = clean(**variables)
            os.environ.clear()
            os.environ.update(here)
            enter(folder)
            sabotage()
            answer.write_text(step())
            status = 0
        except UserError as error:
            answer.write_text(str(error))
            status = 1
        except BaseException:
            answer.write_text(traceback.format_exc())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), answer.read_text()


def finish(folder: Path, step: Step) -> str:
    status, text = run(folder, step)
    assert status == 0, text
    return text


def write_candidate(folder: Path, version: str, judged: str | None) -> None:
    """models/candidate with a graph that MLflow takes, and the evaluation that passed it."""
    inputs = [helper.make_tensor_value_info("amount", TensorProto.FLOAT, [None, 1])]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 1])]
    node = helper.make_node("Sigmoid", ["amount"], ["probability"], name=version)
    graph = helper.make_graph([node], version, inputs, outputs)
    candidate = folder / "models/candidate"
    candidate.mkdir(parents=True, exist_ok=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    (candidate / "model.onnx").write_bytes(model.SerializeToString())
    CARD.model_copy(update={"version": version}).write(candidate)
    result = METRICS | {
        "version": version,
        "rows": 9,
        "positives": 4,
        "threshold": 0.5,
        "precision": None,
        "recall": 0.0,
    }
    result |= {"gate": {"passed": True, "reason": "a reason"}, "segments": {"country": {}}}
    champion = {"verdict": "better", "version": judged} if judged else {"verdict": "none yet"}
    (folder / "metrics").mkdir(exist_ok=True)
    (folder / "metrics/evaluation.json").write_text(json.dumps(result | {"champion": champion}))


def commit(folder: Path) -> None:
    for command in (["git", "add", "--all"], ["git", "commit", "--quiet", "--message", "A step"]):
        subprocess.run(command, cwd=folder, env=clean(), check=True)


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three states of one project, each a folder: trained, retrained, challenged."""
    origin = tmp_path_factory.mktemp("rollout")
    folder = origin / "trained"
    write_candidate(folder, "a", None)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (folder / ".gitignore").write_text(
        "mlflow.db\nmlruns/\nmodels/candidate/\nmodels/champion/\nmodels/challenger/\n"
    )
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=folder, env=clean(), check=True)
    subprocess.run(["dvc", "config", "core.autostage", "true"], cwd=folder, env=clean(), check=True)
    commit(folder)
    retrained = shutil.copytree(folder, origin / "retrained", symlinks=True)
    assert finish(retrained, STEPS["register"]) == "kit version 1 (a) is champion"
    write_candidate(retrained, "b", "a")
    finish(retrained, STEPS["register"])
    commit(retrained)
    challenged = shutil.copytree(retrained, origin / "challenged", symlinks=True)
    assert finish(challenged, STEPS["challenge"]) == "Make b the challenger"
    commit(challenged)
    return origin


@pytest.fixture
def before(origin: Path, tmp_path: Path) -> Callable[[str], Path]:
    """`before("promote")`: a project in which this step is the next."""
    return lambda step: shutil.copytree(origin / BEFORE[step], tmp_path / "project", symlinks=True)


def state() -> str:
    """The versions that git pins, and MLflow's aliases; fails where folder and pin differ."""
    versions = {role: card.version if (card := roles.current(role)) else None for role in roles.ROLES}
    assert all((roles.MODELS / role).exists() == (version is not None) for role, version in versions.items())
    client = registry.connect(PROJECT)
    aliases = client.get_registered_model("kit").aliases
    named = {role: client.get_model_version("kit", entry).tags["version"] for role, entry in aliases.items()}
    return json.dumps([[versions[role] for role in roles.ROLES], [named.get(role) for role in roles.ROLES]])


def kill(owner: Any, name: str) -> Callable[[], None]:
    """Let this process die as it comes to that function."""
    return lambda: setattr(owner, name, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))


def die_after(owner: Any, name: str) -> Callable[[], None]:
    """Let this process die as that function returns."""
    original = getattr(owner, name)

    def replaced(*arguments: Any, **options: Any) -> None:
        original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    return lambda: setattr(owner, name, replaced)


POINTS: dict[str, list[Callable[[], None]]] = {
    "register": [
        die_after(registry, "track"),
        die_after(registry, "register"),
        kill(Repo, "add"),
        die_after(Repo, "add"),
        kill(model_card, "write"),
    ],
    "challenge": [
        die_after(shutil, "copytree"),
        kill(Repo, "add"),
        kill(registry, "mirror"),
        die_after(registry, "mirror"),
    ],
    "promote": [
        kill(Repo, "add"),
        kill(roles, "git"),
        kill(Repo, "checkout"),
        kill(registry, "mirror"),
        kill(roles, "drop"),
        die_after(shutil, "rmtree"),
    ],
    "withdraw": [kill(registry, "mirror"), kill(roles, "drop"), die_after(shutil, "rmtree")],
}


@pytest.mark.parametrize(
    ("step", "point"), [(step, i) for step, points in POINTS.items() for i in range(len(points))]
)
def test_a_step_that_was_killed_is_finished_by_the_same_command(
    before: Callable[[str], Path], step: str, point: int
) -> None:
    folder = before(step)
    status, _ = run(folder, STEPS[step], POINTS[step][point])
    assert status == -signal.SIGKILL
    text = finish(folder, STEPS[step])
    assert json.loads(finish(folder, state)) == [list(AFTER[step])] * 2
    assert text in (
        "kit version 1 (a) is champion",
        "Make b the challenger",
        "Promote b to champion, after a",
        "Withdraw the challenger b",
    )


@pytest.mark.parametrize("step", STEPS)
def test_a_step_is_finished_once_mlflow_answers_again(before: Callable[[str], Path], step: str) -> None:
    folder = before(step)
    down = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    status, text = run(folder, STEPS[step], **down)
    assert (
        status == 1 and text.startswith("MLflow at http://127.0.0.1:1 does not answer") and "\n" not in text
    )
    finish(folder, STEPS[step])
    assert json.loads(finish(folder, state)) == [list(AFTER[step])] * 2


@pytest.mark.parametrize("step", ["register", "challenge", "promote"])
def test_a_step_is_finished_once_dvcs_lock_is_free(before: Callable[[str], Path], step: str) -> None:
    folder = before(step)
    script = "from dvc.repo import Repo\nwith Repo('.').lock:\n    print('held', flush=True)\n    input()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=folder, env=clean(), stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        status, text = run(folder, STEPS[step])
        other.communicate("\n")
    assert status == 1 and text.startswith("DVC: ") and text.endswith("run the same command again")
    finish(folder, STEPS[step])
    assert json.loads(finish(folder, state)) == [list(AFTER[step])] * 2


def test_what_is_done_is_not_done_twice(before: Callable[[str], Path]) -> None:
    folder = before("promote")
    finish(folder, STEPS["promote"])
    for step in ("promote", "withdraw"):
        assert run(folder, STEPS[step]) == (
            1,
            "there is no challenger: `make challenge` makes the candidate the challenger",
        )
    assert run(folder, STEPS["challenge"]) == (1, "the candidate b is the champion already")
    assert finish(folder, STEPS["register"]) == "kit version 2 (b) is champion"
    card = (folder / "MODEL_CARD.md").read_text()
    assert (
        "It is the champion; in MLflow's registry it has version 2." in card and "precision undefined" in card
    )


def test_the_intended_use_is_kept(before: Callable[[str], Path]) -> None:
    folder = before("register")
    finish(folder, STEPS["register"])
    page = folder / "MODEL_CARD.md"
    page.write_text(page.read_text().replace("Fill in.", "The credit team."))
    first = page.read_text()
    finish(folder, STEPS["register"])
    assert page.read_text() == first and "The credit team." in first
    entry = json.loads((folder / "reports/registration.json").read_text())
    assert entry == {"name": "kit", "registry_version": 1, "alias": "champion", "version": "a"}
