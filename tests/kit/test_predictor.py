"""Neighbours are independent: rows, clients, champion and challenger. Real graphs that fail, answer NaN or are slow."""

import asyncio
import inspect
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import onnx
import onnxruntime
import pytest
from conftest import wait_for
from fastapi import FastAPI
from fastapi.testclient import TestClient
from onnx import TensorProto, helper
from prometheus_client import REGISTRY
from tabloop.cli import UserError
from tabloop.onnx_model import FILE
from tabloop.params import Schema
from tabloop.serving import create_app, served_model, shadow
from tabloop.serving.breaker import Breaker
from tabloop.serving.predictor import Predictor
from tabloop.serving.served_model import FAILURES, SLOW, SLOW_LIMIT, ServedModel

from .test_serving import FEATURES, LOOKED_UP, ROW, Models, graph, models, settings, store  # noqa: F401

BAD = ROW | {"variant": "no number"}  # a graph with number_in="variant" raises
PARTIAL = {"made": {"number_in": "variant"}}
SCHEMA = Schema.model_validate({"entity": "customer", "target": {"name": "returned"}, "request": FEATURES})
DETAIL = "the model can't score this row"


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def rows(number: int) -> list[dict[str, Any]]:
    """Rows of different probability."""
    return [ROW | {"customer": f"c{i}", "label": i / number - 0.5} for i in range(number)]


def logged(folder: Path) -> "duckdb.DuckDBPyRelation":
    return duckdb.read_parquet(f"{folder}/log/predictions/*/*.parquet")


@pytest.mark.parametrize("mode", ["off", "shadow", "ab"])
def test_a_row_that_the_graph_can_not_score_fails_alone(
    models: Models,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    mode: str,
) -> None:
    folder = models("champion", "challenger", **PARTIAL)
    batch = rows(1200)
    bad = {0, 7, 8, 499, 500, 1199}
    for at in bad:
        batch[at] |= {"variant": "no number"}
    unscored = counted("unscored_rows_total")
    with TestClient(
        create_app("kit", settings(folder, challenger_mode=mode, challenger_share=0.5))
    ) as client:
        good = client.post(
            "/predict/batch", json=[row for at, row in enumerate(batch) if at not in bad]
        ).json()
        found = client.post("/predict/batch", json=batch)
        assert found.status_code == 200
        assert [a.get("detail") for a in found.json()] == [
            DETAIL if at in bad else None for at in range(1200)
        ]
        rest = [answer for at, answer in enumerate(found.json()) if at not in bad]
        for name in (
            "probability",
            "variant",
            "model_version",
            "prediction",
        ):  # its neighbours are as without it
            assert [a[name] for a in rest] == [a[name] for a in good]
        assert {a["variant"] for a in rest} == ({"champion", "challenger"} if mode == "ab" else {"champion"})
        for path, body in (("/predict", BAD), ("/predict/batch", [BAD, BAD])):
            refused = client.post(path, json=body)
            assert refused.status_code == 500 and refused.json() == {"detail": DETAIL}
        assert client.get("/health/ready").status_code == 200  # what clients send makes no service unready
    assert counted("unscored_rows_total") == unscored + len(bad) + 3
    assert capsys.readouterr().err.count("serve: champion: a row can't be scored") == 1
    ids = {answer["prediction_id"] for answer in (*good, *rest)}
    served = logged(folder).filter("variant = 'champion'" if mode == "shadow" else "true").fetchall()
    assert len(served) == len(ids) == len(good) + len(rest)  # each once, none of a row that failed


def test_of_rows_that_were_scored_together_the_bad_one_fails_alone(models: Models) -> None:  # noqa: F811
    """One row a request, all in one turn of the event loop, hence in one call of the graph."""
    folder = models("champion", **PARTIAL)

    async def scene() -> list[Any]:
        predictor = Predictor(settings(folder, prediction_log=""), "kit")
        asked = [row | (BAD if at in (3, 50) else {}) for at, row in enumerate(rows(64))]
        completed = [await predictor.complete(row) for row in asked]
        return await asyncio.gather(*(predictor.answer(row) for row in completed), return_exceptions=True)

    found = asyncio.run(scene())
    assert [at for at, answer in enumerate(found) if isinstance(answer, Exception)] == [3, 50]
    assert {found[at].status for at in (3, 50)} == {500}
    scores = [json.loads(answer)["probability"] for answer in found if isinstance(answer, bytes)]
    assert scores == sorted(scores) and len(set(scores)) == 62  # each its own answer


def test_nan_and_what_is_no_probability_never_reach_a_client(
    models: Models,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = models("champion", made={"score": "Sqrt"})  # NaN below 0, more than 1 above 1
    wrong = [ROW | {"label": value} for value in (-1, 4, None)]
    with TestClient(create_app("kit", settings(folder, prediction_log=""))) as client:
        for row in wrong:
            refused = client.post("/predict", json=row)
            assert refused.status_code == 500 and refused.json() == {"detail": DETAIL}
        found = client.post("/predict/batch", json=[ROW, *wrong, ROW | {"label": 0.25}]).json()
        assert [a.get("probability") for a in found] == [pytest.approx(0.5**0.5), None, None, None, 0.5]
        # A sum in float32 may be a little more than 1.
        assert client.post("/predict", json=ROW | {"label": 1.000001}).json()["probability"] == 1
    assert "the graph's output is no probability: [nan]" in capsys.readouterr().err


def predictor_of(app: Any) -> Predictor:
    ready = next(route.endpoint for route in app.routes if getattr(route, "path", "") == "/health/ready")
    found = inspect.getclosurevars(ready).nonlocals["predictor"]
    assert isinstance(found, Predictor)
    return found


def test_a_row_for_which_the_graph_gives_two_scores_fails_alone(models: Models) -> None:  # noqa: F811
    folder = models("champion", "challenger")
    twice = [
        helper.make_node("Sigmoid", ["label"], ["column"]),
        helper.make_node("Reshape", ["column", "flat"], ["once"]),
        helper.make_node("Greater", ["once", "bar"], ["high"]),
        helper.make_node("Compress", ["once", "high"], ["again"], axis=0),
        helper.make_node("Concat", ["once", "again"], ["probability"], axis=0),
    ]
    for role in ("champion", "challenger"):
        file = folder / role / FILE
        made = onnx.load(file)
        del made.graph.node[:]
        made.graph.node.extend(twice)
        made.graph.initializer.append(helper.make_tensor("bar", TensorProto.FLOAT, [1], [0.999]))
        onnx.save(made, file)
    high = ROW | {"label": 50.0}
    for mode in ("off", "shadow", "ab"):
        chosen = settings(folder, prediction_log="", challenger_mode=mode, challenger_share=0.5)
        with TestClient(create_app("kit", chosen)) as client:
            assert client.get("/health/ready").status_code == 200
            for path in ("/predict", "/explain"):
                assert client.post(path, json=high).status_code == 500
                assert client.post(path, json=ROW).status_code == 200
            for batch in ([high, ROW], [ROW, high, *rows(400), high], [high, *rows(15)]):
                found = client.post("/predict/batch", json=batch).json()
                assert [a.get("detail") for a in found] == [DETAIL if r is high else None for r in batch]
                scores = [a["probability"] for a in found if "probability" in a]
                assert scores[-14:] == sorted(scores[-14:])


def test_a_graph_whose_answer_is_no_probability_is_not_ready(models: Models) -> None:  # noqa: F811
    app = create_app("kit", settings(models("champion"), prediction_log=""))
    champion = predictor_of(app).champion
    with TestClient(app) as client:
        assert client.get("/health/ready").status_code == 200
        champion.session = onnxruntime.InferenceSession(graph(SCHEMA, score="Sqrt"))
        for label, status in ((-1.0, 503), (4.0, 503), (0.25, 200)):
            champion.card.example["label"] = label
            found = client.get("/health/ready")
            assert found.status_code == status
            assert status == 200 or "is no probability" in found.json()["detail"]
        champion.threshold, champion.version = 0.5, 'a "quoted" one'  # an answer that is no JSON
        found = client.get("/health/ready")
        assert found.status_code == 503 and "Invalid JSON" in found.json()["detail"]


@pytest.mark.parametrize("label", [-1.0, 4.0])
def test_a_graph_whose_answer_is_no_probability_is_refused_at_start(models: Models, label: float) -> None:  # noqa: F811
    folder = models("champion", made={"score": "Sqrt"}, example=ROW | {"label": label})
    with pytest.raises(UserError, match=r"^champion: .* can't be served: .* no probability: .*") as caught:
        create_app("kit", settings(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("threshold", wrong) for wrong in (math.nan, math.inf, -0.5, 2, "high", "null")),
        *(("version", wrong) for wrong in ("", 'a"b', "a\nb", "../x", "x" * 65, 7)),
        (
            "metrics",
            dict.fromkeys(("auc", "auc_low", "auc_high", "average_precision", "brier"), math.nan),
        ),
        ("ranges", {"label": [0, math.inf]}),
    ],
)
def test_a_card_that_can_not_be_served_is_refused_at_start(models: Models, field: str, value: Any) -> None:  # noqa: F811
    folder = models("champion")
    path = folder / "champion/model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(UserError, match=rf"^champion: .*model\.json: {field}") as caught:
        create_app("kit", settings(folder))
    assert "\n" not in str(caught.value)


def beside_partial(models: Models, **options: Any) -> FastAPI:  # noqa: F811
    """The service of a champion, and of a challenger that can't score some rows."""
    models("champion")
    return create_app("kit", settings(models("challenger", **PARTIAL), **options))


def test_a_challenger_that_keeps_failing_rests_and_is_tried_again(
    models: Models,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = beside_partial(models, challenger_mode="ab", challenger_share=1, prediction_log="")
    breaker = predictor_of(app).challenger.breaker  # type: ignore[union-attr]
    errors = counted("challenger_errors_total")

    def variant(row: dict[str, Any]) -> str:
        return str(client.post("/predict", json=row).raise_for_status().json()["variant"])

    with TestClient(app) as client:
        for _ in range(20):  # failures between answers: it goes on
            assert (variant(BAD), variant(ROW)) == ("champion", "challenger")
        assert counted("challenger_errors_total") == errors + 20
        assert {variant(BAD) for _ in range(50)} == {"champion"}
        assert counted("challenger_errors_total") == errors + 20 + FAILURES
        assert variant(ROW) == "champion" and breaker.resting  # not asked, even for what it can score
        assert (
            client.get("/model").json()["challenger_error"].startswith("challenger: a row can't be scored: ")
        )
        breaker.asked_from = 0.0  # when the rest is over
        assert variant(ROW) == "challenger"
        found = client.post("/predict/batch", json=[ROW, BAD, ROW]).json()
        assert [answer["variant"] for answer in found] == ["challenger", "champion", "challenger"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("serve: challenger: ")


def test_in_the_shadow_a_challenger_that_fails_rests_and_is_tried_again(
    models: Models,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    models("champion")
    folder = models("challenger", **PARTIAL)
    app = create_app("kit", settings(folder, challenger_mode="shadow"))
    breaker = predictor_of(app).challenger.breaker  # type: ignore[union-attr]
    names = ("challenger_errors_total", "shadow_dropped_total", "shadow_predictions_total")
    before = [counted(name) for name in names]

    def since() -> list[float]:
        return [counted(name) - number for name, number in zip(names, before, strict=True)]

    with TestClient(app) as client:
        batch = client.post("/predict/batch", json=[ROW, BAD, ROW])
        assert len(batch.json()) == 3
        wait_for(lambda: since() == [1, 0, 2])
        client.post("/predict/batch", json=[BAD] * 5)
        wait_for(lambda: breaker.resting)
        assert client.post("/predict", json=ROW).json()["variant"] == "champion"
        wait_for(lambda: since() == [6, 1, 2])
        breaker.asked_from = 0.0
        last = client.post("/predict", json=ROW).json()
    assert since() == [6, 1, 3]  # it had the time before the end
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("serve: challenger: ")
    found = logged(folder).filter("variant = 'challenger'").project("prediction_id").fetchall()
    assert {id for (id,) in found} == {
        batch.json()[0]["prediction_id"],
        batch.json()[2]["prediction_id"],
        last["prediction_id"],
    }


def test_long_texts_do_not_wait_for_the_shadow_without_end(
    models: Models,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = create_app("kit", settings(models("champion", "challenger"), challenger_mode="shadow"))
    behind = predictor_of(app).shadow
    assert behind
    score, go = behind.challenger.score_apart, threading.Event()
    monkeypatch.setattr(behind.challenger, "score_apart", lambda *rows: go.wait(20) and score(*rows))
    monkeypatch.setattr(shadow, "MAX_TEXTS", 3000)
    before = counted("shadow_dropped_total")
    with TestClient(app.entry()) as client:
        for _ in range(5):
            client.post("/predict", json=ROW | {"customer": "c" * 1000}).raise_for_status()
        assert counted("shadow_dropped_total") - before == 2
        go.set()
        wait_for(lambda: behind.waiting == behind.characters == 0)


def test_what_fails_for_all_rows_of_a_turn_is_an_answer_to_each(
    models: Models,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = create_app("kit", settings(models("champion")))

    def fail(*_: object) -> None:
        raise OverflowError

    monkeypatch.setattr(predictor_of(app), "count_unknown", fail)

    async def ask() -> list[Any]:
        answers = [predictor_of(app).answer(dict(ROW)) for _ in range(3)]
        return await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), 20)

    assert [type(answer) for answer in asyncio.run(ask())] == [OverflowError] * 3


@pytest.mark.parametrize("mode", ["off", "shadow", "ab"])
def test_the_log_says_of_each_row_how_it_was_routed(models: Models, mode: str) -> None:  # noqa: F811
    folder = models("champion", "challenger")
    chosen = settings(folder, challenger_mode=mode, challenger_share=0.25)
    with TestClient(create_app("kit", chosen)) as client:
        client.post("/predict/batch", json=rows(200)).raise_for_status()
        client.post("/predict", json=ROW).raise_for_status()
    found = logged(folder).project("mode, share, champion, challenger, variant").distinct().order("variant")
    expected: list[Any] = ["champion"] if mode == "off" else ["challenger", "champion"]
    share = 0.25 if mode == "ab" else None
    other = None if mode == "off" else "challenger"
    assert found.fetchall() == [(mode, share, "champion", other, variant) for variant in expected]


def test_where_the_challenger_can_not_be_loaded_no_row_is_of_an_experiment(models: Models) -> None:  # noqa: F811
    folder = models("champion")
    with TestClient(
        create_app("kit", settings(folder, challenger_mode="ab", challenger_share=0.5))
    ) as client:
        client.post("/predict", json=ROW).raise_for_status()
    assert logged(folder).project("mode, share, champion, challenger").fetchall() == [
        ("off", None, "champion", None)
    ]


def test_a_challenger_may_be_slow_now_and_then(models: Models) -> None:  # noqa: F811
    """What counts is the sum of the time beyond the limit, from which quick calls take some away."""
    challenger = ServedModel("challenger", models("challenger") / "challenger")
    for _ in range(100):
        challenger.took(SLOW + SLOW_LIMIT / 2)
        for _ in range(5):
            challenger.took(SLOW / 2)
    assert not challenger.breaker.resting and challenger.breaker.error is None
    for _ in range(10):
        challenger.took(SLOW + SLOW_LIMIT / 9)
    assert challenger.breaker.resting and "too slow" in (challenger.breaker.error or "")


def test_rows_that_can_not_be_scored_do_not_make_a_challenger_slow(
    models: Models,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are scored one by one, which takes long. Else a client could end an A/B test for an hour."""
    monkeypatch.setattr(served_model, "SLOW", 0.0)
    models("champion")
    folder = models("challenger", **PARTIAL)
    predictor = Predictor(settings(folder, challenger_mode="ab", challenger_share=1.0), "kit")
    challenger, ids = predictor.challenger, predictor.ids.draw(200)
    assert (
        challenger and all(predictor.predict(ids, [BAD | {"customer": "c"}] * 200)) and challenger.slow == 0
    )
    challenger.breaker.asked_from = 0.0  # it rests, as it failed
    assert all(predictor.predict(ids, [ROW | {"customer": "c"}] * 200)) and challenger.slow > 0


def test_a_breaker_says_one_line_however_often_it_opens(capsys: pytest.CaptureFixture[str]) -> None:
    breaker = Breaker(0.05, 2)
    for _ in range(3):
        breaker.failed("it fails")
        assert not breaker.resting
        breaker.failed("it fails again")
        assert breaker.resting and breaker.error == "it fails again"
        time.sleep(0.06)
        assert not breaker.resting
    breaker.failed("one")
    breaker.failures = 0  # it worked
    breaker.failed("two")
    assert not breaker.resting
    breaker.quiet_until = 0.0  # long after
    assert breaker.error is None
    breaker.failed("it fails anew")
    assert capsys.readouterr().err == "serve: it fails\nserve: it fails anew\n"
