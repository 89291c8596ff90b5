"""The picture of an experiment: the saving with its interval by day, and the challenger's share of the traffic."""

from datetime import date
from pathlib import Path
from typing import Any


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the days of an experiment's result."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    days, versions, paired = result["days"], result["versions"], result["paired"]
    at = [date.fromisoformat(day["day"]) for day in days]
    saving, low, high = ([day[name] for day in days] for name in ("saving", "low", "high"))
    sizes = {"height_ratios": [3, 1]}
    figure, (top, bottom) = plt.subplots(
        2, sharex=True, figsize=(8, 5), layout="constrained", gridspec_kw=sizes
    )
    top.fill_between(at, low, high, alpha=0.2, linewidth=0)
    spread = [
        [s - x for s, x in zip(saving, low, strict=True)],
        [x - s for s, x in zip(saving, high, strict=True)],
    ]
    top.errorbar(at, saving, yerr=spread, fmt="o-", markersize=4, capsize=3, linewidth=1)
    top.axhline(0, color="black", linewidth=1)
    top.set_ylabel("the challenger saves,\nin cost of a prediction")
    top.set_title(
        f"{result['environment']}: {result['verdict']}: {result['reason']}\n"
        f"challenger {versions['challenger']}, champion {versions['champion']}"
    )
    bottom.bar(at, [1.0 if paired else day["answered"] for day in days], width=0.8, alpha=0.6)
    bottom.set(ylim=(0, 1), ylabel="scored in\nthe shadow" if paired else "answered by\nthe challenger")
    bottom.yaxis.set_major_formatter("{x:.0%}")
    bottom.set_xticks(at[:: -(-len(at) // 8)], [f"{day:%b %d}" for day in at][:: -(-len(at) // 8)])
    figure.savefig(path, dpi=120)
    plt.close(figure)
