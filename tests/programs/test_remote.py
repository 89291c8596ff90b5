"""Data and models in a workflow, with real DVC: no remote, a remote, one that refuses, a fork, what is not trained again."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from kit.conftest import clean
from kit.test_card import CARD

from .conftest import Tabloop, begin_history, commit

# A stage that shows how often it ran.
PIPELINE = """stages:
  train:
    cmd: mkdir -p models/candidate && cp params.yaml models/candidate/model.onnx && echo ran >>../ran
    deps: [params.yaml]
    outs: [models/candidate]
"""
MINE = "['remote \"mine\"']\n    url = elsewhere\n"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose candidate was trained once, with a pinned champion, committed; don't write into it."""
    folder = tmp_path_factory.mktemp("remote") / "project"
    folder.mkdir()
    begin_history(folder)
    (folder / "params.yaml").write_text("project: kit\n")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / ".gitignore").write_text("models/candidate/\nmodels/champion/\n")
    CARD.write(folder / "models/champion")
    for command in (["repro"], ["add", "models/champion"]):
        dvc(folder, *command)
    commit(folder)
    return folder


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copy(trained.parent / "ran", tmp_path)
    return shutil.copytree(trained, tmp_path / "project", symlinks=True)


def dvc(folder: Path, *arguments: str) -> None:
    subprocess.run(["dvc", *arguments, "--quiet"], cwd=folder, env=clean(), check=True)


def ran(folder: Path) -> int:
    return len((folder.parent / "ran").read_text().splitlines())


def checkout(folder: Path) -> Path:
    """What a workflow has: the commit, and nothing that DVC keeps."""
    copy = folder.parent / f"checkout{len(list(folder.parent.glob('checkout*')))}"
    subprocess.run(["git", "clone", "--quiet", folder, copy], env=clean(), check=True)
    return copy


def event(folder: Path, head: str | None, **variables: str) -> dict[str, str]:
    """The environment of a step of a pull request whose head is in this repository (None: it was deleted)."""
    path = folder.parent / "event.json"
    repo = {"full_name": head} if head else None
    path.write_text(json.dumps({"pull_request": {"number": 7, "head": {"repo": repo}}}))
    about = {"GITHUB_EVENT_NAME": "pull_request", "GITHUB_REPOSITORY": "acme/kit", "GITHUB_ACTOR": "someone"}
    return about | {"GITHUB_EVENT_PATH": str(path)} | variables


def test_what_one_machine_sends_another_gets_and_no_credential_stays(folder: Path, tabloop: Tabloop) -> None:
    where = {
        "DVC_REMOTE_URL": str(folder.parent / "store"),
        "DVC_CREDENTIALS": "['remote \"local\"']\n    verify = true",
    }
    config = folder / ".dvc/config.local"
    config.write_text(MINE)
    assert "sent to" in tabloop(folder, "remote", "push", **where).stdout
    assert config.read_text() == MINE
    other, summary = checkout(folder), folder.parent / "summary.md"
    said = tabloop(other, "remote", "fetch", GITHUB_STEP_SUMMARY=str(summary), **where).stdout
    assert "fetched from" in said and "fetched from" in summary.read_text()
    assert not (other / ".dvc/config.local").exists()
    assert (other / "models/champion/model.json").exists()
    dvc(other, "repro")
    assert (other / "models/candidate/model.onnx").exists() and ran(folder) == 1


def test_without_a_remote_the_champion_that_is_not_here_is_given_up(folder: Path, tabloop: Tabloop) -> None:
    summary = folder.parent / "summary.md"
    summary.write_text("x" * 1_000_000)  # GitHub would refuse more than 1 MiB, and what was there with it
    said = tabloop(folder, "remote", "push", GITHUB_STEP_SUMMARY=str(summary)).stdout
    assert "nothing is kept" in said and "nothing is kept" not in summary.read_text()
    assert summary.stat().st_size < 1_000_200 and "Cut here" in summary.read_text()
    tabloop(folder, "remote", "fetch")
    assert (folder / "models/champion.dvc").exists()  # it is here
    other = checkout(folder)
    said = tabloop(other, "remote", "fetch").stdout
    assert "No `DVC_REMOTE_URL`" in said and "models/champion.dvc is removed" in said
    assert not (other / "models/champion.dvc").exists()


@pytest.mark.parametrize("head", ["someone/kit", None, "acme/kit"])
def test_a_fork_and_dependabot_take_the_path_without_a_remote(
    folder: Path, tabloop: Tabloop, head: str | None
) -> None:
    bot = {"GITHUB_ACTOR": "dependabot[bot]"} if head == "acme/kit" else {}
    where = event(folder, head, DVC_REMOTE_URL="s3://a-bucket/that-needs-a-secret", **bot)
    said = tabloop(checkout(folder), "remote", "fetch", **where).stdout
    assert "This pull request has no secrets" in said and "given" not in said


def test_a_pull_request_reads_the_remote_and_never_writes_to_it(folder: Path, tabloop: Tabloop) -> None:
    store = {"DVC_REMOTE_URL": str(folder.parent / "store")}
    tabloop(folder, "remote", "push", **store)
    where = event(folder, "acme/kit") | store
    other = checkout(folder)
    assert "fetched from" in tabloop(other, "remote", "fetch", **where).stdout
    failed = tabloop(other, "remote", "push", code=1, **where).stderr
    assert failed == "remote: a change that is not merged must not write to the DVC remote\n"


def test_a_remote_that_does_not_answer_is_red_and_leaves_the_configuration(
    folder: Path, tabloop: Tabloop
) -> None:
    (folder / ".dvc/config.local").write_text(MINE)
    failed = tabloop(folder, "remote", "push", code=1, DVC_REMOTE_URL="http://127.0.0.1:1/store").stderr
    assert failed.endswith("remote: dvc push failed: see the lines above\n") and "Traceback" not in failed
    broken = tabloop(
        folder, "remote", "fetch", code=1, DVC_REMOTE_URL="x", DVC_CREDENTIALS="no config"
    ).stderr
    assert broken.startswith(
        "remote: DVC_CREDENTIALS is not the text of a .dvc/config.local: config file error: "
    )
    assert len(broken.splitlines()) == 1
    assert (folder / ".dvc/config.local").read_text() == MINE
    empty = {"DVC_REMOTE_URL": str(folder.parent / "empty")}
    assert (
        "failed"
        in tabloop(checkout(folder), "remote", "fetch", "models/champion.dvc", code=1, **empty).stderr
    )


def test_what_a_pull_request_trained_is_not_trained_again(
    folder: Path, tabloop: Tabloop, tmp_path: Path
) -> None:
    archive = tmp_path / "run-cache.zip"
    tabloop(folder, "remote", "pack", archive)
    other = checkout(folder)
    tabloop(other, "remote", "unpack", archive)
    (other / "dvc.lock").unlink()  # it may be older than the merge
    dvc(other, "repro")
    assert (other / "models/candidate/model.onnx").read_text() == "project: kit\n" and ran(folder) == 1
    (other / "params.yaml").write_text("project: another\n")
    dvc(other, "repro")
    assert ran(folder) == 2

    archive.write_bytes(archive.read_bytes()[:50])
    failed = tabloop(other, "remote", "unpack", archive, code=1).stderr
    assert failed.startswith(f"remote: {archive}: ") and len(failed.splitlines()) == 1
    shutil.rmtree(other)


def test_the_lines_of_log_credentials_are_variables_whose_values_github_hides(
    folder: Path, tabloop: Tabloop
) -> None:
    summary = folder.parent / "summary.md"
    lines = f"GITHUB_STEP_SUMMARY={summary}\nno pair\nKEY=c=d"
    done = tabloop(folder, "remote", "push", GITHUB_ACTIONS="true", LOG_CREDENTIALS=lines)
    assert "nothing is kept" in summary.read_text()
    assert done.stderr.splitlines() == [f"::add-mask::{summary}", "::add-mask::c=d"]
    assert tabloop(folder, "remote", "push", LOG_CREDENTIALS=lines).stderr == ""
