"""Register, challenge, promote, withdraw with real git, DVC and MLflow: interrupted anywhere, repeated, finished."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from tabloop import model_card, registry, roles

from .conftest import clean
from .steps import BEFORE, STEPS, finish, finish_all, make_projects, run


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The projects that the tests copy."""
    origin = tmp_path_factory.mktemp("rollout")
    make_projects(origin)
    return origin


@pytest.fixture
def before(origin: Path, tmp_path: Path) -> Callable[[str], Path]:
    """`before("promote")`: a project in which this step is the next."""
    return lambda step: shutil.copytree(origin / BEFORE[step], tmp_path / "project", symlinks=True)


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
    assert finish_all(folder, step) in (
        "kit version 1 (a) is champion",
        "Make b the challenger",
        "Promote b to champion, after a",
        "Withdraw the challenger b",
    )


@pytest.mark.parametrize("step", ["register", "promote"])
def test_a_step_is_finished_once_mlflow_answers_again(before: Callable[[str], Path], step: str) -> None:
    folder = before(step)
    down = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    status, text = run(folder, STEPS[step], variables=down)
    assert (
        status == 1 and text.startswith("MLflow at http://127.0.0.1:1 does not answer") and "\n" not in text
    )
    finish_all(folder, step)


@pytest.mark.parametrize("step", ["challenge", "promote"])
def test_a_step_is_finished_once_dvcs_lock_is_free(before: Callable[[str], Path], step: str) -> None:
    folder = before(step)
    script = "from dvc.repo import Repo\nwith Repo('.').lock:\n    print('held', flush=True)\n    input()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, cwd=folder, env=clean(), stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        status, text = run(folder, STEPS[step])
        other.communicate("\n")
    assert status == 1 and text.startswith("DVC: ") and text.endswith("run the same command again")
    finish_all(folder, step)


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
