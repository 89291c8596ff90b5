"""Columns counted by bins of the reference: exact over any number of rows, in one scan of DuckDB; a second one correlates them.

Bins are robust: one wild value is one row in the last bin, however wild it is.
"""

from dataclasses import dataclass, field
from itertools import combinations, pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
from duckdb import DuckDBPyConnection

from tabloop.columns import literal
from tabloop.params import Column

QUANTILES = (0.01, *np.arange(1, 20) / 20, 0.99)  # of the reference: the ends of a number's bins
WINSOR = (0.05, 0.95)  # correlations take a value beyond these quantiles as the quantile (Wilcox, 1993)
LEVELS = 20  # the most frequent ones, which have a bin each
WEIGHED = 8  # the most frequent levels, which have a number for correlations
BATCH = 20_000  # rows whose products are summed at once, by BLAS


@dataclass
class Bins:
    """How one column is counted.

    Attributes:
        given: SQL for the value as it is.
        typed: SQL for a value of the column's type; NULL where it is missing or of another type.
        ends: of a number: the largest value of each bin but the last one, which is above all.
        levels: of a category: those that training had, the most frequent ones of the reference first.
        weight: SQL for the number by which the column is correlated with others, of mean 0 and deviation 1 in the
            reference, 0 where it is missing; empty if it is constant.
    """

    given: str
    typed: str
    ends: list[float] = field(default_factory=list)
    levels: list[str] = field(default_factory=list)
    weight: str = ""

    @property
    def aggregates(self) -> list[str]:
        """SQL for the number of values, of those that are of the column's type, and the counts by bin."""
        if self.levels:
            levels = ", ".join(map(literal, self.levels))
            return [*[f"count({self.typed})"] * 2, f"histogram_exact({self.typed}, [{levels}])"]
        number, nan = f"NULLIF({self.typed}, 'nan'::DOUBLE)", f"coalesce(isnan({self.typed}), false)"
        present = f"count({self.given}) FILTER (NOT {nan})"
        return [present, f"count({number})", f"histogram({number}, {literal(self.ends)}::DOUBLE[])"]

    @property
    def labels(self) -> list[str]:
        """The names of the bins."""
        if self.levels:
            return [*self.levels[:LEVELS], f"{len(self.levels) - LEVELS} other levels", "new level"]
        single = {end for last, end in pairwise(self.ends) if np.nextafter(end, -np.inf) == last}
        ends = [f"{'' if end in single else 'up to '}{end:.5g}" for end in self.ends]
        least = np.nextafter(self.ends[0], np.inf) + 0.0  # not -0
        return [f"below {least:.5g}", *ends[1:], f"above {self.ends[-1]:.5g}", "of another type"]

    def counts(self, rows: int, present: int, typed: int, held: dict[Any, int] | None) -> "Counts":
        """What the aggregates found."""
        held = held or {}
        if self.levels:
            known = [held.get(level, 0) for level in self.levels]
            bins, unseen = [*known[:LEVELS], sum(known[LEVELS:])], present - sum(known)
        else:
            bins, unseen = [held.get(end, 0) for end in self.ends], present - typed
            bins.append(typed - sum(bins))
        return Counts(rows, present, unseen, np.array([*bins, unseen]))


@dataclass(frozen=True)
class Counts:
    """What one table has of a column.

    Attributes:
        present: rows that have a value.
        unseen: of these, those of another type than the column's, or of a level that training did not have.
        bins: (k,) rows by bin; rows without a value are in none, the unseen ones in the last.
    """

    rows: int
    present: int
    unseen: int
    bins: np.ndarray


def bins_of(
    db: DuckDBPyConnection, table: str, columns: dict[str, Column], trained: dict[str, list[str]], score: str
) -> dict[str, Bins]:
    """The bins of each column by the reference.

    Args:
        table: SQL of the reference: columns c0, c1, ... in the order of `columns`.
        trained: for each category the levels that training had.
        score: the numeric column whose mean per level stands for a category in correlations.
    """
    place = {name: f"c{i}" for i, name in enumerate(columns)}
    found = {}
    for name, column in columns.items():
        if column.numeric:
            value = f"TRY_CAST({place[name]} AS BOOLEAN)" if column.type == "boolean" else place[name]
            found[name] = _ends(db, table, Bins(place[name], f"TRY_CAST({value} AS DOUBLE)"))
        else:
            bins = Bins(place[name], f"NULLIF({place[name]}::VARCHAR, '')")
            found[name] = _levels(db, table, bins, place[score], trained.get(name, []))
    found[score].weight = ""  # a category's weights are fitted to it
    return found


def _ends(db: DuckDBPyConnection, table: str, bins: Bins) -> Bins:
    values = db.sql(f"SELECT {bins.typed} AS v FROM ({table}) WHERE isfinite(v)").fetchnumpy()["v"]
    if not len(values):
        bins.ends = [0.0]
        return bins
    ends, times = np.unique(np.quantile(values, [*QUANTILES, 1], method="inverted_cdf"), return_counts=True)
    # A bin for what is below all, and one for each value that many rows have.
    before = np.nextafter([values.min(), *ends[times > 1]], -np.inf)
    bins.ends = sorted({*ends.tolist(), *before.tolist()})
    low, high = np.quantile(values, WINSOR).tolist()
    if low < high:
        clipped = np.clip(values, low, high)
        number = f"least(greatest(NULLIF({bins.typed}, 'nan'::DOUBLE), {low!r}), {high!r})"
        bins.weight = f"coalesce(({number} - {float(clipped.mean())!r}) / {float(clipped.std())!r}, 0)"
    return bins


def _levels(db: DuckDBPyConnection, table: str, bins: Bins, score: str, trained: list[str]) -> Bins:
    query = f"SELECT {bins.typed} AS v, avg({score}), count(*) FROM ({table}) WHERE v IS NOT NULL GROUP BY v"
    found, known = db.sql(f"{query} ORDER BY count(*) DESC, v").fetchall(), set(trained)
    seen = dict.fromkeys(level for level, _, _ in found)
    # No value is "", which is missing: it stands for levels where there are none.
    bins.levels = [*(v for v in seen if v in known), *(v for v in trained if v not in seen)] or [""]
    levels, means, rows = zip(*found[:WEIGHED], strict=True) if found else ((), (), ())
    if len(levels) > 1 and np.ptp(means) > 0:
        far = np.array(means) - np.average(means, weights=rows)
        numbers = far / np.average(far**2, weights=rows) ** 0.5
        pairs = zip(levels, numbers.tolist(), strict=True)
        cases = (f"WHEN {literal(v)} THEN {number:e}" for v, number in pairs)
        bins.weight = f"CASE {bins.typed} {' '.join(cases)} ELSE 0e0 END"
    return bins


def count(db: DuckDBPyConnection, table: str, bins: dict[str, Bins]) -> dict[str, Counts]:
    """Each column's counts, in one scan of a table.

    Args:
        table: SQL of the rows: columns c0, c1, ... in the order of `bins`.
    """
    parts = ["count(*)", *(part for each in bins.values() for part in each.aggregates)]
    rows, *found = db.sql(f"SELECT {', '.join(parts)} FROM ({table})").fetchall()[0]
    return {name: each.counts(rows, *found[3 * i : 3 * i + 3]) for i, (name, each) in enumerate(bins.items())}


def correlations(db: DuckDBPyConnection, table: str, bins: dict[str, Bins]) -> dict[tuple[str, str], float]:
    """The correlation of each pair of columns that are not constant, in one scan of a table as `count` takes it."""
    weights = {name: each.weight for name, each in bins.items() if each.weight}
    moments = np.zeros((len(weights) + 1, len(weights) + 1))
    rows = db.sql(f"SELECT {', '.join(['1e0', *weights.values()])} FROM ({table})")
    for batch in rows.to_arrow_reader(BATCH):
        numbers = np.stack([column.to_numpy() for column in batch.columns])
        moments += numbers @ numbers.T
    moments /= max(moments[0, 0], 1)
    covariance = (moments - np.outer(moments[0], moments[0]))[1:, 1:]
    scale = np.sqrt(covariance.diagonal().clip(0))
    places = combinations(enumerate(weights), 2)
    known = {(a, b): (covariance[i, j], scale[i] * scale[j]) for (i, a), (j, b) in places}
    return {pair: float(value / each) for pair, (value, each) in known.items() if each > 1e-6}


def distance(reference: np.ndarray, current: np.ndarray) -> float:
    """The Jensen-Shannon distance of two (k,) counts: 0 if their shares are the same, 1 if they have no bin in common.

    The square root of the divergence in bits (Lin, IEEE Transactions on Information Theory 37, 1991), which is a metric
    (Endres and Schindelin, same journal 49, 2003).
    """
    from scipy.spatial.distance import jensenshannon

    if not reference.sum() or not current.sum():
        return float(reference.sum() != current.sum())
    return float(jensenshannon(reference, current, 2))


def distance_by_chance(reference: np.ndarray, current: np.ndarray, error: float) -> float:
    """The distance that two samples of one distribution, as large as these, reach with the probability `error`.

    Of k bins that are not empty, 8 ln 2 nm/(n + m) times the divergence is about chi-square with k - 1 degrees of
    freedom (Grosse et al., Physical Review E 65, 041905, 2002).
    """
    from scipy.stats import chi2

    n, m = float(reference.sum()), float(current.sum())
    freedom = np.count_nonzero(reference + current) - 1
    if freedom < 1 or not n or not m:
        return 0.0
    return float(np.sqrt(chi2.isf(error, freedom) * (1 / n + 1 / m) / (8 * np.log(2))))


def mean_by_chance(variance: float, n: int, m: int, error: float) -> float:
    """The difference that the means of two samples of n and m rows reach with the probability `error`."""
    return NormalDist().inv_cdf(1 - error / 2) * (variance * (1 / max(n, 1) + 1 / max(m, 1))) ** 0.5
