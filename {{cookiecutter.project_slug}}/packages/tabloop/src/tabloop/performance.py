"""How the served models do, once labels have arrived.

Exit code 0: as good as the gate asks, or too few labels to say; 3: significantly worse; 1: it could not be checked.
"""

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from ..metrics import auc, bootstrap_auc, interval
from ..params import ROOT, Params, UserError, load, stage
from .log import TARGET, connect, say


def check(params: Params, threshold: float, target: str = TARGET) -> dict[str, Any]:
    """AUC with its interval, calibration, cost and missing labels, by week and variant.

    Worse means: over the window, the upper end of the champion's interval is below `gates.min_auc`.
    """
    since = datetime.now(UTC) - timedelta(days=params.monitoring.window_days)
    try:
        db = connect(None, target)
    except UserError as error:  # nothing was logged yet, which is no failure
        return {
            "weeks": [],
            "window": {},
            "worse": False,
            "min_auc": params.gates.min_auc,
            "note": str(error),
        }
    rows = db.sql(
        "SELECT date_trunc('week', predicted_at)::DATE::VARCHAR AS week, variant, predicted_at, probability, label "
        "FROM predictions LEFT JOIN outcomes USING (prediction_id) ORDER BY predicted_at, prediction_id"
    ).df()
    weeks = [
        {"week": week, "variant": variant}
        | measure(part.probability.to_numpy(), part.label.to_numpy(float), params, threshold)
        for (week, variant), part in rows.groupby(["week", "variant"])
    ]
    recent = rows[(rows.variant == "champion") & (rows.predicted_at >= since)]
    window = measure(recent.probability.to_numpy(), recent.label.to_numpy(float), params, threshold)
    worse = "auc_high" in window and window["auc_high"] < params.gates.min_auc
    return {"weeks": weeks, "window": window, "worse": worse, "min_auc": params.gates.min_auc}


def measure(probability: np.ndarray, label: np.ndarray, params: Params, threshold: float) -> dict[str, Any]:
    """Of (n,) scores and labels, NaN where not known yet; AUC only where both classes have 20 rows."""
    known = ~np.isnan(label)
    score, truth = probability[known], label[known].astype(int)
    found: dict[str, Any] = {"rows": len(label), "unlabelled": float(1 - known.mean()) if len(label) else 1.0}
    if not len(truth):
        return found
    cost, alarm = params.evaluate.cost, score >= threshold
    errors = cost.false_positive * (alarm & (truth == 0)) + cost.false_negative * (~alarm & (truth == 1))
    found |= {
        "positives": int(truth.sum()),
        "predicted_positives": float(score.sum()),
        "cost_per_row": float(errors.mean()),
    }
    if min(truth.sum(), len(truth) - truth.sum()) >= 20:
        resampled = bootstrap_auc(truth, [score], params.evaluate.bootstrap)[0]
        low, high = interval(resampled, params.evaluate.confidence)
        found |= {"auc": auc(truth, score), "auc_low": low, "auc_high": high}
    return found


def text(found: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    if "note" in found:
        return str(found["note"])
    window = found["window"]
    head = (
        "No label has arrived yet"
        if "auc" not in window
        else (
            f"AUC {window['auc']:.4f} [{window['auc_low']:.4f}, {window['auc_high']:.4f}], bar {found['min_auc']:g}"
        )
    )
    lines = [f"{'⚠️ **Worse than the gate asks.** ' if found['worse'] else ''}{head}.", ""]
    lines += [
        "| week | variant | rows | unlabelled | AUC | observed / predicted | cost per row |",
        "|---|---|---|---|---|---|---|",
    ]
    for w in found["weeks"]:
        auc = f"{w['auc']:.4f} [{w['auc_low']:.4f}, {w['auc_high']:.4f}]" if "auc" in w else ""
        ratio = f"{w['positives'] / w['predicted_positives']:.2f}" if w.get("predicted_positives") else ""
        cost = f"{w['cost_per_row']:.4f}" if "cost_per_row" in w else ""
        lines.append(
            f"| {w['week']} | {w['variant']} | {w['rows']:,} | {w['unlabelled']:.0%} | {auc} | {ratio} | {cost} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    with stage("performance"):
        card = ROOT / "models/champion/model.json"
        if not card.exists():
            raise UserError("models/champion is missing: run `dvc pull` or train one")
        found = check(load(), json.loads(card.read_text())["threshold"])
        (ROOT / "reports").mkdir(exist_ok=True)
        (ROOT / "reports/performance.json").write_text(json.dumps(found, indent=1) + "\n")
        print(text(found))
        say(worse=found["worse"])
        sys.exit(3 if found["worse"] else 0)
