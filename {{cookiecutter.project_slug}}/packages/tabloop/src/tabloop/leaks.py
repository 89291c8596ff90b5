"""Columns that give the target away: copies of it, and what one knows only afterwards."""

from typing import TYPE_CHECKING

import duckdb
import numpy as np

from tabloop.columns import INFERRED, quote
from tabloop.facts import Facts
from tabloop.metrics import auc

if TYPE_CHECKING:
    import pandas as pd

SAMPLE = 20_000  # labelled rows that are looked at; a hash of the row chooses them, so that the answer is the same again
FEWEST = 10  # rows of each class below which nothing is said
SUSPECT = 0.995  # the AUC of one column alone that is too good to be true
FEW = {"category": 20}  # values of a column up to which each can be another name of a class; of other types 3


def find(
    table: duckdb.DuckDBPyRelation, label: str, facts: dict[str, Facts], names: list[str]
) -> dict[str, tuple[float, bool]]:
    """The AUC of each suspicious column alone, and whether it is a copy of the target.

    A copy has few values, and each of them always goes with the same class.

    Args:
        label: SQL for 1, 0 or NULL.
        names: the columns to look at.
    """
    columns = [f"{label} AS label", *(f"{quote(name)} AS c{i}" for i, name in enumerate(names))]
    rows = table.project(", ".join(columns)).filter("label IS NOT NULL")
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
            few = facts[name].distinct <= FEW.get(INFERRED.get(facts[name].kind, ""), 3)
            found[name] = (score, few and _separates(frame[f"c{i}"], target))
    return found


def alone(values: "pd.Series", target: np.ndarray) -> float:
    """The AUC of one column, (n,), as a number in either direction, by its levels, or by what is missing: the best.

    Levels are scored by the mean label of the other half of the rows, so that many levels don't look good by chance.
    """
    import pandas as pd

    scores: list[np.ndarray] = [values.isna().to_numpy(float)]
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.astype(float).to_numpy()
        middle = np.nanmedian(numbers) if np.isfinite(numbers).any() else 0
        scores.append(np.where(np.isnan(numbers), middle, numbers))
    levels = pd.factorize(values)[0] + 1  # 0: missing
    if levels.max(initial=0) < len(target) / 4:
        half = np.arange(len(target)) % 4 >= 2
        means = np.empty(len(target))
        for part in (half, ~half):
            sums = np.bincount(levels[~part], target[~part], levels.max() + 1)
            means[part] = ((sums + target.mean()) / (np.bincount(levels[~part], None, levels.max() + 1) + 1))[
                levels[part]
            ]
        scores.append(means)
    areas = [auc(target, score) for score in scores]
    return max(max(area, 1 - area) for area in areas)


def _separates(values: "pd.Series", target: np.ndarray) -> bool:
    """Whether each value goes with one class only, on all rows that have a value."""
    import pandas as pd

    classes = pd.Series(target).groupby(values.astype(str).where(values.notna()).to_numpy()).nunique()
    return bool((classes == 1).all())
