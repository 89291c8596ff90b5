"""How often the intervals of the gates hold the truth, how often a gate against the champion blocks, and how long both take.

    uv run benchmarks/gates.py

Rows are drawn from a known distribution, 5% positive; the candidate and the champion see what decides through noise of their own.
"""

import time

import numpy as np
from tabloop.gates import HIGHER_IS_BETTER
from tabloop.intervals import Scored, estimate, influence
from tabloop.params import Cost

COST, CONFIDENCE, POPULATION = Cost(false_positive=1, false_negative=20), 0.95, 1_000_000
Random = np.random.Generator


def population(random: Random, worse: float) -> tuple[np.ndarray, Scored, Scored]:
    """Labels, a candidate that sees with `worse` more noise, and the champion."""
    logit = random.normal(-5, 2.2, POPULATION)
    target = (random.random(POPULATION) < 1 / (1 + np.exp(-logit))).astype(int)
    seen = (logit + random.normal(0, sigma, POPULATION) for sigma in (0.5 + worse, 0.5))
    candidate, champion = (Scored(1 / (1 + np.exp(-score)), 0.05) for score in seen)
    return target, candidate, champion


def truth(metric: str, target: np.ndarray, *models: Scored) -> float:
    values = [influence(metric, target, model, COST)[0] for model in models]
    return values[0] - sum(values[1:])


def coverage(random: Random, rows: int, samples: int) -> None:
    """How often the interval holds the value of the whole population, alone and for the difference."""
    target, candidate, champion = population(random, 0.2)
    print(f"\n| metric, {rows:,} rows | value | interval holds it | of the difference |\n|---|---|---|---|")
    for metric in HIGHER_IS_BETTER:
        value, gap = truth(metric, target, candidate), truth(metric, target, candidate, champion)
        alone = paired = 0
        for _ in range(samples):
            at = random.integers(0, POPULATION, rows)
            part = metric, target[at], candidate.at(at)
            found = estimate(*part, None, COST, CONFIDENCE)
            difference = estimate(*part, champion.at(at), COST, CONFIDENCE)
            alone += found.low <= value <= found.high
            paired += difference.low <= gap <= difference.high
        print(f"| {metric} | {value:.4f} | {alone / samples:.1%} | {paired / samples:.1%} |", flush=True)


def blocked(random: Random, margin: float, samples: int) -> None:
    """How often a gate on AUC against the champion fails, by what decides."""
    print(
        "\n| the candidate's AUC is worse by | rows | value | better end | worse end |\n|---|---|---|---|---|"
    )
    for worse in (0.0, 0.3, 0.6, 1.0):
        target, candidate, champion = population(random, worse)
        gap = truth("auc", target, candidate, champion)
        for rows in (2_000, 20_000, 100_000):
            fails = np.zeros(3)
            for _ in range(samples):
                at = random.integers(0, POPULATION, rows)
                found = estimate("auc", target[at], candidate.at(at), champion.at(at), COST, CONFIDENCE)
                fails += np.array([found.value, found.high, found.low]) < -margin
            print(
                f"| {-gap:.4f} | {rows:,} | {' | '.join(f'{share:.0%}' for share in fails / samples)} |",
                flush=True,
            )


def calibrated(random: Random, bar: float, samples: int) -> None:
    """How often a gate on the calibration error fails: a calibrated model, and one whose probabilities are too high."""
    print("\n| probabilities too high by | rows | value | better end |\n|---|---|---|---|")
    for shift in (0.0, 0.05, 0.1):
        for rows in (200, 1_000, 5_000, 20_000):
            fails = np.zeros(2)
            for _ in range(samples):
                probability = random.beta(1, 8, rows)
                target = (random.random(rows) < probability).astype(int)
                model = Scored(np.minimum(1, probability + shift), 0.5)
                found = estimate("calibration_error", target, model, None, COST, CONFIDENCE)
                fails += np.array([found.value, found.low]) > bar
            shares = " | ".join(f"{share:.0%}" for share in fails / samples)
            print(f"| {shift:g} | {rows:,} | {shares} |", flush=True)


def seconds(random: Random) -> None:
    """The time of all metrics and their differences."""
    target, candidate, champion = population(random, 0.2)
    at = random.integers(0, POPULATION, 100_000)
    part, candidate, champion = target[at], candidate.at(at), champion.at(at)
    begun = time.process_time()
    for metric in HIGHER_IS_BETTER:
        for other in (None, champion):
            estimate(metric, part, candidate, other, COST, CONFIDENCE)
    print(f"\nall metrics and differences of 100,000 rows: {time.process_time() - begun:.2f} s of CPU")


if __name__ == "__main__":
    coverage(np.random.default_rng(0), 2_000, 1_000)
    coverage(np.random.default_rng(1), 20_000, 400)
    blocked(np.random.default_rng(2), 0.005, 200)
    calibrated(np.random.default_rng(4), 0.02, 400)
    seconds(np.random.default_rng(3))
