"""What workflows expect of one another, which no runner checks; and the linters of all that is deployed."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from conftest import GROUPS, LONGEST, ROOT
from tabloop.main import tabloop

WORKFLOWS = ROOT / ".github/workflows"
RANK = {"none": 0, "read": 1, "write": 2}


class Loader(yaml.SafeLoader):
    """YAML 1.2's booleans: `on` is a word."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.load(path.read_text(), Loader))


def calls(folder: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each calling job of a folder's workflows: its name, itself, its siblings, the workflow it calls."""
    for path in sorted(folder.glob("*.yml")):
        jobs = read(path)["jobs"]
        for name, job in jobs.items():
            if "uses" in job:
                repository, file, version = re.fullmatch(
                    r"(.+?)/\.github/workflows/(.+)@(.+)", job["uses"]
                ).groups()  # type: ignore[union-attr]
                assert (repository, version) == ("org/ml-template", "v1")
                yield f"{path.name}: {name}", job, jobs, read(WORKFLOWS / file)


def test_callers_and_reusable_workflows_agree(baked: Path, tmp_path: Path) -> None:
    """Inputs, their types, secrets, outputs and permissions of every call, and of those that the guides show."""
    guides = "".join(page.read_text() for page in (baked / "packages/tabloop/docs").glob("*.md"))
    for at, text in enumerate(re.findall(r"```yaml\n(name: .+?)```", guides, re.S)):
        (tmp_path / f"{at}.yml").write_text(text.replace("OWNER/", "org/"))
    found = [*calls(baked / ".github/workflows"), *calls(tmp_path)]
    assert {call[3]["name"] for call in found} == {
        p.stem for p in WORKFLOWS.glob("*.yml") if "workflow_call" in read(p)["on"] and p.stem != "ci"
    }
    for name, job, jobs, callee in found:
        interface = callee["on"]["workflow_call"] or {}
        for kind, given in (("inputs", job.get("with", {})), ("secrets", job.get("secrets", {}))):
            declared = interface.get(kind, {})
            assert given != "inherit", f"{name}: each secret by name"
            assert given.keys() <= declared.keys(), f"{name}: {kind} {given.keys() - declared.keys()} unknown"
            required = {key for key, about in declared.items() if about.get("required")}
            assert required <= given.keys(), f"{name}: {kind} {required - given.keys()} missing"
        for key, value in job.get("with", {}).items():
            if not str(value).startswith("${{"):
                types: dict[str, tuple[type, ...]] = {
                    "string": (str,),
                    "boolean": (bool,),
                    "number": (int, float),
                }
                assert isinstance(value, types[interface["inputs"][key]["type"]]), f"{name}: {key}"
        needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
        for other, output in re.findall(r"needs\.([\w-]+)\.outputs\.([\w-]+)", json.dumps(job)):
            assert other in needs, f"{name}: reads {other} without needing it"
            called = re.search(r"workflows/(.+)@", jobs[other]["uses"])
            outputs = read(WORKFLOWS / called[1])["on"]["workflow_call"]["outputs"] if called else {}
            assert output in outputs, f"{name}: {other} has no output {output}"
        for inner in callee["jobs"].values():
            for scope, level in inner["permissions"].items():
                given = job["permissions"].get(scope, "none")
                assert RANK[given] >= RANK[level], f"{name}: {scope} is {given}, {level} is needed"
        used = {scope for inner in callee["jobs"].values() for scope in inner["permissions"]}
        assert set(job["permissions"]) <= used, f"{name}: grants more than is used"


def test_every_dispatch_input_is_passed_on(baked: Path) -> None:
    for path in (baked / ".github/workflows").glob("*.yml"):
        workflow = read(path)
        asked = ((workflow["on"] or {}).get("workflow_dispatch") or {}).get("inputs", {})
        used = set(re.findall(r"inputs\.([\w-]+)", path.read_text()))
        assert used == set(asked), path.name


def test_every_workflow_has_least_privileges_a_description_and_a_time_limit(baked: Path) -> None:
    for path in [*WORKFLOWS.glob("*.yml"), *(baked / ".github/workflows").glob("*.yml")]:
        workflow = read(path)
        assert workflow["permissions"] == {}, path
        interface = (workflow["on"].get("workflow_call") if isinstance(workflow["on"], dict) else None) or {}
        for kind in ("inputs", "secrets", "outputs"):
            for name, about in interface.get(kind, {}).items():
                assert about.get("description"), f"{path.name}: {name} is not described"
                assert kind != "inputs" or about.get("type"), f"{path.name}: {name} has no type"
        for name, job in workflow["jobs"].items():
            assert "permissions" in job, f"{path.name}: {name}"
            assert "uses" in job or job.get("timeout-minutes"), f"{path.name}: {name} has no time limit"
            for step in job.get("steps", []):
                assert "${{" not in step.get("run", ""), f"{path.name}: {name}: untrusted text in run"
                if step.get("uses", "").startswith(
                    "actions/upload-artifact@"
                ):  # else GitHub refuses a re-run
                    assert step["with"].get("overwrite") is True, f"{path.name}: {step['with']['name']}"
        for action, version in re.findall(r"uses: (?!org/ml-template)([\w/.-]+)@(.*)", path.read_text()):
            assert re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", version), f"{path.name}: {action}"


MAKE = re.compile(r"\bmake (?:--[\w-]+ )*(?!UV)([a-z]+)")
TABLOOP = re.compile(r"\btabloop ([a-z]+)(?: ([a-z-]+))?")


def test_workflows_call_make_targets_and_tabloop_commands_that_exist(baked: Path) -> None:
    """And no step parses model.json or release.env by itself."""
    targets = " ".join(re.findall(r"^\.PHONY: (.+)$", (baked / "Makefile").read_text(), re.MULTILINE)).split()
    steps = [
        step["run"]
        for path in WORKFLOWS.glob("*.yml")
        if path.name not in ("ci.yml", "release.yml")
        for job in read(path)["jobs"].values()
        for step in job.get("steps", [])
        if "run" in step
    ]
    called = {name for step in steps for name in MAKE.findall(step)}
    assert {"setup", "lint", "test", "train", "image"} <= called <= set(targets)
    used = {(name, sub) for step in steps for name, sub in TABLOOP.findall(step)}
    assert {name for name, _ in used} >= {"remote", "rollout", "release", "retrain", "watch", "github"}
    for name, sub in used:
        command = tabloop.commands[name]
        assert not isinstance(command, click.Group) or not sub or sub in command.commands, f"{name} {sub}"
    for step in steps:
        assert not re.search(r"(sed|grep|awk|jq).*(model\.json|release\.env)", step), step


def lint(*command: str | Path, folder: Path = ROOT) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[0]}\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("which", ["template", "project"])
def test_linters_find_nothing(which: str, baked: Path) -> None:
    folder = ROOT if which == "template" else baked
    workflows = sorted((folder / ".github/workflows").glob("*.yml"))
    programs = Path(sys.executable).parent
    lint(programs / "actionlint", *workflows, folder=folder)
    zizmor: list[str | Path] = [
        programs / "zizmor",
        "--offline",
        "--pedantic",
        "--config",
        ROOT / ".github/zizmor.yml",
    ]
    lint(*zizmor, *workflows, folder=folder)
    schema: list[str | Path] = [programs / "check-jsonschema", "--builtin-schema"]
    lint(*schema, "vendor.github-workflows", *workflows)
    if which == "template":
        lint(programs / "shellcheck", ROOT / ".ci/run")
    else:
        lint(*schema, "vendor.compose-spec", folder / "deploy/compose.yaml")
        lint(programs / "hadolint", folder / "Dockerfile")
        lint(programs / "shellcheck", folder / "deploy/release.sh")


def test_the_groups_of_tests_have_names_of_tests() -> None:
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    for name in GROUPS:
        assert name in files or any(f"\ndef {name}(" in text for text in files.values()), name
    groups = {*GROUPS.values(), *(name.removesuffix(".py") for name in files)}
    assert groups >= {*LONGEST}
