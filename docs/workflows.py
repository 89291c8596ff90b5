"""Write docs/workflows.md from the reusable workflows: `uv run docs/workflows.py`."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/workflows.md"
HEAD = """# Reusable workflows

A project calls each as `<template>/.github/workflows/<name>.yml@v1`. `uv run docs/workflows.py` writes this page.
"""
INPUTS = "| input | default | |"
SECRETS = "| secret | |"
EACH = ("`runs-on`", "`timeout-minutes`")
CLOUD = ("`aws-", "`google-", "`azure-")
Row = tuple[str, ...]


def read(path: Path) -> dict[Any, Any]:
    """A workflow. YAML 1.1 reads its key `on` as True."""
    return dict(yaml.safe_load(path.read_text("utf-8")))


def table(head: str, rows: list[Row]) -> list[str]:
    """A Markdown table, or nothing where there are no rows."""
    if not rows:
        return []
    columns = head.count("|") - 1
    cells = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return [head, "|" + "---|" * columns, *(f"| {row} |" for row in cells), ""]


def inputs_of(path: Path) -> list[Row]:
    """A row for each input of a reusable workflow."""
    inputs = (read(path)[True]["workflow_call"] or {}).get("inputs") or {}
    return [
        (
            f"`{name}`",
            "required" if about.get("required") else f"`{about.get('default')!r}`",
            about["description"],
        )
        for name, about in inputs.items()
    ]


def bare(row: Row) -> Row:
    """A row without its default."""
    return (row[0], row[-1])


def described(path: Path, kind: str) -> list[Row]:
    """A row for each secret or output of a reusable workflow."""
    call = read(path)[True]["workflow_call"] or {}
    return [(f"`{name}`", about["description"]) for name, about in (call.get(kind) or {}).items()]


def also(rows: list[Row], shared: list[Row]) -> str:
    """The names of the rows that stand at the top of the page; a default that is another one here.

    Left out is what each workflow has, with its usual default.
    """
    known = {bare(row): row for row in shared}
    names = [
        row[0] if row in shared else f"{row[0]} (default {row[1]})"
        for row in rows
        if bare(row) in known and not row[0].startswith(CLOUD) and not (row in shared and row[0] in EACH)
    ]
    cloud = ["[a cloud's](#inputs-for-a-cloud)"] if any(row[0].startswith(CLOUD) for row in rows) else []
    return ", ".join(names + cloud)


def section(path: Path, shared: list[Row]) -> list[str]:
    """What one reusable workflow takes, gives and may do."""
    comment = path.read_text("utf-8").split("\n", 1)[0]
    lines = [f"## {path.stem}", "", *([comment.lstrip("# "), ""] if comment.startswith("#") else [])]
    inputs, secrets = inputs_of(path), described(path, "secrets")
    lines += table(INPUTS, [row for row in inputs if bare(row) not in {bare(of) for of in shared}])
    if names := also(inputs, shared):
        lines += [f"Shared inputs: {names}.", ""]
    lines += table(SECRETS, [row for row in secrets if row not in shared])
    if names := also(secrets, shared):
        lines += [f"Shared secrets: {names}.", ""]
    lines += table("| output | |", described(path, "outputs"))
    permissions = [
        ", ".join(f"{scope}: {level}" for scope, level in job["permissions"].items())
        for job in read(path)["jobs"].values()
    ]
    return [*lines, f"Permissions: {'; '.join(filter(None, permissions))}.", ""]


def several(rows: list[Row]) -> list[Row]:
    """What two workflows or more have in the same words, each once, with its most frequent default."""
    times = Counter(bare(row) for row in rows if row[1] != "required")
    defaults = Counter(rows)
    most = {bare(row): row for row, _ in reversed(defaults.most_common()) if times[bare(row)] > 1}
    return [most[key] for key in dict.fromkeys(map(bare, rows)) if key in most]


def page() -> str:
    """The whole page. What workflows share stands once, at the top."""
    files = sorted((ROOT / ".github/workflows").glob("*.yml"))
    reusable = [path for path in files if path.stem != "ci" and "workflow_call" in read(path)[True]]
    inputs = several([row for path in reusable for row in inputs_of(path)])
    secrets = several([row for path in reusable for row in described(path, "secrets")])
    cloud = [row for row in inputs if row[0].startswith(CLOUD)]
    lines = ["## Shared inputs", "", f"Each workflow has {' and '.join(EACH)}.", ""]
    lines += [*table(INPUTS, [row for row in inputs if row not in cloud])]
    names = ", ".join(row[0] for row in cloud)
    lines += [
        "## Inputs for a cloud",
        "",
        f"{names}: the default is the variable of this name, such as `AWS_ROLE`",
    ]
    lines += ["([credentials](credentials.md)).", "", "## Shared secrets", "", *table(SECRETS, secrets)]
    return "\n".join([HEAD, *lines, *(line for path in reusable for line in section(path, inputs + secrets))])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
