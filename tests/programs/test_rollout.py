"""Register, challenge, promote, withdraw with real git, DVC and MLflow: interrupted anywhere, repeated, finished."""

import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kit.conftest import clean
from tabloop import rollout

from .conftest import commit
from .steps import (
    BEFORE,
    PROJECT,
    STEPS,
    check_state,
    finish,
    finish_all,
    make_projects,
    run,
    write_candidate,
)


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


def sabotage(point: str) -> None:
    """Let this process die where a point says: "at owner:function", or "after owner:function" as that returns."""
    when, _, name = point.partition(" ")
    owner, _, function = name.partition(":")
    original = pkgutil.resolve_name(name)

    def replaced(*arguments: Any, **options: Any) -> None:
        if when == "after":
            original(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    # "dvc.repo:Repo.add" is a method: its owner is the class.
    inner, _, function = function.rpartition(".")
    setattr(pkgutil.resolve_name(f"{owner}:{inner}" if inner else owner), function, replaced)


POINTS: dict[str, list[str]] = {
    "register": [
        "after tabloop.tracking:log_training",
        "after tabloop.registry:register",
        "at dvc.repo:Repo.add",
        "after dvc.repo:Repo.add",
        "at tabloop.model_card:write",
    ],
    "challenge": [
        "after shutil:copytree",
        "at dvc.repo:Repo.add",
        "at tabloop.registry:mirror",
        "at tabloop.model_card:write",
    ],
    "promote": [
        "at dvc.repo:Repo.add",
        "at tabloop.roles:git",
        "at dvc.repo:Repo.checkout",
        "at tabloop.registry:mirror",
        "at tabloop.model_card:write",
        "at tabloop.roles:drop",
        "after shutil:rmtree",
    ],
    "withdraw": ["at tabloop.registry:mirror", "at tabloop.roles:drop", "after shutil:rmtree"],
}


@pytest.mark.parametrize(("step", "point"), [(step, p) for step, points in POINTS.items() for p in points])
def test_a_step_that_was_killed_is_finished_by_the_same_command(
    before: Callable[[str], Path], step: str, point: str
) -> None:
    folder = before(step)
    status, _ = run(folder, STEPS[step], lambda: sabotage(point))
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
        status, text = run(
            folder, STEPS[step], lambda: setattr(pkgutil.resolve_name("dvc.lock"), "DEFAULT_TIMEOUT", 0)
        )
        other.communicate("\n")
    assert status == 1 and text.startswith("DVC: ") and text.endswith("run the same command again")
    finish_all(folder, step)


@pytest.mark.parametrize("step", ["promote", "withdraw"])
def test_before_there_is_any_model_a_step_says_what_makes_one(
    before: Callable[[str], Path], step: str
) -> None:
    said = "there is no challenger: `make challenge` makes the candidate the challenger"
    assert run(before("register"), STEPS[step]) == (1, said)


def test_what_is_done_is_not_done_twice(before: Callable[[str], Path]) -> None:
    folder = before("promote")
    finish(folder, STEPS["promote"])
    for step in ("promote", "withdraw"):
        assert run(folder, STEPS[step]) == (
            1,
            "there is no challenger: `make challenge` makes the candidate the challenger",
        )
    assert run(folder, STEPS["challenge"]) == (
        1,
        "the candidate b is already the champion: `make train` after a change",
    )
    assert finish(folder, STEPS["register"]) == "kit version 2 (b) is champion"
    card = (folder / "MODEL_CARD.md").read_text()
    assert card.startswith("# kit: model b\n") and "precision undefined" in card
    assert "| AUC | 0.9000 [0.8000, 1.0000] | at least 0.5 | passed |" in card
    assert (
        "| country | DE | 9 | 4 | 0.9000 | 0.8000 to 1.0000 |\n| country | FR | 9 | 4 | 0.9000 |  |\n" in card
    )
    assert "Beside a, which was the champion" in card and "| 0.8000 | +0.1000 [+0.0500, +0.1500] |" in card


def test_the_intended_use_is_kept(before: Callable[[str], Path]) -> None:
    folder = before("register")
    finish(folder, STEPS["register"])
    page = folder / "MODEL_CARD.md"
    page.write_text(page.read_text().replace("Fill in.", "The credit team."))
    first = page.read_text()
    finish(folder, STEPS["register"])
    assert page.read_text() == first and "The credit team." in first
    entry = json.loads((folder / "reports/registration.json").read_text())
    assert entry == {"name": "kit", "alias": "champion", "version": "a"}


def test_the_page_is_about_the_champion_whatever_the_candidate(before: Callable[[str], Path]) -> None:
    folder = before("challenge")
    page = (folder / "MODEL_CARD.md").read_text()
    write_candidate(folder, "c", "a")
    finish(folder, STEPS["register"])
    assert (folder / "MODEL_CARD.md").read_text() == page and page.startswith("# kit: model a\n")
    # Whoever undoes the commit of a promotion has the page of before, too.
    write_candidate(folder, "b", "a")
    finish(folder, STEPS["challenge"])
    commit(folder)
    finish(folder, STEPS["promote"])
    commit(folder)
    assert "# kit: model b" in (folder / "MODEL_CARD.md").read_text()
    subprocess.run(["git", "revert", "--no-edit", "HEAD", "HEAD~1"], cwd=folder, env=clean(), check=True)
    assert (folder / "MODEL_CARD.md").read_text() == page
    # And the next repro lets the registry follow: the stage `champion` asks for `register`, once.
    registration = folder / "reports/registration.json"
    subprocess.run(["dvc", "checkout", "--quiet", "--force"], cwd=folder, env=clean(), check=True)

    def checked() -> str:
        check_state("a", None)
        return ""

    for stays in (False, True):
        finish(folder, lambda: rollout.note_champion(PROJECT))
        assert registration.exists() == stays
        finish(folder, STEPS["register"])
        finish(folder, checked)


def test_a_champion_that_is_given_up_is_no_longer_on_the_page(before: Callable[[str], Path]) -> None:
    folder = before("withdraw")
    finish(folder, lambda: rollout.give_up("champion"))
    page = (folder / "MODEL_CARD.md").read_text()
    assert page.startswith("# kit: no champion\n") and "The challenger is b." in page
    assert "## Intended use" in page and "## Lineage" not in page
