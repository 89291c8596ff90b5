"""The projects of tests/kit, `tabloop` as a command in them, and a folder for MLflow."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from forks import Forks
from kit.conftest import PARAMS, TEMPLATE, clean, project
from tabloop import registry

__all__ = ["project"]
Tabloop = Callable[..., "subprocess.CompletedProcess[str]"]


def begin_history(folder: Path) -> None:
    """Make the folder a repository of git's and DVC's, as a bake does."""
    shutil.copytree(TEMPLATE / ".dvc", folder / ".dvc")
    subprocess.run(["git", "init", "--quiet"], cwd=folder, env=clean(), check=True)


def commit(folder: Path) -> None:
    """Commit all that git does not ignore."""
    for command in (["git", "add", "--all"], ["git", "commit", "--quiet", "--message", "A state"]):
        subprocess.run(command, cwd=folder, env=clean(), check=True)


@pytest.fixture(scope="session")
def forks() -> Forks:
    """What runs commands as processes of their own that need not import libraries again."""
    return Forks()


@pytest.fixture
def tabloop(forks: Forks) -> Tabloop:
    """`tabloop(project, "ingest")`: the finished command.

    `code` is the exit status that it must have; further keywords are environment variables.
    """

    def tabloop(
        folder: Path, *arguments: str | Path, code: int = 0, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        done = forks.run([*map(str, arguments)], folder, clean(**variables))
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    return tabloop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project's folder, in which this process's MLflow works."""
    folder, before = tmp_path_factory.mktemp("registry"), Path.cwd()
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "ROOT", folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder
    os.chdir(before)
