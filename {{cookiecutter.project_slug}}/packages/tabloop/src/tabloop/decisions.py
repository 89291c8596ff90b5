"""What adopt decided, for people and for machines."""

from dataclasses import asdict
from typing import Any

from tabloop.infer import Inferred
from tabloop.reading.result import Note


def summary(
    found: Inferred, notes: list[Note], source: str, changes: list[str], dry_run: bool
) -> dict[str, Any]:
    """All of it as JSON's types."""
    warned = [note for note in notes if note.severity == "warning"]
    columns = []
    for name, decision in found.decisions.items():
        facts = found.facts[name]
        column = {"type": facts.kind, "missing": facts.missing / found.rows, "distinct": facts.distinct}
        said = [note.text for note in warned if note.column == name] + decision.warnings
        columns.append(asdict(decision) | column | {"examples": facts.examples, "warnings": said})
    rest = [about(note) for note in warned if note.column not in found.decisions]
    return {
        "source": source,
        "rows": found.rows,
        "columns": columns,
        "schema": found.schema,
        "warnings": rest + found.warnings,
        "notes": [about(note) for note in notes if note.severity == "note"],
        "changes": changes,
        "dry_run": dry_run,
    }


def about(note: Note) -> str:
    """A note with its column."""
    return f"{note.column}: {note.text}" if note.column else note.text


def text(found: dict[str, Any]) -> str:
    """A summary with a line for each column, warnings, how the table is used, and what else changes."""
    schema, columns = found["schema"], found["columns"]
    rows = [("column", "is", "type", "missing", "examples", "because")]
    for column in columns:
        share = f"{column['missing']:.1%}" if column["missing"] else "0"
        examples = ", ".join(column["examples"])
        kind = column["type"].lower()
        rows.append((column["column"], column["decision"], kind, share, examples, column["why"]))
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += [f"! {warning}" for warning in found["warnings"]]
    lines += [f"! {c['column']}: {warning}" for c in columns for warning in c["warnings"]]
    lines += found["notes"]
    lines += [f"{raw!r} is called {name} here" for name, raw in schema["rename"].items()]
    lines += [f"looked up by {schema['entity']}: {', '.join(view)}" for view in schema["views"].values()]
    by = "by time" if schema["timestamp"] else f"by hash of {schema['entity'] or 'the row'}"
    key = " + ".join(schema["key"]) or "none, so duplicates are not checked"
    lines.append(f"{found['rows']:,} rows of {found['source']}; key: {key}; split {by}")
    if schema["timestamp"] and "known_at" not in schema["target"]:
        lines.append("each label counts as known when its row happens; `--known-at COLUMN` says when it was")
    end = "params.yaml has the schema: read and correct it, by hand or by another adopt. Next: `make train`."
    end = "A dry run: nothing was changed." if found["dry_run"] else end
    return "\n".join([*(f"  {line}" for line in (*lines, *found["changes"])), "", end])
