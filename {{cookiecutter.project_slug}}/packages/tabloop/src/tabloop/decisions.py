"""What adopt decided, for people and for machines."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tabloop.infer import Inferred
    from tabloop.reading.result import Note


def text(found: "Inferred", notes: "list[Note]", source: str, changes: list[str], dry_run: bool) -> str:
    """A line for each column, warnings, how the table is used, and what else changes."""
    rows = [("column", "is", "type", "missing", "examples", "because")]
    for name, decision in found.decisions.items():
        facts = found.facts[name]
        share = f"{facts.missing / found.rows:.1%}" if facts.missing else "0"
        rows.append(
            (name, decision.decision, facts.kind.lower(), share, ", ".join(facts.examples), decision.why)
        )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[5]])
        for row in rows
    ]
    warnings = [f"{n.column}: {n.text}" if n.column else n.text for n in notes if n.severity == "warning"]
    warnings += [
        f"{name}: {text}" for name, d in found.decisions.items() for text in d.warnings
    ] + found.warnings
    said = [f"{n.column}: {n.text}" if n.column else n.text for n in notes if n.severity == "note"]
    views = [
        f"looked up by {found.schema['entity']}: {', '.join(view)}" for view in found.schema["views"].values()
    ]
    renamed = [f"{raw!r} is called {name} here" for name, raw in found.schema["rename"].items()]
    schema = found.schema
    by = "by time" if schema["timestamp"] else f"by hash of {schema['entity'] or 'the row'}"
    key = " + ".join(schema["key"]) or "none, so duplicates are not checked"
    end = (
        "A dry run: nothing was changed."
        if dry_run
        else "params.yaml has the schema: read and correct it, by hand or by another adopt. Next: `make train`."
    )
    parts = [
        *(f"  {line.rstrip()}" for line in lines),
        *(f"  ! {warning}" for warning in warnings),
        *(f"  {line}" for line in (*said, *renamed, *views)),
        f"  {found.rows:,} rows of {source}; key: {key}; split {by}",
        *(f"  {change}" for change in changes),
    ]
    return "\n".join([*parts, "", end])


def as_json(found: "Inferred", notes: "list[Note]", source: str, changes: list[str], dry_run: bool) -> str:
    """All of it as JSON."""
    columns: list[dict[str, Any]] = []
    for name, decision in found.decisions.items():
        facts = found.facts[name]
        read = [n.text for n in notes if n.column == name and n.severity == "warning"]
        columns.append(
            asdict(decision)
            | {"type": facts.kind, "missing": facts.missing / found.rows, "distinct": facts.distinct}
            | {"examples": facts.examples, "warnings": [*read, *decision.warnings]}
        )
    result = {"source": source, "rows": found.rows, "columns": columns, "schema": found.schema}
    result |= {"warnings": found.warnings, "notes": [asdict(note) for note in notes]}
    return json.dumps(result | {"changes": changes, "dry_run": dry_run}, indent=1, ensure_ascii=False)
