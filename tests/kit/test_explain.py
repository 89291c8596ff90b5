"""Permutation importance: what it is on graphs whose features are known, its interval, and how it stays fast."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tabloop import explain
from tabloop.metrics import auc
from tabloop.onnx_model import FILE, MAX
from tabloop.params import Schema

from .test_card import CARD
from .test_serving import graph

Candidate = Callable[..., Schema]


@pytest.fixture
def candidate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Candidate:
    """`candidate("noise", number_in="word")`: models/candidate of `label`, by whose sigmoid it predicts, and these columns."""

    def candidate(*noise: str, **made: Any) -> Schema:
        words = {made["number_in"]: {"type": "category"}} if made else {}
        columns = {name: {"type": "number"} for name in ("label", *noise)} | words
        schema = Schema.model_validate({"target": {"name": "returned"}, "request": columns})
        CARD.model_copy(update={"schema_": schema}).write(tmp_path)
        (tmp_path / FILE).write_bytes(graph(schema, **made))
        monkeypatch.setattr(explain, "CANDIDATE", tmp_path)
        return schema

    return candidate


def holdout(rows: int, seed: int, schema: Schema, share: float = 0.3) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows whose target depends on `label` alone."""
    random = np.random.default_rng(seed)
    table = pd.DataFrame({name: random.normal(size=rows) for name in schema.features})
    noisy = table["label"] + random.normal(size=rows)
    return table, (noisy > np.quantile(noisy, 1 - share)).astype(int).to_numpy()


def test_a_feature_loses_what_the_model_has_by_it_and_one_that_is_not_used_nothing(
    candidate: Candidate,
) -> None:
    rows, target = holdout(2000, 0, candidate("before", "after"))
    found = explain.importance(rows, target, 0.95)
    assert [one["feature"] for one in found] == ["label", "before", "after"]
    gain = auc(target, rows["label"].to_numpy()) - 0.5  # the only feature: without it the order is chance
    assert found[0]["low"] < gain < found[0]["high"] and found[0]["high"] - found[0]["low"] < 0.1
    for one in found[1:]:
        assert (one["value"], one["low"], one["high"], one["rows"]) == (0, 0, 0, 2000)
    assert explain.importance(rows, target, 0.95) == found
    wider = explain.importance(rows, target, 0.99)[0]
    assert wider["low"] < found[0]["low"] and wider["value"] == found[0]["value"]


def test_the_values_of_a_category_are_drawn_as_they_are(candidate: Candidate) -> None:
    schema = candidate(number_in="word")  # the graph fails at a word that is none of these
    rows, target = holdout(1000, 1, schema)
    rows["word"] = np.where(target == 1, "30", "1")  # it says more than `label`
    assert [one["feature"] for one in explain.importance(rows, target, 0.95)] == ["word", "label"]


def test_about_95_percent_of_the_intervals_hold_the_loss_of_the_population(candidate: Candidate) -> None:
    schema = candidate()
    whole, labels = holdout(200_000, 99, schema)
    truth = auc(labels, whole["label"].to_numpy()) - 0.5
    held = []
    for seed in range(150):
        rows, target = holdout(300, seed, schema)
        (found,) = explain.importance(rows, target, 0.95)
        held.append(found["low"] <= truth <= found["high"])
    assert 0.89 < np.mean(held) < 0.995


def test_a_wide_table_is_measured_on_fewer_rows_and_keeps_the_rarer_class(candidate: Candidate) -> None:
    schema = candidate(*(f"x{i}" for i in range(39)))
    rows, target = holdout(30_000, 2, schema, share=0.005)
    found = explain.importance(rows, target, 0.95)
    assert len(found) == 40 and {one["rows"] for one in found} == {explain.SCORED_ROWS // (3 * 40)}
    at = explain.sample(target, 600, np.random.default_rng(0))
    assert target[at].sum() == target.sum() == 150 and len(at) == 600 and (np.diff(at) > 0).all()
    gain = auc(target, rows["label"].to_numpy()) - 0.5
    assert found[0]["feature"] == "label" and found[0]["low"] < gain < found[0]["high"]
    assert found[0]["high"] - found[0]["low"] < 0.15  # of 600 rows at random 3 would be positive
    many = explain.sample(np.arange(1000) % 2, 100, np.random.default_rng(0))
    assert len(many) == 100 and (many % 2).sum() == 50


def test_with_too_few_of_a_class_the_interval_says_nothing(candidate: Candidate) -> None:
    rows, target = holdout(100, 3, candidate(), share=0.05)
    (found,) = explain.importance(rows, target, 0.95)
    assert (found["low"], found["high"]) == (-1, 1)


def test_greater_numbers_than_float32_has_are_no_harm(candidate: Candidate) -> None:
    rows, target = holdout(200, 4, candidate())
    rows.loc[:5, "label"] = 2 * MAX
    assert np.isfinite(explain.importance(rows, target, 0.95)[0]["value"])
