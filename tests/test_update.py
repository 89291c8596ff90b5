"""`tabloop update`, and cruft: the template's next version in a project that its owner has changed."""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import AUTHOR, PYTHON, ROOT, Run, clean, git
from test_workflows import founded, pushed

INNER = "{{cookiecutter.project_slug}}"
PACKAGE = "src/fraud_detection"


@dataclass
class Template:
    """A copy of this repository with a history of its own, which a test goes on with."""

    folder: Path

    def change(self, tag: str, **texts: tuple[str, str]) -> None:
        """A version that replaces a text in some files; the keys are their paths, `/` as `__`."""
        for name, (old, new) in texts.items():
            path = (
                self.folder
                / INNER
                / name.replace("__", "/").replace("PACKAGE", "src/{{cookiecutter.package_name}}")
            )
            text = path.read_text()
            assert old in text, f"{path}: {old}"
            path.write_text(text.replace(old, new, 1))
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "-m", tag)
        git(self.folder, "tag", tag)


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this repository: version v1.0.0 of the template, and a bake of it."""
    folder = tmp_path_factory.mktemp("first")
    for name in ("hooks", INNER):
        shutil.copytree(
            ROOT / name, folder / "template" / name, ignore=shutil.ignore_patterns("*.pyc", ".*_cache")
        )
    for name in (".gitignore", "cookiecutter.json", "local_extensions.py"):
        shutil.copy(ROOT / name, folder / "template")
    git(folder, "init", "--quiet", "--initial-branch=main", "template")
    Template(folder / "template").change("v1.0.0")
    bake(folder / "template", folder / "out")
    return folder


def bake(template: Path, out: Path) -> None:
    command = [sys.executable, "-m", "cookiecutter", str(template), "--no-input", "--default-config"]
    env = clean(UV_OFFLINE="1")
    subprocess.run(
        [*command, "-o", str(out), f"python_version={PYTHON}"], check=True, env=env, capture_output=True
    )


@pytest.fixture
def template(first: Path, tmp_path: Path) -> Template:
    """The template, at the same place for a project that has recorded it."""
    shutil.copytree(first / "template", tmp_path / "template")
    return Template(tmp_path / "template")


@pytest.fixture
def owned(first: Path, template: Template, tmp_path: Path) -> Path:
    """A project of v1.0.0, with its template where the test may change it."""
    project = shutil.copytree(first / "out/fraud-detection", tmp_path / "fraud-detection")
    recorded = json.loads((project / ".template.json").read_text())
    assert recorded["version"] == "v1.0.0" and recorded["template"] == str(first / "template")
    (project / ".template.json").write_text(
        json.dumps(recorded | {"template": str(template.folder)}, indent=2)
    )
    git(project, "commit", "--quiet", "--all", "-m", "The template moved")
    return project


def write(project: Path, message: str, **texts: tuple[str, str]) -> None:
    """The owner's commit that replaces a text in some files, or appends it where the old one is empty."""
    for name, (old, new) in texts.items():
        path = project / name.replace("__", "/").replace("PACKAGE", PACKAGE)
        text = path.read_text() if path.exists() else ""
        assert old in text
        path.write_text(text.replace(old, new, 1) if old else text + new)
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "-m", message)


NEXT: dict[str, tuple[str, str]] = {
    "packages__tabloop__src__tabloop__files.py": ('"""Folders and files', '"""New: folders and files'),
    "packages__tabloop__pyproject.toml": ("Stages, service", "New: stages, service"),
    "PACKAGE__train.py": ('"""Fit the model', '"""New: fit the model'),
    "PACKAGE__simulator.py": ("import ", "import sys  # new\nimport "),
    "Makefile": ("## this list", "## this list, new"),
    ".github__workflows__drift.yml": ("# Every night:", "# New: every night:"),
    "params.yaml": ("# The settings of this project", "# New: the settings of this project"),
}
OWN: dict[str, tuple[str, str]] = {
    "params.yaml": ("learning_rate: 0.05", "learning_rate: 0.06"),
    "README.md": ("", "\nOurs.\n"),
    ".github__workflows__drift.yml": ("17 3 * * *", "19 4 * * *"),
    "PACKAGE__model.py": ("random_state", "early_stopping=False, random_state"),
    "feature_repo__user_features.sql": ("", "-- ours\n"),
    "notes.txt": ("", "ours"),
}


def state(project: Path) -> dict[str, str]:
    """What .template.json says."""
    found: dict[str, str] = json.loads((project / ".template.json").read_text())
    return found


def test_an_update_keeps_what_the_owner_changed_and_brings_what_the_template_changed(
    run: Run, owned: Path, template: Template
) -> None:
    """Own table, features, params, README, workflow, estimator; then train and the project's own tests."""
    from sklearn.datasets import load_breast_cancer

    table = load_breast_cancer(as_frame=True).frame
    table.to_csv(owned / "cells.csv", index=False)
    run(owned, "tabloop", "adopt", "cells.csv", "--target", "target", "--positive", "0")
    run(owned, "git", "add", "--all")
    run(owned, "git", "commit", "--quiet", "--message", "Own data")
    assert not (owned / PACKAGE / "simulator.py").exists()
    write(owned, "Own changes", **{name: text for name, text in OWN.items() if "sql" not in name})
    template.change("v1.1.0", **NEXT)

    done = run(owned, "tabloop", "update")
    assert done.stdout.startswith("update: Update to v1.1.0 of the template; ")
    assert "Next: make setup test train" in done.stderr and done.stderr.endswith("origin HEAD template\n")
    for name, (_, text) in NEXT.items():
        path = owned / name.replace("__", "/").replace("PACKAGE", PACKAGE)
        assert path.exists() == ("simulator" not in name) and (not path.exists() or text in path.read_text())
    for name, (_, text) in OWN.items():
        path = owned / name.replace("__", "/").replace("PACKAGE", PACKAGE)
        assert "sql" in name or text in path.read_text()
    assert state(owned)["version"] == "v1.1.0" and git(owned, "status", "--porcelain") == ""
    assert git(owned, "show", "template:.template.json") + "\n" == (owned / ".template.json").read_text()
    lines = git(owned, "log", "--first-parent", "--format=%s").splitlines()
    assert lines[:2] == ["Update to v1.1.0 of the template", "Own changes"]

    run(owned, "dvc", "repro")
    run(owned, "pytest", "-q")
    run(owned, "ruff", "check", ".")
    run(owned, "git", "commit", "--quiet", "--all", "--message", "New model")
    assert "v1.1.0 of the template changes nothing" in run(owned, "tabloop", "update").stdout


def test_where_both_changed_a_line_it_is_an_ordinary_conflict(
    run: Run, owned: Path, template: Template
) -> None:
    write(owned, "Ours", Makefile=("## this list", "## our list"))
    before = git(owned, "rev-parse", "HEAD")
    template.change("v1.1.0", **NEXT)
    for _ in range(2):  # given up, and tried again
        done = run(owned, "tabloop", "update", code=1)
        assert done.stderr.startswith(
            "update: you and the template changed the same lines of Makefile: correct them, `git add`"
        )
        assert "<<<<<<< HEAD" in (owned / "Makefile").read_text()
        assert "uncommitted changes" in run(owned, "tabloop", "update", code=1).stderr
        git(owned, "merge", "--abort")
        assert git(owned, "rev-parse", "HEAD") == before and git(owned, "status", "--porcelain") == ""
    run(owned, "tabloop", "update", code=1)
    git(owned, "checkout", "--ours", "Makefile")
    git(owned, "commit", "--quiet", "--all", "--no-edit")
    assert "changes nothing" in run(owned, "tabloop", "update").stdout
    template.change("v1.2.0", Makefile=("## run the tests", "## run all tests"))
    run(owned, "tabloop", "update")
    assert (
        "## our list" in (owned / "Makefile").read_text()
        and "## run all tests" in (owned / "Makefile").read_text()
    )


def test_an_update_merged_by_squash_repeats_no_conflict(run: Run, owned: Path, template: Template) -> None:
    """Also in a clone that has no branch `template`: what was baked before is baked again."""
    write(owned, "Ours", Makefile=("## this list", "## our list"))
    template.change("v1.1.0", **NEXT)
    git(owned, "switch", "--quiet", "--create", "update")
    run(owned, "tabloop", "update", code=1)
    git(owned, "checkout", "--ours", "Makefile")
    git(owned, "commit", "--quiet", "--all", "--no-edit")
    git(owned, "switch", "--quiet", "main")
    git(owned, "merge", "--quiet", "--squash", "update")
    git(owned, "commit", "--quiet", "-m", "Update (#1)")
    git(owned, "branch", "--quiet", "-D", "update", "template")
    clone = owned.parent / "clone"
    git(owned, "clone", "--quiet", ".", str(clone))
    template.change("v1.2.0", Makefile=("## run the tests", "## run all tests"))
    run(clone, "tabloop", "update")
    assert (
        "## our list" in (clone / "Makefile").read_text()
        and "## run all tests" in (clone / "Makefile").read_text()
    )
    assert git(clone, "status", "--porcelain") == "" and state(clone)["version"] == "v1.2.0"


def test_a_new_question_has_its_default_and_is_said(run: Run, owned: Path, template: Template) -> None:
    questions = template.folder / "cookiecutter.json"
    asked = json.loads(questions.read_text())
    questions.write_text(json.dumps({"team": "ml", **asked}))
    template.change("v1.1.0", Makefile=("## this list", "## this list of {{ cookiecutter.team }}"))
    assert "; new answers in .template.json: team = 'ml'; " in run(owned, "tabloop", "update").stdout
    assert "## this list of ml" in (owned / "Makefile").read_text()
    # Another answer in .template.json is another bake.
    write(owned, "Another team", **{".template.json": ('"team": "ml"', '"team": "risk"')})
    run(owned, "tabloop", "update")
    assert "## this list of risk" in (owned / "Makefile").read_text()


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (lambda p, t: (p / "notes.txt").unlink(), "uncommitted changes (notes.txt)"),
        (lambda p, t: shutil.rmtree(t.folder), "does not exist"),
        (lambda p, t: git(p, "rm", "--quiet", ".template.json"), "git show failed"),
        (lambda p, t: (p / ".template.json").write_text("{"), ".template.json: JSONDecodeError"),
        (
            lambda p, t: (p / ".template.json").write_text("{}"),
            ".template.json: KeyError 'template'; see docs/updating.md",
        ),
        (lambda p, t: no_torch(t), "refuses the answers in .template.json"),
        (lambda p, t: git(p, "switch", "--quiet", "--detach"), "HEAD is on no branch: `git switch` to yours"),
        (lambda p, t: git(p, "switch", "--quiet", "template"), "HEAD is on template: `git switch` to yours"),
        (lambda p, t: checked_out_elsewhere(p, t), "git branch failed: "),
    ],
)
def test_what_prevents_an_update_is_said_in_one_line(
    run: Run, owned: Path, template: Template, broken: Callable[[Path, Template], object], why: str
) -> None:
    write(owned, "Notes", **{"notes.txt": ("", "ours")})
    broken(owned, template)
    if "uncommitted" not in why:
        subprocess.run(
            ["git", "commit", "--quiet", "-am", "Broken"], cwd=owned, env=clean(GIT_AUTHOR_NAME="a")
        )
    before = git(owned, "rev-parse", "HEAD", "template")
    done = run(owned, "tabloop", "update", code=1)
    assert why in done.stderr and len(done.stderr.splitlines()) == 1
    assert git(owned, "rev-parse", "HEAD", "template") == before


def checked_out_elsewhere(project: Path, template: Template) -> None:
    """The branch `template` in another folder, whose files would no longer be those of its commit."""
    git(project, "worktree", "add", "--quiet", str(project.parent / "elsewhere"), "template")
    template.change("v1.1.0", **NEXT)


@pytest.mark.parametrize("orphan", [False, True])
def test_a_branch_template_of_the_owner_is_not_touched(
    run: Run, owned: Path, template: Template, orphan: bool
) -> None:
    """Theirs may begin with the template's first commit, as every branch of the project does, or with nothing."""
    git(owned, "branch", "--quiet", "--move", "template", "baked")
    git(owned, "switch", "--quiet", *(["--orphan", "template"] if orphan else ["-c", "template"]))
    write(owned, "A template for letters", **{"letter.txt": ("", "Dear customer")})
    theirs = git(owned, "rev-parse", "HEAD")
    git(owned, "switch", "--quiet", "main")
    template.change("v1.1.0", **NEXT)
    said = run(owned, "tabloop", "update", code=1).stderr
    assert said.count("\n") == 1 and "`git branch --move template " in said
    assert git(owned, "rev-parse", "template") == theirs and git(owned, "status", "--porcelain") == ""
    run(owned, *shlex.split(said.split("`")[1].replace("NAME", "letters")))
    run(owned, "tabloop", "update")
    assert "## this list, new" in (owned / "Makefile").read_text() and not (owned / "letter.txt").exists()
    assert git(owned, "rev-parse", "letters") == theirs


def test_a_hook_that_refuses_the_merge_leaves_nothing_half_merged(
    run: Run, owned: Path, template: Template
) -> None:
    template.change("v1.1.0", **NEXT)
    hook = owned / ".git/hooks/prepare-commit-msg"  # git runs it in spite of --no-verify
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho a ticket is missing >&2\nexit 1\n")
    hook.chmod(0o755)
    for _ in range(2):
        said = run(owned, "tabloop", "update", code=1).stderr
        assert "git commit failed: a ticket is missing" in said and git(owned, "status", "--porcelain") == ""
    hook.unlink()
    run(owned, "tabloop", "update")
    assert "## this list, new" in (owned / "Makefile").read_text()


def no_torch(template: Template) -> None:
    """A version that has no longer what the project answered."""
    questions = template.folder / "cookiecutter.json"
    asked = json.loads(questions.read_text())
    questions.write_text(json.dumps(asked | {"framework": ["torch"]}))
    template.change("v2.0.0")


def test_an_unknown_revision_and_a_folder_of_a_larger_repository(
    run: Run, owned: Path, template: Template, tmp_path: Path
) -> None:
    said = run(owned, "tabloop", "update", "--to", "nowhere", code=1).stderr
    assert said.endswith(" has no branch, tag or commit 'nowhere'\n") and said.count("\n") == 1
    assert "changes nothing" in run(owned, "tabloop", "update", "--to", "v1.0.0").stdout
    larger = tmp_path / "larger"
    shutil.copytree(owned, larger / "model", ignore=shutil.ignore_patterns(".git"))
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(larger))
    write(larger, "Before", **{"model__notes.txt": ("", "ours"), "other.txt": ("", "not of the project")})
    template.change("v1.1.0", **NEXT)
    said = run(larger / "model", "tabloop", "update", code=1).stderr
    assert "a folder of a larger repository" in said
    split, clone, pull = (shlex.split(command) for command in said.split("`")[1::2])
    run(larger, *split), run(larger, *clone)
    run(tmp_path / "alone", "tabloop", "update")
    run(larger, *pull)
    assert "## this list, new" in (larger / "model/Makefile").read_text()
    assert sorted(path.name for path in larger.iterdir()) == [".git", "model", "other.txt"]


def test_a_project_whose_tabloop_is_of_an_index_gets_no_file_of_it_back(
    run: Run, owned: Path, template: Template
) -> None:
    git(owned, "rm", "-r", "--quiet", "packages")
    write(owned, "Ours", **{"notes.txt": ("", "ours")})
    (template.folder / INNER / "packages/tabloop/new.py").write_text("")
    template.change("v1.1.0", **NEXT)
    run(owned, "tabloop", "update")
    assert not (owned / "packages").exists() and "## this list, new" in (owned / "Makefile").read_text()
    assert "changes nothing" in run(owned, "tabloop", "update").stdout


def test_a_repository_that_has_code_already_gets_the_template(first: Path, tmp_path: Path) -> None:
    """By the lines of docs/updating.md."""
    text = (ROOT / "docs/updating.md").read_text()
    (lines,) = [block for block in text.split("```")[1::2] if "allow-unrelated-histories" in block]
    own = tmp_path / "own"
    git(tmp_path, "init", "--quiet", "--initial-branch=main", str(own))
    write(own, "Before", **{"README.md": ("", "Ours.\n"), "analysis.py": ("", "ours = 1\n")})
    script = lines.removeprefix("bash").replace(
        "gh:org/ml-template", f"{first / 'template'} --no-input --default-config"
    )
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=own,
        env=clean(UV_OFFLINE="1", HOME=str(tmp_path), **AUTHOR),
        capture_output=True,
        text=True,
    )
    assert "CONFLICT (add/add): Merge conflict in README.md" in done.stdout, done
    assert (own / "analysis.py").exists() and (own / "packages/tabloop").exists()
    git(own, "checkout", "--ours", "README.md")
    git(own, "commit", "--quiet", "--all", "--no-edit")
    assert git(own, "show", "HEAD:README.md") == "Ours." and state(own)["commit"]
    assert git(own, "merge-base", "--is-ancestor", "template", "HEAD") == ""


def test_the_weekly_workflow_opens_one_pull_request_and_is_red_at_a_conflict(
    owned: Path, template: Template, environment: Path, tmp_path: Path
) -> None:
    (tmp_path / "forge").mkdir()
    template.change("v1.1.0", **NEXT)
    dispatched = ("workflow_dispatch", "--workflows", ".github/workflows/update.yml")
    with founded(owned, environment, tmp_path / "forge") as forge:
        pushed(forge)
        code, said = forge.run(*dispatched)
        assert code == 0, said[-5000:]
        (pull,) = forge.github.things["pulls"]
        assert pull["title"] == "Update to v1.1.0 of the template" and "Makefile" in pull["body"]
        assert "## this list, new" in forge.git("show", "update:Makefile", where=forge.origin)
        assert forge.git("log", "--format=%s", "main..update", where=forge.origin) == pull["title"]
        write(forge.project, "Ours", Makefile=("## this list", "## our list"))
        forge.git("push", "--quiet")
        code, said = forge.run(*dispatched)
        assert code != 0 and "update: you and the template changed the same lines of Makefile" in said
        assert len(forge.github.things["pulls"]) == 1


@pytest.mark.parametrize("edited", [True, False])
def test_cruft_updates_too(edited: bool, template: Template, tmp_path: Path) -> None:
    def cruft(*arguments: str, where: Path = tmp_path) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "cruft", *arguments],
            cwd=where,
            env=clean(HOME=str(tmp_path)),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done
        return done.stdout

    cruft("create", str(template.folder), "--no-input", "--default-config", "--output-dir", "out")
    project = tmp_path / "out/fraud-detection"
    assert not (project / ".git").exists() and not (project / ".template.json").exists()
    git(project, "init", "--quiet", "--initial-branch=main")
    write(project, "Start", **{"start.txt": ("", "")})
    if edited:
        git(project, "rm", "--quiet", f"{PACKAGE}/simulator.py")  # as adopt does
        write(project, "Ours", **OWN)
    template.change("v1.1.0", **NEXT)
    cruft("update", "--skip-apply-ask", where=project)
    for name, (_, text) in NEXT.items():
        path = project / name.replace("__", "/").replace("PACKAGE", PACKAGE)
        assert (edited and "simulator" in name) or text in path.read_text()
    for name, (_, text) in (OWN if edited else {}).items():
        assert text in (project / name.replace("__", "/").replace("PACKAGE", PACKAGE)).read_text()
    assert not list(project.rglob("*.rej"))
    assert "up to date" in cruft("check", where=project)
