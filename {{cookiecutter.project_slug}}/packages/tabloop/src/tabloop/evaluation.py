"""The steps of `evaluate` around the metrics: read the holdout, score it, compare with the champion, write the results."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tabloop import files, gates, registry, verdicts
from tabloop.candidate import read_features
from tabloop.card import ModelCard
from tabloop.cli import UserError
from tabloop.intervals import Scored
from tabloop.judge import Holdout, estimate_of, is_own, judge, levels
from tabloop.metrics import Curve, auc, auc_interval, calibration, enough
from tabloop.onnx_model import FILE, OnnxModel
from tabloop.params import ROOT, Cost, Params
from tabloop.roles import CANDIDATE, EVALUATION, MODELS, current

POINTS = 200  # of a plotted curve
__all__ = ["Holdout", "Scored", "judge"]  # for evaluate.py
Points = dict[str, list[dict[str, float]]]


def read_holdout(params: Params) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows to evaluate on, and their target, (n,) of 0 and 1.

    Raises:
        UserError: there is no holdout, or it has one class only.
    """
    rows = read_features("holdout", params.schema_)
    target = rows[params.schema_.target.name].to_numpy()
    if not 0 < target.sum() < len(target):
        what = f"all {len(rows):,} holdout rows have the same class"
        raise UserError(f"{what}: raise split.holdout in params.yaml")
    return rows, target


def score(folder: Path, rows: pd.DataFrame) -> tuple[ModelCard, np.ndarray]:
    """The card of the model in `folder`, and its P(positive) of each row, (n,)."""
    card = ModelCard.read(folder)
    return card, OnnxModel(folder / FILE, card.schema_).probability(rows)


def score_candidate(rows: pd.DataFrame) -> tuple[ModelCard, np.ndarray]:
    """`score` of models/candidate."""
    return score(CANDIDATE, rows)


def score_champion(candidate: ModelCard, rows: pd.DataFrame) -> tuple[dict[str, Any], Scored | None]:
    """What is known of the champion, and its scores, (n,), by its own threshold; None where it can't be compared.

    Raises:
        UserError: git pins a champion that is not here.
    """
    champion = current("champion")
    if champion is None:
        return {"verdict": "There was no champion yet"}, None
    facts: dict[str, Any] = {"version": champion.version}
    if champion.version == candidate.version:
        return facts | {"verdict": "The candidate is the champion"}, None
    if gone := [name for name in champion.schema_.features if name not in rows]:
        why = f"The champion can't be compared: the data no longer have {', '.join(gone)}"
        return facts | {"verdict": why}, None
    facts |= {"training_rows": champion.rows, "data_hash": champion.data_hash}
    return facts, Scored(score(MODELS / "champion", rows)[1], champion.threshold)


def compare(holdout: Holdout) -> dict[str, Any]:
    """The champion's metrics on the same rows, the differences to them with intervals, and the verdict on AUC.

    Empty where there is no champion to compare with.
    """
    if holdout.champion is None:
        return {}
    usual = [metric for metric in gates.HIGHER_IS_BETTER if not is_own(metric, holdout)]
    gaps = {metric: estimate_of(metric, holdout, own=False) for metric in usual}
    return {
        "metrics": holdout.measure(holdout.target, *holdout.champion, holdout.params),
        # A list: `dvc metrics diff` leaves those out.
        "differences": [
            {"metric": metric, **vars(gap)} for metric, gap in gaps.items() if not np.isnan(gap.value)
        ],
        "verdict": verdicts.compared(estimate_of("auc", holdout, own=False)),
    }


def by_segment(
    target: np.ndarray,
    probability: np.ndarray,
    rows: pd.DataFrame,
    names: list[str],
    confidence: float = 0.95,
) -> dict[str, Any]:
    """AUC with its interval within each level of each named column; null where a level has too few rows of a class."""
    found: dict[str, Any] = {name: {} for name in names}
    for name in names:
        for level, at in levels(rows, name):
            value, positives = auc(target[at], probability[at]), int(target[at].sum())
            area = auc_interval(target[at], probability[at], confidence) if enough(target[at]) else None
            found[name][level] = {
                "auc": None if np.isnan(value) else value,
                "low": area.low if area else None,
                "high": area.high if area else None,
                "rows": len(at),
                "positives": positives,
            }
    return found


def curves(target: np.ndarray, probability: np.ndarray, cost: Cost) -> Points:
    """The points of each curve, named as the axes in dvc.yaml."""
    curve = Curve.of(target, probability)
    size, steps = len(curve.recall) - 1, np.linspace(0, 1, POINTS)
    by_threshold = np.unique(np.linspace(0, size, POINTS).astype(int))
    by_recall = np.unique(np.searchsorted(curve.recall, steps).clip(0, size))
    by_rate = np.searchsorted(curve.false_positive_rate, steps).clip(0, size)
    roc = np.unique(np.r_[by_rate, by_recall])
    return {
        "roc": _points(roc, false_positive_rate=curve.false_positive_rate, true_positive_rate=curve.recall),
        "precision_recall": _points(by_recall, recall=curve.recall, precision=curve.precision),
        "calibration": calibration(target, probability),
        "threshold": _points(
            np.unique(np.r_[by_threshold, by_recall]),
            threshold=curve.threshold,
            cost=curve.cost_per_row(cost),
        ),
    }


def _points(at: np.ndarray, **axes: np.ndarray) -> list[dict[str, float]]:
    return [{name: round(float(values[i]), 6) for name, values in axes.items()} for i in at]


def write(card: ModelCard, result: dict[str, Any], holdout: Holdout) -> None:
    """Write metrics/evaluation.json, its numbers as DVC's metrics, the plots' points and reports/evaluation.html.

    What the gate refuses is logged in MLflow here; what it passes, by register.

    Args:
        result: the content of evaluation.json.
    """
    from tabloop.report import page

    target, cost = holdout.target, holdout.params.evaluate.cost
    plots = curves(target, holdout.candidate.probability, cost)
    other = curves(target, holdout.champion.probability, cost) if holdout.champion else None
    for name, points in plots.items():
        files.write(ROOT / f"reports/{name}.json", json.dumps(points, indent=1) + "\n")
    html = page(holdout.params, card, result, plots, other, holdout.rows)
    files.write(ROOT / "reports/evaluation.html", html)
    # Of evaluation.json what `dvc metrics` can show in a line.
    numbers = {name: round(value, 5) for name, value in result.items() if type(value) in (int, float)}
    files.write_json(ROOT / "metrics/metrics.json", numbers)
    files.write_json(EVALUATION, result)
    if not result["gate"]["passed"]:
        registry.log(holdout.params, card, result, CANDIDATE)
