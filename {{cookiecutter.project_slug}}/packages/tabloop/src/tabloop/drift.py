"""The prediction log's window against the champion's reference data: has the world changed?

Exit code 0: no drift, or too few predictions to say; 3: drift; 1: it could not be checked.
"""

import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..params import ROOT, Params, Schema, UserError, load, stage
from .log import TARGET, NothingLogged, connect, say

REPORT = ROOT / "reports/drift.html"


def check(params: Params, champion: Path, target: str = TARGET, report: Path = REPORT) -> dict[str, Any]:
    """Compare the window's rows, sampled, with `reference.parquet`; write the page and JSON beside it.

    A column has drifted when Evidently's distance (Wasserstein, in the reference's standard deviations, for
    numbers; Jensen-Shannon for categories) reaches `bars.column`, or the share of missing values moved by
    `bars.missing`. The whole has when the share of such columns reaches `bars.share`, or the score has.

    Raises:
        UserError: there is no champion, or it came without reference data.
    """
    bars = params.monitoring.drift
    path = champion / "reference.parquet"
    if not path.exists() or not (champion / "model.json").exists():
        raise UserError(f"{path} is missing: run `dvc pull` or train a champion first")
    since = datetime.now(UTC) - timedelta(days=params.monitoring.window_days)
    found: dict[str, Any] = {
        "rows": 0,
        "since": since.isoformat(timespec="seconds"),
        "drift": False,
        "notes": [],
    }
    card = json.loads((champion / "model.json").read_text())
    served = f"variant = 'champion' AND model_version = '{card['version']}'"
    try:
        db = connect(since, target)
    except NothingLogged as error:
        found["notes"].append(str(error))
        return save(found, report)
    count = found["rows"] = db.sql(f"SELECT count(*) FROM predictions WHERE {served}").fetchall()[0][0]
    if count < params.monitoring.min_rows:
        found["notes"].append(
            f"{params.monitoring.min_rows:,} predictions of {card['version']} are needed to say"
        )
        return save(found, report)
    # By a hash of the id, not at random: the same log gives the same report. Read as one pass, whatever its size.
    share = min(1.0, params.monitoring.sample / count)
    current = db.sql(
        f"FROM predictions WHERE {served} AND hash(prediction_id) / 2::DOUBLE ** 64 <= {share!r}"
    ).df()
    reference = db.sql(f"FROM '{path}' LIMIT {params.monitoring.sample}").df()
    columns = comparable(Schema.model_validate(card["schema"]), reference, current, found["notes"])
    for name, numeric in columns.items():
        for rows in (reference, current):
            rows[name] = rows[name].astype("float64" if numeric else "object")
    missing = {n: float(current[n].isna().mean() - reference[n].isna().mean()) for n in columns}
    distances = evidently(reference, current, columns, bars.column, report)
    drifted = [n for n in columns if distances[n] >= bars.column or abs(missing[n]) >= bars.missing]
    features = [n for n in columns if n != "probability"]
    share_drifted = len([n for n in drifted if n != "probability"]) / max(len(features), 1)
    found |= {
        "sampled": len(current),
        "share": share_drifted,
        "columns": {
            n: {"distance": distances[n], "missing": missing[n], "drift": n in drifted} for n in columns
        },
        "drift": share_drifted >= bars.share or "probability" in drifted,
    }
    return save(found, report)


def comparable(schema: Schema, reference: Any, current: Any, notes: list[str]) -> dict[str, bool]:
    """The columns that can be compared, and whether they are numbers; notes say why others can't."""
    columns = {name: column.numeric for name, column in schema.features.items()} | {"probability": True}
    for name in list(columns):
        lacking = next(
            (what for what, rows in (("reference", reference), ("log", current)) if name not in rows), None
        )
        if lacking or not reference[name].notna().any() or not current[name].notna().any():
            notes.append(f"{name}: " + (f"not in the {lacking}" if lacking else "always missing on one side"))
            del columns[name]
        elif reference[name].nunique() == 1 and columns[name]:
            if (
                current[name].nunique() == 1
                and current[name].dropna().iloc[0] == reference[name].dropna().iloc[0]
            ):
                notes.append(f"{name}: the same value throughout")
                del columns[name]
            else:
                notes.append(f"{name}: was the same value throughout, is no more")
    gone = {
        "prediction_id",
        "predicted_at",
        "variant",
        "model_version",
        "date",
        schema.entity,
        *schema.features,
        "probability",
    }
    notes += [f"{name}: in the log, unknown to the champion" for name in current.columns if name not in gone]
    return columns


def evidently(
    reference: Any, current: Any, columns: dict[str, bool], bar: float, report: Path
) -> dict[str, float]:
    """Each column's distance; writes Evidently's page."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    numbers = [name for name, numeric in columns.items() if numeric]
    definition = DataDefinition(
        numerical_columns=numbers, categorical_columns=[name for name in columns if name not in numbers]
    )
    data = [
        Dataset.from_pandas(rows[list(columns)], data_definition=definition) for rows in (current, reference)
    ]
    methods = {
        "num_method": "wasserstein",
        "cat_method": "jensenshannon",
        "num_threshold": bar,
        "cat_threshold": bar,
    }
    made = Report(
        [DataDriftPreset(columns=list(columns), **methods), DataSummaryPreset(columns=list(columns))]
    ).run(*data)
    report.parent.mkdir(exist_ok=True)
    made.save_html(str(report))
    metrics = json.loads(made.json())["metrics"]
    return {
        m["config"]["column"]: float(m["value"])
        for m in metrics
        if m["config"]["type"].endswith(":ValueDrift")
    }


def save(found: dict[str, Any], report: Path) -> dict[str, Any]:
    report.parent.mkdir(exist_ok=True)
    report.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    return found


def text(found: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = [
        f"{'⚠️ **Drift**' if found['drift'] else 'No drift'} in {found['rows']:,} predictions since {found['since']}.",
        "",
    ]
    if columns := found.get("columns"):
        lines += ["| column | distance | missing | |", "|---|---|---|---|"]
        for name, c in sorted(columns.items(), key=lambda item: -item[1]["distance"]):
            lines.append(
                f"| {name} | {c['distance']:.3f} | {c['missing']:+.1%} | {'⚠️' if c['drift'] else ''} |"
            )
    return "\n".join([*lines, "", *(f"- {note}" for note in found["notes"])]).rstrip()


if __name__ == "__main__":
    with stage("drift"):
        found = check(load(), ROOT / "models/champion")
        print(text(found))
        say(drift=found["drift"])
        sys.exit(3 if found["drift"] else 0)
