"""Replace the example by the owner's table: infer its schema, show each decision, write it to params.yaml."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from tabloop import files, log_files, own_params, place, predictions, report, terminal
from tabloop.cli import UserError, git
from tabloop.facts import Choices
from tabloop.infer import Inferred, infer
from tabloop.params import ROOT, load
from tabloop.predictions import LOG
from tabloop.reading.read import read
from tabloop.reading.result import Note, Overrides

# Results of the example or of the old table; git and DVC keep what was committed.
PINS = ["dvc.lock", "models/champion.dvc", "models/challenger.dvc"]
RESULTS = ["data/raw", "data/features", "data/online", "metrics", "reports", *PINS]
RESULTS += [f"models/{role}" for role in ("candidate", "champion", "challenger")]
# The example's own files, or the features of the old table.
EXAMPLE = ("src/*/simulator.py", "tests/test_example.py", "feature_repo/*.sql")
# What adopt is about to do, written before it does it: an interrupted one is finished by the next. Git ignores it.
PLAN = ROOT / ".dvc/tmp/adopt.json"


def adopt(source: str, said: Choices, overrides: Overrides, dry_run: bool, as_json: bool) -> str:
    """Make the project one for the given table; the decisions as text or JSON. A dry run changes nothing.

    Raises:
        UserError: the table can't be read or used, or changes would be lost; the project is as it was.
    """
    done, holdout = finish() if not dry_run else None, load(ROOT / "params.yaml").split.holdout
    leaving = [*RESULTS, *(p.relative_to(ROOT).as_posix() for glob in EXAMPLE for p in ROOT.glob(glob))]
    if not dry_run:
        refuse_to_lose_changes(leaving, done or {})
    if not as_json:
        print(f"adopt: reading {source} ...", flush=True)
    kept = place.of(source, leaving)
    table = read(source, Path.cwd(), None, overrides)
    found = infer(table, said, holdout)
    texts, changes = own_params.rewritten(kept, found, table.reading)
    log = log_aside()
    if log:
        changes.append(f"the old table's prediction log: {LOG} -> {log}; nothing reads it there")
    if not dry_run:
        plan = {"texts": texts, "leaving": leaving, "log": log, "done": False}
        with place.keep(source, kept):
            files.write(PLAN, json.dumps(plan))
        finish()
    notes = [note for note in table.notes if note.column not in said.drop]
    shown = summary(found, notes, kept, changes, dry_run)
    return json.dumps(shown, indent=1, ensure_ascii=False) if as_json else text(shown)


def finish() -> dict[str, str]:
    """Do what the plan says, if one was interrupted; the texts that the last adopt wrote."""
    if not PLAN.exists():
        return {}
    plan: dict[str, Any] = json.loads(PLAN.read_text("utf-8"))
    if not plan["done"]:
        for name, text in plan["texts"].items():
            files.write(ROOT / name, text)
        for path in (ROOT / name for name in plan["leaving"]):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if plan["log"]:
            move_log(ROOT / plan["log"])
        files.write(PLAN, json.dumps(plan | {"done": True}))
    return dict(plan["texts"])


def log_aside() -> str | None:
    """Where the old table's log goes; None if there is none."""
    if not any((ROOT / LOG / table).exists() for table in log_files.TABLES):
        return None
    return f"{LOG}/before-{len(predictions.set_aside()) + 1}"


def move_log(aside: Path) -> None:
    """Move both tables of the log into the folder `aside`."""
    aside.mkdir(parents=True, exist_ok=True)
    for table in log_files.TABLES:
        if (path := ROOT / LOG / table).exists() and not (aside / table).exists():
            path.rename(aside / table)


def refuse_to_lose_changes(leaving: list[str], written: dict[str, str]) -> None:
    """Git must hold what is about to be changed or removed, but for what the last adopt or the pipeline wrote.

    Raises:
        UserError: it does not.
    """
    paths = ["params.yaml", "dvc.yaml", "feature_repo", *leaving]
    changed = git("status", "--porcelain", "-z", "--untracked-files=all", "--", *paths, where=ROOT)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"].values()
    listed = [out for stage in stages for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    outputs = {name for out in listed for name in ([out] if isinstance(out, str) else out)} | {*PINS}
    for name in (entry[3:] for entry in changed.split("\0") if entry[3:] and entry[3:] not in outputs):
        path = ROOT / name
        if path.exists() and not (name in written and path.read_text(encoding="utf-8") == written[name]):
            what = f"{name} would be overwritten, and git does not have its changes"
            raise UserError(f"{what}: `git add --all && git commit` first")


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
    rest = [str(note) for note in warned if note.column not in found.decisions]
    return {
        "source": source,
        "rows": found.rows,
        "columns": columns,
        "schema": found.schema,
        "warnings": rest + found.warnings,
        "notes": [str(note) for note in notes if note.severity == "note"],
        "changes": changes,
        "dry_run": dry_run,
    }


def text(found: dict[str, Any]) -> str:
    """A summary with a line for each column, warnings, how the table is used, and what else changes."""
    rows = [["column", "is", "type", "missing", "because: examples"]]
    for column in found["columns"]:
        share = f"{column['missing']:.1%}" if column["missing"] else "0"
        because = f"{column['why']}: {', '.join(column['examples'])}"
        rows.append([column["column"], column["decision"], column["type"].lower(), share, because])
    values = {"found": found, "schema": found["schema"], "table": terminal.aligned(rows)}
    return report.text("adopt.txt.jinja", **values)
