"""The A/B verdict: its statistics by simulation, and what it reads from the log."""

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tabloop import experiment, roles
from tabloop.cli import UserError
from tabloop.experiment import mismatch, radius

from . import monitored
from .monitored import install, log, params, released, served

LOOKS = (400, 600, 900, 1300, 2000, 3000, 4500, 7000, 10_000)


def decided(effect: float, runs: int = 300, error: float = 0.05) -> tuple[float, float]:
    """The shares of experiments that promote and that withdraw; the challenger's expensive errors are `effect` times.

    Costs are as skewed as those of rare errors.
    """
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


def test_equal_models_are_seldom_told_apart() -> None:
    assert sum(decided(1)) <= 0.05


def test_better_is_promoted_and_worse_is_withdrawn() -> None:
    promoted, withdrawn = decided(0.1)
    assert promoted > 0.9 and withdrawn == 0
    promoted, withdrawn = decided(3)
    assert withdrawn > 0.9 and promoted == 0


def test_a_share_that_is_not_the_one_asked_for_is_noticed() -> None:
    assert mismatch(1000, 10_000, 0.1) == pytest.approx(1)
    assert mismatch(1100, 10_000, 0.1) < 0.001 < mismatch(1060, 10_000, 0.1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monitored.enter(tmp_path, monkeypatch)
    install(tmp_path, "champion", params())
    install(tmp_path, "challenger", params())
    released(tmp_path, "ab", 0.5)
    return tmp_path


def run(folder: Path, **changes: Any) -> dict[str, Any]:
    result = experiment.run(params(**changes), "staging")
    assert json.loads((folder / "reports/experiment.json").read_text()) == result
    assert (folder / "reports/experiment.png").exists() == ("cost" in result)
    return result


def split(rows: pd.DataFrame, share: float = 0.5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the champion's entities and of the challenger's."""
    challenged = rows.entity.isin(sorted(set(rows.entity))[: int(rows.entity.nunique() * share)])
    return rows[~challenged], rows[challenged]


def test_the_cheaper_model_wins_by_its_own_threshold(folder: Path) -> None:
    champion, challenger = split(served(4000))
    log(folder, params(), challenger, variant="challenger")
    log(folder, params(), champion)
    assert run(folder)["verdict"] == "keep going"
    for role, verdict in (("champion", "promote"), ("challenger", "withdraw")):
        for other in roles.ROLES:
            install(folder, other, params(), threshold=0.99 if other == role else 0.5)
        result = run(folder)
        assert result["verdict"] == verdict and not result["paired"]
        assert f"**{verdict.capitalize()}**: the challenger costs" in experiment.text(result)


def test_the_cost_is_averaged_by_entity(folder: Path) -> None:
    rows = pd.concat([served(4000), served(400).assign(entity="c0000", probability=0.0, outcome=1)])
    champion, challenger = split(rows)
    log(folder, params(), challenger, variant="challenger")
    log(folder, params(), champion, labels=0.9)
    known = champion.head(int(len(champion) * 0.9))
    result = run(folder)
    for role, part in (("champion", known), ("challenger", challenger)):
        acted, positive = part.probability >= 0.5, part.outcome == 1
        cost = 1.0 * (acted & ~positive) + 5.0 * (~acted & positive)
        assert result["cost"][role] == pytest.approx(cost.groupby(part.entity).mean().mean())
        assert result["labelled"][role] == part.entity.nunique()


def test_without_an_entity_each_prediction_counts(folder: Path) -> None:
    champion, challenger = split(served(600).assign(entity=range(600)))
    log(folder, params(), challenger.assign(entity=None), variant="challenger")
    log(folder, params(), champion.assign(entity=None))
    assert run(folder)["entities"] == {"champion": 300, "challenger": 300}


def test_in_shadow_the_comparison_is_paired(folder: Path) -> None:
    released(folder, "shadow")
    install(folder, "challenger", params(), threshold=0.99)
    rows = served(1500)
    ids = log(folder, params(), rows)
    log(folder, params(), rows, variant="challenger", ids=ids)
    result = run(folder)
    assert result["verdict"] == "withdraw" and "paired, in shadow" in experiment.text(result)
    assert result["entities"]["champion"] == result["entities"]["challenger"]


def test_a_shadow_phase_before_the_test_does_not_count_in_it(folder: Path) -> None:
    released(folder, "ab", 0.2)
    rows = served(1000)
    ids = log(folder, params(), rows, at=datetime.now(UTC) - timedelta(hours=1))
    log(folder, params(), rows, variant="challenger", ids=ids, at=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(UserError, match="no prediction of the challenger challenger in an A/B test"):
        run(folder)
    champion, challenger = split(served(3000, seed=1), 0.2)
    log(folder, params(), challenger, variant="challenger")
    log(folder, params(), champion)
    result = run(folder)
    assert "mismatch" not in result["reason"]
    assert result["entities"] == {
        r: p.entity.nunique() for r, p in (("champion", champion), ("challenger", challenger))
    }


def test_what_was_logged_before_or_of_other_models_does_not_count(folder: Path) -> None:
    champion, challenger = split(served(2000))
    now = datetime.now(UTC)
    log(folder, params(), champion.assign(entity="before"), at=now - timedelta(hours=1))
    log(folder, params(), champion, at=now - timedelta(milliseconds=50))  # of the same batch
    log(folder, params(), challenger, variant="challenger", at=now)
    log(folder, params(), challenger, variant="challenger", version="an older challenger")
    log(folder, params(), champion.assign(entity="other"), version="an older champion")
    assert run(folder)["entities"]["champion"] == champion.entity.nunique()


def test_a_broken_assignment_or_too_few_labels_are_no_verdict(folder: Path) -> None:
    champion, challenger = split(served(2000))
    log(folder, params(), challenger, variant="challenger")
    log(folder, params(), champion, labels=0.01)
    needed = run(folder)
    assert needed["verdict"] == "keep going" and "50 are needed" in needed["reason"]
    released(folder, "ab", 0.2)
    assert "sample ratio mismatch" in run(folder)["reason"]


@pytest.mark.parametrize(
    ("mode", "share", "text"),
    [
        ("off", 0, "deploy/staging/release.env has CHALLENGER_MODE=off: an experiment needs ab or shadow"),
        ("ab", "half", "CHALLENGER_SHARE=half is not a number from 0 to 1"),
        ("ab", 2, "CHALLENGER_SHARE=2 is not a number from 0 to 1"),
        ("shadow", 0, "the log has no prediction of the challenger challenger in the shadow"),
    ],
)
def test_what_prevents_an_experiment_is_said_in_one_line(
    folder: Path, mode: str, share: float | str, text: str
) -> None:
    log(folder, params(), served(10))
    released(folder, mode, share)
    with pytest.raises(UserError, match=text):
        run(folder)


def test_both_models_must_be_here(folder: Path) -> None:
    log(folder, params(), served(10))
    (folder / "models/challenger.dvc").unlink()
    with pytest.raises(UserError, match="there is no challenger: `make challenge`"):
        run(folder)
    with pytest.raises(UserError, match=r"deploy/nowhere/release\.env is missing; there are: staging"):
        experiment.run(params(), "nowhere")
