"""Columns that give the target away: copies of it, and what one knows only afterwards."""

from pathlib import Path

import numpy as np
import pandas as pd

from tabloop.cli import UserError
from tabloop.columns import INFERRED, quote
from tabloop.facts import Decision, Survey
from tabloop.metrics import auc, enough, midranks
from tabloop.params import Schema

SAMPLE = 20_000  # labelled rows that are looked at; a hash of the row chooses them, so that the answer is the same again
FEWEST = 10  # rows of each class below which nothing is said
SUSPECT = 0.995  # the AUC of one column alone that is too good to be true
EACH = 1000  # rows of each class that are looked at first
NEAR = 0.9  # the AUC on these, below which no column is suspicious
RANGE = 20  # rows, at least, in each range of a number that is taken as a level
FEW = {"category": 20}  # values of a column up to which each can be another name of a class; of other types 3


def find(survey: Survey, names: list[str]) -> dict[str, tuple[float, bool]]:
    """The AUC of each suspicious column alone, and whether it is a copy of the target.

    A copy has few values, and each of them always goes with the same class.
    """
    columns = [f"{survey.label} AS label", *(f"{quote(name)} AS c{i}" for i, name in enumerate(names))]
    rows = survey.table.project(", ".join(columns)).filter("label IS NOT NULL")
    total = rows.aggregate("count(*)").fetchall()[0][0]
    if total > SAMPLE:
        rows = rows.filter(f"hash({', '.join(rows.columns)}) % {total // SAMPLE} = 0")
    frame = rows.order("ALL").df()
    target = frame.label.to_numpy(float)
    if min(target.sum(), (1 - target).sum()) < FEWEST:
        return {}
    found = {}
    for i, name in enumerate(names):
        if (score := alone(frame[f"c{i}"], target)) > SUSPECT:
            few = survey.facts[name].distinct <= FEW.get(INFERRED.get(survey.facts[name].kind, ""), 3)
            found[name] = (score, few and _separates(frame[f"c{i}"], target))
    return found


def watch(survey: Survey, features: dict[str, str]) -> set[str]:
    """Leave out copies of the target; warn of columns that alone tell it. Those of them that the owner gave a type."""
    told, said, decisions = set[str](), survey.said, survey.decisions
    for name, (score, copy) in find(survey, list(features)).items():
        if copy and name not in said.types:
            keep = f"`--type {name}={features.pop(name)}` keeps it"
            text = f"a copy of the target: each value goes with one class; {keep}"
            decisions[name] = Decision(name, "left out", text, [f"left out: {text}"])
            continue
        text = f"alone it predicts the target (AUC {score:.4f}): is it known before the outcome? `--drop {name}` leaves it out"
        if name in said.types:
            told.add(name)
        else:
            text += f"; `--type {name}={features[name]}` says that it is, else featurize stops"
        decisions[name].warnings.append(text)
    return told


def refuse(path: Path, schema: Schema) -> None:
    """Look at each feature of the training rows, as they were joined; a few rows of each class say which to look at closely.

    Args:
        path: the Parquet file that has them, of which one column is in memory at a time.

    Raises:
        UserError: one alone tells the target, and its `allow_leak` is not set.
    """
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path)  # opened once: of a wide table the metadata is most of it
    target = file.read([schema.target.name]).to_pandas().iloc[:, 0].to_numpy(float)
    found = dict[str, float]()
    if min(target.sum(), (1 - target).sum()) < FEWEST:
        return
    classes = (np.flatnonzero(target == label) for label in (0, 1))
    few = np.sort(np.concatenate([at[:: -(-len(at) // EACH)] for at in classes]))
    for name, column in schema.features.items():
        if column.allow_leak:
            continue
        kind, rows = "Float64" if column.numeric else object, file.read([name])
        near = alone(rows.take(few).to_pandas()[name].astype(kind), target[few]) > NEAR
        if near and (score := alone(rows.to_pandas()[name].astype(kind), target)) > SUSPECT:
            found[name] = score
    if found:
        shown = ", ".join(f"{name} (AUC {score:.4f})" for name, score in found.items())
        what = "each of these alone predicts the target in train"
        how = "drop it from the schema in params.yaml, or, if it is known before the outcome, set `allow_leak: true`"
        raise UserError(f"{what}: {shown}; {how}")


def alone(values: pd.Series, target: np.ndarray) -> float:
    """The AUC of one column, (n,), by what is missing, as a number in either direction, or by its levels: the best.

    The same is asked of the rows that have a value, if both classes have enough of them. Of a number with many
    values, ranges are the levels. Each is scored by the mean label of the other half of its rows, so that many don't look good by chance.
    """
    missing = values.isna().to_numpy()
    scores: list[np.ndarray] = [missing.astype(float)]
    levels, fewest = pd.factorize(values)[0] + 1, len(target) / 4  # 0: missing
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(float, na_value=np.nan)
        middle = np.nanmedian(numbers) if np.isfinite(numbers).any() else 0
        scores.append(np.where(missing, middle, numbers))
        if levels.max(initial=0) >= fewest:
            levels = np.where(missing, 0, 1 + midranks(numbers) // max(RANGE, len(numbers) / 200)).astype(int)
    if levels.max(initial=0) < fewest:
        half = np.arange(len(target)) % 4 >= 2
        means = np.empty(len(target))
        for part in (half, ~half):
            counts = [np.bincount(levels[~part], of, levels.max() + 1) for of in (target[~part], None)]
            means[part] = ((counts[0] + target.mean()) / (counts[1] + 1))[levels[part]]
        scores.append(means)
    areas = [auc(target, score) for score in scores]
    if missing.any() and enough(target[~missing]):
        areas.append(alone(values[~missing], target[~missing]))
    return max(max(area, 1 - area) for area in areas)


def _separates(values: pd.Series, target: np.ndarray) -> bool:
    """Whether each value goes with one class only, on all rows that have a value."""
    classes = pd.Series(target).groupby(values.astype(str).where(values.notna()).to_numpy()).nunique()
    return bool((classes == 1).all())
