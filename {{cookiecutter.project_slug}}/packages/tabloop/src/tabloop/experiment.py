"""Champion against challenger on logged, labelled outcomes: promote, withdraw, or keep going.

May be looked at as often as one likes: the interval is a confidence sequence. Exit code 0, or 1 where nothing can be
said at all.
"""

import json
import math
from pathlib import Path
from typing import Any

from ..params import ROOT, Params, UserError, load, stage
from .log import TARGET, connect, say

MISMATCH = 0.001  # p-value below which assignment is taken to be broken


def radius(n: float, deviation: float, error: float, tuned: float) -> float:
    """Half width of an asymptotic confidence sequence of a mean of n values: it holds at all n at once.

    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: "Time-uniform central limit theory and asymptotic confidence
    sequences" (2021), theorem 2.2; `tuned` is the n at which it is narrowest (their equation for rho).
    """
    rho2 = (-2 * math.log(error) + math.log(-2 * math.log(error)) + 1) / tuned
    return deviation * math.sqrt(
        2 * (n * rho2 + 1) / (n**2 * rho2) * math.log(math.sqrt(n * rho2 + 1) / error)
    )


def mismatch(challenged: int, all_: int, share: float) -> float:
    """p-value of the sample ratio: of a chi-square test with one degree of freedom."""
    expected = all_ * share * (1 - share)
    return math.erfc(math.sqrt((challenged - all_ * share) ** 2 / expected / 2)) if expected else 1.0


def verdict(params: Params, models: Path, share: float, target: str = TARGET) -> dict[str, Any]:
    """Compare the mean cost of a prediction, by entity, as each model's threshold decides.

    In shadow mode both variants answered every row, and the differences are paired; `share` is 0 then.

    Raises:
        UserError: there is no challenger, or nothing was logged of it.
    """
    cards = {}
    for role in ("champion", "challenger"):
        if not (models / role / "model.json").exists():
            raise UserError(
                f"models/{role} is missing: an experiment needs both; see `make challenge`, `dvc pull`"
            )
        cards[role] = json.loads((models / role / "model.json").read_text())
    db = connect(None, target)
    served = " OR ".join(f"variant = '{r}' AND model_version = '{c['version']}'" for r, c in cards.items())
    entity = cards["champion"]["schema"].get("entity")
    unit = f'coalesce("{entity}", prediction_id)' if entity else "prediction_id"
    first = db.sql(
        f"SELECT min(predicted_at) FROM predictions WHERE variant = 'challenger' AND ({served})"
    ).fetchall()[0][0]
    if first is None:
        raise UserError(f"no prediction of the challenger {cards['challenger']['version']} is in the log")
    cost = params.evaluate.cost
    bar = " ".join(f"WHEN '{r}' THEN {c['threshold']!r}" for r, c in cards.items())
    units = db.sql(
        f"SELECT {unit} AS unit, variant, avg(CASE WHEN label IS NULL THEN NULL "
        f"WHEN label = 0 AND probability >= (CASE variant {bar} END) THEN {cost.false_positive} "
        f"WHEN label = 1 AND probability < (CASE variant {bar} END) THEN {cost.false_negative} ELSE 0 END) AS cost "
        f"FROM predictions LEFT JOIN outcomes USING (prediction_id) "
        f"WHERE ({served}) AND predicted_at >= TIMESTAMPTZ '{first}' GROUP BY ALL ORDER BY ALL"
    ).df()
    by_variant = {role: units[units.variant == role] for role in cards}
    costs = {role: rows.dropna(subset=["cost"]).set_index("unit").cost for role, rows in by_variant.items()}
    found: dict[str, Any] = {
        "since": first.isoformat(timespec="seconds"),
        "paired": share == 0,
        "entities": {role: len(rows) for role, rows in by_variant.items()},
        "labelled": {role: len(rows) for role, rows in costs.items()},
        "verdict": "keep going",
    }
    if share:
        counts = found["entities"]
        found["mismatch"] = mismatch(counts["challenger"], sum(counts.values()), share)
        if found["mismatch"] < MISMATCH:
            return found | {
                "reason": f"sample ratio mismatch (p = {found['mismatch']:.1g}): assignment or log is broken"
            }
    needed, error = params.monitoring.experiment.min_entities, params.monitoring.experiment.error
    if min(found["labelled"].values()) < needed:
        return found | {
            "reason": f"{min(found['labelled'].values()):,} labelled entities in the smaller variant; {needed:,} are needed"
        }
    if share:
        n = sum(found["labelled"].values())
        mean = costs["champion"].mean() - costs["challenger"].mean()
        deviation = math.sqrt(n * sum(c.var(ddof=1) / len(c) for c in costs.values()))
    else:
        saved = (costs["champion"] - costs["challenger"]).dropna()
        n, mean, deviation = len(saved), saved.mean(), saved.std(ddof=1)
    half = radius(n, float(deviation), error, 10 * needed)
    low, high = float(mean - half), float(mean + half)
    found |= {
        "cost": {r: float(c.mean()) for r, c in costs.items()},
        "saving": float(mean),
        "low": low,
        "high": high,
    }
    if low > 0:
        return found | {"verdict": "promote", "reason": "the challenger costs less"}
    if high < 0:
        return found | {"verdict": "withdraw", "reason": "the challenger costs more"}
    return found | {"reason": "the interval of what it saves holds zero"}


def text(found: dict[str, Any]) -> str:
    """What was found, as Markdown."""
    lines = [
        f"**{found['verdict'].capitalize()}**: {found['reason']}.",
        "",
        "| | champion | challenger |",
        "|---|---|---|",
    ]
    for name in ("entities", "labelled"):
        lines.append(f"| {name} | {found[name]['champion']:,} | {found[name]['challenger']:,} |")
    if "cost" in found:
        lines.append(
            f"| cost of a prediction | {found['cost']['champion']:.4f} | {found['cost']['challenger']:.4f} |"
        )
        lines += [
            "",
            f"Saved by the challenger: {found['saving']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}] a prediction.",
        ]
    return "\n".join(
        [*lines, "", f"Since {found['since']}, {'paired, in shadow' if found['paired'] else 'A/B'}."]
    )


def plot(found: dict[str, Any], path: Path) -> None:
    """The interval of what the challenger saves, and zero."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 1.8), layout="constrained")
    axes.errorbar(
        [found["saving"]],
        [0],
        xerr=[[found["saving"] - found["low"]], [found["high"] - found["saving"]]],
        fmt="o",
        capsize=5,
    )
    axes.axvline(0, color="grey", linewidth=1)
    axes.set(yticks=[], xlabel="saved by the challenger, cost of a prediction", title=found["verdict"])
    figure.savefig(path)


def share_of(environment: str) -> float:
    """CHALLENGER_SHARE of deploy/<environment>/release.env; 0 where the challenger is in the shadow."""
    path = ROOT / "deploy" / environment / "release.env"
    settings = dict(line.split("=", 1) for line in path.read_text().splitlines() if not line.startswith("#"))
    return float(settings["CHALLENGER_SHARE"]) if settings["CHALLENGER_MODE"] == "ab" else 0.0


if __name__ == "__main__":
    import sys

    with stage("experiment"):
        found = verdict(load(), ROOT / "models", share_of(sys.argv[1] if len(sys.argv) > 1 else "production"))
        (ROOT / "reports").mkdir(exist_ok=True)
        (ROOT / "reports/experiment.json").write_text(json.dumps(found, indent=1) + "\n")
        if "cost" in found:
            plot(found, ROOT / "reports/experiment.png")
        print(text(found))
        say(verdict=found["verdict"])
