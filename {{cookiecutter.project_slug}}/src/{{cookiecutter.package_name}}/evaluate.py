"""The candidate's graph on the holdout: metrics, plots, the report page, and the gate."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics import Curve, auc, bootstrap_auc, calibration, interval
from ..model.graph import Graph
from ..params import ROOT, Params, Schema, UserError, load, stage

if TYPE_CHECKING:
    import pandas as pd

POINTS = 200  # of a plotted curve


def score(folder: Path, rows: "pd.DataFrame") -> tuple[dict[str, Any], np.ndarray]:
    """What a model folder's model.json says, and its P(positive) of each row, (n,)."""
    model = json.loads((folder / "model.json").read_text())
    return model, Graph(folder / "model.onnx", Schema.model_validate(model["schema"])).probability(rows)


def measure(target: np.ndarray, probability: np.ndarray, params: Params) -> dict[str, Any]:
    """AUC, average precision, Brier score, and what the cheapest threshold costs."""
    curve, cost = Curve.of(target, probability), params.evaluate.cost
    costs = curve.cost(cost.false_positive, cost.false_negative)
    best = int(costs.argmin())
    nothing = cost.false_negative * curve.positives  # never acting may be cheapest of all
    return {
        "auc": auc(target, probability),
        "average_precision": curve.average_precision,
        "brier": float(np.mean((probability - target) ** 2)),
        "threshold": float(curve.threshold[best]) if costs[best] < nothing else 1.0,
        "cost_per_row": float(min(costs[best], nothing)) / len(target),
        "precision": float(curve.precision[best]),
        "recall": float(curve.recall[best]),
    }


def segments(
    target: np.ndarray, probability: np.ndarray, rows: "pd.DataFrame", names: list[str]
) -> dict[str, Any]:
    """AUC within each level of each named column; null where a level has one class only."""
    found: dict[str, Any] = {}
    for name in names:
        levels = rows[name].astype(object).where(rows[name].notna(), "(missing)").astype(str).to_numpy()
        for level in sorted(set(levels)):
            at = levels == level
            value = auc(target[at], probability[at])
            found.setdefault(name, {})[level] = {
                "auc": None if np.isnan(value) else value,
                "rows": int(at.sum()),
                "positives": int(target[at].sum()),
            }
    return found


def curves(target: np.ndarray, probability: np.ndarray, params: Params) -> dict[str, list[dict[str, float]]]:
    """The points of each plot, named as the axes in dvc.yaml."""
    curve, cost = Curve.of(target, probability), params.evaluate.cost
    costs = curve.cost(cost.false_positive, cost.false_negative) / len(target)
    ends = np.unique(np.linspace(0, len(curve.threshold) - 1, POINTS).astype(int))
    by_recall = np.unique(
        np.searchsorted(curve.recall, np.linspace(0, 1, POINTS)).clip(0, len(curve.recall) - 1)
    )
    by_rate = np.searchsorted(curve.false_positive_rate, np.linspace(0, 1, POINTS)).clip(
        0, len(curve.recall) - 1
    )
    roc = np.unique(np.r_[by_rate, by_recall])
    return {
        "roc": _points(roc, false_positive_rate=curve.false_positive_rate, true_positive_rate=curve.recall),
        "precision_recall": _points(by_recall, recall=curve.recall, precision=curve.precision),
        "calibration": calibration(target, probability),
        "threshold": _points(np.unique(np.r_[ends, by_recall]), threshold=curve.threshold, cost=costs),
    }


def _points(at: np.ndarray, **axes: np.ndarray) -> list[dict[str, float]]:
    return [{name: round(float(values[i]), 6) for name, values in axes.items()} for i in at]


def score_champion(
    folder: Path, candidate: str, rows: "pd.DataFrame"
) -> tuple[dict[str, Any], np.ndarray | None]:
    """The champion's version and its P(positive), (n,); or why there is nothing to compare with, and None.

    Raises:
        UserError: DVC pins a champion that is not here.
    """
    if not (folder / "model.json").exists():
        if folder.with_suffix(".dvc").exists():
            raise UserError(
                "models/champion.dvc pins a model that is not here: run `dvc pull models/champion.dvc`"
            )
        return {"verdict": "none yet"}, None
    card = json.loads((folder / "model.json").read_text())
    facts: dict[str, Any] = {"version": card["version"]}
    if card["version"] == candidate:
        return facts | {"verdict": "the candidate is the champion"}, None
    if gone := [name for name in Schema.model_validate(card["schema"]).features if name not in rows]:
        return facts | {
            "verdict": f"not comparable: the data no longer have its input {', '.join(gone)}"
        }, None
    return facts, score(folder, rows)[1]


def evaluate(params: Params, min_auc: float) -> tuple[bool, str]:
    """Write metrics/evaluation.json and reports/; whether the gate passed, and the figures in a line.

    Raises:
        UserError: there is no holdout or candidate, or the holdout lacks a class.
    """
    import pandas as pd

    from .report import page

    holdout, candidate = ROOT / "data/features/holdout.parquet", ROOT / "models/candidate"
    for needed in (holdout, candidate / "model.json"):
        if not needed.exists():
            raise UserError(f"{needed.relative_to(ROOT)} is missing: run `dvc repro`")
    rows = pd.read_parquet(holdout)
    target = rows[params.schema_.target.name].to_numpy()
    if len(set(target)) < 2:
        raise UserError(
            f"the holdout's {len(rows):,} rows are all of one class: raise split.holdout in params.yaml"
        )
    model, probability = score(candidate, rows)
    champion, other = score_champion(ROOT / "models/champion", model["version"], rows)
    found, confidence = measure(target, probability, params), params.evaluate.confidence
    scores = [probability] if other is None else [probability, other]
    sampled = bootstrap_auc(target, scores, params.evaluate.bootstrap)
    found["auc_low"], found["auc_high"] = interval(sampled[0], confidence)
    if other is not None:
        low, high = interval(sampled[0] - sampled[1], confidence)
        verdict = "worse" if high < 0 else "better" if low > 0 else "no significant difference"
        champion |= {"auc": auc(target, other), "low": low, "high": high, "verdict": verdict}
        champion["difference"] = found["auc"] - champion["auc"]

    passed, reason = True, f"AUC {found['auc']:.4f} reaches the bar {min_auc:g}"
    if found["auc"] < min_auc:
        passed, reason = False, f"AUC {found['auc']:.4f} is below the bar {min_auc:g}"
    elif champion["verdict"] == "worse":
        passed = False
        reason = (
            f"AUC {found['auc']:.4f} is significantly below champion {champion['version']}'s {champion['auc']:.4f} "
            f"(difference {champion['low']:+.4f} to {champion['high']:+.4f})"
        )
    result = {
        "version": model["version"],
        "rows": len(rows),
        "positives": int(target.sum()),
        **found,
        "gate": {"passed": passed, "min_auc": min_auc, "reason": reason},
        "champion": champion,
        "segments": segments(target, probability, rows, params.evaluate.segments),
    }
    plots = curves(target, probability, params)
    reports = ROOT / "reports"
    reports.mkdir(exist_ok=True)
    for name, points in plots.items():
        (reports / f"{name}.json").write_text(json.dumps(points, indent=1) + "\n")
    theirs = curves(target, other, params) if other is not None else None
    (reports / "evaluation.html").write_text(page(params, model, result, plots, theirs, rows))
    (ROOT / "metrics").mkdir(exist_ok=True)
    (ROOT / "metrics/evaluation.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    interval_ = f"[{found['auc_low']:.4f}, {found['auc_high']:.4f}]"
    return passed, f"{reason} {interval_} on {len(rows):,} rows; champion: {champion['verdict']}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__)
    parser.add_argument("--min-auc", type=float, metavar="AUC", help="the bar, instead of gates.min_auc")
    arguments = parser.parse_args()
    with stage("evaluate"):
        params = load()
        bar = params.gates.min_auc if arguments.min_auc is None else arguments.min_auc
        ok, line = evaluate(params, bar)
        if not ok:
            raise UserError(f"gate failed: {line} -> reports/evaluation.html")
        print(f"evaluate: gate passed: {line} -> reports/evaluation.html")
