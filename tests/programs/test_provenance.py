"""Which commit has what trained a model: real histories of git."""

import subprocess
from pathlib import Path

import pytest
from kit.conftest import clean
from tabloop import provenance
from tabloop.provenance import Origin, inputs, origin


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=clean(), check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A state")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed project that is a folder of a larger repository."""
    folder = tmp_path / "repository/models/fraud"
    (folder / "src/fraud").mkdir(parents=True)
    (folder / "params.yaml").write_text("seed: 1\n")
    (folder / "src/fraud/model.py").write_text("a\n")
    (folder / ".gitignore").write_text("*.pyc\n")
    git(tmp_path, "init", "--quiet", "--initial-branch=main", "repository")
    commit(folder)
    monkeypatch.setattr(provenance, "ROOT", folder)
    return folder


def test_a_clean_tree_is_the_commit_that_brought_these_inputs(project: Path) -> None:
    first = git(project, "rev-parse", "HEAD")
    (project / "README.md").write_text("no input\n")
    (project / "src/fraud/model.pyc").write_text("which git ignores\n")
    commit(project)
    assert origin(inputs()) == Origin(first, []) and str(origin(inputs())) == f"commit {first[:7]}"


def test_changes_are_named_until_a_commit_has_them_and_that_is_found_from_then_on(project: Path) -> None:
    first = git(project, "rev-parse", "HEAD")
    (project / "params.yaml").write_text("seed: 2\n")
    (project / "src/fraud/new.py").write_text("untracked\n")
    trained, status = inputs(), git(project, "status", "--porcelain")
    assert origin(trained) == Origin(first, ["params.yaml", "src"])
    assert str(origin(trained)) == f"uncommitted changes of params.yaml, src since commit {first[:7]}"
    assert git(project, "status", "--porcelain") == status  # the index is as it was
    second = commit(project)
    assert inputs() == trained  # so that a candidate is the same bytes before and after the commit
    (project / "params.yaml").write_text("seed: 3\n")
    commit(project)
    assert origin(trained) == Origin(second, [])
    (project / "src/fraud/new.py").unlink()
    assert origin(inputs()).dirty == ["src"]


def test_a_branch_that_was_squashed_or_merged_is_found_by_its_content(project: Path) -> None:
    git(project, "switch", "--quiet", "--create", "branch")
    (project / "params.yaml").write_text("seed: 2\n")
    trained, ephemeral = inputs(), commit(project)
    git(project, "switch", "--quiet", "main")
    (project / "README.md").write_text("main goes on\n")
    commit(project)
    git(project, "merge", "--quiet", "--squash", "branch")
    squashed = commit(project)
    assert origin(trained) == Origin(squashed, []) and squashed != ephemeral
    git(project, "reset", "--quiet", "--hard", "HEAD~1")
    (project / "src/fraud/model.py").write_text("b\n")
    commit(project)
    git(project, "merge", "--quiet", "--no-edit", "branch")  # only the merge has both changes
    assert origin(inputs()) == Origin(git(project, "rev-parse", "HEAD"), [])
    assert origin(trained) == Origin(ephemeral, [])  # merged as it was, it is in the history


def test_a_clone_with_its_own_path_and_no_history_has_the_same_ids(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "params.yaml").write_text("seed: 2\n")
    trained, head = inputs(), commit(project)
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{tmp_path}/repository", "another clone")
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "another clone/models/fraud")
    assert inputs() == trained and origin(trained) == Origin(head, [])
    # What an earlier commit may have had is not called uncommitted.
    assert origin(trained | {"params.yaml": "0"}) == Origin(None, [])


def test_without_git_or_a_commit_nothing_is_claimed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    assert inputs() == {} and origin({}) == Origin(None, [])
    git(tmp_path, "init", "--quiet")
    assert inputs() == {} and str(origin({"params.yaml": "0"})) == "code that the history here does not have"


def test_where_git_fails_it_is_said_and_without_git_it_is_not(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git(project, "init", "--quiet", "src/another")  # without a commit, git can't add it
    (project / "src/another/file").write_text("")
    assert inputs() == {}
    said = capsys.readouterr().err
    assert said.startswith("model.json does not say what trained the model: git add failed: ")
    assert "src/another" in said and said.count("\n") == 1
    (tmp_path / "repository/.git").rename(tmp_path / "gone")
    assert inputs() == {} and not capsys.readouterr().err
