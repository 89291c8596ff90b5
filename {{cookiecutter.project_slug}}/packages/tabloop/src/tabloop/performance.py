"""Measure the served models on labelled outcomes."""

import json
from typing import Any

import numpy as np

from tabloop import files, predictions, roles
from tabloop.metrics import at_threshold, auc_interval, enough
from tabloop.params import ROOT, Params

REPORT = ROOT / "reports/performance.json"


def check(params: Params, log: str | None = None) -> dict[str, Any]:
    """Write reports/performance.json: AUC with its interval, calibration, cost and missing labels, by week and variant.

    The champion is worse if over the window, with the predictions of its version alone, the upper end of its
    interval is below `gates.min_auc`.

    Args:
        log: the prediction log; by default the one that PREDICTION_LOG names.

    Raises:
        UserError: there is no champion here, or the log can't be read.
    """
    champion = roles.required("champion")
    result: dict[str, Any] = {"weeks": [], "window": {}, "worse": False, "min_auc": params.gates.min_auc}
    try:
        db = predictions.connect(None, log)
    except predictions.NothingLogged as error:
        return save(result | {"note": str(error)})
    rows = predictions.table(
        db,
        "SELECT date_trunc('week', predicted_at)::DATE::VARCHAR AS week, variant, model_version, predicted_at, "
        "probability, label FROM predictions LEFT JOIN outcomes USING (prediction_id) "
        "ORDER BY predicted_at, prediction_id",
    )
    score, label = rows.probability.to_numpy(), rows.label.to_numpy(float)
    for (week, variant), part in rows.groupby(["week", "variant"]):
        measured = measure(score[part.index], label[part.index], params, champion.decision_threshold)
        result["weeks"].append({"week": week, "variant": variant} | measured)
    since = predictions.window(params)
    recent = (rows.predicted_at >= since) & (rows.variant == "champion")
    at = np.flatnonzero(recent & (rows.model_version == champion.version))
    window = measure(score[at], label[at], params, champion.decision_threshold)
    worse = "auc_high" in window and window["auc_high"] < params.gates.min_auc
    return save(result | {"window": window, "worse": worse})


def measure(probability: np.ndarray, label: np.ndarray, params: Params, threshold: float) -> dict[str, Any]:
    """The metrics of (n,) scores and labels, NaN where not known yet.

    There is an AUC only where both classes have enough rows for an interval.
    """
    known = ~np.isnan(label)
    score, target = probability[known], label[known].astype(int)
    measured: dict[str, Any] = {
        "rows": len(label),
        "unlabelled": float(1 - known.mean()) if len(label) else 1.0,
    }
    if not len(target):
        return measured
    measured |= {"positives": int(target.sum()), "predicted_positives": float(score.sum())}
    measured |= at_threshold(target, score, threshold, params.evaluate.cost)
    if enough(target):
        area = auc_interval(target, score, params.evaluate.confidence)
        measured |= {"auc": area.value, "auc_low": area.low, "auc_high": area.high}
    return measured


def save(result: dict[str, Any]) -> dict[str, Any]:
    """Write the result as JSON."""
    files.write(REPORT, json.dumps(result, indent=1) + "\n")
    return result


def text(result: dict[str, Any]) -> str:
    """The result as Markdown. The cost is that of decisions by the champion's threshold."""
    if "note" in result:
        return str(result["note"])
    window = result["window"]
    warning = "⚠️ **Worse than the gate asks.** " if result["worse"] else ""
    if "auc" in window:
        head = f"AUC {_interval(window)}, bar {result['min_auc']:g}"
    else:
        head = "Too few labels for a statement"
    lines = [
        f"{warning}{head}.",
        "",
        "| week | variant | rows | unlabelled | AUC | observed / predicted | cost per row |",
        "|---|---|---|---|---|---|---|",
    ]
    for week in result["weeks"]:
        expected = week.get("predicted_positives")
        cells = [week["week"], week["variant"], f"{week['rows']:,}", f"{week['unlabelled']:.0%}"]
        cells += [_interval(week), f"{week['positives'] / expected:.2f}" if expected else ""]
        cells += [f"{week['cost_per_row']:.4f}" if "cost_per_row" in week else ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(measured: dict[str, Any]) -> str:
    if "auc" not in measured:
        return ""
    return f"{measured['auc']:.4f} [{measured['auc_low']:.4f}, {measured['auc_high']:.4f}]"
