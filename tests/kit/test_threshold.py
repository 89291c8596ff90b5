"""The threshold: chosen on rows that the scoring model has not seen, and never on those it is reported on."""

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from tabloop import threshold
from tabloop.candidate import version_of
from tabloop.cli import UserError
from tabloop.metrics import Curve, errors_cost
from tabloop.onnx_model import model_inputs
from tabloop.params import Params, Schema
from tabloop.split import parts
from tabloop.threshold import FOLDS, PERIODS, choose_threshold

from .conftest import PARAMS

SCHEMA = {"key": [], "entity": "who", "timestamp": "at", "target": {"name": "bought"}, "views": {}}
NUMBERS = {f"x{i}": {"type": "number"} for i in range(4)}


def settings(cost: float = 5, **schema: Any) -> Params:
    """Params of `rows`; a false positive costs 1, a false negative `cost`."""
    evaluate = {"confidence": 0.95, "cost": {"false_positive": 1, "false_negative": cost}}
    return Params.model_validate(
        PARAMS | {"schema": SCHEMA | {"request": NUMBERS} | schema, "evaluate": evaluate}
    )


def rows(n: int, seed: int = 0, signal: float = 0.3) -> pd.DataFrame:
    """Rows in no order of time, two or three of each time, of which a fifth is positive."""
    random = np.random.default_rng(seed)
    numbers = {name: random.normal(size=n) for name in NUMBERS}
    bought = (signal * numbers["x0"] + random.normal(size=n) > 0.85).astype(int)
    at = pd.Timestamp("2026-01-01") + pd.to_timedelta(random.permutation(n) // 3, unit="h")
    return pd.DataFrame(
        {"who": random.integers(0, n // 4, n).astype(str), "at": at, **numbers, "bought": bought}
    )


class Linear:
    """Least squares: a model that is fitted in no time. It remembers the rows."""

    fitted: ClassVar[list["Linear"]] = []

    def __init__(
        self, features: pd.DataFrame, target: np.ndarray, schema: Schema, params: dict[str, Any]
    ) -> None:
        self.seen, self.asked = features.index, features.index[:0]
        self.weights = np.linalg.lstsq(self.with_one(features), target, rcond=None)[0]
        Linear.fitted.append(self)

    @staticmethod
    def with_one(features: pd.DataFrame) -> np.ndarray:
        return np.c_[np.ones(len(features)), features.to_numpy(float)]

    def predict_proba(self, features: pd.DataFrame) -> np.ndarray:
        self.asked = features.index
        positive = (self.with_one(features) @ self.weights).clip(0, 1)
        return np.stack([1 - positive, positive], axis=1)


@pytest.fixture(autouse=True)
def none_fitted() -> None:
    Linear.fitted = []


@pytest.mark.parametrize("signal", [0.0, 0.3])
def test_a_threshold_that_the_holdout_chose_looks_better_than_it_is_and_ours_does_not(signal: float) -> None:
    params = settings()
    cost, gaps, paid = params.evaluate.cost, [], []
    for seed in range(60):
        train, holdout, fresh = (rows(n, 3 * seed + i, signal) for i, n in enumerate((300, 60, 3000)))
        model = Linear(model_inputs(train, params.schema_), train.bought.to_numpy(), params.schema_, {})
        score = {
            len(part): model.predict_proba(model_inputs(part, params.schema_))[:, 1]
            for part in (holdout, fresh)
        }
        in_sample = Curve.of(holdout.bought.to_numpy(), score[60]).cheapest_threshold(cost)
        ours = choose_threshold(Linear, train, params)
        reported, real = (
            [errors_cost(part.bought.to_numpy(), score[len(part)], t, cost).mean() for t in (in_sample, ours)]
            for part in (holdout, fresh)
        )
        gaps.append(np.subtract(real, reported))
        paid.append(real)
    gap, error = np.mean(gaps, axis=0), np.std(gaps, axis=0) / np.sqrt(len(gaps))
    assert gap[0] > 5 * error[0] and gap[0] > 0.03  # reported as cheaper than it is
    assert abs(gap[1]) < 2 * error[1] and abs(gap[1]) < gap[0] / 4
    assert np.mean(paid, axis=0)[1] < np.mean(paid, axis=0)[0]  # and the choice is the better one


def test_each_row_is_scored_by_a_model_of_other_times(capsys: pytest.CaptureFixture[str]) -> None:
    train = rows(400)
    threshold = choose_threshold(Linear, train, settings())
    assert len(Linear.fitted) == FOLDS and sum(len(model.seen) for model in Linear.fitted) == (
        FOLDS - 1
    ) * len(train)
    score = pd.Series(np.nan, train.index)
    period = (train["at"].rank(method="min").sub(1) * PERIODS // len(train)).astype(int)
    for model in Linear.fitted:
        assert not set(train["at"][model.seen]) & set(train["at"][model.asked])
        assert period[model.asked].nunique() == PERIODS / FOLDS  # not only of the oldest, or the newest
        assert score[model.asked].isna().all()
        inputs = model_inputs(train.loc[model.asked], settings().schema_)
        score[model.asked] = model.predict_proba(inputs)[:, 1]
    curve = Curve.of(train.bought.to_numpy(), score.to_numpy())
    assert threshold == curve.cheapest_threshold(settings().evaluate.cost)
    said = capsys.readouterr().out
    assert f"costs least on 400 rows of train ({train.bought.sum()} positive)" in said
    assert "scored by models of other times" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("changed", "beside"), [(0.1, "models of earlier rows"), (0.3, "as few parts of the time as folds")]
)
def test_after_a_change_the_threshold_suits_the_model_that_has_seen_it(
    changed: float, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x0 arrives in another unit in the newest rows: who has not seen that gives another threshold, and a dearer one."""

    class Levels(Linear):
        """It takes the two units apart, if it has seen both."""

        @staticmethod
        def with_one(features: pd.DataFrame) -> np.ndarray:
            large = (features.x0.abs() > 10).to_numpy()
            return np.c_[~large, large, features.x0 * ~large, features.x0 / 100 * large]

    params, paid = settings(), []
    for seed in range(20 if changed == 0.1 else 5):
        train, later = rows(3000, 2 * seed, 1.5), rows(3000, 2 * seed + 1, 1.5)
        train.loc[train["at"].rank(method="min") > (1 - changed) * len(train), "x0"] *= 100
        later["x0"] *= 100
        whole = Levels(model_inputs(train, params.schema_), train.bought.to_numpy(), params.schema_, {})
        score = whole.predict_proba(model_inputs(later, params.schema_))[:, 1]
        ours = choose_threshold(Levels, train, params)
        if beside == "as few parts of the time as folds":
            with monkeypatch.context() as patch:
                patch.setattr(threshold, "PERIODS", FOLDS)
                theirs = choose_threshold(Levels, train, params)
        else:
            older = train["at"].rank(method="min") <= 0.75 * len(train)
            known, labels = model_inputs(train[older], params.schema_), train.bought[older].to_numpy()
            early = Levels(known, labels, params.schema_, {})
            scored = early.predict_proba(model_inputs(train[~older], params.schema_))[:, 1]
            curve = Curve.of(train.bought[~older].to_numpy(), scored)
            theirs = curve.cheapest_threshold(params.evaluate.cost)
        target = later.bought.to_numpy()
        paid.append([errors_cost(target, score, t, params.evaluate.cost).mean() for t in (ours, theirs)])
    mean = np.mean(paid, axis=0)
    assert mean[0] < 0.9 * mean[1]


@pytest.mark.parametrize("entity", ["who", None])
def test_without_a_timestamp_a_hash_makes_the_folds(
    entity: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    train = rows(400).drop(columns="at")
    choose_threshold(Linear, train, settings(timestamp=None, entity=entity))
    assert len(Linear.fitted) == FOLDS
    assert sorted(i for model in Linear.fitted for i in model.asked) == list(train.index)
    for model in Linear.fitted:
        assert 0.6 < len(model.asked) * FOLDS / 400 < 1.4 and not set(model.seen) & set(model.asked)
        assert not entity or not set(train.who[model.seen]) & set(train.who[model.asked])
    assert (
        f"400 rows of train ({train.bought.sum()} positive), scored by models of other "
        in capsys.readouterr().out
    )


def test_a_fold_is_left_out_where_the_others_lack_a_class(capsys: pytest.CaptureFixture[str]) -> None:
    train = rows(1000).sort_values("at", ignore_index=True)
    fold = parts(train, settings().schema_, PERIODS) % FOLDS
    train.loc[fold != 0, "bought"] = 0
    choose_threshold(Linear, train, settings())
    assert [set(fold[model.asked]) for model in Linear.fitted] == [{other} for other in range(1, FOLDS)]
    assert f"could score {(fold > 0).sum()} rows of train (0 positive)" in capsys.readouterr().out


@pytest.mark.parametrize(("cost", "expected"), [(5, 1 / 6), (0, 1.0)])
def test_with_few_rows_the_costs_decide(
    cost: float, expected: float, capsys: pytest.CaptureFixture[str]
) -> None:
    train = rows(60)
    assert choose_threshold(Linear, train, settings(cost)) == pytest.approx(expected)
    said = capsys.readouterr().out
    assert "the ratio of the costs" in said and "20 of each class are needed" in said
    assert not Linear.fitted and "could score 0 rows of train (0 positive)" in said


def test_rows_of_one_time_are_one_fold() -> None:
    train = rows(400).assign(at=pd.Timestamp("2026-01-01"))
    assert set(parts(train, settings().schema_, PERIODS) % FOLDS) == {0}
    assert choose_threshold(Linear, train, settings()) == pytest.approx(1 / 6)


def test_probabilities_that_are_not_finite_are_refused() -> None:
    class Broken(Linear):
        def predict_proba(self, features: pd.DataFrame) -> np.ndarray:
            return super().predict_proba(features) * np.nan

    with pytest.raises(UserError, match="not finite"):
        choose_threshold(Broken, rows(400), settings())


def test_the_version_is_of_graph_threshold_and_schema() -> None:
    schema, other = settings().schema_, settings(entity=None).schema_
    versions = [
        version_of(*given)
        for given in ((b"g", 0.5, schema), (b"h", 0.5, schema), (b"g", 0.6, schema), (b"g", 0.5, other))
    ]
    assert len(set(versions)) == 4 and versions[0] == version_of(
        b"g", 0.5, Schema.model_validate(schema.model_dump())
    )


def test_of_many_rows_a_sample_of_all_times_is_scored_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "ROWS", 300)
    many = rows(3000).sort_values("at", ignore_index=True)
    chosen = [choose_threshold(Linear, many, settings()) for _ in range(2)]
    assert chosen[0] == chosen[1]
    scored = [int(place) for model in Linear.fitted[:FOLDS] for place in model.asked]
    assert len(set(scored)) == len(scored) == 300
    thirds = np.bincount(np.array(scored) // 1000, minlength=3)
    assert thirds.min() > 60, thirds
    assert all(model.asked.is_monotonic_increasing for model in Linear.fitted)
