"""Replay: real graphs on real rows of a prediction log, beside figures computed here."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper
from tabloop import replay, roles, rollout
from tabloop.card import ModelCard
from tabloop.cli import UserError
from tabloop.metrics import auc
from tabloop.onnx_model import FILE
from tabloop.params import Params, Schema

from . import monitored
from .conftest import LOG_COLUMNS
from .monitored import install, log, params, served

OURS = "kit/returned"
NOW = datetime(2026, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monitored.enter(tmp_path, monkeypatch)
    monkeypatch.setattr(roles, "CANDIDATE", tmp_path / "models/candidate")
    monkeypatch.setattr(roles, "EVALUATION", tmp_path / "metrics/evaluation.json")
    monkeypatch.setattr(replay, "REPORT", tmp_path / "reports/replay.json")
    return tmp_path


def scorer(schema: Schema, column: str, weight: float) -> bytes:
    """A graph whose probability is the sigmoid of weight * column."""
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT if c.numeric else TensorProto.STRING, [None, 1])
        for n, c in schema.features.items()
    ]
    nodes = [
        helper.make_node("Mul", [column, "w"], ["product"]),
        helper.make_node("Sigmoid", ["product"], ["both"]),
        helper.make_node("Reshape", ["both", "shape"], ["probability"]),
    ]
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, [], [weight]),
        helper.make_tensor("shape", TensorProto.INT64, [1], [-1]),
    ]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"])]
    graph = helper.make_graph(nodes, "scorer", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


def model(
    folder: Path, role: Any, weight: float, chosen: Params | None = None, column: str = "amount", **card: Any
) -> ModelCard:
    chosen = chosen or params()
    (folder / "models" / role).mkdir(parents=True)
    (folder / "models" / role / FILE).write_bytes(scorer(chosen.schema_, column, weight))
    return install(folder, role, chosen, source_table=OURS, **card)


def rows(n: int = 400, seed: int = 0) -> pd.DataFrame:
    """Rows whose outcome says something of the amount: the higher, the more often positive."""
    found = served(n, seed)
    amount = np.random.default_rng(seed + 1).normal(found.outcome, 1.5)
    return found.assign(amount=amount)


def test_both_models_are_measured_on_the_same_rows_each_by_its_own_threshold(folder: Path) -> None:
    candidate, champion = model(folder, "candidate", 1.0, threshold=0.6), model(folder, "champion", -0.1)
    known = rows()
    log(folder, params(), known, source_table=OURS, at=NOW, labels=0.75)
    ids = log(folder, params(), other := rows(60, 3), source_table=OURS, at=NOW)
    log(folder, params(), other, "challenger", source_table=OURS, ids=ids, at=NOW + timedelta(seconds=1))
    log(folder, params(), rows(90, 5), source_table="another/table", at=NOW)
    result = replay.replay(params(), candidate, champion)
    assert json.loads(replay.REPORT.read_text()) == result
    seen = pd.concat([known.head(300), other])  # labelled ones of this table, and those of the shadow once
    target, amount = seen.outcome.to_numpy(), seen.amount.to_numpy()
    assert (result["rows"], result["positives"], result["unknown"]) == (360, int(target.sum()), [])
    assert result["auc"]["candidate"]["value"] == pytest.approx(auc(target, amount))
    assert result["auc"]["champion"]["value"] == pytest.approx(auc(target, -amount))
    gap = result["auc"]["difference"]
    assert gap["value"] == pytest.approx(auc(target, amount) - auc(target, -amount))
    assert result["verdict"] == "better" and 0 < gap["low"] < gap["value"] < gap["high"]
    acts, acted = 1 / (1 + np.exp(-amount)) >= 0.6, 1 / (1 + np.exp(0.1 * amount)) >= 0.5
    assert result["changed_decisions"] == pytest.approx((acts != acted).mean())
    for role, decided in (("candidate", acts), ("champion", acted)):
        errors = (decided & (target == 0)).sum() + 5 * (~decided & (target == 1)).sum()
        assert result["cost_per_row"][role]["value"] == pytest.approx(errors / 360)
    text = replay.text(result)
    assert "candidate candidate is significantly better than champion champion" in text
    assert f"- decisions that change: {result['changed_decisions']:.1%}" in text


def test_a_candidate_that_is_worse_in_production_may_not_challenge(folder: Path) -> None:
    from .test_card import METRICS

    champion = model(folder, "champion", 1.0)
    model(folder, "candidate", -1.0)
    log(folder, params(), rows(), source_table=OURS)
    evaluation = METRICS | {"version": "candidate", "gate": {"passed": True, "reason": "fine"}}
    (folder / "metrics").mkdir()
    (folder / "metrics/evaluation.json").write_text(
        json.dumps(evaluation | {"champion": {"version": champion.version}, "threshold": 0.5})
    )
    with pytest.raises(
        UserError, match=r"^replay: candidate candidate is significantly worse than"
    ) as caught:
        rollout.challenge(params())
    assert "on 400 labelled production rows; reports/replay.json" in str(caught.value)
    assert "\n" not in str(caught.value) and not (folder / "models/challenger").exists()
    lenient = params(gates=[{"metric": "auc", "against": "champion", "margin": 0.9}])
    result = replay.replay(
        lenient, *(ModelCard.read(folder / f"models/{r}") for r in ("candidate", "champion"))
    )
    assert result["verdict"] == "worse" and not result["refused"]
    assert "significantly worse than champion champion, within the margin of the gate: " in replay.text(
        result
    )


@pytest.mark.parametrize("name", ["tenure", *LOG_COLUMNS])
def test_a_column_that_the_log_does_not_have_is_said_and_decides_nothing(folder: Path, name: str) -> None:
    """Whatever it is called; a champion that has a column of that name is scored by it."""
    request = {"amount": {"type": "number"}, name: {"type": "number"}}
    chosen = params(schema={"request": request, "views": {}, "entity": None}, evaluate=EVALUATE)
    old = params(
        schema={"request": {"amount": {"type": "number"}}, "views": {}, "entity": None}, evaluate=EVALUATE
    )
    candidate = model(folder, "candidate", 1.0, chosen, column=name)
    champion = model(folder, "champion", 1.0, old)
    log(folder, old, rows(), source_table=OURS)
    result = replay.replay(old, candidate, champion)
    assert result["unknown"] == [name] and result["verdict"] == "none" and result["rows"] == 400
    assert f"champion champion, as the log has no {name} yet: AUC " in replay.text(result)
    log(folder, chosen, rows(500, 7).assign(**{name: 2.0}), source_table=OURS)
    assert replay.replay(chosen, candidate, champion)["unknown"] == []


EVALUATE = {"confidence": 0.95, "cost": {"false_positive": 1, "false_negative": 5}, "segments": []}


def test_rows_of_which_the_candidate_may_have_learnt_count_only_where_there_are_too_few_others(
    folder: Path,
) -> None:
    candidate = model(folder, "candidate", 1.0, days=("2026-01-01", "2026-03-04"))
    champion = model(folder, "champion", 0.5)
    log(folder, params(), rows(), source_table=OURS, at=NOW)
    result = replay.replay(params(), candidate, champion)
    assert (result["rows"], result["learnt"]) == (400, 400)
    assert "400 of the rows are not newer than the candidate's training rows" in replay.text(result)
    assert result["verdict"] == "no significant difference" and result["auc"]["difference"]["value"] == 0
    log(folder, params(), rows(150, 3), source_table=OURS, at=NOW + timedelta(days=1))
    result = replay.replay(params(), candidate, champion)
    assert (result["rows"], result["learnt"]) == (150, 0) and "learnt" not in replay.text(result)


def test_of_many_rows_the_newest_are_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "ROWS", 100)
    candidate, champion = model(folder, "candidate", 1.0), model(folder, "champion", 0.5)
    log(folder, params(), rows(), source_table=OURS, at=NOW - timedelta(days=9))
    log(folder, params(), new := rows(100, 3), source_table=OURS, at=NOW)
    result = replay.replay(params(), candidate, champion)
    assert (result["rows"], result["positives"]) == (100, int(new.outcome.sum()))
    assert replay.replay(params(), candidate, champion) == result


def test_without_a_log_or_with_few_labels_it_says_so_in_a_line(folder: Path) -> None:
    candidate, champion = model(folder, "candidate", 1.0), model(folder, "champion", 0.5)
    said = replay.text(replay.replay(params(), candidate, champion))
    assert (
        said.startswith("replay: nothing to compare on: there is no prediction log in ") and "\n" not in said
    )
    log(folder, params(), few := rows(30), source_table=OURS)
    said = replay.text(replay.replay(params(), candidate, champion))
    labelled = f"30 labelled rows, {few.outcome.sum()} of them positive: 20 of each class are needed"
    assert said == f"replay: nothing to compare on: {labelled}"
    (folder / "log/predictions/date=2026-01-01").mkdir(parents=True)
    (folder / "log/predictions/date=2026-01-01/broken.parquet").write_text("no Parquet")
    with pytest.raises(UserError, match="can't be read"):
        replay.replay(params(), candidate, champion)
