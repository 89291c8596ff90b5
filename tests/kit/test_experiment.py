"""The A/B verdict: its statistics by simulation, and what it reads from the log."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

# The simulated experiments are those of the benchmark.
from experiment import Plan, decided, play, settings
from tabloop import effects, experiment, roles
from tabloop.cli import UserError

from . import monitored
from .monitored import install, log, params, released, served


def test_looking_every_day_at_equal_models_seldom_errs_and_sees_better_and_worse_ones() -> None:
    """A small part of benchmarks/experiment.py: half and half, a tenth, a ramp as the world changes, late labels."""
    small: dict[str, Any] = {"visits": 0.5, "entities": 1500}
    plans = [
        Plan(days=15, **small),
        Plan({0: 0.1}, days=15, **small),
        Plan({0: 0.1, 7: 0.5}, shift=3, days=22, **small),
        Plan({0: 0.2, 4: 0, 8: 0.5}, delay=3, days=18, **small),
        Plan({0: 1.0}, days=10, trade=True, paired=True, visits=0.02, entities=4000),
    ]
    chosen = settings(entities=100)
    for plan in plans:
        random = np.random.default_rng(1)
        equal = [decided(play(plan, 1, random), chosen, plan.paired)[0] for _ in range(10)]
        assert equal.count("keep going") >= 9, plan  # the error is 0.05
    for effect, expected in ((0.1, "promote"), (3, "withdraw")):
        for plan in (plans[0], plans[2]):
            found = [decided(play(plan, effect, random), chosen)[0] for _ in range(4)]
            assert found.count(expected) >= 3, (plan, effect)


def test_added_up_over_a_ramp_equal_models_would_be_told_apart() -> None:
    """Simpson's paradox: most of the challenger's rows are of the days on which everybody costs three times as much."""
    rows = play(Plan({0: 0.1, 15: 0.5}, visits=1, shift=3), 1, np.random.default_rng(0))
    pooled = rows.assign(share=0.5)
    means = rows.groupby("challenged").cost.mean()
    cells = {
        name: experiment.Cells(part, paired=False) for name, part in (("shares", rows), ("pooled", pooled))
    }
    naive = means[False] - means[True]
    last = experiment.days(settings(), rows, cells["shares"])[-1]
    assert naive < last["low"] < 0 < last["high"] and abs(last["saving"]) < abs(naive) / 5


def test_the_standard_error_is_that_of_repeated_assignments() -> None:
    """Costs stay as they are and the hashes are drawn again: over a ramp, too, where units move to the challenger."""
    random = np.random.default_rng(0)
    base = random.gamma(0.3, 3, 600)
    rows = (random.random((600, 3)) < 0.7).astype(int)
    total = rows * base[:, None] * random.gamma(2, 0.5, (600, 3))
    shares, savings, errors = np.array([0.1, 0.25, 0.5]), [], []
    for _ in range(2000):
        effect = effects.randomized(total, rows, random.random((600, 1)) < shares, shares, 0.0)
        assert effect
        savings.append(effect.saving)
        errors.append(effect.error)
    assert np.mean(errors) == pytest.approx(np.std(savings), rel=0.1)
    assert abs(np.mean(savings)) < 3 * np.std(savings) / 2000**0.5


def test_a_variant_without_any_rare_cost_by_chance_is_no_cheaper_one() -> None:
    """Of 200 rows none had the error that costs 20 and happens once in a hundred: in an A/B test, and in the shadow."""
    total = np.where(np.arange(2000) % 90 == 0, 20.0, 0.0)[:, None]
    challenged = np.zeros((2000, 1), bool)
    challenged[np.flatnonzero(total[:, 0] == 0)[:200]] = True
    rows, half = np.ones((2000, 1)), np.array([0.1])
    both = np.column_stack([np.arange(200) % 10 == 0, np.zeros(200)]).astype(float)
    for found in (
        [effects.randomized(total, rows, challenged, half, largest) for largest in (0.0, 20.0)],
        [effects.paired(both, np.ones((200, 2)), largest) for largest in (0.0, 20.0)],
    ):
        naive, effect = found
        assert naive and effect and naive.saving == effect.saving > 0
        assert effect.saving < effects.radius(effect.units, effect.error * effect.units**0.5, 0.05, 2000)
        assert naive.saving > effects.radius(naive.units, naive.error * naive.units**0.5, 0.05, 2000)


def test_a_share_that_is_not_the_one_asked_for_is_noticed() -> None:
    def p(challenged: int, total: int, share: float) -> float:
        column = np.arange(total)[:, None] < challenged
        return effects.mismatch(np.ones((total, 1), bool), column, np.array([share]))

    assert p(1000, 10_000, 0.1) == pytest.approx(1)
    assert p(1100, 10_000, 0.1) < 0.001 < p(1060, 10_000, 0.1)
    # Over shares that none of which is odd by itself, and units that are there at each of them count once.
    random, shares = np.random.default_rng(0), np.array([0.2, 0.4, 0.6])
    there, hashes = np.ones((3000, 3), bool), random.random((3000, 1))
    values = [effects.mismatch(there, random.random((3000, 1)) < shares, shares) for _ in range(1000)]
    assert 20 <= sum(value < 0.05 for value in values) <= 80
    assert effects.mismatch(there, hashes**1.15 < shares, shares) < 0.001


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


# How rows of the two models are logged in an A/B test.
ROUTED: dict[str, Any] = {
    "mode": "ab",
    "share": 0.5,
    "champion": "champion",
    "challenger": "challenger",
    "threshold": 0.5,
}


def split(rows: pd.DataFrame, share: float = 0.5) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the champion's entities and of the challenger's: those with the lower numbers, as by their hash."""
    number = rows.entity.astype(str).str.removeprefix("c").astype(int)
    challenged = number < max(400, rows.entity.nunique()) * share
    return rows[~challenged], rows[challenged]


def played(
    folder: Path,
    rows: pd.DataFrame,
    share: float = 0.5,
    champion: str = "champion",
    challenger: str = "challenger",
    thresholds: tuple[float, float] = (0.5, 0.5),
    **options: Any,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Log rows as an A/B test does that begins at once; the champion's and the challenger's."""
    parts = split(rows, share)
    for role, part, threshold in zip(roles.ROLES, parts, thresholds, strict=True):
        version = challenger if role == "challenger" else champion
        routing = ROUTED | {
            "share": share,
            "champion": champion,
            "challenger": challenger,
            "threshold": threshold,
        }
        log(folder, params(), part, role, version, **(routing | options))
    return parts


def shadowed(folder: Path, rows: pd.DataFrame, threshold: float = 0.5, **options: Any) -> None:
    """Log rows as a shadow phase does."""
    routing = ROUTED | {"mode": "shadow", "share": None} | options
    ids = log(folder, params(), rows, **routing)
    log(folder, params(), rows, "challenger", ids=ids, **routing | {"threshold": threshold})


NOW = datetime.now(UTC)  # once: a minute may begin within a test


def ago(**time: float) -> datetime:
    return NOW - timedelta(**time)


def test_the_cheaper_model_wins_by_the_threshold_that_it_had(folder: Path) -> None:
    """By that of each row, not by the card's, which may be another one since."""
    for dearer, expected in (("challenger", "withdraw"), ("champion", "promote")):
        thresholds = (0.99, 0.5) if dearer == "champion" else (0.5, 0.99)
        shutil.rmtree(folder / "log", ignore_errors=True)
        played(folder, served(4000), thresholds=thresholds)
        result = run(folder)
        assert result["verdict"] == expected and not result["paired"]
        said = experiment.text(result)
        assert f"**{expected.capitalize()}**: the challenger costs" in said
        assert "| | champion champion | challenger challenger |" in said
        assert f"| {datetime.now(UTC):%Y-%m-%d} | " in said


def test_the_cost_is_averaged_by_entity(folder: Path) -> None:
    rows = pd.concat([served(4000), served(400).assign(entity="c0000", probability=0.0, outcome=1)])
    champion, challenger = played(folder, rows, labels=0.9)
    result = run(folder)
    for role, part in (("champion", champion), ("challenger", challenger)):
        part = part.head(int(len(part) * 0.9))
        acted, positive = part.probability >= 0.5, part.outcome == 1
        cost = 1.0 * (acted & ~positive) + 5.0 * (~acted & positive)
        assert result["cost"][role] == pytest.approx(cost.groupby(part.entity).mean().mean())
        assert result["labelled"][role] == part.entity.nunique()


def test_without_an_entity_each_prediction_counts(folder: Path) -> None:
    champion, challenger = split(served(600).assign(entity=range(600)))
    log(folder, params(), challenger.assign(entity=None), "challenger", **ROUTED)
    log(folder, params(), champion.assign(entity=None), **ROUTED)
    assert run(folder)["entities"] == {"champion": 300, "challenger": 300}


def test_in_shadow_the_comparison_is_paired(folder: Path) -> None:
    released(folder, "shadow")
    rows = served(1500)
    shadowed(folder, rows, threshold=0.99)
    log(folder, params(), rows, **ROUTED | {"mode": "shadow", "threshold": 0.99})  # not scored by both
    result = run(folder)
    assert result["verdict"] == "withdraw" and "paired, in shadow" in experiment.text(result)
    assert result["entities"] == {role: rows.entity.nunique() for role in roles.ROLES}


def test_a_test_that_plays_shadow_ramp_pause_and_another_challenger_counts_its_own_rows(folder: Path) -> None:
    """Whatever is not of this test has a threshold by which it would decide the verdict."""
    wrong = (0.99, 0.01)
    shadowed(folder, served(2000), threshold=0.01, at=ago(days=9))
    with pytest.raises(UserError, match="no prediction of the challenger challenger in an A/B test"):
        run(folder)
    first = played(folder, served(3000, seed=1), 0.1, at=ago(days=8))
    log(
        folder,
        params(),
        served(2000, seed=2),
        at=ago(days=7),
        mode="off",
        champion="champion",
        threshold=0.99,
    )
    played(folder, served(3000, seed=3), challenger="another", thresholds=wrong, at=ago(days=6))
    played(folder, served(3000, seed=3), champion="an older champion", thresholds=wrong, at=ago(days=5))
    second = played(folder, served(3000, seed=4), 0.5, at=ago(days=4))
    # A replica that was not deployed anew yet.
    third = played(folder, served(500, seed=5), 0.1, at=ago(days=4))
    result = run(folder)
    assert result["verdict"] == "keep going" and "contains zero" in result["reason"]
    early, late = result["shares"]
    assert (early["share"], late["share"]) == (0.1, 0.5)
    assert (
        early["since"] == f"{ago(days=8):%Y-%m-%d %H:%M}" and late["since"] == f"{ago(days=4):%Y-%m-%d %H:%M}"
    )
    assert result["since"] == early["since"]
    for at, role in enumerate(roles.ROLES):
        assert late["entities"][role] == second[at].entity.nunique()
        assert early["entities"][role] == len({*first[at].entity, *third[at].entity})
        of = {*first[at].entity, *second[at].entity, *third[at].entity}
        assert result["entities"][role] == len(of)  # whom the ramp moved is of both
    assert [day["day"] for day in result["days"]] == [
        f"{ago(days=4):%Y-%m-%d}"
    ]  # there are too few before it
    assert "A/B, by share: 0.1 since " in experiment.text(result)


def test_rows_that_the_challenger_failed_to_answer_stay_its_own(folder: Path) -> None:
    """The champion answers them. If they were the champion's, the challenger would be spared its hardest rows."""
    _, challenger = played(folder, served(3000))
    log(folder, params(), challenger.head(900).assign(probability=0.0, outcome=1), **ROUTED)
    result = run(folder)
    assert result["fallback"] == 900 and result["cost"]["challenger"] > result["cost"]["champion"] + 1
    assert result["entities"]["challenger"] == challenger.entity.nunique()
    assert "The champion answered 900 rows for the challenger, which failed." in experiment.text(result)


def test_a_broken_assignment_or_too_few_labels_are_no_verdict(folder: Path) -> None:
    champion, challenger = played(folder, served(2000), labels=0.01)
    needed = run(folder)
    assert needed["verdict"] == "keep going" and "50 are needed" in needed["reason"]
    routing = ROUTED | {"share": 0.2}
    log(folder, params(), challenger, "challenger", **routing)
    log(folder, params(), champion, **routing)
    assert "sample ratio mismatch" in run(folder)["reason"]


def test_the_picture_has_a_point_for_each_day_and_at_most_sixty(folder: Path) -> None:
    for day in range(70):
        played(folder, served(600, seed=day), 0.1 if day < 20 else 0.5, at=ago(days=70 - day))
    found = run(folder)["days"]
    assert 20 <= len(found) <= 60 and found[-1]["day"] == f"{ago(days=1):%Y-%m-%d}"
    assert found == sorted(found, key=lambda day: day["day"])
    widths = [day["high"] - day["low"] for day in found]
    assert widths[-1] < widths[0] / 2
    assert (folder / "reports/experiment.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("mode", "share", "text"),
    [
        (
            "off",
            0,
            "deploy/staging/release.env has CHALLENGER_MODE=off, and an experiment needs ab or shadow: `uv run tabloop release set ",
        ),
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
