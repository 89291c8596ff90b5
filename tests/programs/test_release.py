"""release.env and its history, in a real git repository: set, roll back, refuse."""

import os
from pathlib import Path

import pytest
from conftest import git
from kit.conftest import clean
from tabloop import release
from tabloop.cli import UserError

from .conftest import Tabloop

FIRST = """# What this environment runs.
IMAGE=registry/kit:dev
MODEL_VERSION=none

# off, shadow or ab
CHALLENGER_MODE=off
CHALLENGER_SHARE=0
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two environments and nothing deployed."""
    folder = tmp_path / "project"
    for environment in ("staging", "production"):
        (folder / "deploy" / environment).mkdir(parents=True)
        (folder / f"deploy/{environment}/release.env").write_text(FIRST)
    (folder / "params.yaml").write_text("project: kit\n")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "First commit")
    monkeypatch.setattr(release, "ROOT", folder)
    for name, value in clean().items():
        monkeypatch.setenv(name, value)
    return folder


def text(folder: Path, environment: str = "staging") -> str:
    return (folder / f"deploy/{environment}/release.env").read_text()


def version(environment: str = "staging") -> str:
    return release.read(environment)["MODEL_VERSION"]


def unchanged(folder: Path, before: str) -> None:
    """Nothing was written, staged or committed since."""
    assert text(folder) == before and git(folder, "status", "--porcelain") == ""
    assert not list(folder.glob("deploy/*/.*"))


def deploy(*versions: str) -> None:
    for name in versions:
        release.set_values("staging", IMAGE=f"registry/kit@sha256:{name}", MODEL_VERSION=name)


def test_where_git_does_not_know_who_commits_one_line_says_how_it_does_and_nothing_changes(
    folder: Path, tabloop: Tabloop
) -> None:
    before, command = text(folder), ("release", "set", "staging", "CHALLENGER_MODE=shadow")
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_COMMITTER_NAME": ""}
    said = tabloop(folder, *command, code=1, **nobody).stderr
    assert said.startswith("release: git does not know who you are: `git config --global user.name NAME`")
    assert said.count("\n") == 1
    unchanged(folder, before)
    tabloop(folder, *command)
    assert "CHALLENGER_MODE=shadow" in text(folder)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("CHALLENGER_MODE=on", "challenger_mode: Input should be 'off', 'shadow' or 'ab'"),
        ("CHALLENGER_SHARE=7", "challenger_share: Input should be less than or equal to 1"),
        ("PORT=http", "port: Input should be a valid integer"),
    ],
)
def test_a_value_with_which_no_service_starts_is_not_committed(
    folder: Path, tabloop: Tabloop, value: str, why: str
) -> None:
    before = text(folder)
    said = tabloop(folder, "release", "set", "staging", value, code=1).stderr
    assert said.startswith(f"release: the service takes no such value: {why}") and said.count("\n") == 1
    unchanged(folder, before)


def test_set_is_one_commit_of_one_file_and_the_same_again_is_none(folder: Path) -> None:
    (folder / "params.yaml").write_text("project: kit # changed, staged, and not part of it\n")
    git(folder, "add", "params.yaml")
    done = release.set_values("staging", IMAGE="registry/kit@sha256:1", MODEL_VERSION="v1")
    assert (
        done.partition(" ")[2] == "Deploy v1 to staging"
        and git(folder, "log", "-1", "--format=%h %s") == done
    )
    assert git(folder, "show", "--format=", "--name-only") == "deploy/staging/release.env"
    assert git(folder, "status", "--porcelain") == "M  params.yaml"
    assert text(folder) == FIRST.replace("registry/kit:dev", "registry/kit@sha256:1").replace("=none", "=v1")
    assert text(folder, "production") == FIRST
    head = git(folder, "rev-parse", "HEAD")
    assert release.set_values("staging", MODEL_VERSION="v1") == "staging runs v1 already"
    assert git(folder, "rev-parse", "HEAD") == head
    done = release.set_values("staging", CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.1")
    assert done.endswith(" Set CHALLENGER_MODE=ab CHALLENGER_SHARE=0.1 in staging")
    assert release.read("staging")["CHALLENGER_SHARE"] == "0.1"


def test_an_environment_runs_once_a_model_was_deployed_to_it(folder: Path) -> None:
    """A bake writes `none`, or nothing."""
    assert release.running() == ""
    deploy("v1")
    assert release.running() == "staging"
    release.set_values("production", MODEL_VERSION="v1")
    assert release.running() == "production and staging"
    release.set_values("staging", MODEL_VERSION="")
    assert release.running() == "production"


@pytest.mark.parametrize(
    "value", ["a|b", "a&b", r"\1", "a=b=c", "/", "$(id)", "'\"", "sha256:0 # not a comment", ""]
)
def test_any_value_of_one_line_is_written_as_it_is(folder: Path, value: str) -> None:
    release.set_values("staging", IMAGE=value, MODEL_VERSION="v1")
    assert release.read("staging")["IMAGE"] == value
    assert f"\nIMAGE={value}\nMODEL_VERSION=v1\n" in text(folder)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (
            {"MODEL_VERSION": "v1", "MODLE": "x"},
            "deploy/staging/release.env has no MODLE; it has: IMAGE, MODEL_VERSION",
        ),
        ({"MODEL_VERSION": "v1", "IMAGE": "a\nEVIL=1"}, "IMAGE='a"),
        ({"IMAGE": "a\r"}, "a value has no line break and no spaces around it"),
    ],
)
def test_a_bad_value_changes_nothing(folder: Path, values: dict[str, str], named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        release.set_values("staging", **values)
    assert "\n" not in str(caught.value)
    unchanged(folder, FIRST)


def test_an_unknown_environment_is_answered_by_those_that_exist(folder: Path, tabloop: Tabloop) -> None:
    for command in (
        ["show", "prod"],
        ["set", "prod", "IMAGE=x"],
        ["rollback", "prod"],
        ["show", ".."],
        ["show", ""],
    ):
        said = tabloop(folder, "release", *command, code=1).stderr
        name = command[1]
        assert said.endswith(f"deploy/{name}/release.env is missing; there are: production, staging\n")
        assert said.count("\n") == 1
    unchanged(folder, FIRST)


def test_a_second_rollback_goes_further_back_and_never_forward(folder: Path) -> None:
    deploy("v1", "v2", "v3")
    assert release.rollback("staging").endswith(" Roll back staging to v2") and version() == "v2"
    assert release.rollback("staging").endswith(" Roll back staging to v1") and version() == "v1"
    release.rollback("staging")
    assert text(folder) == FIRST
    with pytest.raises(
        UserError,
        match="staging has no earlier release to go back to: `git log deploy/staging` lists what it ran",
    ):
        release.rollback("staging")
    unchanged(folder, FIRST)


def test_after_a_rollback_and_a_new_deploy_the_next_one_skips_what_was_rolled_back(folder: Path) -> None:
    deploy("v1", "v2")
    release.rollback("staging")  # v1
    deploy("v3")
    release.rollback("staging")
    assert version() == "v1"
    release.rollback("staging")
    assert version() == "none"
    deploy("v4", "v5")
    release.rollback("staging")
    release.rollback("staging")
    assert version() == "none"


def test_a_version_that_ran_twice_is_two_releases(folder: Path) -> None:
    deploy("v1", "v2", "v1", "v3")
    versions = []
    for _ in range(4):
        release.rollback("staging")
        versions.append(version())
    assert versions == ["v1", "v2", "v1", "none"]


def on_a_branch(folder: Path, *versions: str) -> None:
    """Deploy on a branch `other`, and come back."""
    git(folder, "switch", "--quiet", "--create", "other")
    deploy(*versions)
    git(folder, "switch", "--quiet", "main")


@pytest.mark.parametrize(("side", "before"), [("theirs", "v2"), ("ours", "v1"), ("new", "v2")])
def test_where_a_merge_had_a_conflict_what_ran_on_this_branch_counts(
    folder: Path, side: str, before: str
) -> None:
    """git's history of a file leaves out the side that a merge did not take, although that was running."""
    deploy("v1")
    on_a_branch(folder, "v3")
    deploy("v2")
    with pytest.raises(AssertionError, match="onflict in deploy"):
        git(folder, "merge", "--quiet", "other")
    for asked in (release.read, release.rollback):
        with pytest.raises(
            UserError, match=r"^deploy/staging/release\.env has (the conflict of a merge|uncommitted)"
        ):
            asked("staging")
    if side == "new":
        theirs = git(folder, "show", "other:deploy/staging/release.env")
        (folder / "deploy/staging/release.env").write_text(theirs.replace("v3", "v4") + "\n")
    else:
        git(folder, "checkout", "--quiet", f"--{side}", "deploy/staging/release.env")
    git(folder, "commit", "--quiet", "--all", "--message", "Merge")
    release.rollback("staging")
    assert version() == before


def test_deploys_and_rollbacks_that_came_by_pull_requests_count_as_others(folder: Path) -> None:
    """With a merge commit each, as GitHub's button makes it."""
    for step in (["v1"], ["v2"], ["v3"], []):
        git(folder, "switch", "--quiet", "--create", "deploy/staging")
        deploy(*step) if step else release.rollback("staging")
        git(folder, "switch", "--quiet", "main")
        (folder / "notes.txt").write_text(f"{step}")  # main has moved meanwhile
        git(folder, "add", "notes.txt")
        git(folder, "commit", "--quiet", "--message", "Notes")
        git(folder, "merge", "--quiet", "--no-edit", "deploy/staging")
        git(folder, "branch", "--quiet", "--delete", "deploy/staging")
    assert version() == "v2"
    release.rollback("staging")
    assert version() == "v1"


def test_a_commit_that_changed_a_comment_is_no_release(folder: Path) -> None:
    deploy("v1", "v2")
    path = folder / "deploy/staging/release.env"
    path.write_text("# Another comment\n" + path.read_text())
    git(folder, "commit", "--quiet", "--all", "--message", "Comment")
    release.rollback("staging")
    assert version() == "v1"


def test_a_rollback_takes_only_the_file_of_a_commit_that_changed_more(folder: Path) -> None:
    deploy("v1")
    release.change("staging", MODEL_VERSION="v2")
    (folder / "params.yaml").write_text("project: other\n")
    git(folder, "commit", "--quiet", "--all", "--message", "A release and more")
    release.set_values("production", MODEL_VERSION="p1")
    release.rollback("staging")
    assert (version(), version("production")) == ("v1", "p1")
    assert (folder / "params.yaml").read_text() == "project: other\n"


def test_a_file_that_was_deleted_and_restored_is_rolled_back(folder: Path) -> None:
    deploy("v1")
    git(folder, "rm", "--quiet", "deploy/staging/release.env")
    git(folder, "commit", "--quiet", "--message", "Delete")
    git(folder, "checkout", "HEAD^", "--", "deploy/staging/release.env")
    git(folder, "commit", "--quiet", "--message", "Restore")
    deploy("v2")
    release.rollback("staging")
    assert version() == "v1"


@pytest.mark.parametrize("staged", [False, True])
def test_uncommitted_changes_are_refused(folder: Path, staged: bool) -> None:
    deploy("v1")
    release.change("staging", MODEL_VERSION="by hand")
    if staged:
        git(folder, "add", "--all")
    before, head = text(folder), git(folder, "rev-parse", "HEAD")
    for step in (lambda: release.rollback("staging"), lambda: deploy("v2")):
        with pytest.raises(UserError, match=r"deploy/staging/release\.env has uncommitted changes"):
            step()
    assert text(folder) == before and git(folder, "rev-parse", "HEAD") == head


def test_uncommitted_changes_elsewhere_are_kept(folder: Path) -> None:
    deploy("v1", "v2")
    (folder / "params.yaml").write_text("project: changed\n")
    release.rollback("staging")
    assert git(folder, "status", "--porcelain") == "M params.yaml" and version() == "v1"


def test_a_shallow_clone_is_refused_a_rollback_but_may_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy("v1", "v2")
    clone = folder.parent / "clone"
    git(folder, "clone", "--quiet", "--depth=1", folder.as_uri(), str(clone))
    monkeypatch.setattr(release, "ROOT", clone)
    with pytest.raises(UserError, match="run `git fetch --unshallow` first"):
        release.rollback("staging")
    unchanged(clone, text(folder))
    deploy("v3")
    git(clone, "fetch", "--quiet", "--unshallow")
    release.rollback("staging")
    assert version() == "v2"


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_if_a_hook_refuses_the_commit_the_file_is_as_it_was(folder: Path, ending: str) -> None:
    path = folder / "deploy/staging/release.env"
    path.write_bytes(FIRST.replace("\n", ending).encode())
    git(folder, "commit", "--quiet", "--allow-empty", "--all", "--message", "Endings")
    deploy("v1")
    before = path.read_bytes()
    hook = folder / ".git/hooks/pre-commit"
    hook.write_text("#!/bin/sh\necho 'the hook\nrefuses' >&2\nexit 1\n")
    hook.chmod(0o755)
    for step in (lambda: deploy("v2"), lambda: release.rollback("staging")):
        with pytest.raises(UserError, match="git commit failed: the hook refuses"):
            step()
        assert path.read_bytes() == before and git(folder, "status", "--porcelain") == ""


@pytest.mark.parametrize(
    "content", [FIRST.replace("\n", "\r\n"), FIRST.rstrip("\n"), "IMAGE=x\r\nMODEL_VERSION=y"]
)
def test_line_endings_of_any_kind_are_read_and_written(folder: Path, content: str) -> None:
    path = folder / "deploy/staging/release.env"
    path.write_bytes(content.encode())
    git(folder, "commit", "--quiet", "--all", "--message", "Endings")
    old = release.read("staging")
    assert not any("\r" in value for value in old.values())
    assert release.set_values("staging", MODEL_VERSION=old["MODEL_VERSION"]).endswith("already")
    assert path.read_bytes() == content.encode()
    deploy("v1")
    expected = {**old, "IMAGE": "registry/kit@sha256:v1", "MODEL_VERSION": "v1"}
    assert release.read("staging") == expected and path.read_bytes().endswith(b"\n")
    assert b"\r" not in path.read_bytes()  # a shell would read it as a part of the value
    release.rollback("staging")
    assert release.read("staging") == old and git(folder, "status", "--porcelain") == ""


def test_of_a_name_that_is_there_twice_the_last_counts(folder: Path) -> None:
    path = folder / "deploy/staging/release.env"
    path.write_text("MODEL_VERSION=a\nIMAGE=i\nMODEL_VERSION=b\n")
    git(folder, "commit", "--quiet", "--all", "--message", "Twice")
    assert version() == "b"
    deploy("v1")
    assert version() == "v1" and path.read_text().startswith("MODEL_VERSION=a\n")


def test_a_git_of_elsewhere_in_the_environment_misleads_nothing(folder: Path, tabloop: Tabloop) -> None:
    other = folder.parent / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    elsewhere = {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / "index"),
    }
    tabloop(folder, "release", "set", "staging", "MODEL_VERSION=v1", **elsewhere)
    done = tabloop(folder, "release", "rollback", "staging", **elsewhere).stdout
    assert done.endswith("Roll back staging to none\n") and done.startswith("release: ")
    assert git(folder, "log", "-2", "--format=%s") == "Roll back staging to none\nDeploy v1 to staging"
    assert [path.name for path in other.iterdir()] == [".git"]


def test_a_project_below_the_repositorys_top_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = folder / "models/fraud"
    (below / "deploy/staging").mkdir(parents=True)
    (below / "deploy/staging/release.env").write_text(FIRST)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "Below")
    monkeypatch.setattr(release, "ROOT", below)
    deploy("v1", "v2")
    release.rollback("staging")
    assert version() == "v1" and text(folder) == FIRST


def test_the_commands_show_values_and_refuse_what_is_no_pair(folder: Path, tabloop: Tabloop) -> None:
    shown = tabloop(folder, "release", "show", "staging").stdout
    assert shown == "".join(line + "\n" for line in FIRST.splitlines() if "=" in line)
    assert tabloop(folder, "release", "show", "staging", "IMAGE").stdout == "registry/kit:dev\n"
    assert "has no PORT" in tabloop(folder, "release", "show", "staging", "PORT", code=1).stderr
    assert (
        "'IMAGE': give it as NAME=VALUE"
        in tabloop(folder, "release", "set", "staging", "IMAGE", code=1).stderr
    )
    tabloop(folder, "release", "set", "staging", "IMAGE=a=b|c&d")
    assert tabloop(folder, "release", "show", "staging", "IMAGE").stdout == "a=b|c&d\n"
