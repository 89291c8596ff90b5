"""Compare champion and challenger on logged, labelled outcomes: promote, withdraw, or keep going.

The verdict may be computed as often as one likes: the interval is a confidence sequence, which holds at all times.
"""

import math
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from tabloop import effects, files, metrics, predictions, release, report, roles
from tabloop.card import ModelCard
from tabloop.cli import UserError
from tabloop.columns import literal
from tabloop.params import ROOT, Cost, Params

REPORT, PLOT = ROOT / "reports/experiment.json", ROOT / "reports/experiment.png"
MISMATCH = 0.001  # p-value below which the assignment of entities to variants is taken to be broken
DAYS = 60  # most in the picture
SHOWN_DAYS = 7  # the last ones, in the text
MINUTES = "%Y-%m-%d %H:%M"


def run(params: Params, environment: str) -> dict[str, Any]:
    """Give the verdict on the environment's challenger; write reports/experiment.json, and .png where there is a cost.

    In the mode `shadow` both variants answered every row, and the differences are paired.

    Raises:
        UserError: no experiment runs in the environment, a model is not here, or nothing was logged of the challenger.
    """
    mode = release.read(environment).get("CHALLENGER_MODE", "off")
    if mode not in ("ab", "shadow"):
        what = f"deploy/{environment}/release.env has CHALLENGER_MODE={mode}, and an experiment needs ab or shadow"
        raise UserError(f"{what}: `uv run tabloop release set {environment} CHALLENGER_MODE=shadow`")
    cards = {role: roles.required(role) for role in roles.ROLES}
    rows = read(cards, params.evaluate.cost, mode)
    result = {"environment": environment, "versions": {role: card.version for role, card in cards.items()}}
    result |= verdict(params, rows, mode == "shadow")
    files.write_json(REPORT, result)
    if result["days"]:
        plot(result)
    else:
        PLOT.unlink(missing_ok=True)
    return result


def read(cards: dict[roles.Role, ModelCard], cost: Cost, mode: str) -> pd.DataFrame:
    """The predictions of this experiment: those logged in this mode, by this champion, beside this challenger.

    So it has neither what was logged before or in a pause, nor in another mode, nor beside another challenger. An A/B test
    that goes on after a pause is the same one: the challenger's version draws its entities. The threshold is
    the one by which the model decided then.

    Returns:
        Columns unit, share (0 in the shadow), predicted_at, challenged, fallback, cost (NaN without a label). The unit
        is the entity, or the prediction where there is none. An A/B test's rows are of the variant to which the unit was
        assigned; `fallback` are those that the champion answered, as the challenger failed.

    Raises:
        UserError: the log has no prediction of the challenger in this mode.
    """
    db = predictions.connect()
    version = cards["challenger"].version
    where = "in an A/B test, at a share between 0 and 1" if mode == "ab" else "in the shadow"
    mine = " AND ".join(f"{role} = {literal(card.version)}" for role, card in cards.items())
    mine += f" AND mode = {literal(mode)}" + (" AND share > 0 AND share < 1" if mode == "ab" else "")
    share = "share" if mode == "ab" else "0::DOUBLE"
    # In the shadow a row counts where both models scored it.
    answers = "QUALIFY count(*) OVER (PARTITION BY prediction_id) > 1" if mode == "shadow" else ""
    # A hash of the unit, as a long log's texts take too much memory.
    rows = predictions.table(
        db,
        f"SELECT hash(coalesce(entity, prediction_id)) AS unit, {share} AS share, predicted_at, "
        "variant = 'challenger' AS challenged, probability, threshold, label "
        f"FROM (FROM predictions WHERE {mine} {answers}) LEFT JOIN outcomes USING (prediction_id)",
    )
    if not rows.challenged.any():
        raise UserError(f"the log has no prediction of the challenger {version} {where}")
    names = "label", "probability", "threshold"
    label, probability, threshold = (rows.pop(name).to_numpy(float) for name in names)
    rows["cost"] = np.where(np.isnan(label), np.nan, metrics.errors_cost(label, probability, threshold, cost))
    rows["fallback"] = False
    if mode == "ab":
        assigned = rows.groupby(["unit", "share"]).challenged.transform("any")
        rows["fallback"], rows["challenged"] = assigned & ~rows.challenged, assigned
    return rows


def verdict(params: Params, rows: pd.DataFrame, paired: bool) -> dict[str, Any]:
    """The verdict on rows as `read` gives them."""
    fewest_units, cells = params.monitoring.experiment.min_entities, Cells(rows, paired)
    result: dict[str, Any] = {
        "since": f"{rows.predicted_at.min():{MINUTES}}",
        "paired": paired,
        "entities": cells.by_variant(cells.there),
        "labelled": cells.by_variant(cells.counted(rows.cost.notna()) > 0),
        "fallback": int(rows.fallback.sum()),
        "shares": [] if paired else cells.shares(rows),
        "days": [],
        "verdict": "keep going",
    }
    if not paired:
        whole = effects.mismatch(cells.there, cells.challenged, cells.columns)
        result["mismatch"] = min(whole, *(share["mismatch"] for share in result["shares"]))
        if result["mismatch"] < MISMATCH:
            p = f"p = {result['mismatch']:.1g}"
            return result | {"reason": f"sample ratio mismatch ({p}): the assignment or the log is broken"}
    if (fewest := min(result["labelled"].values())) < fewest_units:
        needed = f"{fewest_units:,} are needed"
        return result | {"reason": f"{fewest:,} labelled entities in the smaller variant; {needed}"}
    result["days"] = days(params, rows, cells)
    if not result["days"]:
        return result | {"reason": "no share has labelled entities of both variants"}
    result |= result["days"][-1]
    if result["low"] > 0:
        return result | {"verdict": "promote", "reason": "the challenger costs less"}
    if result["high"] < 0:
        return result | {"verdict": "withdraw", "reason": "the challenger costs more"}
    return result | {"reason": "the interval of the saving contains zero"}


class Cells:
    """A table of the units and the shares, or the two variants if `paired`: (n, k) with a cell for each row's place."""

    def __init__(self, rows: pd.DataFrame, paired: bool) -> None:
        self.paired = paired
        units, unit = np.unique(rows.unit, return_inverse=True)
        self.columns, column = np.unique(rows.challenged if paired else rows.share, return_inverse=True)
        self.shape = len(units), len(self.columns)
        self.place = unit * len(self.columns) + column
        self.there = self.counted(rows.unit.notna()) > 0
        self.challenged = self.counted(rows.challenged) > 0

    def counted(self, rows: pd.Series, values: pd.Series | None = None) -> np.ndarray:
        """How many of these rows are in each cell, or the sum of their values."""
        chosen = rows.to_numpy(bool)
        weights = None if values is None else values.to_numpy()[chosen]
        return np.bincount(self.place[chosen], weights, math.prod(self.shape)).reshape(self.shape)

    def by_variant(self, cells: np.ndarray) -> dict[str, int]:
        """How many units each variant has in these cells. One that a ramp moved is of both."""
        of = {"champion": cells & ~self.challenged, "challenger": cells & self.challenged}
        return {role: int(chosen.any(axis=1).sum()) for role, chosen in of.items()}

    def shares(self, rows: pd.DataFrame) -> list[dict[str, Any]]:
        """For each share that the challenger had: the time, the entities of both, the sample ratio's p-value."""
        found = []
        for k, share in enumerate(self.columns.tolist()):
            since = f"{rows.predicted_at[rows.share == share].min():{MINUTES}}"
            entities = self.by_variant(self.there & (self.columns == share))
            only = np.s_[:, k : k + 1]
            p = effects.mismatch(self.there[only], self.challenged[only], self.columns[k : k + 1])
            found.append({"share": share, "since": since, "entities": entities, "mismatch": p})
        return found


def days(params: Params, rows: pd.DataFrame, cells: Cells) -> list[dict[str, Any]]:
    """The saving and its interval by all rows until the end of each day with enough labels; the last is the newest."""
    settings, found = params.monitoring.experiment, list[dict[str, Any]]()
    largest = max(params.evaluate.cost.false_positive, params.evaluate.cost.false_negative)
    day, labelled = rows.predicted_at.dt.floor("D"), rows.cost.notna()
    total, count = np.zeros(cells.shape), np.zeros(cells.shape)
    names = sorted(day[labelled].unique())
    drawn = set(names[:: -1 * -(-len(names) // DAYS)])
    for name in names:
        today = labelled & (day == name)
        total, count = total + cells.counted(today, rows.cost), count + cells.counted(today)
        if name not in drawn or min(cells.by_variant(count > 0).values()) < settings.min_entities:
            continue
        paired = effects.paired(total, count, largest) if cells.paired else None
        test = cells.challenged, cells.columns, largest
        if not (effect := paired or effects.randomized(total, count, *test)):
            continue
        deviation = effect.error * effect.units**0.5
        half = effects.radius(effect.units, deviation, settings.error, 10 * settings.min_entities)
        answered = float(rows.challenged[day == name].mean())
        found.append(
            {"day": f"{name:%Y-%m-%d}", "answered": answered}
            | {"saving": effect.saving, "low": effect.saving - half, "high": effect.saving + half}
            | {"cost": dict(zip(roles.ROLES, effect.costs, strict=True))}
        )
    return found


def plot(result: dict[str, Any]) -> None:
    """Draw the saving with its interval by day, and the challenger's share of the traffic, to PLOT."""
    from matplotlib.figure import Figure

    days, versions, paired = result["days"], result["versions"], result["paired"]
    at = [date.fromisoformat(day["day"]) for day in days]
    saving, low, high = ([day[name] for day in days] for name in ("saving", "low", "high"))
    figure = Figure(figsize=(8, 5), layout="constrained")
    top, bottom = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    top.fill_between(at, low, high, alpha=0.2, linewidth=0)
    top.vlines(at, low, high, linewidth=1)
    top.plot(at, saving, "o-", markersize=4, linewidth=1)
    top.axhline(0, color="black", linewidth=1)
    top.set_ylabel("the challenger saves,\nin cost of a prediction")
    top.set_title(
        f"{result['environment']}: {result['verdict']}: {result['reason']}\n"
        f"challenger {versions['challenger']}, champion {versions['champion']}"
    )
    bottom.bar(at, [1.0 if paired else day["answered"] for day in days], width=0.8, alpha=0.6)
    bottom.set(ylim=(0, 1), ylabel="scored in\nthe shadow" if paired else "answered by\nthe challenger")
    bottom.yaxis.set_major_formatter("{x:.0%}")
    ticks = at[:: -(-len(at) // 8)]
    bottom.set_xticks(ticks, [f"{day:%b %d}" for day in ticks])
    figure.savefig(PLOT, dpi=120)


def text(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    how = "paired, in shadow" if result["paired"] else "A/B, by share: "
    how += ", ".join(f"{part['share']:g} since {part['since']}" for part in result["shares"])
    values = {"result": result, "how": how, "shown": result["days"][-SHOWN_DAYS:], "interval": interval}
    return report.text("experiment.md.jinja", **values)


def interval(found: dict[str, Any]) -> str:
    """A saving with its interval."""
    return f"{found['saving']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"
