"""What the bake writes, before anything of it runs; what it refuses; and the budgets of its size."""

import ast
import io
import itertools
import json
import re
import shutil
import subprocess
import sys
import tokenize
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import PYTHON, ROOT, UV, Bake, Project, clean
from cookiecutter.generate import generate_context
from cookiecutter.prompt import prompt_for_config
from tabloop.main import tabloop as commands_of_tabloop

CHOICES = json.loads((ROOT / "cookiecutter.json").read_text())
TABLOOP = ROOT / "{{cookiecutter.project_slug}}/packages/tabloop"
COMBINATIONS = list(itertools.product(CHOICES["framework"], CHOICES["python_version"], CHOICES["license"]))


def cookiecutter(
    out: Path, *answers: str, template: Path = ROOT, **variables: str
) -> "subprocess.CompletedProcess[str]":
    """Bake as a user does, by the command line; uv.lock by what is in uv's cache, unless UV_OFFLINE is given."""
    options = ["--no-input", "--default-config", "--output-dir"]
    command = [sys.executable, "-m", "cookiecutter", str(template), *options, str(out), *answers]
    env = clean(**({"UV_OFFLINE": "1"} | variables))
    return subprocess.run(command, capture_output=True, text=True, env=env)


def git(project: Path, *arguments: str) -> str:
    """What git prints."""
    return subprocess.run(
        ["git", *arguments], cwd=project, env=clean(), capture_output=True, text=True
    ).stdout


def files(project: Path) -> Iterator[Path]:
    """What git tracks."""
    return (project / name for name in git(project, "ls-files").splitlines())


@pytest.mark.parametrize(("framework", "python_version", "license"), COMBINATIONS)
def test_every_combination_is_whole(bake: Bake, framework: str, python_version: str, license: str) -> None:
    project = bake(framework=framework, python_version=python_version, license=license)
    for path in files(project):
        text = path.read_text()
        # `${{ }}` is GitHub's own, `{{.Name}}` and `{{if` Docker's; Prometheus and Grafana have `{{ }}` of their own, and so
        # has tabloop, which is copied as it is.
        own = any(path.is_relative_to(project / of) for of in (".github", "packages", "deploy/monitoring"))
        left = re.search(
            r"cookiecutter\." + ("" if own else r"|(?<!\$)\{\{(?!\.|if|else|end|range|println)|\{%"), text
        )
        assert not left, f"{path}: {left}"
        if path.suffix in (".yaml", ".yml"):
            list(yaml.safe_load_all(text))
        elif path.suffix == ".toml":
            tomllib.loads(text)
        elif path.suffix == ".json":
            json.loads(text)
        elif path.suffix == ".py":
            compile(text, path, "exec")
        assert text.endswith("\n") or not text, f"{path} does not end with a line break"
    pyproject = tomllib.loads((project / "pyproject.toml").read_text())
    assert pyproject["project"]["requires-python"] == f"=={python_version}.*"
    assert ("torch" in str(pyproject["dependency-groups"])) == (framework == "torch")
    title = {"MIT": "MIT License", "Apache-2.0": "Apache License", "Proprietary": "All rights reserved"}[
        license
    ]
    assert title in (project / "LICENSE").read_text()


def test_style_is_clean_and_formatting_leaves_no_diff(bake: Bake, project: Project) -> None:
    for framework in CHOICES["framework"]:
        copy = project(bake(framework=framework))
        for command in (["check"], ["format", "--check"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *command, "--no-cache", "."],
                cwd=copy,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, done.stdout


def test_style_of_a_long_package_name(bake: Bake, project: Project) -> None:
    """Imports are sorted and lines are short enough whatever the package is called."""
    copy = project(bake(project_name="A zebra crossings project"))
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=copy, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_history_has_the_bake_and_its_pins_and_nothing_is_left_over(baked: Path) -> None:
    """The first commit is the branch `template`: later versions are merged from it. The pins are no part of it."""
    pins, start = git(baked, "log", "--format=%s%d").splitlines()
    assert pins.startswith("Pin base images and packages (") and start == "Start from ml-template (template)"
    pinned = set(git(baked, "diff", "--name-only", "template").split())
    assert pinned in ({"uv.lock"}, {"uv.lock", "Dockerfile"})  # the registry of the images may not answer
    assert git(baked, "branch", "--show-current").strip() == "main"
    assert git(baked, "status", "--porcelain", "--ignored") == ""


def test_tabloop_is_the_templates_file_by_file_without_bytecode(baked: Path, tmp_path: Path) -> None:
    for path in files(baked):
        if path.is_relative_to(baked / "packages/tabloop"):
            assert path.read_bytes() == (TABLOOP / path.relative_to(baked / "packages/tabloop")).read_bytes()
    out = shutil.ignore_patterns(".git", ".venv", ".uv", ".cache", "demo", "tests")
    template = shutil.copytree(ROOT, tmp_path / "template", ignore=out)
    bytecode = template / TABLOOP.relative_to(ROOT) / "src/tabloop/__pycache__"
    bytecode.mkdir(exist_ok=True)
    (bytecode / "left.cpython-311.pyc").write_bytes(b"over")
    assert cookiecutter(tmp_path, template=template).returncode == 0
    assert git(tmp_path / baked.name, "status", "--porcelain", "--ignored") == ""
    assert not list((tmp_path / baked.name).rglob("__pycache__"))


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/acme/our-template.git",
        "git@github.com:acme/our-template.git",
        "ssh://git@github.example.com:2222/acme/our-template",
        None,
    ],
)
def test_a_bake_calls_the_template_that_it_came_from(remote: str | None, tmp_path: Path) -> None:
    out = shutil.ignore_patterns(".git", ".venv", ".uv", ".cache", "demo", "tests")
    template = shutil.copytree(ROOT, tmp_path / "renamed", ignore=out)
    git(template, "init", "--quiet")
    if remote:
        git(template, "remote", "add", "origin", remote)
    # As a path from elsewhere, and as the present folder.
    bakes = {"out": cookiecutter(tmp_path / "out", template=template)}
    if remote is None or remote.startswith("https:"):
        options = ["--no-input", "--default-config", "-o", str(tmp_path / "here")]
        bakes["here"] = subprocess.run(
            [sys.executable, "-m", "cookiecutter", ".", *options],
            cwd=template,
            env=clean(PWD=str(template), UV_OFFLINE="1"),
            capture_output=True,
            text=True,
        )
    for folder, bake in bakes.items():
        assert bake.returncode == 0, bake.stderr
        (project,) = (tmp_path / folder).iterdir()
        if remote:
            assert "Its workflows call acme/our-template/.github/workflows at v1." in bake.stdout
        else:
            _, command = bake.stdout.split("the files that this lists: ")
            listed = git(project, *command.splitlines()[0].split()[1:]).splitlines()
            assert ".github/workflows/drift.yml" in listed
            texts = {name: (project / name).read_text() for name in git(project, "ls-files").splitlines()}
            assert listed == [name for name, text in texts.items() if "org/ml-template" in text]
        called = {
            u
            for p in (project / ".github/workflows").iterdir()
            for u in re.findall("uses: (.+?)/.github", p.read_text())
        }
        assert called == {"acme/our-template" if remote else "org/ml-template"}
        assert bool(git(project, "grep", "org/ml-template")) == (remote is None)
        assert git(project, "status", "--porcelain") == ""


def test_a_bake_in_a_git_hook_makes_a_repository_of_its_own(tmp_path: Path) -> None:
    """Git tells its hooks by variables which repository they run in."""
    other = tmp_path / "other"
    git(tmp_path, "init", "--quiet", str(other))
    (other / "staged").write_text("before")
    git(other, "add", "staged")
    before = git(other, "status", "--porcelain")
    reaching = {"GIT_DIR": str(other / ".git"), "GIT_INDEX_FILE": str(other / ".git/index")}
    reaching |= {"GIT_WORK_TREE": str(other), "GIT_PREFIX": ""}
    done = cookiecutter(tmp_path / "out", template=ROOT, **reaching)
    assert done.returncode == 0, done.stderr
    assert git(other, "status", "--porcelain") == before and not (other / ".git/refs/heads/main").exists()
    project = tmp_path / "out/fraud-detection"
    assert git(project, "log", "--format=%s").splitlines()[-1] == "Start from ml-template"
    assert git(project, "status", "--porcelain") == ""


def test_an_unknown_git_user_commits_as_the_author(tmp_path: Path) -> None:
    done = cookiecutter(
        tmp_path / "out",
        "author=Zoë O'Brien",
        "email=zoe@example.org",
        HOME=str(tmp_path),
        XDG_CONFIG_HOME=str(tmp_path),
        GIT_CONFIG_NOSYSTEM="1",
    )
    assert done.returncode == 0, done.stderr
    project = tmp_path / "out/fraud-detection"
    assert set(git(project, "log", "--format=%an <%ae>").splitlines()) == {"Zoë O'Brien <zoe@example.org>"}


def test_a_bake_says_what_is_next(tmp_path: Path) -> None:
    done = cookiecutter(tmp_path)
    for line in ("cd fraud-detection", "make setup", "make train"):
        assert line in done.stdout


def test_the_first_commit_pins_every_version_and_says_so_if_it_can_not(tmp_path: Path) -> None:
    assert UV
    done = cookiecutter(tmp_path / "a", UV=UV, UV_OFFLINE="0")
    assert "uv.lock" in git(tmp_path / "a/fraud-detection", "ls-files") and "uv.lock" not in done.stdout
    locked = subprocess.run(
        [UV, "lock", "--locked", "--quiet"], cwd=tmp_path / "a/fraud-detection", env=clean()
    )
    assert locked.returncode == 0
    # Without a network: an empty cache, and an index that does not answer.
    cache = str(tmp_path / "cache")
    done = cookiecutter(
        tmp_path / "b",
        UV=UV,
        UV_CACHE_DIR=cache,
        UV_INDEX_URL="http://127.0.0.1:1/simple",
        UV_HTTP_RETRIES="0",
        UV_OFFLINE="0",
    )
    why = "`make setup` makes uv.lock, which could not be made here (Failed to fetch: http://127.0.0.1:1/simple/"
    assert done.returncode == 0 and why in done.stdout
    assert git(tmp_path / "b/fraud-detection", "status", "--porcelain") == ""


def test_a_global_gitignore_takes_no_file_away(baked: Path, tmp_path: Path) -> None:
    """Not of the first commit, nor of what later commands pin."""
    (tmp_path / "ignore").write_text(
        "*.env\nmodels/\ndeploy/\npackages/\nmetrics/\nreports/\n*.dvc\n*.lock\n"
    )
    (tmp_path / "gitconfig").write_text(f"[core]\n\texcludesFile = {tmp_path}/ignore\n")
    hostile = clean(GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig"))
    command = ["cookiecutter", str(ROOT), "--no-input", "--default-config", "--output-dir", str(tmp_path)]
    subprocess.run(command, env=hostile, capture_output=True, check=True)
    copy = tmp_path / "fraud-detection"
    assert set(git(copy, "ls-files").splitlines()) >= set(git(baked, "ls-files").splitlines()) - {"uv.lock"}
    new = ["models/champion.dvc", "dvc.lock", "metrics/evaluation.json", "deploy/canary/release.env"]
    for name in new:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text("new\n")
    (copy / "deploy/canary/secret.env").write_text("API_KEYS=x\n")
    subprocess.run(["git", "add", "--all"], cwd=copy, env=hostile, check=True)
    assert git(copy, "diff", "--cached", "--name-only").splitlines() == sorted(new)


def test_a_clone_with_line_ends_of_windows_has_the_same_bytes(baked: Path, tmp_path: Path) -> None:
    """Else DVC would see other code, and a server's shell could not read release.sh."""
    git(tmp_path, "-c", "core.autocrlf=true", "clone", "--quiet", str(baked), "clone")
    for name in git(baked, "ls-files").splitlines():
        assert (tmp_path / "clone" / name).read_bytes() == (baked / name).read_bytes(), name


def test_stages_hooks_and_the_plain_commands_beside_make_need_no_shell(baked: Path) -> None:
    """Windows has cmd.exe, and no make. (tests/conftest.py runs all stages without a shell.)"""
    stages = yaml.safe_load((baked / "dvc.yaml").read_text())["stages"].values()
    (local,) = yaml.safe_load((baked / ".pre-commit-config.yaml").read_text())["repos"]
    plain = plain_commands()
    words = [stage["cmd"] for stage in stages] + [hook["entry"] for hook in local["hooks"]]
    words += itertools.chain.from_iterable(plain.values())
    assert len(words) > 30
    programs = {
        "tabloop",
        "uv",
        "dvc",
        "python",
        "pytest",
        "ruff",
        "mypy",
        "mlflow",
        "docker",
        "detect-secrets-hook",
    }
    for command in words:
        assert command.startswith(("VERSION", "NAME", "IMAGE", "Dockerfile", "bash deploy/release.sh ")) or (
            command.split()[0] in programs and not re.search(r"[$&|;*?'`~]", command)
        ), command
    targets = re.findall(r"^\.PHONY: (.+)$", (baked / "Makefile").read_text(), re.MULTILINE)
    missing = {*" ".join(targets).split()} - {*plain} - {*commands_of_tabloop.commands} - {"help"}
    assert not missing, "docs/operations.md says what else each target is"


def plain_commands() -> dict[str, list[str]]:
    """The table of docs/operations.md: for each target of make the commands behind it."""
    text = (ROOT / "docs/operations.md").read_text().split("in plain commands", 1)[1]
    rows = re.findall(r"^\| (`make .+?) \| (.+?) \|$", text, re.MULTILINE)
    return {
        target: re.findall(r"`([^`]+)`", plain)
        for names, plain in rows
        for target in re.findall(r"`(?:make )?([a-z-]+)", names)
    }


def test_no_file_is_read_or_written_in_the_code_page_of_windows() -> None:
    """Nor is what another program prints, and no line end is changed. (Ruff's rule knows only some of these calls.)"""
    sources = [
        *(ROOT / "hooks").glob("*.py"),
        *TABLOOP.parents[1].glob("src/*/*.py"),
        *TABLOOP.rglob("*.py"),
        *(ROOT / "docs").rglob("*.py"),
    ]
    assert len(sources) > 100
    wrong = [f"{path.name}:{line}" for path in sources for line in without_encoding(path)]
    assert wrong == []


def without_encoding(path: Path) -> Iterator[int]:
    """The lines of the calls that read or write text, and leave it to the machine in which encoding."""
    text = re.sub(
        r"\{\{ cookiecutter.*?}}", "name", path.read_text()
    )  # `from {{ cookiecutter.package_name }}.model import ...`
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        first = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        mode = str(first) if isinstance(node.func, ast.Attribute) else given.get("mode", "r")
        opens = name == "open" and re.fullmatch("[rwax+t]+", mode)
        texts = {"read_text": 1, "write_text": 2}.get(name, 0) > len(node.args) or given.get("text") == "True"
        if (opens or texts) and "encoding" not in given and "options" not in given:
            yield node.lineno


def test_the_development_container_has_the_projects_python(bake: Bake) -> None:
    container = json.loads((bake(python_version="3.12") / ".devcontainer.json").read_text())
    assert container["image"].endswith(":3.12") and container["postCreateCommand"] == "make setup"


def test_baking_inside_a_repository_says_so(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert f"inside the repository {tmp_path}" in cookiecutter(tmp_path / "a").stdout
    (tmp_path / ".gitignore").write_text("b/\n")
    assert "inside the repository" not in cookiecutter(tmp_path / "b").stdout


def test_baking_twice_gives_the_same_bytes(bake: Bake, baked: Path, tmp_path: Path) -> None:
    cookiecutter(tmp_path, f"python_version={PYTHON}")
    again = tmp_path / baked.name
    assert git(baked, "ls-tree", "-r", "HEAD") == git(again, "ls-tree", "-r", "HEAD") != ""


@pytest.mark.parametrize(
    ("name", "slug", "package"),
    [
        ("Fraud_Detection", "fraud-detection", "fraud_detection"),
        ("O'Brien's Churn", "o-brien-s-churn", "o_brien_s_churn"),
        ("Model v1.2", "model-v1-2", "model_v1_2"),
        ("Churn & Co.", "churn-co", "churn_co"),
        ("Fraud Détection", "fraud-detection", "fraud_detection"),
        ("不正検知", "bu-zheng-jian-zhi", "bu_zheng_jian_zhi"),
        ("2nd try", "model-2nd-try", "model_2nd_try"),
        ("!", "model", "model_model"),
        ("MLflow", "mlflow-model", "mlflow_model"),  # the name of a package that the project needs
        ("Scikit Learn", "scikit-learn-model", "scikit_learn_model"),
        ("Statistics", "statistics", "statistics_model"),  # of a module of Python's
    ],
)
def test_any_name_that_a_person_would_type_gives_names_that_work(
    name: str, slug: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT)  # for local_extensions, as cookiecutter does
    context = generate_context(str(ROOT / "cookiecutter.json"), extra_context={"project_name": name})
    answers = prompt_for_config(context, no_input=True)
    assert (answers["project_slug"], answers["package_name"]) == (slug, package)


def test_a_name_of_one_word_installs(bake: Bake, tmp_path: Path) -> None:
    """The package is called otherwise than the project, which a build backend does not guess."""
    command = [str(UV), "build", "--quiet", "--offline", "--wheel", "--out-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=bake(project_name="Churn"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("churn-*.whl")
    assert "churn_model/app.py" in zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("project_slug=Fraud", "lower-case"),
        ("project_slug=2fraud", "a letter first"),
        ("project_slug=fraud-", "single hyphens"),
        ("project_slug=../fraud", "lower-case"),
        ("project_slug=mlflow", "choose another"),
        ("package_name=json", "choose another"),
        ("package_name=fraud-detection", "underscores"),
        ("package_name=class", "no keyword"),
        ("package_name=tests", "choose another"),
        ("project_name=   ", "must not be empty"),
        ('author=Ann "the" Author', "quotes"),
        ("description=two\nlines", "line breaks"),
        ("description={{ 7 }}{", "braces"),
        ("container_registry=ghcr.io/Your-Org", "lower case"),
    ],
)
def test_what_cannot_work_is_refused(answer: str, why: str, tmp_path: Path) -> None:
    done = cookiecutter(tmp_path, answer)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"ml-template: {answer.split('=')[0]} ")
    assert why in line
    assert list(tmp_path.iterdir()) == []


def test_a_bad_name_is_refused_before_the_next_question(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cookiecutter", str(ROOT), "--default-config", "-o", str(tmp_path)]
    done = subprocess.run(command, input="Fraud\n\nmlflow\n", env=clean(), capture_output=True, text=True)
    assert "[3/10]" in done.stdout and "[4/10]" not in done.stdout
    assert done.stderr.splitlines()[0].startswith(
        "ml-template: package_name 'mlflow' is the name of a package"
    )


@pytest.mark.parametrize("answer", ["python_version=3.10", "framework=jax", "license=GPL"])
def test_an_unknown_choice_is_refused(answer: str, tmp_path: Path) -> None:
    name, value = answer.split("=")
    done = cookiecutter(tmp_path, answer)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"ValueError: {value} provided for choice variable {name}")
    assert list(tmp_path.iterdir()) == []


def test_no_package_hides_a_dependency(baked: Path) -> None:
    projects = [tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (baked, TABLOOP)]
    needed = [
        name
        for parts in projects
        for names in (
            parts["project"]["dependencies"],
            *parts.get("dependency-groups", {}).values(),
            *parts["project"].get("optional-dependencies", {}).values(),
        )
        for name in names
    ]
    names = {re.split(r"[\[<>=]", name)[0].replace("-", "_") for name in needed}
    taken = set(CHOICES["_taken"])
    stubs = {name for name in names if name.endswith("_stubs") or name.startswith("types_")}
    assert names - stubs <= taken


def test_without_git_it_says_so(tmp_path: Path) -> None:
    done = cookiecutter(tmp_path / "out", PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("ml-template: git is missing")
    assert not (tmp_path / "out/fraud-detection").exists()


def test_make_alone_lists_the_commands(baked: Path) -> None:
    make = shutil.which("make")
    assert make
    shown = subprocess.run([make], cwd=baked, capture_output=True, text=True, env=clean()).stdout
    targets = re.findall(r"^\.PHONY: (.+)$", (baked / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"^  make (\S+)", shown, re.MULTILINE) == " ".join(targets).split()


def code_lines(path: Path) -> int:
    """The lines of a file; of code as tinygrad counts: no comments, docstrings or blank lines."""
    if path.suffix == ".sh":
        return len(re.findall(r"^ *[^# \n]", path.read_text(), re.M))
    if path.suffix != ".py":
        return len(path.read_text().splitlines())
    tree, text = ast.parse(path.read_text()), path.read_text()
    prose: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            prose |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - prose)


NO_CODE = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)


def longest_functions(path: Path) -> Iterator[tuple[int, str]]:
    """The length in lines of each function of a Python file, and where it is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno
            yield node.end_lineno - node.lineno + 1, f"{path.name}:{node.lineno} {node.name}"


def test_the_budgets_of_size(bake: Bake) -> None:
    """An owner reads what is theirs in half an hour, and the machinery in an afternoon."""
    for framework in CHOICES["framework"]:
        project = bake(framework=framework)
        lines = {path: code_lines(path) for path in files(project)}
        theirs = {path: n for path, n in lines.items() if not path.is_relative_to(project / "packages")}
        written = {"uv.lock", ".template.json"}  # by tools; nobody reads them
        # Nor does an owner edit what `dvc init` writes (`dvc remote modify` does), or the license.
        written |= {".dvc/.gitignore", ".dvc/config", ".dvcignore", "LICENSE"}
        python = {path: n for path, n in lines.items() if path.suffix == ".py"}
        prose = {path for path in lines if path.suffix == ".md" or path.name in ("LICENSE", "uv.lock")}
        functions = max(length for path in python for length in longest_functions(path))
        files_ = sorted(
            ((n, path.relative_to(project).as_posix()) for path, n in lines.items() if path not in prose)
        )
        figures = {
            "files of the owner": (
                sum(path.relative_to(project).as_posix() not in written for path in theirs),
                45,
            ),
            "the owner's Python lines, tests included": (
                sum(theirs[path] for path in python if path in theirs),
                700,
            ),
            "tabloop's Python lines": (sum(n for path, n in python.items() if path not in theirs), 12076),
            f"lines of the longest file, {files_[-1][1]}": (files_[-1][0], 201),
            f"lines of the longest function, {functions[1]}": (functions[0], 61),
        }
        table = "\n".join(f"{value:5}  (below {limit:4})  {name}" for name, (value, limit) in figures.items())
        long = ", ".join(f"{name} {n}" for n, name in files_ if n > 200)
        print(framework, table, sep="\n")
        assert all(value < limit for value, limit in figures.values()), (
            f"{framework}\n{table}\ntoo long: {long}"
        )
