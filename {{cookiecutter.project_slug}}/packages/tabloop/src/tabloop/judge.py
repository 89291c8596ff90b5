"""Hold the candidate against the `gates` of params.yaml: each check has a value, an interval, a bar and a verdict.

Too few rows of a class, in a level of a column or for a comparison, give no verdict, and the check says so.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from pydantic import ValidationError

from tabloop import verdicts
from tabloop.cli import UserError, one_line
from tabloop.gates import HIGHER_IS_BETTER, PARITY, Gate
from tabloop.intervals import Scored, between_levels, estimate, jackknife
from tabloop.metrics import MIN_CLASS, Estimate
from tabloop.params import Params

Check = dict[str, Any]
NAMED = 10  # levels that a check names


@dataclass(frozen=True)
class Holdout:
    """Some rows with their target, (n,), scored by the candidate and, if it can be compared, the champion.

    `measure` is evaluate.py's.
    """

    params: Params
    measure: Callable[[np.ndarray, np.ndarray, float, Params], dict[str, Any]]
    rows: pd.DataFrame
    target: np.ndarray
    candidate: Scored
    champion: Scored | None

    def at(self, rows: np.ndarray) -> "Holdout":
        """The same of some of the rows, by a mask or indices."""
        champion = self.champion and self.champion.at(rows)
        return replace(self, target=self.target[rows], candidate=self.candidate.at(rows), champion=champion)

    @cached_property
    def ours(self) -> dict[str, float]:
        """The candidate's metrics by measure()."""
        return self.measured(self.candidate)

    def measured(self, model: Scored) -> dict[str, float]:
        """Those of measure()'s metrics that are numbers; NaN where one is undefined."""
        found = self.measure(self.target, *model, self.params)
        numbers = {n: math.nan if v is None else v for n, v in found.items()}
        return {name: float(value) for name, value in numbers.items() if isinstance(value, int | float)}


def judge(holdout: Holdout, why: str, min_auc: float | None) -> dict[str, Any]:
    """Whether all gates pass, the reason in a line, and the checks.

    Args:
        why: why there is no champion to compare with.
        min_auc: a bar of AUC over all rows in place of the one in params.yaml.

    Raises:
        UserError: there is no such metric, or `min_auc` is no bar.
    """
    gates, checks = holdout.params.gates, []
    if min_auc is not None:
        try:
            gates = [Gate(metric="auc", min=min_auc), *(gate for gate in gates if not gate.is_auc_bar)]
        except ValidationError as error:
            raise UserError(f"--min-auc: {error.errors()[0]['msg']}") from None
    known = {*holdout.ours, *HIGHER_IS_BETTER, *PARITY}
    for gate in gates:
        if gate.metric not in known:
            there = ", ".join(sorted(known))
            raise UserError(f"params.yaml: gates: no metric is called {gate.metric}; there are {there}")
        if gate.against and holdout.champion is None:
            checks.append(unjudged(gate, why[:1].lower() + why[1:]))
        elif gate.metric in PARITY:
            checks.append(parity(gate, holdout))
        else:
            checks += compare(gate, holdout, own=is_own(gate.metric, holdout))
    return summed_up(checks)


def summed_up(checks: list[Check]) -> dict[str, Any]:
    """The verdict of all checks; those that are not judged don't fail, but are counted."""
    if not checks:
        return {"passed": True, "reason": "params.yaml has no gates", "checks": []}
    failed = [verdicts.failure(check) for check in checks if check["passed"] is False]
    passed = sum(check["passed"] is True for check in checks)
    reason = "; ".join(failed[:3]) or f"{passed} of {len(checks)} checks passed"
    if rest := len(failed[3:]) or (not failed and len(checks) - passed):
        reason += f"; {rest} {'more failed' if failed else 'not judged'}"
    return {"passed": not failed, "reason": reason, "checks": checks}


def is_own(metric: str, holdout: Holdout) -> bool:
    """Whether a metric is the owner's own; the name may be a usual one, by which measure() means something else."""
    if metric not in HIGHER_IS_BETTER:
        return True
    if metric not in holdout.ours:
        return False
    usual = estimate_of(metric, replace(holdout, champion=None), own=False).value
    return not np.isclose(usual, holdout.ours[metric], equal_nan=True)


def levels(rows: pd.DataFrame, name: str | None) -> Iterator[tuple[str | None, np.ndarray]]:
    """Each level of a column, and the positions of its rows; without a column all rows."""
    if name is None:
        yield None, np.arange(len(rows))
        return
    texts = rows[name].astype(object).where(rows[name].notna(), "(missing)").astype(str).to_numpy()
    names, codes = np.unique(texts, return_inverse=True)
    ends = np.cumsum(np.bincount(codes))
    yield from zip(names.tolist(), np.split(np.argsort(codes, kind="stable"), ends[:-1]), strict=True)


def estimate_of(metric: str, part: Holdout, own: bool) -> Estimate:
    """A metric on these rows, or where there is a champion its difference to the champion's."""
    evaluate = part.params.evaluate
    if not own:
        models = part.candidate, part.champion
        return estimate(metric, part.target, *models, evaluate.cost, evaluate.confidence)

    def statistic(at: np.ndarray) -> float:
        some = part.at(at)
        value = some.ours[metric]
        return value - some.measured(some.champion)[metric] if some.champion else value

    return jackknife(part.target, statistic, evaluate.confidence)


def lacking(metric: str, part: Holdout) -> str:
    """What these rows have too few of; empty if nothing."""
    positive = int(part.target.sum())
    have = {"positive": positive, "negative": len(part.target) - positive}
    if metric == "recall":
        del have["negative"]
    if metric == "precision":
        models = [model for model in (part.candidate, part.champion) if model]
        have = {"predicted positive": min(int(model.acted.sum()) for model in models)}
    return " and ".join(f"{rows} {kind}" for kind, rows in have.items() if rows < MIN_CLASS)


def compare(gate: Gate, holdout: Holdout, own: bool) -> list[Check]:
    """The checks of a gate: one over all rows, or one of each level of its column."""
    checks, few = [], []
    holdout = holdout if gate.against else replace(holdout, champion=None)
    for level, at in levels(holdout.rows, gate.by):
        part = holdout.at(at)
        if (gate.by or gate.against) and (lack := lacking(gate.metric, part)):
            few.append(f"{level} ({lack})" if level else lack)
        else:
            checks.append(judged(gate, estimate_of(gate.metric, part, own), level))
    return [*checks, unjudged(gate, too_few(few, MIN_CLASS))] if few else checks


def parity(gate: Gate, holdout: Holdout) -> Check:
    """The check between all levels of a column that have enough rows.

    That is MIN_CLASS positives for equal opportunity; for disparate impact as many rows as would give MIN_CLASS
    predicted positives at the share of the whole.
    """
    of, hits, needed, kind = holdout.target == 1, holdout.candidate.acted, MIN_CLASS, "positive"
    if gate.metric == "disparate_impact":
        of, kind = np.full(len(of), True), "rows"
        needed = math.ceil(MIN_CLASS / max(hits.mean(), 1 / len(of)))
    hit, size, few = [], [], []
    for level, at in levels(holdout.rows, gate.by):
        if (rows := int(of[at].sum())) >= needed:
            hit.append(int((hits & of)[at].sum()))
            size.append(rows)
        else:
            few.append(f"{level} ({rows:,} {kind})")
    note = too_few(few, needed) if few else ""
    if len(size) < 2:
        return unjudged(gate, note or "there is one level only")
    confidence = holdout.params.evaluate.confidence
    check = judged(gate, between_levels(gate.metric, np.array(hit), np.array(size), confidence))
    return check | {"note": "; ".join(filter(None, (check["note"], note and f"without some levels: {note}")))}


def too_few(levels: list[str], needed: int) -> str:
    """The note on levels that are not judged."""
    more = f" and {len(levels) - NAMED} more" if len(levels) > NAMED else ""
    return f"too few rows, {needed:,} are needed: {one_line(', '.join(levels[:NAMED]))}{more}"


def judged(gate: Gate, found: Estimate, level: str | None = None) -> Check:
    """A check with its verdict. What is undefined fails."""
    better, worse = (found.high, found.low) if gate.higher else (found.low, found.high)
    end = {"better_end": better, "worse_end": worse}.get(gate.end, found.value)
    passed, reached = (gate.reached_by(figure) for figure in (end, found.value))
    how = "reaches" if reached else "misses"
    note = "" if passed == reached else f"the value {how} the bar, but not significantly"
    note = "undefined" if math.isnan(end) else note
    figures = {name: None if math.isnan(figure) else figure for name, figure in vars(found).items()}
    return unjudged(gate, note, level) | figures | {"passed": passed}


def unjudged(gate: Gate, note: str, level: str | None = None) -> Check:
    """A check without figures or verdict, and why."""
    about: Check = {"name": verdicts.title(gate, level), "metric": gate.metric}
    about |= {"segment": gate.by, "level": level}
    about |= {"against": gate.against, "bar": gate.bar, "rule": verdicts.rule(gate), "note": note}
    return about | dict.fromkeys(("value", "low", "high", "passed"))
