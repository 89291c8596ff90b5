"""The A/B verdict may be looked at as often as one likes: simulated, with costs as skewed as those of rare errors."""

import math

import numpy as np
import pytest

from {{ cookiecutter.package_name }}.monitoring.experiment import mismatch, radius

LOOKS = (400, 600, 900, 1300, 2000, 3000, 4500, 7000, 10_000)


def decided(effect: float, runs: int = 300, error: float = 0.05) -> tuple[float, float]:
    """The shares of experiments that promote and that withdraw; the challenger's expensive errors are `effect` times."""
    rng, promoted, withdrawn = np.random.default_rng(0), 0, 0
    for _ in range(runs):
        champion, challenger = (
            np.where(rng.random(5000) < 0.01 * times, 20.0, rng.random(5000) < 0.06) for times in (1, effect)
        )
        for n in LOOKS:
            x, y = champion[: n // 2], challenger[: n // 2]
            half = radius(n, math.sqrt(2 * (x.var(ddof=1) + y.var(ddof=1))), error, 2000)
            if abs(saved := x.mean() - y.mean()) > half:
                promoted, withdrawn = promoted + (saved > 0), withdrawn + (saved < 0)
                break
    return promoted / runs, withdrawn / runs


def test_models_alike_are_seldom_told_apart() -> None:
    assert sum(decided(1)) <= 0.05


def test_better_is_promoted_and_worse_is_withdrawn() -> None:
    promoted, withdrawn = decided(0.1)
    assert promoted > 0.9 and withdrawn == 0
    promoted, withdrawn = decided(3)
    assert withdrawn > 0.9 and promoted == 0


def test_a_share_that_is_not_the_one_asked_for_is_noticed() -> None:
    assert mismatch(1000, 10_000, 0.1) == pytest.approx(1)
    assert mismatch(1100, 10_000, 0.1) < 0.001 < mismatch(1060, 10_000, 0.1)
