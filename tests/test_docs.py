"""What a user can set, run or read is documented; what the documentation shows exists."""

import ast
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from conftest import ROOT
from prometheus_client import Counter, Gauge, Histogram
from shown import PAGES, PROJECT
from tabloop.main import tabloop as command
from tabloop.params import load
from tabloop.serving import telemetry
from tabloop.serving.settings import Settings

README = (PROJECT / "README.md").read_text()
TABLOOP = (PROJECT / "packages/tabloop/README.md").read_text()


def commands(group: click.Group, path: str = "tabloop") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its whole name."""
    for name, found in group.commands.items():
        if isinstance(found, click.Group):
            yield from commands(found, f"{path} {name}")
        else:
            yield f"{path} {name}", found


def test_every_setting_of_the_service_is_in_the_readme() -> None:
    missing = [name for name in Settings.model_fields if f"`{name.upper()}`" not in README]
    assert not missing


def test_every_make_target_is_in_the_readme() -> None:
    text = (PROJECT / "Makefile").read_text()
    targets = " ".join(re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)).split()
    assert len(targets) > 20
    missing = [name for name in targets if not re.search(rf"\bmake( setup)? {name}\b", README)]
    assert missing == ["help"], missing  # `make` alone


def test_every_command_is_in_the_readme_and_has_help() -> None:
    for name, found in commands(command):
        first, last = name.split()[1], name.split()[-1]
        lines = [line for line in TABLOOP.splitlines() if f"`{last}" in line or f"`{name}" in line]
        assert any(f"tabloop {first}" in line or first == last for line in lines), name
        assert found.help and found.help.endswith("."), name
        assert CliRunner().invoke(command, [*name.split()[1:], "--help"]).output.startswith("Usage: "), name
        for parameter in found.params:
            if isinstance(parameter, click.Option):
                assert parameter.help or parameter.show_default, f"{name} {parameter.name}"


def test_the_lists_of_commands_cut_no_sentence() -> None:
    """At 80 columns, which click takes where it knows no terminal."""
    for words in (
        [],
        *([name] for name, found in command.commands.items() if isinstance(found, click.Group)),
    ):
        listed = CliRunner().invoke(command, [*words, "--help"]).output.split("Commands:")[1]
        assert "..." not in listed, listed


def test_every_module_is_in_the_readme_and_no_other() -> None:
    table = TABLOOP.split("## Modules")[1].split("\n## ")[0]
    named = {name.split(".")[0] for name in re.findall(r"`([a-z_.]+)`", table)} - {"train", "evaluate"}
    source = PROJECT / "packages/tabloop/src/tabloop"
    ours = {path.stem for path in source.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert named == ours - {"__init__", "__main__"}


def test_every_metric_is_in_the_readme() -> None:
    metrics = [
        metric for metric in vars(telemetry).values() if isinstance(metric, Counter | Gauge | Histogram)
    ]
    ours = {family.name for metric in metrics for family in metric.describe()}
    assert len(ours) >= 8
    documented = set(re.findall(r"^\| `(\w+)` \|", TABLOOP.split("## Metrics")[1], re.MULTILINE))
    assert documented == {
        name if name.endswith(("seconds", "service_ready")) else f"{name}_total" for name in ours
    }
    serving = (PROJECT / "packages/tabloop/src/tabloop/serving").glob("*.py")
    assert {
        path.name
        for path in serving
        if re.search("from prometheus_client import .*Counter", path.read_text())
    } == {"telemetry.py"}


def test_every_variable_and_secret_of_the_callers_is_in_the_readme() -> None:
    texts = "".join(path.read_text() for of in (PROJECT, ROOT) for path in of.glob(".github/workflows/*.yml"))
    names = set(re.findall(r"\b(?:vars|secrets)\.([A-Z_]+)", texts)) - {"GITHUB_TOKEN"}
    assert len(names) > 5
    missing = [name for name in names if f"`{name}`" not in README]
    assert not missing


def test_the_page_of_the_workflows_is_that_of_the_files() -> None:
    spec = importlib.util.spec_from_file_location("workflows", ROOT / "docs/workflows.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text() == module.page(), "run `uv run docs/workflows.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_files_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    dead = [link for link in links if not (page.parent / link).exists()]
    assert not dead


def sentences(text: str) -> Iterator[str]:
    """Those of paragraphs, list items and cells; code, tables' rules and addresses of links are left out."""
    text = re.sub(r"^```.*?^```$|^\s*\|[-|]+$", "\n", text, flags=re.S | re.M)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`\n]+`", "code", text))
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*]|\d+\.) |#|\|)|\|", text):
        yield from re.split(r"(?<=[.!?:])\s+", " ".join(block.split()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_sentence_is_long(page: Path) -> None:
    """A reader whose second language is English follows 30 words."""
    assert not [said for said in sentences(page.read_text()) if len(said.split()) > 30]


def test_the_changelog_lists_versions_and_says_of_each_change_what_to_do() -> None:
    """`.github/release.py` takes a version's section as the notes of its release."""
    first, *sections = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert "Nothing to do" in first  # how an entry looks
    numbers = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", section.partition("\n")[0]) for section in sections]
    versions = [tuple(map(int, number.groups())) if number else None for number in numbers]
    assert None not in versions, "a change is listed under the number of the version that will have it"
    assert versions == sorted(versions, reverse=True) and len(set(versions)) == len(versions)  # type: ignore[type-var]
    for section in sections[:-1]:
        entries = re.split(r"^- ", section, flags=re.M)[1:]
        assert entries and all(entry.startswith("**") for entry in entries)
    assert 10 <= len(re.findall("^- ", sections[-1], re.M)) <= 20  # the first version: what it has


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_to_a_heading_lead_to_it(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", page.read_text())
    dead = [
        f"{file}#{name}" for file, name in links if name not in anchors(page.parent / file if file else page)
    ]
    assert not dead


def test_the_edit_of_the_first_push_leaves_params_that_load(baked: Path, tmp_path: Path) -> None:
    """In the project as it is baked: the tests of the workflows write params.yaml in another style."""
    (edit,) = re.findall(r"^sed .*", (ROOT / "docs/first-push.md").read_text(), re.MULTILINE)
    shutil.copy(baked / "params.yaml", tmp_path)
    subprocess.run(["sh", "-c", edit], cwd=tmp_path, check=True)
    params = load(tmp_path / "params.yaml")
    assert params.train["max_iter"] == 150 and params.tune["max_iter"]


def test_each_picture_is_in_a_page() -> None:
    texts = "".join(page.read_text() for page in PAGES)
    assert not [p.name for p in ROOT.glob("docs/pictures/*") if f"pictures/{p.name}" not in texts]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_that_the_pages_name_exist(page: Path) -> None:
    """An option between backticks, without its command, is one of a `tabloop` command; or of uv, or a benchmark's."""
    known = {
        option for _, found in commands(command) for parameter in found.params for option in parameter.opts
    }
    known |= {option for _, found in commands(command) for p in found.params for option in p.secondary_opts}
    named = set(re.findall(r"`(--[a-z-]+)", page.read_text()))
    assert not named - known - {"--group", "--cuped"}


def texts(path: Path) -> Iterator[str]:
    """What the strings of a module say that are no docstrings; `{}` for a value."""
    tree = ast.parse(path.read_text())
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    silent = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)} | parts
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(p.value) if isinstance(p, ast.Constant) else "{}" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            yield node.value


def test_a_command_that_a_message_names_can_be_copied() -> None:
    """What is between backticks works in a shell where nothing is activated: make's targets, or `uv run`."""
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    known = {name for name, _ in commands(command)}
    said = [
        (path.name, text) for path in PROJECT.glob("packages/tabloop/src/**/*.py") for text in texts(path)
    ]
    for path in PROJECT.glob("packages/tabloop/src/**/*.jinja"):
        said.append((path.name, re.sub(r"\{[{%#].*?[}%#]\}", "{}", path.read_text())))
    shown = [(name, found) for name, text in said for found in re.findall(r"`([a-z]+ [^`]+)`", text)]
    assert len(shown) > 40
    bare = [
        (name, text) for name, text in shown if re.match(r"(tabloop|dvc|mlflow|python|pytest|ruff) ", text)
    ]
    assert not bare
    unknown = [text for _, text in shown if text.startswith("make ") and text.split()[1] not in targets]
    assert not unknown
    for text in (text for _, text in shown if text.startswith("uv run tabloop ") and "{" not in text):
        assert any(text.removeprefix("uv run ").startswith(name) for name in known), text
