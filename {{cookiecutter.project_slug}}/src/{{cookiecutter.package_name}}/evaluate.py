"""Measure the candidate on the holdout, beside the champion, and hold it against the gates of params.yaml."""

import argparse
from typing import Any

import numpy as np
from tabloop import evaluation, explain, verdicts
from tabloop.cli import UserError, command
from tabloop.evaluation import Holdout, Scored
from tabloop.metrics import Curve, at_threshold, auc_interval, calibration_error
from tabloop.params import Params, load


def measure(
    target: np.ndarray, probability: np.ndarray, threshold: float, params: Params
) -> dict[str, float | None]:
    """The metrics of P(positive), (n,), for a target of 0 and 1, (n,), at the threshold that train chose.

    A metric that you add here reaches metrics/evaluation.json, the report, `dvc metrics diff` and MLflow, and may be
    a gate's in params.yaml.
    """
    area = auc_interval(target, probability, params.evaluate.confidence)
    return {
        "auc": area.value,
        "auc_low": area.low,
        "auc_high": area.high,
        "average_precision": Curve.of(target, probability).average_precision,
        "brier": float(np.mean((probability - target) ** 2)),
        "calibration_error": calibration_error(target, probability),
        "threshold": threshold,
    } | at_threshold(target, probability, threshold, params.evaluate.cost)


def evaluate(params: Params, min_auc: float | None) -> dict[str, Any]:
    """Write metrics/evaluation.json and the report; what stands in evaluation.json."""
    rows, target = evaluation.read_holdout(params)
    card, probability = evaluation.score_candidate(rows)
    champion, other = evaluation.score_champion(card, rows)
    holdout = Holdout(params, measure, rows, target, Scored(probability, card.threshold), other)
    champion |= evaluation.compare(holdout)

    result = {"version": card.version, "rows": len(rows), "positives": int(target.sum())}
    result |= measure(target, probability, card.threshold, params)
    result["gate"] = evaluation.judge(holdout, champion["verdict"], min_auc)
    result["champion"] = champion
    segments, confidence = params.evaluate.segments, params.evaluate.confidence
    result["segments"] = evaluation.by_segment(target, probability, rows, segments, confidence)
    result["importance"] = explain.importance(rows, target, confidence)
    evaluation.write(card, result, holdout)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="evaluate", usage=argparse.SUPPRESS, description=__doc__)
    parser.add_argument(
        "--min-auc", type=float, metavar="AUC", help="the bar of AUC, in place of the one in params.yaml"
    )
    arguments = parser.parse_args()
    with command("evaluate"):
        found = evaluate(load(), arguments.min_auc)
        print(verdicts.console(found))
        if not found["gate"]["passed"]:
            raise UserError(f"gate failed: {verdicts.line(found)} -> reports/evaluation.html")
        print(f"evaluate: gate passed: {verdicts.line(found)} -> reports/evaluation.html")
