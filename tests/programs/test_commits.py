"""Proposals and deploys with a real bare repository: refused, moved, at the same time, repeated, old."""

import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import git
from kit.conftest import clean

from .conftest import Tabloop
from .test_release import FIRST


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    """A bare repository with three environments, of which staging runs v1."""
    first = tmp_path / "first"
    for environment in ("staging", "production", "canary"):
        (first / "deploy" / environment).mkdir(parents=True)
        (first / f"deploy/{environment}/release.env").write_text(FIRST)
    (first / "models").mkdir()
    (first / "models/champion.dvc").write_text("outs: [{md5: a, path: champion}]\n")
    (first / "params.yaml").write_text("project: kit\n")
    (first / "dvc.lock").write_text("a: 1\nb: 1\nc: 1\nd: 1\n")
    git(first, "init", "--quiet", "--initial-branch=main")
    git(first, "add", "--all")
    git(first, "commit", "--quiet", "--message", "First commit")
    git(tmp_path, "clone", "--quiet", "--bare", first, tmp_path / "origin.git")
    git(first, "remote", "add", "origin", tmp_path / "origin.git")
    stage(first, "v1")
    return tmp_path / "origin.git"


def stage(folder: Path, version: str) -> None:
    """Let staging run a version."""
    git(folder, "pull", "--quiet", "--rebase", "origin", "main")
    path = folder / "deploy/staging/release.env"
    path.write_text(FIRST.replace(":dev", f"@sha256:{version}").replace("none", version))
    git(folder, "commit", "--quiet", "--all", "--message", f"Stage {version}")
    git(folder, "push", "--quiet", "origin", "HEAD:main")


def clone(origin: Path) -> Path:
    """What a workflow's checkout gives."""
    folder = origin.parent / f"clone{len(list(origin.parent.glob('clone*')))}"
    git(origin.parent, "clone", "--quiet", origin, folder)
    return folder


def titles(origin: Path, branch: str = "main") -> list[str]:
    return git(origin, "log", "--format=%s", branch).splitlines()


def on(folder: Path, ref: str = "main", default: str = "main") -> dict[str, str]:
    """The environment of a workflow's step."""
    event = folder.parent / "event.json"
    event.write_text(json.dumps({"repository": {"default_branch": default}}))
    return {"GITHUB_ACTIONS": "true", "GITHUB_REF_NAME": ref, "GITHUB_EVENT_PATH": str(event)}


def refuse(origin: Path, text: str) -> Path:
    """Let the repository refuse pushes to main as GitHub does; the hook that does it."""
    hook = origin / "hooks/pre-receive"
    hook.write_text(
        f'#!/bin/sh\nwhile read old new ref; do [ "$ref" = refs/heads/main ] || exit 0; done\n'
        f"echo '{text}' >&2\nexit 1\n"
    )
    hook.chmod(0o755)
    return hook


def test_production_gets_what_staging_runs_and_goes_back(origin: Path, tabloop: Tabloop) -> None:
    folder = clone(origin)
    before = git(folder, "status", "--porcelain"), git(folder, "rev-parse", "HEAD")
    assert (
        "Deploy v1 to production" in tabloop(folder, "release", "deploy", "production", **on(folder)).stdout
    )
    assert titles(origin)[0] == "Deploy v1 to production"
    assert "github-actions[bot]" in git(origin, "log", "-1", "--format=%an %cn", "main")
    again = tabloop(folder, "release", "deploy", "production", **on(folder)).stdout
    assert "production runs v1 already" in again and len(titles(origin)) == 3
    # What is checked out stays as it was; nothing is left behind.
    assert (git(folder, "status", "--porcelain"), git(folder, "rev-parse", "HEAD")) == before
    assert len(git(folder, "worktree", "list").splitlines()) == 1

    stage(origin.parent / "first", "v2")
    tabloop(folder, "release", "deploy", "production", **on(folder))
    stage(origin.parent / "first", "v3")
    tabloop(folder, "release", "deploy", "production", **on(folder))
    failed = tabloop(folder, "release", "deploy", "production", "--rollback", "--to", "v9", code=1).stderr
    assert failed.startswith("release: production never ran v9") and len(failed.splitlines()) == 1
    tabloop(folder, "release", "deploy", "production", "--rollback", "--to", "v1", **on(folder))
    assert titles(origin)[0] == "Roll back production to v1"


def test_two_deploys_at_once_are_both_made(origin: Path, tabloop: Tabloop) -> None:
    folders = [clone(origin), clone(origin)]
    with ThreadPoolExecutor() as pool:
        deploys = [
            pool.submit(tabloop, folder, "release", "deploy", environment)
            for folder, environment in zip(folders, ("production", "canary"), strict=True)
        ]
    assert all(deploy.result().returncode == 0 for deploy in deploys)
    assert set(titles(origin)[:2]) == {"Deploy v1 to production", "Deploy v1 to canary"}


def test_a_refused_push_is_one_line_with_githubs_reason_and_works_when_repeated(
    origin: Path, tabloop: Tabloop
) -> None:
    folder, tip = clone(origin), titles(origin)
    reason = "error: GH013: Repository rule violations found for refs/heads/main."
    hook = refuse(origin, reason)
    failed = tabloop(folder, "release", "deploy", "production", code=1, **on(folder)).stderr
    assert "GH013: Repository rule violations found" in failed and "set BOT_TOKEN" in failed
    assert len(failed.splitlines()) == 1 and titles(origin) == tip
    # Where main is protected: a pull request, or a branch of its own that servers follow.
    tabloop(folder, "release", "deploy", "production", "--pull-request", **on(folder))
    assert titles(origin, "deploy/production")[0] == "Deploy v1 to production"
    tabloop(folder, "release", "deploy", "production", "--branch", "deploys", **on(folder))
    stage_later = origin.parent / "first"
    hook.unlink()
    stage(stage_later, "v2")
    refuse(origin, reason)
    tabloop(folder, "release", "deploy", "production", "--branch", "deploys", **on(folder))
    assert titles(origin, "deploys")[0] == "Deploy v2 to production" and "Stage v2" in titles(
        origin, "deploys"
    )
    hook.unlink()
    tabloop(folder, "release", "deploy", "production", **on(folder))
    assert titles(origin)[0] == "Deploy v2 to production"


def test_an_old_run_that_is_repeated_changes_nothing(origin: Path, tabloop: Tabloop) -> None:
    first = origin.parent / "first"
    old = git(first, "rev-parse", "HEAD")
    folder = clone(origin)
    git(first, "commit", "--quiet", "--allow-empty", "--message", "New code")
    git(first, "push", "--quiet", "origin", "HEAD:main")
    new = git(first, "rev-parse", "HEAD")
    tabloop(folder, "release", "deploy", "production", "--built-from", new, **on(folder))
    stage(first, "v0")
    done = tabloop(folder, "release", "deploy", "production", "--built-from", old, **on(folder)).stdout
    assert f"was built from {new[:7]}, which is newer than {old[:7]}" in done
    assert titles(origin)[0] == "Stage v0"
    tabloop(folder, "release", "deploy", "production", "--built-from", new, **on(folder))  # the newest may
    assert titles(origin)[0] == "Deploy v0 to production"


def test_a_run_that_is_repeated_changes_nothing_again(origin: Path, tabloop: Tabloop) -> None:
    """A rollback goes one release back, by hand deployed is what was chosen then; another run goes on."""
    folder, first = clone(origin), origin.parent / "first"

    def deploy(run: str, *options: str) -> str:
        run_id = {"GITHUB_RUN_ID": run} if run else {}
        return tabloop(folder, "release", "deploy", "production", *options, **on(folder), **run_id).stdout

    deploy("1")
    stage(first, "v2")
    assert "run 1 changed production already: nothing to do" in deploy("1")
    deploy("2")
    deploy("3", "--rollback")
    message = git(origin, "log", "-1", "--format=%B", "main").splitlines()
    assert message[0] == "Roll back production to v1" and message[-1] == "Run: 3"
    assert "run 3 changed production already" in deploy("3", "--rollback")
    assert titles(origin)[0] == "Roll back production to v1"
    deploy("", "--rollback")  # at a desk there are no runs
    assert titles(origin)[0] == "Roll back production to none"


def test_a_dispatch_from_another_branch_is_refused(origin: Path, tabloop: Tabloop) -> None:
    folder = clone(origin)
    failed = tabloop(folder, "release", "deploy", "production", code=1, **on(folder, ref="topic")).stderr
    assert failed == "release: this run is of the branch topic: run the workflow on main\n"


def retrained(origin: Path, lock: str = "a: 2\nb: 1\nc: 1\nd: 1\n") -> Path:
    """A clone in which retrain has made a challenger."""
    folder = clone(origin)
    (folder / "dvc.lock").write_text(lock)
    (folder / "models/challenger.dvc").write_text("outs: [{md5: b, path: challenger}]\n")
    (folder / "report.md").write_text("not tracked")
    return folder


def propose(tabloop: Tabloop, folder: Path, title: str = "A challenger", code: int = 0) -> str:
    done = tabloop(folder, "github", "propose", "retrain", "--title", title, code=code, **on(folder))
    return done.stdout + done.stderr


def test_a_proposal_is_one_commit_on_the_newest_main_and_replaces_the_one_before(
    origin: Path, tabloop: Tabloop
) -> None:
    folder = retrained(origin)
    status = git(folder, "status", "--porcelain")
    stage(origin.parent / "first", "v2")  # main moves meanwhile
    assert "Pushed to retrain: A challenger" in propose(tabloop, folder)
    assert titles(origin, "retrain")[:2] == ["A challenger", "Stage v2"]
    changed = git(origin, "diff", "--name-only", "main", "retrain").splitlines()
    assert changed == ["dvc.lock", "models/challenger.dvc"]
    assert git(folder, "status", "--porcelain") == status  # the index of whoever runs it, too
    propose(tabloop, folder)  # Re-run
    propose(tabloop, retrained(origin, "a: 3\nb: 1\nc: 1\nd: 1\n"), "Another")
    assert titles(origin, "retrain")[:2] == ["Another", "Stage v2"]


def test_two_proposals_at_once_leave_one_whole(origin: Path, tabloop: Tabloop) -> None:
    folders = [retrained(origin), retrained(origin, "a: 3\nb: 1\nc: 1\nd: 1\n")]
    with ThreadPoolExecutor() as pool:
        for i, folder in enumerate(folders):
            pool.submit(
                subprocess.run, ["tabloop", "github", "propose", "retrain", "--title", f"Of {i}"],
                cwd=folder, env=clean(**on(folder)), capture_output=True,
            )  # fmt: skip
    assert titles(origin, "retrain")[0] in ("Of 0", "Of 1") and titles(origin, "retrain")[1] == "Stage v1"


def test_a_token_that_may_not_change_workflows_says_which_may(origin: Path, tabloop: Tabloop) -> None:
    folder = clone(origin)
    (folder / "deploy/staging/release.env").write_text("MODEL_VERSION=v2\n")
    app = "a GitHub App to create or update workflow .github/workflows/ci.yml without `workflows` permission"
    for said in (app, app.replace("`workflows` permission", "`workflow` scope")):
        hook = refuse(origin, f"refusing to allow {said}")
        hook.write_text(hook.read_text().replace("refs/heads/main", "refs/heads/update"))
        done = tabloop(folder, "github", "propose", "update", "--title", "Update", code=1, **on(folder))
        assert said in done.stderr and "set BOT_TOKEN with the scope `workflow`" in done.stderr
    hook.unlink()
    tabloop(folder, "github", "propose", "update", "--title", "Update", **on(folder))
    assert titles(origin, "update")[0] == "Update"


def test_a_proposal_that_conflicts_with_main_is_refused(origin: Path, tabloop: Tabloop) -> None:
    folder, first = retrained(origin), origin.parent / "first"
    (first / "dvc.lock").write_text("a: 4\nb: 1\nc: 1\nd: 1\n")
    git(first, "commit", "--quiet", "--all", "--message", "Trained by hand")
    git(first, "push", "--quiet", "origin", "HEAD:main")
    said = propose(tabloop, folder, code=1)
    assert said == "github: the default branch changed the same lines meanwhile: run this again\n"
    assert git(origin, "for-each-ref", "--format=%(refname)") == "refs/heads/main"


def test_a_proposal_of_nothing_is_green(origin: Path, tabloop: Tabloop) -> None:
    assert "Nothing changed" in propose(tabloop, clone(origin))
    assert git(origin, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
