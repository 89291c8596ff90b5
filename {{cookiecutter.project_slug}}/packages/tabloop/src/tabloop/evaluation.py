"""The steps of `evaluate` around the metrics: read the holdout, score it, compare with the champion, write the results."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tabloop import files
from tabloop.candidate import read_features
from tabloop.card import ModelCard
from tabloop.cli import UserError
from tabloop.metrics import Curve, auc, auc_difference, calibration
from tabloop.onnx_model import FILE, OnnxModel
from tabloop.params import ROOT, Cost, Params
from tabloop.roles import CANDIDATE, EVALUATION, MODELS, current

if TYPE_CHECKING:
    import pandas as pd

POINTS = 200  # of a plotted curve
Points = dict[str, list[dict[str, float]]]


def read_holdout(params: Params) -> "tuple[pd.DataFrame, np.ndarray]":
    """The rows to evaluate on, and their target, (n,) of 0 and 1.

    Raises:
        UserError: there is no holdout, or it has one class only.
    """
    rows = read_features("holdout")
    target = rows[params.schema_.target.name].to_numpy()
    if len(set(target)) < 2:
        raise UserError(
            f"the holdout's {len(rows):,} rows are of one class: raise split.holdout in params.yaml"
        )
    return rows, target


def score(folder: Path, rows: "pd.DataFrame") -> tuple[ModelCard, np.ndarray]:
    """The card of the model in `folder`, and its P(positive) of each row, (n,)."""
    card = ModelCard.read(folder)
    return card, OnnxModel(folder / FILE, card.schema_).probability(rows)


def score_candidate(rows: "pd.DataFrame") -> tuple[ModelCard, np.ndarray]:
    """`score` of models/candidate."""
    return score(CANDIDATE, rows)


def score_champion(candidate: ModelCard, rows: "pd.DataFrame") -> tuple[dict[str, Any], np.ndarray | None]:
    """The champion's version and its P(positive), (n,); or the reason why there is nothing to compare with, and None.

    Raises:
        UserError: git pins a champion that is not here.
    """
    champion = current("champion")
    if champion is None:
        return {"verdict": "none yet"}, None
    facts: dict[str, Any] = {"version": champion.version}
    if champion.version == candidate.version:
        return facts | {"verdict": "the candidate is the champion"}, None
    if gone := [name for name in champion.schema_.features if name not in rows]:
        return facts | {
            "verdict": f"not comparable: the data have no column {', '.join(gone)} any more"
        }, None
    return facts, score(MODELS / "champion", rows)[1]


def compare(
    target: np.ndarray, probability: np.ndarray, other: np.ndarray, confidence: float
) -> dict[str, Any]:
    """The champion's AUC, the difference to it with its paired interval, and `better`, `worse` or neither."""
    gap = auc_difference(target, probability, other, confidence)
    verdict = "worse" if gap.high < 0 else "better" if gap.low > 0 else "no significant difference"
    return {
        "auc": auc(target, other),
        "difference": gap.value,
        "low": gap.low,
        "high": gap.high,
        "verdict": verdict,
    }


def by_segment(
    target: np.ndarray, probability: np.ndarray, rows: "pd.DataFrame", names: list[str]
) -> dict[str, Any]:
    """AUC within each level of each named column; null where a level has one class only."""
    found: dict[str, Any] = {name: {} for name in names}
    for name in names:
        levels = rows[name].astype(object).where(rows[name].notna(), "(missing)").astype(str).to_numpy()
        for level in sorted(set(levels)):
            at = levels == level
            value = auc(target[at], probability[at])
            found[name][level] = {
                "auc": None if np.isnan(value) else value,
                "rows": int(at.sum()),
                "positives": int(target[at].sum()),
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


def write(
    params: Params,
    card: ModelCard,
    result: dict[str, Any],
    rows: "pd.DataFrame",
    probability: np.ndarray,
    champion: np.ndarray | None,
) -> None:
    """Write metrics/evaluation.json, the plots' points and reports/evaluation.html.

    Args:
        result: what is to stand in evaluation.json; see the design's contract.
        probability: the candidate's, (n,). champion: the champion's, (n,), if it was compared.
    """
    from tabloop.report import page

    target, cost = rows[params.schema_.target.name].to_numpy(), params.evaluate.cost
    plots = curves(target, probability, cost)
    other = None if champion is None else curves(target, champion, cost)
    for name, points in plots.items():
        files.write(ROOT / f"reports/{name}.json", json.dumps(points, indent=1) + "\n")
    files.write(ROOT / "reports/evaluation.html", page(params, card, result, plots, other, rows))
    files.write(EVALUATION, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
