"""Write docs/workflows.md from the reusable workflows: `uv run docs/workflows.py`."""

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/workflows.md"
HEAD = """# Reusable workflows

Generated from `.github/workflows` by `uv run docs/workflows.py`. A project calls each as
`<template>/.github/workflows/<name>.yml@v1`.
"""
INPUTS = "| input | type | default | |"


def read(path: Path) -> dict[Any, Any]:
    """A workflow. YAML 1.1 reads its key `on` as True."""
    return dict(yaml.safe_load(path.read_text("utf-8")))


def table(head: str, rows: list[tuple[str, ...]]) -> list[str]:
    """A Markdown table, or nothing where there are no rows."""
    if not rows:
        return []
    columns = head.count("|") - 1
    cells = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in rows)
    return [head, "|" + "---|" * columns, *(f"| {row} |" for row in cells), ""]


def inputs_of(path: Path) -> list[tuple[str, ...]]:
    """A row for each input of a reusable workflow."""
    inputs = (read(path)[True]["workflow_call"] or {}).get("inputs") or {}
    return [
        (
            f"`{name}`",
            about["type"],
            "required" if about.get("required") else f"`{about.get('default')!r}`",
            about["description"],
        )
        for name, about in inputs.items()
    ]


def section(path: Path, shared: list[tuple[str, ...]]) -> list[str]:
    """What one reusable workflow takes, gives and may do."""
    workflow = read(path)
    call = workflow[True]["workflow_call"] or {}
    comment = path.read_text("utf-8").split("\n", 1)[0]
    lines = [f"## {path.stem}", "", *([comment.lstrip("# "), ""] if comment.startswith("#") else [])]
    inputs = inputs_of(path)
    lines += table(INPUTS, [row for row in inputs if row not in shared])
    if also := [row[0] for row in inputs if row in shared]:
        lines += [f"And inputs of many: {', '.join(also)}.", ""]
    secrets = [(f"`{name}`", about["description"]) for name, about in (call.get("secrets") or {}).items()]
    lines += table("| secret | |", secrets)
    outputs = [(f"`{name}`", about["description"]) for name, about in (call.get("outputs") or {}).items()]
    lines += table("| output | |", outputs)
    permissions = [
        (f"`{name}`", ", ".join(f"{scope}: {level}" for scope, level in job["permissions"].items()))
        for name, job in workflow["jobs"].items()
    ]
    return lines + table("| job | permissions |", permissions)


def page() -> str:
    """The whole page. An input that three workflows have in the same words stands once, at the top."""
    files = sorted((ROOT / ".github/workflows").glob("*.yml"))
    reusable = [path for path in files if path.stem != "ci" and "workflow_call" in read(path)[True]]
    times = Counter(row for path in reusable for row in inputs_of(path))
    shared = [row for row, n in times.items() if n > 2]
    many = ["## Inputs of many", "", *table(INPUTS, shared)]
    return "\n".join([HEAD, *many, *(line for path in reusable for line in section(path, shared))])


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
