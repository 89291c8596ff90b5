"""Measure the served models on labelled outcomes, each version by its own threshold."""

from collections import defaultdict
from datetime import datetime
from typing import Any

import duckdb
import pandas as pd

from tabloop import files, predictions, report, roles
from tabloop.card import ModelCard
from tabloop.metrics import MIN_CLASS, at_threshold, auc_interval, enough
from tabloop.params import ROOT, Params
from tabloop.verdicts import markdown

REPORT = ROOT / "reports/performance.json"
GROUP = ["week", "version", "variant"]


def check(params: Params, since: datetime | None = None) -> dict[str, Any]:
    """Write reports/performance.json: AUC, calibration, cost and missing labels by week, version and variant.

    The champion is worse if over the window, with the predictions of its version alone, the upper end of its
    interval is below the gate's bar of AUC over all rows.

    Args:
        since: when the window begins; by default `monitoring.window_days` ago.

    Raises:
        UserError: there is no champion here, or the log can't be read.
    """
    champion = roles.required("champion")
    since = since or predictions.window(params)
    result: dict[str, Any] = {"version": champion.version, "since": since.isoformat(timespec="seconds")}
    result |= {"weeks": [], "window": {}, "others": 0, "min_auc": params.min_auc, "worse": False}
    try:
        db = predictions.connect()
    except predictions.NothingLogged as error:
        return files.write_json(REPORT, result | {"note": str(error)})
    result["others"] = own_rows(db, champion, since)
    names = ", ".join(GROUP)
    counts = f"SELECT {names}, count(*) AS rows, count(*) FILTER (recent) AS recent FROM own GROUP BY {names}"
    weeks = predictions.table(db, f"{counts} ORDER BY {names}").reset_index(names="id")
    db.register("weeks", weeks)
    chosen = f"SELECT id, own.recent, probability, label, threshold FROM own JOIN weeks USING ({names})"
    labelled = predictions.table(db, f"{chosen} WHERE label IS NOT NULL ORDER BY ALL")
    for week in weeks.to_dict("records"):
        measured = measure(week["rows"], labelled[labelled.id == week["id"]], params)
        result["weeks"].append({name: week[name] for name in GROUP} | measured)
    served = weeks[(weeks.version == champion.version) & (weeks.variant == "champion")]
    window = labelled[labelled.recent & labelled.id.isin(served.id)]
    result["window"] = measured = measure(int(served.recent.sum()), window, params)
    result["worse"] = "auc_high" in measured and measured["auc_high"] < (params.min_auc or 0)
    return files.write_json(REPORT, result)


def own_rows(db: duckdb.DuckDBPyConnection, champion: ModelCard, since: datetime) -> int:
    """Make the view `own`: predictions of this project's table with label and threshold. The number of all others."""
    own = predictions.own(champion.source_table)
    with predictions.errors():
        db.sql(
            "CREATE VIEW own AS SELECT date_trunc('week', predicted_at)::DATE::VARCHAR AS week, model_version AS version, "
            f"variant, predicted_at >= '{since:%Y-%m-%d %H:%M:%S}' AS recent, probability, label, "
            f"threshold FROM predictions LEFT JOIN outcomes USING (prediction_id) WHERE {own}"
        )
        count = f"SELECT count(*) FROM predictions WHERE NOT {own}"
        return int(db.sql(count).fetchall()[0][0])


def measure(rows: int, labelled: pd.DataFrame, params: Params) -> dict[str, Any]:
    """The metrics of so many predictions, by those that are labelled: probability, label, threshold.

    There is an AUC only where both classes have enough rows for an interval.
    """
    score, target = labelled.probability.to_numpy(float), labelled.label.to_numpy(int)
    threshold = labelled.threshold.to_numpy(float)
    n, positives = len(target), int(target.sum())
    measured: dict[str, Any] = {"rows": rows, "unlabelled": 1 - n / rows if rows else 1.0}
    if not n:
        return measured
    measured |= {"labelled": n, "positives": positives, "predicted_positives": float(score.sum())}
    measured |= {"thresholds": [float(threshold.min()), float(threshold.max())]}
    measured |= at_threshold(target, score, threshold, params.evaluate.cost)
    if enough(target):
        area = auc_interval(target, score, params.evaluate.confidence)
        measured |= {"auc": area.value, "auc_low": area.low, "auc_high": area.high}
    return measured


def head(result: dict[str, Any]) -> str:
    """What is known of the champion in the window, in one sentence of Markdown."""
    window, about = result["window"], f"model {result['version']} since {result['since']}"
    if "note" in result:
        return str(result["note"])
    if not window["rows"]:
        return f"Performance is unknown: no prediction of {about}."
    if "labelled" not in window:
        return f"Performance is unknown: no label yet of {window['rows']:,} predictions of {about}."
    if "auc" not in window:
        have = {"positive": window["positives"], "negative": window["labelled"] - window["positives"]}
        lacking = " and ".join(f"{MIN_CLASS - n} {kind}" for kind, n in have.items() if n < MIN_CLASS)
        found = f"{window['labelled']:,} of {window['rows']:,} predictions of {about}"
        return f"Too few labels to measure performance: {found}; {lacking} more are needed."
    warning = "⚠️ **Worse than the gate allows.** " if result["worse"] else ""
    bar = "no bar in params.yaml" if result["min_auc"] is None else f"bar {result['min_auc']:g}"
    return f"{warning}AUC {_interval(window)}, {bar}, of {about}, {window['labelled']:,} labels."


def text(result: dict[str, Any]) -> str:
    """The result as Markdown. The cost is that of the decisions by each version's own threshold."""
    models = defaultdict[tuple[str, str], list[list[str]]](list)
    for week in result["weeks"]:
        models[week["version"], week["variant"]].append(_cells(week))
    values = {"result": result, "head": head(result), "models": models, "markdown": markdown}
    return report.text("performance.md.jinja", **values)


def _cells(week: dict[str, Any]) -> list[str]:
    expected = week.get("predicted_positives")
    thresholds = dict.fromkeys(f"{value:.4f}" for value in week.get("thresholds", ()))
    cells = [week["week"], f"{week['rows']:,}", f"{week['unlabelled']:.0%}", _interval(week)]
    cells += [f"{week['positives'] / expected:.2f}" if expected else ""]
    return [*cells, f"{week['cost_per_row']:.4f}" if "cost_per_row" in week else "", " to ".join(thresholds)]


def _interval(measured: dict[str, Any]) -> str:
    if "auc" not in measured:
        return ""
    return f"{measured['auc']:.4f} [{measured['auc_low']:.4f}, {measured['auc_high']:.4f}]"
