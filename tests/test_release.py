"""A release of the template: tags, GitHub's release, refused, interrupted, repeated."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, clean, git
from github_api import GitHub

CHANGELOG = "# Changelog\n\n## Unreleased\n\n## 1.1.0\n\n- **Service**: new. Nothing to change.\n\n## 1.0.0\n\nThe first.\n"
Release = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A template with a changelog, pushed."""
    template = tmp_path / "template"
    (template / ".github").mkdir(parents=True)
    shutil.copy(ROOT / ".github/release.py", template / ".github")
    (template / "CHANGELOG.md").write_text(CHANGELOG)
    git(template, "init", "--quiet", "--initial-branch=main")
    git(template, "add", "--all")
    git(template, "commit", "--quiet", "--message", "First")
    git(tmp_path, "clone", "--quiet", "--bare", template, tmp_path / "origin.git")
    git(template, "remote", "add", "origin", tmp_path / "origin.git")
    return template


@pytest.fixture
def github(template: Path) -> Iterator[GitHub]:
    with GitHub(
        template.parent / "origin.git", "acme/ml-template", {"contents": "write"}
    ).started() as github:
        yield github


@pytest.fixture
def release(template: Path, github: GitHub) -> Release:
    """`release("1.0.0")`: what the workflow's last step does."""

    def release(version: str, ref: str = "main", code: int = 0) -> "subprocess.CompletedProcess[str]":
        event = template.parent / "event.json"
        event.write_text(json.dumps({"repository": {"default_branch": "main"}}))
        about = {
            "GITHUB_API_URL": github.url,
            "GITHUB_REPOSITORY": github.repository,
            "GITHUB_TOKEN": "of-the-test",
        }
        about |= {"GITHUB_EVENT_PATH": str(event), "GITHUB_REF_NAME": ref, "GITHUB_STEP_SUMMARY": os.devnull}
        done = subprocess.run(
            [sys.executable, template / ".github/release.py", version],
            env=clean(**about),
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == code
        return done

    return release


def tags(template: Path) -> dict[str, str]:
    """The repository's tags and their commits."""
    lines = git(template, "ls-remote", "--tags", "origin").splitlines()
    return {name.removeprefix("refs/tags/"): commit for commit, name in map(str.split, lines)}


def commit(template: Path, message: str) -> str:
    git(template, "commit", "--quiet", "--allow-empty", "--message", message)
    git(template, "push", "--quiet", "origin", "HEAD:main")
    return git(template, "rev-parse", "HEAD")


def test_a_release_is_two_tags_and_the_changelogs_section(
    template: Path, github: GitHub, release: Release
) -> None:
    first = git(template, "rev-parse", "HEAD")
    for _ in range(2):  # the second time there is nothing left to do
        release("1.0.0")
        assert tags(template) == {"v1.0.0": first, "v1": first}
        (made,) = github.things["releases"]
        assert (made["tag_name"], made["name"], made["body"]) == ("v1.0.0", "1.0.0", "The first.")
    second = commit(template, "Second")
    release("1.1.0")
    assert tags(template) == {"v1.0.0": first, "v1.1.0": second, "v1": second}
    # A mend of the older version does not take projects back.
    (template / "CHANGELOG.md").write_text(CHANGELOG + "\n## 1.0.1\n\nA mend.\n")
    git(template, "add", "--all")
    mend = commit(template, "Mend")
    release("1.0.1")
    assert tags(template) == {"v1.0.0": first, "v1.1.0": second, "v1.0.1": mend, "v1": second}


def test_what_can_not_be_released_changes_nothing(template: Path, github: GitHub, release: Release) -> None:
    assert "give it as 1.2.3" in release("v1", code=1).stderr
    assert "no section '## 2.0.0'" in release("2.0.0", code=1).stderr
    assert "of the branch topic: run the workflow on main" in release("1.0.0", ref="topic", code=1).stderr
    assert tags(template) == {} and not github.things["releases"]
    release("1.0.0")
    before = tags(template)
    commit(template, "Another")
    assert "v1.0.0 is another commit already" in release("1.0.0", code=1).stderr
    assert tags(template) == before


def test_a_release_that_was_interrupted_is_finished(template: Path, github: GitHub, release: Release) -> None:
    first = git(template, "rev-parse", "HEAD")
    github.tokens["of-the-test"].permissions = {"contents": "read"}
    assert "Resource not accessible by integration" in release("1.0.0", code=1).stderr
    assert tags(template) == {"v1.0.0": first, "v1": first} and not github.things["releases"]
    github.tokens["of-the-test"].permissions = {"contents": "write"}
    release("1.0.0")
    assert len(github.things["releases"]) == 1
