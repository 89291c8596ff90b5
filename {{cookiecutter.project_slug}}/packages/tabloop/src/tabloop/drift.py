"""Compare the prediction log's window with the champion's reference data: have the inputs or the score changed?"""

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabloop import files, predictions, roles
from tabloop.card import ModelCard
from tabloop.cli import UserError, one_line
from tabloop.params import ROOT, Params, Schema

if TYPE_CHECKING:
    import pandas as pd

REPORT = ROOT / "reports/drift.html"
SCORE = "probability"


def check(params: Params, log: str | None = None, report: Path = REPORT) -> dict[str, Any]:
    """Compare the window's rows, sampled, with `reference.parquet`; write the page `report` and JSON beside it.

    A column has drifted if Evidently's distance (Wasserstein, in the reference's standard deviations, for numbers;
    Jensen-Shannon for categories) reaches `monitoring.drift.column`, or if its share of missing values moved by
    `missing`. The data has drifted if the share of such columns reaches `share`, or if the score has drifted.

    Args:
        log: the prediction log; by default the one that PREDICTION_LOG names.

    Raises:
        UserError: there is no champion here, it has no reference data, or the log can't be read.
    """
    champion = roles.required("champion")
    reference = read_reference(params)
    since = predictions.window(params)
    result: dict[str, Any] = {
        "rows": 0,
        "since": since.isoformat(timespec="seconds"),
        "drift": False,
        "notes": [],
    }
    try:
        result["rows"], current = read_current(params, champion, since, log)
    except predictions.NothingLogged as error:
        result["notes"].append(str(error))
        return save(result, report)
    if result["rows"] < params.monitoring.min_rows:
        result["notes"].append(
            f"{params.monitoring.min_rows:,} predictions of {champion.version} are needed for a statement"
        )
        return save(result, report)
    columns = comparable(champion.schema_, reference, current, result["notes"])
    return save(result | compare(params, reference, current, columns, report), report)


def read_reference(params: Params) -> "pd.DataFrame":
    """The champion's reference data: features, and the score as `probability`.

    Raises:
        UserError: it can't be read.
    """
    import pandas as pd

    path = roles.MODELS / "champion/reference.parquet"
    try:
        rows = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read: {one_line(error)}; promote a model that has it") from None
    return rows.sample(min(len(rows), params.monitoring.sample), random_state=0)


def read_current(
    params: Params, champion: ModelCard, since: datetime, log: str | None
) -> tuple[int, "pd.DataFrame"]:
    """The number of the champion's predictions in the window, and a sample of them under the features' own names.

    Raises:
        NothingLogged: the log has no prediction in the window.
    """
    db = predictions.connect(since, log)
    where = f"FROM predictions WHERE {predictions.served(champion.version, 'champion')}"
    count = int(predictions.table(db, f"SELECT count(*) AS n {where}").n[0])
    logged, features = db.view("predictions").columns, champion.schema_.features
    known = {name: column for name, column in features.items() if predictions.feature(name) in logged}
    # By a hash of the id, not at random: the same log gives the same report. It is one pass over any size.
    share = min(1.0, params.monitoring.sample / max(count, 1))
    sample = f"AND hash(predictions.prediction_id) / 2::DOUBLE ** 64 <= {share!r}"
    selected = ", ".join([*predictions.select(known), f"predictions.{SCORE}"])
    return count, predictions.table(db, f"SELECT {selected} {where} {sample}")


def comparable(
    schema: Schema, reference: "pd.DataFrame", current: "pd.DataFrame", notes: list[str]
) -> dict[str, bool]:
    """The columns that can be compared, and whether each is numeric; `notes` gets the reason for each other one."""
    columns = {name: column.numeric for name, column in schema.features.items()} | {SCORE: True}
    for name, numeric in list(columns.items()):
        lacking = [side for side, rows in (("reference", reference), ("log", current)) if name not in rows]
        if lacking:
            notes.append(f"{name}: not in the {lacking[0]}")
        elif not reference[name].notna().any() or not current[name].notna().any():
            notes.append(f"{name}: always missing on one side")
        elif numeric and reference[name].nunique() == 1:
            if set(current[name].dropna()) != set(reference[name].dropna()):
                notes.append(f"{name}: has one value in the reference and others in the log")
                continue
            notes.append(f"{name}: has the same single value on both sides")
        else:
            continue
        del columns[name]
    return columns


def compare(
    params: Params,
    reference: "pd.DataFrame",
    current: "pd.DataFrame",
    columns: dict[str, bool],
    report: Path,
) -> dict[str, Any]:
    """Each column's distance and change of missing values, and whether it drifted; writes Evidently's page."""
    bars = params.monitoring.drift
    types = {name: "float64" if numeric else "object" for name, numeric in columns.items()}
    reference, current = reference[list(columns)].astype(types), current[list(columns)].astype(types)
    missing = {n: float(current[n].isna().mean() - reference[n].isna().mean()) for n in columns}
    distances = evidently(reference, current, columns, bars.column, report)
    drifted = {n for n in columns if distances[n] >= bars.column or abs(missing[n]) >= bars.missing}
    share = len(drifted - {SCORE}) / max(len(columns.keys() - {SCORE}), 1)
    return {
        "sampled": len(current),
        "share": share,
        "columns": {
            n: {"distance": distances[n], "missing": missing[n], "drift": n in drifted} for n in columns
        },
        "drift": share >= bars.share or SCORE in drifted,
    }


def evidently(
    reference: "pd.DataFrame", current: "pd.DataFrame", columns: dict[str, bool], bar: float, report: Path
) -> dict[str, float]:
    """Each column's distance; writes Evidently's page."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    numbers = [name for name, numeric in columns.items() if numeric]
    others = [name for name in columns if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=others)
    data = [Dataset.from_pandas(rows, data_definition=definition) for rows in (current, reference)]
    methods = {"num_method": "wasserstein", "cat_method": "jensenshannon"}
    bars = {"num_threshold": bar, "cat_threshold": bar}
    presets = [
        DataDriftPreset(columns=list(columns), **methods, **bars),
        DataSummaryPreset(columns=list(columns)),
    ]
    page = Report(presets).run(*data)
    report.parent.mkdir(parents=True, exist_ok=True)
    part = report.with_name(f".{report.name}.part")
    page.save_html(str(part))
    part.replace(report)
    return {
        metric["config"]["column"]: float(metric["value"])
        for metric in json.loads(page.json())["metrics"]
        if metric["config"]["type"].endswith(":ValueDrift")
    }


def save(result: dict[str, Any], report: Path) -> dict[str, Any]:
    """Write the result as JSON beside the page."""
    files.write(report.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    return result


def text(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    head = "⚠️ **Drift**" if result["drift"] else "No drift"
    lines = [f"{head} in {result['rows']:,} predictions since {result['since']}.", ""]
    if columns := result.get("columns"):
        lines += ["| column | distance | missing | |", "|---|---|---|---|"]
        lines += [
            f"| {name} | {c['distance']:.3f} | {c['missing']:+.1%} | {'⚠️' if c['drift'] else ''} |"
            for name, c in sorted(columns.items(), key=lambda item: -item[1]["distance"])
        ]
    return "\n".join([*lines, "", *(f"- {note}" for note in result["notes"])]).rstrip()
