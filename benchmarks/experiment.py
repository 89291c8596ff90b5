"""How often an experiment gives a wrong verdict, and how soon a right one, where one looks at it every day.

    uv run benchmarks/experiment.py --runs 60
    uv run benchmarks/experiment.py --cuped 10

The verdict is that of `tabloop experiment`, on rows as it reads them. Entities come again and again, each with its own rate
of visits and of errors; an error costs 1 or, seldom, 20, as in the example. In a run without an effect both variants have
the same costs; else the challenger has this share of the champion's expensive errors.
"""

import argparse
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import pandas as pd
from tabloop import effects, experiment
from tabloop.params import Cost, Evaluate, Experiment, Monitoring, Params

START = pd.Timestamp("2026-01-01", tz="UTC")
CHEAP, DEAR = 1.0, 20.0


@dataclass(frozen=True)
class Plan:
    """What is played.

    Args:
        shares: the challenger's share, from each of these days on; 0: the test pauses.
        delay: days until a label is known, exponential, in the mean; a label of an expensive error takes twice as long.
        shift: from day 15 on both variants have so many times the errors.
        visits: the mean number of rows of an entity on a day.
        spread: of the entities' rates, 0: all alike.
        dear: the rate of expensive errors.
        trade: the challenger has the same cost by another kind of errors: only expensive ones, and the champion only cheap ones.
        paired: in the shadow: both models score each row.
    """

    shares: dict[int, float] = field(default_factory=lambda: {0: 0.5})
    delay: float = 0.0
    shift: float = 1.0
    visits: float = 0.1
    spread: float = 1.0
    dear: float = 0.01
    trade: bool = False
    paired: bool = False
    entities: int = 4000
    days: int = 30


PLANS = {
    "half": Plan(),
    "a tenth": Plan({0: 0.1}),
    "a tenth of 20,000": Plan({0: 0.1}, entities=20_000),
    "nine tenths": Plan({0: 0.9}),
    "ramp: 0.1, from day 7 on 0.5": Plan({0: 0.1, 7: 0.5}),
    "ramp: 0.1, from day 5 on 0.25, a pause, from day 15 on 0.5": Plan({0: 0.1, 5: 0.25, 10: 0, 15: 0.5}),
    "back: 0.5, from day 7 on 0.1": Plan({0: 0.5, 7: 0.1}),
    "half, late labels": Plan(delay=5),
    "ramp, late labels": Plan({0: 0.1, 7: 0.5}, delay=5),
    "half, errors x 3 from day 15 on": Plan(shift=3),
    "ramp at day 15 as errors x 3": Plan({0: 0.1, 15: 0.5}, shift=3),
    "half, each entity ten rows a day": Plan(visits=10, entities=1000, days=20),
    "half, cheap errors against as dear ones": Plan(trade=True),
    "a tenth, cheap errors against as dear ones": Plan({0: 0.1}, trade=True),
    "shadow": Plan({0: 1.0}, paired=True),
    "shadow, cheap errors against as dear ones": Plan({0: 1.0}, visits=0.02, trade=True, paired=True),
    "a tenth, rare costs": Plan({0: 0.1}, dear=0.002),
}


def play(plan: Plan, effect: float, random: np.random.Generator) -> pd.DataFrame:
    """The labelled rows of an experiment as `experiment.read` gives them; the time is that of the look that has the label."""
    rate = (
        random.gamma(1 / plan.spread, plan.spread, plan.entities) if plan.spread else np.ones(plan.entities)
    )
    risk = random.gamma(2, 0.5, plan.entities)
    visits = random.poisson(plan.visits * rate[:, None], (plan.entities, plan.days))
    unit, day = (np.repeat(index.ravel(), visits.ravel()) for index in np.indices(visits.shape))
    changes = np.array(sorted(plan.shares))
    share = np.array([plan.shares[c] for c in changes])[np.searchsorted(changes, day, side="right") - 1]
    challenged = random.random(plan.entities)[unit] < share
    times = risk[unit] * np.where(day >= 15, plan.shift, 1)

    def errors(challenger: bool) -> np.ndarray:
        dear, cheap = plan.dear * times * (effect if challenger else 1), 0.06 * times
        if plan.trade:
            dear, cheap = (0.013 * times * effect, 0 * times) if challenger else (0 * times, 0.26 * times)
        return np.where(random.random(len(unit)) < dear, DEAR, CHEAP * (random.random(len(unit)) < cheap))

    cost = np.where(challenged, errors(True), errors(False))
    dear = cost == DEAR
    known = day + random.exponential(plan.delay, len(unit)) * (1 + dear) if plan.delay else day + 0.5
    rows = pd.DataFrame(
        {"unit": unit, "share": share, "challenged": challenged, "cost": cost, "fallback": False}
    )
    rows["predicted_at"] = START + pd.to_timedelta(known, unit="D")
    rows = rows[(share > 0) & (known < plan.days)]
    if plan.paired:
        champion = rows.assign(challenged=False, cost=errors(False)[rows.index])
        rows = pd.concat([champion, rows]).assign(share=0.0)
    return rows.sort_values("predicted_at", ignore_index=True)


def settings(error: float = 0.05, entities: int = 200) -> Params:
    """The settings that a bake has."""
    test = Experiment(min_entities=entities, error=error)
    costs = Evaluate(confidence=0.95, cost=Cost(false_positive=CHEAP, false_negative=DEAR))
    return Params.model_construct(monitoring=Monitoring(experiment=test), evaluate=costs)


def decided(rows: pd.DataFrame, chosen: Params, paired: bool = False) -> tuple[str, int]:
    """The first verdict of someone who looks at the end of each day, and the day."""
    cells = experiment.Cells(rows, paired)
    for day in experiment.days(chosen, rows, cells):
        if day["low"] > 0 or day["high"] < 0:
            return "promote" if day["low"] > 0 else "withdraw", (
                pd.Timestamp(day["day"], tz="UTC") - START
            ).days
    return "keep going", 0


def mismatched(rows: pd.DataFrame) -> bool:
    """Whether a look at the end of any day finds a sample ratio mismatch. There is none."""
    for day in pd.date_range(START, rows.predicted_at.max(), freq="D"):
        until = rows[rows.predicted_at < day + pd.Timedelta("1D")]
        if len(until):
            cells = experiment.Cells(until, paired=False)
            alone = [s["mismatch"] for s in cells.shares(until)]
            if (
                min(effects.mismatch(cells.there, cells.challenged, cells.columns), *alone)
                < experiment.MISMATCH
            ):
                return True
    return False


def rates(runs: int, effect: float, only: str) -> None:
    """Print the verdicts of each plan."""
    chosen = settings()
    print(
        f"\n| plan, {runs} runs each | challenger's expensive errors | promote | withdraw | day of it, median | mismatch |"
    )
    print("|---|---|---|---|---|---|")
    for name, plan in PLANS.items():
        if only not in ("", name):
            continue
        for times in (1.0, effect):
            random = np.random.default_rng(0)
            found, odd = [], 0
            for _ in range(runs):
                rows = play(plan, times, random)
                found.append(decided(rows, chosen, plan.paired))
                odd += times == 1 and not plan.paired and mismatched(rows)
            promote, withdraw = (sum(f[0] == word for f in found) / runs for word in ("promote", "withdraw"))
            days = [day for word, day in found if word != "keep going"]
            when = f"{median(days):.0f}" if days else ""
            mismatch = f"{odd / runs:.1%}" if times == 1 else ""
            print(
                f"| {name} | x {times:g} | {promote:.1%} | {withdraw:.1%} | {when} | {mismatch} |", flush=True
            )


def cuped(runs: int) -> None:
    """Print by how much CUPED would lower the variance, by each entity's mean cost with the champion in 30 days before.

    Deng, Xu, Kohavi, Walker: "Improving the sensitivity of online controlled experiments by utilizing pre-experiment data",
    WSDM 2013. An entity that was not there before has the mean.
    """
    print("\n| rows of an entity on a day | less variance by CUPED |\n|---|---|")
    for visits, entities in ((0.1, 2000), (1, 2000), (10, 400)):
        less = []
        for seed in range(runs):
            rows = play(Plan(visits=visits, entities=entities, days=60), 1, np.random.default_rng(seed))
            before = rows.predicted_at < START + pd.Timedelta("30D")
            test = rows[~before].groupby("unit").agg({"cost": "mean", "challenged": "any"})
            earlier = rows[before].groupby("unit").cost.mean().reindex(test.index)
            earlier = earlier.fillna(earlier.mean())
            slope = np.cov(test.cost, earlier)[0, 1] / earlier.var()
            one, half = np.ones((len(test), 1)), np.array([0.5])
            found = [
                effects.randomized(cost.to_numpy()[:, None], one, test[["challenged"]].to_numpy(), half, 0.0)
                for cost in (test.cost, test.cost - slope * (earlier - earlier.mean()))
            ]
            plain, adjusted = (effect.error for effect in found if effect)
            less.append(1 - (adjusted / plain) ** 2)
        print(f"| {visits:g} | {np.mean(less):.1%} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--effect", type=float, default=0.3)
    parser.add_argument("--only", default="", help="the name of one plan")
    parser.add_argument("--cuped", type=int, default=0, help="runs for the gain by CUPED; then nothing else")
    arguments = parser.parse_args()
    if arguments.cuped:
        cuped(arguments.cuped)
    else:
        rates(arguments.runs, arguments.effect, arguments.only)
