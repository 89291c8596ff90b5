"""Compare champion and challenger on logged, labelled outcomes: promote, withdraw, or keep going.

The verdict may be computed as often as one likes: the interval is a confidence sequence, which holds at all times.
"""

import json
import math
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tabloop import files, predictions, release, roles
from tabloop.card import ModelCard
from tabloop.cli import UserError
from tabloop.metrics import errors_cost
from tabloop.params import ROOT, Cost, Params

if TYPE_CHECKING:
    import pandas as pd

REPORT, PLOT = ROOT / "reports/experiment.json", ROOT / "reports/experiment.png"
SAME_BATCH = timedelta(
    seconds=1
)  # between the two variants' rows of one batch, which are logged one after the other
MISMATCH = 0.001  # p-value below which the assignment of entities to variants is taken to be broken


def radius(n: float, deviation: float, error: float, tuned: float) -> float:
    """Half width of an asymptotic confidence sequence of a mean of n values: it holds at all n at once.

    Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas: "Time-uniform central limit theory and asymptotic confidence
    sequences" (2021), theorem 2.2.

    Args:
        deviation: the standard deviation of the values.
        error: the chance that the sequence ever excludes the true mean.
        tuned: the n at which the sequence is narrowest (their equation for rho).
    """
    rho2 = (-2 * math.log(error) + math.log(-2 * math.log(error)) + 1) / tuned
    scale = 2 * (n * rho2 + 1) / (n**2 * rho2)
    return deviation * math.sqrt(scale * math.log(math.sqrt(n * rho2 + 1) / error))


def mismatch(challenged: int, total: int, share: float) -> float:
    """p-value of the sample ratio, by a chi-square test with one degree of freedom.

    Args:
        challenged: the entities that the challenger answered.
        total: all entities.
        share: the share that the challenger should have.
    """
    variance = total * share * (1 - share)
    return math.erfc(math.sqrt((challenged - total * share) ** 2 / variance / 2)) if variance else 1.0


def run(params: Params, environment: str, log: str | None = None) -> dict[str, Any]:
    """Give the verdict on the environment's challenger; write reports/experiment.json, and .png where there is a cost.

    In the mode `shadow` both variants answered every row, and the differences are paired.

    Args:
        log: the prediction log; by default the one that PREDICTION_LOG names.

    Raises:
        UserError: no experiment runs in the environment, a model is not here, or nothing was logged of the challenger.
    """
    current = release.read(environment)
    if current.challenger_mode not in ("ab", "shadow"):
        raise UserError(
            f"deploy/{environment}/release.env has CHALLENGER_MODE={current.challenger_mode}: "
            "an experiment needs ab or shadow"
        )
    cards = {role: roles.required(role) for role in roles.ROLES}
    share = current.challenger_share if current.challenger_mode == "ab" else None
    result = verdict(params, read_costs(cards, params.evaluate.cost, share is None, log), share)
    files.write(REPORT, json.dumps(result, indent=1) + "\n")
    if "cost" in result:
        plot(result)
    else:
        PLOT.unlink(missing_ok=True)
    return result


def read_costs(
    cards: "dict[roles.Role, ModelCard]", cost: Cost, paired: bool, log: str | None
) -> "pd.DataFrame":
    """The mean cost of a prediction by unit and variant: columns unit, variant, cost, first.

    The unit is the entity, or the prediction where there is none. `cost` is NaN where no label is known. `first` is
    the time of the challenger's first prediction in this mode; in an A/B test the champion's earlier ones do not count.

    Raises:
        UserError: the log has no prediction of the challenger in this mode.
    """
    db = predictions.connect(None, log)
    either = " OR ".join(predictions.served(card.version, role) for role, card in cards.items())
    # Predictions of a shadow phase have two answers each, those of an A/B test one.
    answers = f"count(*) OVER (PARTITION BY prediction_id) {'>' if paired else '='} 1"
    # A hash of the unit, as a long log's texts take too much memory.
    rows = predictions.table(
        db,
        "SELECT hash(coalesce(entity, prediction_id)) AS unit, variant, predicted_at, probability, label "
        f"FROM (FROM predictions WHERE {either} QUALIFY {answers}) LEFT JOIN outcomes USING (prediction_id)",
    )
    first = rows.predicted_at[rows.variant == "challenger"].min()
    if first != first:
        mode = "in the shadow" if paired else "in an A/B test"
        version = cards["challenger"].version
        raise UserError(f"the log has no prediction of the challenger {version} {mode}")
    rows = rows[(rows.predicted_at >= first - SAME_BATCH) | paired]
    threshold = rows.variant.map({role: card.threshold for role, card in cards.items()})
    rows["cost"] = errors_cost(rows.label, rows.probability, threshold, cost)
    rows["cost"] = rows.cost.where(rows.label.notna())
    return rows.groupby(["unit", "variant"]).cost.mean().reset_index().assign(first=first)


def verdict(params: Params, costs: "pd.DataFrame", share: float | None) -> dict[str, Any]:
    """The verdict on mean costs as `read_costs` gives them.

    Args:
        share: the share of entities that the challenger should answer; None: the comparison is paired.
    """
    settings = params.monitoring.experiment
    variants = {role: costs[costs.variant == role].set_index("unit").cost for role in roles.ROLES}
    known = {role: values.dropna() for role, values in variants.items()}
    result: dict[str, Any] = {
        "since": costs["first"].iloc[0].isoformat(timespec="seconds"),
        "paired": share is None,
        "entities": {role: len(values) for role, values in variants.items()},
        "labelled": {role: len(values) for role, values in known.items()},
        "verdict": "keep going",
    }
    if share is not None:
        result["mismatch"] = mismatch(len(variants["challenger"]), len(costs), share)
        if result["mismatch"] < MISMATCH:
            p = f"p = {result['mismatch']:.1g}"
            return result | {"reason": f"sample ratio mismatch ({p}): the assignment or the log is broken"}
    if (fewest := min(result["labelled"].values())) < settings.min_entities:
        needed = f"{settings.min_entities:,} are needed"
        return result | {"reason": f"{fewest:,} labelled entities in the smaller variant; {needed}"}
    if share is None:
        saved = (known["champion"] - known["challenger"]).dropna()
        n, mean, deviation = len(saved), saved.mean(), saved.std(ddof=1)
    else:
        n = sum(result["labelled"].values())
        mean = known["champion"].mean() - known["challenger"].mean()
        deviation = math.sqrt(n * sum(values.var(ddof=1) / len(values) for values in known.values()))
    half = radius(n, float(deviation), settings.error, 10 * settings.min_entities)
    result["cost"] = {role: float(values.mean()) for role, values in known.items()}
    result |= {"saving": float(mean), "low": float(mean - half), "high": float(mean + half)}
    if result["low"] > 0:
        return result | {"verdict": "promote", "reason": "the challenger costs less"}
    if result["high"] < 0:
        return result | {"verdict": "withdraw", "reason": "the challenger costs more"}
    return result | {"reason": "the interval of the saving contains zero"}


def text(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [f"**{result['verdict'].capitalize()}**: {result['reason']}.", ""]
    lines += ["| | champion | challenger |", "|---|---|---|"]
    for name in ("entities", "labelled"):
        lines.append(f"| {name} | {result[name]['champion']:,} | {result[name]['challenger']:,} |")
    if "cost" in result:
        costs = " | ".join(f"{result['cost'][role]:.4f}" for role in roles.ROLES)
        interval = f"[{result['low']:+.4f}, {result['high']:+.4f}]"
        lines += [f"| cost of a prediction | {costs} |", ""]
        lines += [f"The challenger saves {result['saving']:+.4f} {interval} a prediction."]
    how = "paired, in shadow" if result["paired"] else "A/B"
    return "\n".join([*lines, "", f"Since {result['since']}, {how}."])


def plot(result: dict[str, Any]) -> None:
    """Draw the interval of the challenger's saving, and zero."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 1.8), layout="constrained")
    below, above = result["saving"] - result["low"], result["high"] - result["saving"]
    axes.errorbar([result["saving"]], [0], xerr=[[below], [above]], fmt="o", capsize=5)
    axes.axvline(0, color="grey", linewidth=1)
    axes.set(yticks=[], xlabel="the challenger's saving, in cost of a prediction", title=result["verdict"])
    figure.savefig(PLOT)
    plt.close(figure)
