"""MODEL_CARD.md: what the registered model is, was trained on, and does; its intended use is yours to write."""

import re
from pathlib import Path
from typing import Any

from ..params import ROOT, Params

USE = """<!-- use: what stands here is kept -->
## Intended use

Who decides what by this model, for whom, and what it must not be used for? Fill in.
<!-- /use -->"""


def write(
    params: Params, model: dict[str, Any], evaluation: dict[str, Any], entry: str, role: str, path: Path
) -> None:
    """Write the card; the section on its use stays as it was.

    Headings follow Mitchell et al., "Model Cards for Model Reporting" (2019).
    """
    kept = re.search(r"<!-- use.*?<!-- /use -->", path.read_text(), re.DOTALL) if path.exists() else None
    schema, cost = params.schema_, params.evaluate.cost
    images = [
        f"{file.parent.name}: `{image[1]}`"
        for file in sorted((ROOT / "deploy").glob("*/release.env"))
        if f"MODEL_VERSION={model['version']}\n" in (text := file.read_text())
        and (image := re.search(r"^IMAGE=(.*)$", text, re.MULTILINE))
    ]
    lines = [
        f"# {params.project}: model {model['version']}",
        "",
        f"Made by `register`, on {model['created']}. It is the {role}; version {entry} in MLflow's registry.",
        "",
        kept[0] if kept else USE,
        "",
        "## Lineage",
        "",
        f"- Code: commit {model['git_commit']}; framework: {model['framework']}",
        f"- Data: {model['data_hash']}, {model['rows']:,} rows{window(schema.timestamp)}; source: {params.data.source}",
        f"- MLflow run: {model['run_id']}",
        f"- Image: {'; '.join(images) or 'not deployed yet'}",
        f"- Parity of graph and fitted model: {model['parity']['largest_difference']:.1e} on {model['parity']['rows']:,} rows",
        "",
        "## Metrics",
        "",
        f"On {evaluation['rows']:,} held-out rows, {evaluation['positives']:,} of them positive.",
        "",
        f"- AUC {evaluation['auc']:.4f} [{evaluation['auc_low']:.4f}, {evaluation['auc_high']:.4f}] "
        f"({params.evaluate.confidence:.0%} by {params.evaluate.bootstrap:,} bootstrap resamples)",
        f"- Average precision {evaluation['average_precision']:.4f}, Brier score {evaluation['brier']:.4f}",
        f"- At threshold {evaluation['threshold']:.3g}, which costs least where a false positive costs {cost.false_positive:g} "
        f"and a false negative {cost.false_negative:g}: precision {evaluation['precision']:.3f}, recall {evaluation['recall']:.3f}",
        f"- Gate: {evaluation['gate']['reason']}; champion: {evaluation['champion']['verdict']}",
        "",
        "| segment | | rows | positives | AUC |",
        "|---|---|---|---|---|",
    ]
    for name, values in evaluation["segments"].items():
        for value, s in values.items():
            score = "" if s.get("auc") is None else f"{s['auc']:.4f}"
            lines.append(f"| {name} | {value} | {s['rows']:,} | {s['positives']:,} | {score} |")
    lines += [
        "",
        "## Inputs",
        "",
        "| column | from | type | range or levels in training |",
        "|---|---|---|---|",
    ]
    origin = {name: view for view, columns in schema.views.items() for name in columns}
    for name, column in schema.features.items():
        seen = model["categories"].get(name) or [f"{edge:g}" for edge in model["ranges"][name]]
        lines.append(
            f"| {name} | {origin.get(name, 'request')} | {column.type} | {(', ' if name in model['categories'] else ' to ').join(seen)} |"
        )
    path.write_text("\n".join([*lines, ""]))


def window(timestamp: str | None) -> str:
    """When the training rows are of."""
    if not timestamp:
        return ""
    import duckdb

    query = f'SELECT min("{timestamp}")::DATE, max("{timestamp}")::DATE FROM \'{ROOT / "data/features/train.parquet"}\''
    first, last = duckdb.connect().sql(query).fetchall()[0]
    return f" of {first} to {last}"
