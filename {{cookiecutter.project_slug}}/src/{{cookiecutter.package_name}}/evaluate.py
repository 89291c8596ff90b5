"""Measure the candidate on the holdout, compare it with the champion, decide: metrics/evaluation.json and a report."""

import argparse
from typing import Any

import numpy as np
from tabloop import evaluation
from tabloop.cli import UserError, command
from tabloop.metrics import Curve, at_threshold, auc_interval
from tabloop.params import Params, load


def measure(
    target: np.ndarray, probability: np.ndarray, threshold: float, params: Params
) -> dict[str, float | None]:
    """The metrics of P(positive), (n,), for a target of 0 and 1, (n,), at the threshold that train chose.

    A metric that you add here reaches metrics/evaluation.json, `dvc metrics diff` and MLflow.
    """
    area = auc_interval(target, probability, params.evaluate.confidence)
    return {
        "auc": area.value,
        "auc_low": area.low,
        "auc_high": area.high,
        "average_precision": Curve.of(target, probability).average_precision,
        "brier": float(np.mean((probability - target) ** 2)),
        "threshold": threshold,
    } | at_threshold(target, probability, threshold, params.evaluate.cost)


def gate(metrics: dict[str, Any], champion: dict[str, Any], min_auc: float) -> tuple[bool, str]:
    """Whether the candidate may be registered, and why."""
    auc = f"AUC {metrics['auc']:.4f}"
    if metrics["auc"] < min_auc:
        return False, f"{auc} is below the bar {min_auc:g}"
    if champion["verdict"] == "worse":
        interval = f"difference {champion['low']:+.4f} to {champion['high']:+.4f}"
        return False, f"{auc} is significantly below the champion's {champion['auc']:.4f} ({interval})"
    return True, f"{auc} reaches the bar {min_auc:g}"


def evaluate(params: Params, min_auc: float) -> tuple[bool, str]:
    """Write metrics and report; whether the gate passed, and the figures in a line."""
    rows, target = evaluation.read_holdout(params)
    card, probability = evaluation.score_candidate(rows)
    champion, other = evaluation.score_champion(card, rows)
    metrics = measure(target, probability, card.threshold, params)
    if other is not None:
        champion |= evaluation.compare(target, probability, other, params.evaluate.confidence)
    passed, reason = gate(metrics, champion, min_auc)

    result = {"version": card.version, "rows": len(rows), "positives": int(target.sum()), **metrics}
    result["gate"] = {"passed": passed, "min_auc": min_auc, "reason": reason}
    result["champion"] = champion
    result["segments"] = evaluation.by_segment(target, probability, rows, params.evaluate.segments)
    evaluation.write(params, card, result, rows, probability, other)
    interval = f"[{metrics['auc_low']:.4f}, {metrics['auc_high']:.4f}]"
    return passed, f"{reason} {interval} on {len(rows):,} rows; champion: {champion['verdict']}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="evaluate", description=__doc__)
    parser.add_argument("--min-auc", type=float, metavar="AUC", help="the bar, in place of gates.min_auc")
    arguments = parser.parse_args()
    with command("evaluate"):
        settings = load()
        bar = settings.gates.min_auc if arguments.min_auc is None else arguments.min_auc
        ok, line = evaluate(settings, bar)
        if not ok:
            raise UserError(f"gate failed: {line} -> reports/evaluation.html")
        print(f"evaluate: gate passed: {line} -> reports/evaluation.html")
