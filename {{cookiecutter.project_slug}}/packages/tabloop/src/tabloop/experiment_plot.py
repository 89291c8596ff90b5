"""The picture of an experiment: the saving with its interval by day, and the challenger's share of the traffic."""

from datetime import date
from pathlib import Path
from typing import Any


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the days of an experiment's result."""
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
    figure.savefig(path, dpi=120)
