"""The service on graphs made by hand: names, routes, middleware, a challenger that fails, what a model must have."""

import json
import re
import shutil
import sqlite3
import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from conftest import free_port
from fastapi.testclient import TestClient
from onnx import TensorProto, helper
from pydantic import TypeAdapter, ValidationError
from starlette.middleware.base import RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from tabloop import predictions
from tabloop.candidate import example
from tabloop.cli import UserError
from tabloop.onnx_model import FILE
from tabloop.params import Schema
from tabloop.serving import Settings, create_app, serve
from tabloop.serving.app import BATCH_ROWS
from tabloop.serving.model_app import Guard
from tabloop.serving.online_store import entity_key
from tabloop.serving.request import request_columns, row_type
from tabloop.serving.settings import load_settings

from .conftest import orders
from .test_card import CARD

# What the log, pydantic's models and the service's own code call things.
LOG = ["label", "variant", "prediction_id", "model_version", "predicted_at", "date", "received_at"]
NAMES = [*LOG, "entity", "schema", "model_config", "json", "copy", "self", "_row"]
TEXT = ("variant", "prediction_id")
FEATURES: dict[str, dict[str, Any]] = {
    name: {"type": "category" if name in TEXT else "number"} for name in NAMES
}
ROW = {name: "1" if name in TEXT else 0.5 for name in NAMES}

# The same, and `label` is looked up.
REQUEST = {name: column for name, column in FEATURES.items() if name != "label"}
VIEWS = {"profile": {"label": {"type": "number"}}}
LOOKED_UP = Schema.model_validate(
    {"entity": "customer", "target": {"name": "returned"}, "views": VIEWS, "request": REQUEST}
)

Models = Callable[..., Path]


def graph(schema: Schema, *, number_in: str | None = None, score: str = "Sigmoid", slow: int = 0) -> bytes:
    """P(positive) is the sigmoid of `label`: the graph gives NaN where it is missing.

    Args:
        number_in: the graph fails where this text is not a number, which is added to `label`.
        score: another function than the sigmoid, by its name in ONNX.
        slow: rounds of a loop, of about a microsecond each, for each call.
    """
    inputs = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT if column.numeric else TensorProto.STRING, ["n", 1]
        )
        for name, column in schema.features.items()
    ]
    nodes, constants, last = [], [helper.make_tensor("flat", TensorProto.INT64, [1], [-1])], "label"
    if number_in:
        nodes += [
            helper.make_node("Cast", [number_in], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Sum", [last, "number"], ["sum"]),
        ]
        last = "sum"
    if slow:  # a loop whose rounds give back what they get
        value_info = helper.make_tensor_value_info
        body = helper.make_graph(
            [helper.make_node("Identity", [f"{name}_in"], [f"{name}_out"]) for name in ("go", "value")],
            "round",
            [
                value_info("round_in", TensorProto.INT64, []),
                value_info("go_in", TensorProto.BOOL, []),
                value_info("value_in", TensorProto.FLOAT, ["n", 1]),
            ],
            [
                value_info("go_out", TensorProto.BOOL, []),
                value_info("value_out", TensorProto.FLOAT, ["n", 1]),
            ],
        )
        constants += [
            helper.make_tensor("rounds", TensorProto.INT64, [], [slow]),
            helper.make_tensor("go", TensorProto.BOOL, [], [True]),
        ]
        nodes.append(helper.make_node("Loop", ["rounds", "go", last], ["looped"], body=body))
        last = "looped"
    nodes += [
        helper.make_node(score, [last], ["column"]),
        helper.make_node("Reshape", ["column", "flat"], ["probability"]),
    ]
    outputs = [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"])]
    made = helper.make_graph(nodes, "kit", inputs, outputs, constants)
    opset = helper.make_opsetid("", 18)
    return bytes(helper.make_model(made, opset_imports=[opset], ir_version=9).SerializeToString())


@pytest.fixture
def models(tmp_path: Path) -> Models:
    """`models("champion", "challenger")`: a folder with a model of FEATURES for each role.

    Keywords change the card; `made` are options of `graph`.
    """

    def models(*roles: str, made: dict[str, Any] | None = None, **changes: Any) -> Path:
        schema = Schema.model_validate(
            {"entity": "customer", "target": {"name": "returned"}, "request": FEATURES}
        )
        card = CARD.model_copy(
            update={"schema_": schema, "categories": {}, "ranges": {}, "example": ROW, "threshold": 0.5}
            | changes
        )
        for role in roles:
            folder = tmp_path / "models" / role
            folder.mkdir(parents=True)
            card.model_copy(update={"version": role}).write(folder)
            (folder / FILE).write_bytes(graph(card.schema_, **made or {}))
        return tmp_path / "models"

    return models


def store(path: Path) -> Path:
    """A store as Feast writes it, with the `label` of c0 to c9 and of 17: 0.0 to 9.0, and 17.0."""
    keys = {f"c{i}": float(i) for i in range(10)} | {"17": 17.0}
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "CREATE TABLE kit_profile (entity_key BLOB, feature_name TEXT, value BLOB, event_ts INTEGER)"
        )
        values = [
            (entity_key("customer", key), b"\x29" + struct.pack("<d", value)) for key, value in keys.items()
        ]
        db.executemany("INSERT INTO kit_profile VALUES (?, 'label', ?, 1767225600)", values)
        db.commit()
    return path


def settings(models: Path, **changes: Any) -> Settings:
    """Settings of the service on these models, with a log beside them."""
    log: dict[str, Any] = {"prediction_log": str(models / "log"), "prediction_log_seconds": 0.2}
    return Settings(**(log | {"models": models, "online_store": models / "store.db"} | changes))


def test_a_feature_can_have_any_name(models: Models) -> None:
    folder = models("champion")
    rows = [ROW | {"customer": f"c{i}", "label": float(i), "date": 100.0 + i} for i in range(3)]
    with TestClient(create_app("kit", settings(folder))) as client:
        answers = client.post("/predict/batch", json=rows).raise_for_status().json()
        assert client.post("/predict", json=rows[2]).json()["probability"] == answers[2]["probability"]
        assert answers[0]["probability"] == 0.5 < answers[1]["probability"] < answers[2]["probability"]
        refused = client.post("/predict", json=ROW | {"model_config": "x"})
        assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["body", "model_config"]
        document = client.get("/openapi.json").json()["components"]["schemas"]["Row"]
        assert set(document["properties"]) == {"customer", *NAMES} and document["examples"] == [ROW]
        outcomes = [{"prediction_id": a["prediction_id"], "label": i % 2} for i, a in enumerate(answers)]
        assert client.post("/feedback/batch", json=outcomes).raise_for_status().json() == {"accepted": 3}

    columns = Schema.model_validate({"target": {"name": "y"}, "request": FEATURES}).features
    db = predictions.connect(log=str(folder / "log"))
    features = ", ".join(predictions.select(db, columns))
    logged = db.sql(f"SELECT {features} FROM predictions WHERE entity <> 'c2' ORDER BY entity").df()
    assert logged.to_dict("records") == [{name: row[name] for name in NAMES} for row in rows[:2]]
    own = db.sql(
        "SELECT DISTINCT prediction_id, variant, model_version, entity, probability, label "
        "FROM predictions JOIN outcomes USING (prediction_id) ORDER BY entity"
    ).fetchall()
    assert own == [
        (a["prediction_id"], "champion", "champion", f"c{i}", a["probability"], i % 2)
        for i, a in enumerate(answers)
    ]


def test_outcomes_are_reported_one_by_one_or_in_a_batch(models: Models) -> None:
    folder = models("champion")
    with TestClient(create_app("kit", settings(folder))) as client:
        outcome = {"prediction_id": client.post("/predict", json=ROW).json()["prediction_id"], "label": 1}
        assert client.post("/feedback", json=outcome).json() == outcome
        assert client.post("/feedback", json=outcome | {"label": 1.0}).json() == outcome
        answer = client.post("/feedback/batch", json=[outcome] * BATCH_ROWS)
        assert answer.status_code == 202 and answer.json() == {"accepted": BATCH_ROWS}
        many = client.post("/feedback/batch", json=[outcome] * (BATCH_ROWS + 1))
        assert many.status_code == 413 and "more than 10,000 rows" in many.json()["detail"]
        for wrong, place in (
            ([], []),
            *(
                ([outcome, outcome | {"label": bad}], [1, "label"])
                for bad in (2, -1, 0.5, True, "1", "0_1", None)
            ),
            ([outcome | {"prediction_id": "x"}], [0, "prediction_id"]),
            ([outcome | {"extra": 1}], [0, "extra"]),
        ):
            refused = client.post("/feedback/batch", json=wrong)
            assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["body", *place]
    logged = duckdb.read_parquet(f"{folder}/log/feedback/*/*.parquet")
    assert len(logged) == BATCH_ROWS + 2
    with TestClient(create_app("kit", settings(folder, prediction_log=""))) as client:
        for path, body in (("/feedback", outcome), ("/feedback/batch", [outcome])):
            refused = client.post(path, json=body)
            assert refused.status_code == 503 and "PREDICTION_LOG" in refused.json()["detail"]


def test_your_endpoints_and_middleware_reach_all_routes(models: Models) -> None:
    app = create_app("kit", settings(models("champion"), api_keys="secret"))
    assert isinstance(app.entry(), Guard)  # the short path, until there is middleware

    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    @app.post("/count")
    async def count(words: list[str]) -> int:
        return len(words)

    @app.middleware("http")
    async def stamp(request: Request, answer: RequestResponseEndpoint) -> Response:
        response = await answer(request)
        response.headers["X-Stamp"] = request.url.path
        return response

    assert app.entry() is app
    key = {"X-API-Key": "secret"}
    with TestClient(app) as client:
        assert client.get("/hello").json() == {"hello": "world"}
        assert client.post("/count", json=["a", "b"], headers=key).json() == 2
        wrong = client.post("/count", json={}, headers=key)
        assert wrong.status_code == 422 and wrong.json()["detail"][0]["loc"] == ["body"]
        for path, body, given, status in (
            ("/predict", ROW, key, 200),
            ("/predict/batch", [ROW], key, 200),
            ("/predict", {"colour": "red"}, key, 422),
            ("/predict", ROW, {}, 401),
            ("/count", ["a"], {}, 401),
        ):
            response = client.post(path, json=body, headers=given)
            assert (response.status_code, response.headers["X-Stamp"]) == (status, path)
        assert client.put("/count", json=[]).status_code == 401
        assert {"/predict", "/hello", "/count"} <= client.get("/openapi.json").json()["paths"].keys()


def test_with_and_without_middleware_the_answers_are_the_same(models: Models) -> None:
    app = create_app("kit", settings(models("champion")))

    @app.post("/echo")
    async def echo(body: dict[str, float]) -> dict[str, float]:
        return body

    answers = []
    for way in (app.entry(), app):
        with TestClient(way) as client:
            found = [
                client.post("/predict", json=ROW),
                client.post("/predict", content=b"{"),
                client.post("/predict", content=b" " * (64 << 10) + b"{}"),
                client.get("/predict"),
                client.post("/echo", json={"x": 1.5}),
                client.post("/echo", content=b" " * (33 << 20)),
                client.post("/nowhere"),
            ]
        answers.append([(a.status_code, re.sub('"prediction_id":"[^"]+"', "", a.text)) for a in found])
    assert answers[0] == answers[1]
    assert [status for status, _ in answers[0]] == [200, 422, 413, 405, 200, 413, 404]


def test_behind_a_proxy_with_a_path_of_its_own(models: Models) -> None:
    app = create_app("kit", settings(models("champion")))
    for way in (app, app.entry()):
        with TestClient(way, root_path="/v1") as client:
            assert client.post("/v1/predict", json=ROW).status_code == 200
            assert client.get("/v1/health/ready").json()["status"] == "ready"


def test_the_latency_is_in_metrics_and_model(models: Models) -> None:
    def count(client: TestClient, name: str = "prediction") -> float:
        lines = client.get("/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith(f"{name}_seconds_count")).split()[1])

    with TestClient(create_app("kit", settings(models("champion")))) as client:
        before, batches = count(client), count(client, "batch")
        for _ in range(5):
            given = client.post("/predict", json=ROW).json()["prediction_id"]
        client.post("/predict/batch", json=[ROW] * 3)
        client.post("/predict", json={})
        client.post("/feedback", json={"prediction_id": given, "label": 1})
        assert (
            count(client) - before == 5
        )  # requests for predictions that were answered, not outcomes; the graph can't score {}
        assert count(client, "batch") - batches == 1
        assert 'prediction_seconds_bucket{le="0.0005"}' in client.get("/metrics").text
        latency = client.get("/model").json()["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]


def test_the_champion_answers_where_the_challenger_fails(
    models: Models, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = models("champion")
    models("challenger", made={"number_in": "variant"})
    chosen = settings(folder, challenger_mode="ab", challenger_share=1)
    with TestClient(create_app("kit", chosen)) as client:
        assert client.post("/predict", json=ROW).json()["variant"] == "challenger"
        answer = client.post("/predict", json=ROW | {"variant": "no number"}).json()
        assert answer["variant"] == "champion" and answer["prediction"] == 1
        assert client.get("/model").json()["challenger_error"].startswith("challenger: ")
    assert capsys.readouterr().err.startswith("serve: challenger: a row can't be scored: ")


def test_a_model_that_can_not_be_served_is_one_line(models: Models) -> None:
    folder = models("champion", threshold=None)
    with pytest.raises(UserError, match=r"^champion: .*model\.json: threshold: [^\n]+$"):
        create_app("kit", settings(folder))
    (folder / "champion" / FILE).write_bytes(b"no graph")
    (folder / "champion/model.json").write_text(
        (folder / "champion/model.json").read_text().replace('"threshold": null', '"threshold": 0.5')
    )
    with pytest.raises(UserError, match=r"^champion: .*model\.onnx can't be served: [^\n]+$"):
        create_app("kit", settings(folder))
    (folder / "champion" / FILE).unlink()
    with pytest.raises(UserError, match=r"^champion: .*model\.onnx can't be served: .*File doesn't exist$"):
        create_app("kit", settings(folder))
    with pytest.raises(UserError, match=r"^champion: .*model\.json is missing: `make train` [^\n]+$"):
        create_app("kit", settings(folder / "nowhere"))


def test_no_client_must_know_of_the_challenger() -> None:
    champion = Schema.model_validate(
        {
            "entity": "customer",
            "target": {"name": "y"},
            "views": {"customers": {"age": {"type": "integer"}}},
            "request": {"amount": {"type": "number", "nullable": False}},
        }
    )
    views = {
        "customers": {"age": {"type": "number"}, "visits": {"type": "integer", "nullable": False}},
        "shops": {"size": {"type": "integer"}, "amount": {"type": "number"}},
    }
    request = {"channel": {"type": "category", "nullable": False}}
    challenger = Schema.model_validate(
        {"entity": "customer", "target": {"name": "y"}, "views": views, "request": request}
    )
    columns, looked_up = request_columns(champion, challenger)
    assert columns["age"].type == "integer" and not columns["amount"].nullable
    assert columns["visits"].nullable and columns["channel"].nullable
    assert {view: list(own) for view, own in looked_up.items()} == {
        "customers": ["age", "visits"],
        "shops": ["size"],
    }
    # Another entity: its features can't be looked up by the champion's key.
    other = challenger.model_copy(update={"entity": "shop"})
    assert {view: list(own) for view, own in request_columns(champion, other)[1].items()} == {
        "customers": ["age"]
    }


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        *(
            ("amount", value, None)
            for value in ("true", '"1"', '"1_000"', "NaN", "-Infinity", "1e999", "[1]", "{}")
        ),
        *(
            ("amount", value, number)
            for value, number in (("1", 1.0), ("1.5", 1.5), ("-2e3", -2000.0), ("null", None))
        ),
        *(("visits", value, None) for value in ("false", '"1"', "1.5", "NaN", "1e30")),
        *(
            ("visits", value, number)
            for value, number in (("12", 12), ("12.0", 12), ("-0", 0), ("9007199254740991", 2**53 - 1))
        ),
        *(("vip", value, None) for value in ("1", "0.0", '"true"', '"yes"')),
        *(("vip", value, truth) for value, truth in (("true", True), ("false", False))),
        *(("shop", value, None) for value in ("true", "NaN", "Infinity", '["a"]')),
        *(
            ("shop", value, text)
            for value, text in (('"NaN"', "NaN"), ("17", "17"), ("17.0", "17"), ("1.5", "1.5"))
        ),
        *(("customer", value, None) for value in ("true", "NaN", "-Infinity", "{}")),
        *(
            ("customer", value, text)
            for value, text in (('"NaN"', "NaN"), ('"017"', "017"), ("17", "17"), ("17.0", "17"))
        ),
        ("customer", "1234567890123456789", "1234567890123456789"),  # no float in between
    ],
)
def test_a_value_is_what_json_says_it_is(name: str, value: str, taken: Any) -> None:
    """Neither `true` nor "1_000" is an amount, and NaN is nothing at all. A number may be a key: as text."""
    types = {"amount": "number", "visits": "integer", "vip": "boolean", "shop": "category"}
    request = {column: {"type": kind} for column, kind in types.items()}
    schema = Schema.model_validate({"entity": "customer", "target": {"name": "y"}, "request": request})
    card = CARD.model_copy(update={"schema_": schema, "categories": {}})
    validate = TypeAdapter(row_type(card, schema.features, set())).validator.validate_json
    body = f'{{"{name}": {value}}}'
    if taken is None and value != "null":
        with pytest.raises(ValidationError) as caught:
            validate(body)
        (error,) = caught.value.errors()
        assert error["loc"] == (name,)
    else:
        found = validate(body)[name]
        assert found == taken and type(found) is type(taken)


def test_a_key_is_the_same_text_in_the_store_in_the_log_and_for_the_routing(models: Models) -> None:
    folder = models("champion", "challenger", schema_=LOOKED_UP)
    chosen = settings(
        folder, online_store=store(folder / "store.db"), challenger_mode="ab", challenger_share=0.5
    )
    given = {name: value for name, value in ROW.items() if name != "label"}
    with TestClient(create_app("kit", chosen)) as client:

        def ask(key: str) -> tuple[float, str]:
            body = json.dumps(given | {"customer": "KEY"}).replace('"KEY"', key)
            answer = client.post("/predict", content=body).raise_for_status().json()
            return answer["probability"], answer["variant"]

        assert len({ask(key) for key in ("17", "17.0", '"17"', "1.7e1")}) == 1
        assert ask("17")[0] == pytest.approx(1)  # it is in the store
        own = client.post("/predict", content=json.dumps(ROW | {"customer": "KEY"}).replace('"KEY"', '"NaN"'))
        assert own.status_code == 200
        other = client.post("/predict", content=json.dumps(ROW | {"customer": "KEY"}).replace('"KEY"', "NaN"))
        assert other.status_code == 422 and other.json()["detail"][0]["loc"] == ["body", "customer"]
    logged = duckdb.read_parquet(f"{folder}/log/predictions/*/*.parquet").project("entity").distinct()
    assert sorted(logged.fetchall()) == [("17",), ("NaN",)]


@pytest.mark.parametrize("keys", [",", " ", "\t,\n", " , ,"])
def test_keys_without_a_key_do_not_open_the_service(
    models: Models,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    keys: str,
) -> None:
    with pytest.raises(UserError, match="has no key"):
        create_app("kit", settings(models("champion"), api_keys=keys))
    monkeypatch.setenv("API_KEYS", keys)
    monkeypatch.setenv("PORT", str(free_port()))  # it is listened on first
    monkeypatch.setenv("MODELS", str(tmp_path / "models"))
    with pytest.raises(SystemExit) as ended:
        serve(lambda chosen: create_app("kit", chosen))
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and line.startswith("serve: API_KEYS=")
    monkeypatch.setenv("API_KEYS", "")  # as Compose passes what is not set
    assert load_settings().keys == []
    monkeypatch.setenv("API_KEYS", " first ,, second,")
    assert load_settings().keys == ["first", "second"]


@pytest.mark.parametrize("character", ["\x01", "\n", "\t", "\x7f", "\x85", "\udcff"])
def test_a_key_that_no_header_can_carry_is_refused_at_the_start(
    models: Models,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    character: str,
) -> None:
    models("champion")
    monkeypatch.setenv("API_KEYS", f"first,sec{character}ret")
    monkeypatch.setenv("MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("PORT", str(free_port()))
    with pytest.raises(SystemExit) as ended:
        serve(lambda chosen: create_app("kit", chosen))
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and line.startswith("serve: API_KEYS: key 2 ") and "ret" not in line


def test_with_keys_a_stranger_sees_no_hash_or_example(models: Models) -> None:
    folder = models("champion", "challenger", inputs={"src": "c0ffee"}, data_hash="da7a")
    private = {"inputs", "data_hash", "example"}
    chosen = settings(folder, challenger_mode="shadow", api_keys="secret, other", prediction_log="")
    with TestClient(create_app("kit", chosen)) as client:
        whole = client.get("/model", headers={"X-API-Key": "other"}).json()
        assert private < whole["champion"].keys() and {"log", "online_store"} < whole.keys()
        for key in ({}, {"X-API-Key": "wrong"}, {"X-API-Key": ""}):
            seen = client.get("/model", headers=key)
            assert not any(secret in seen.text for secret in ("c0ffee", "da7a", str(folder)))
            for role in ("champion", "challenger"):
                assert seen.json()[role] == {n: v for n, v in whole[role].items() if n not in private}
    with TestClient(create_app("kit", settings(folder, prediction_log=""))) as client:
        assert client.get("/model").json()["champion"]["inputs"] == {"src": "c0ffee"}
    shutil.rmtree(folder / "champion")
    lost = settings(models("champion", schema_=LOOKED_UP), api_keys="secret")
    with TestClient(create_app("kit", lost)) as client:
        for given, shown in (("secret", True), ("wrong", False)):
            found = client.get("/health/ready", headers={"X-API-Key": given})
            assert found.status_code == 503 and (str(folder) in found.text) == shown


def test_the_example_row_is_nobodys() -> None:
    rows = orders(401).assign(empty=None, vip=lambda rows: rows.express.astype("boolean"))
    rows.loc[:50, ["amount", "country", "vip"]] = None
    rows["age"] = rows.age.astype("Int64").mask(rows.age > 50)
    types = {
        "age": "integer",
        "country": "category",
        "amount": "number",
        "vip": "boolean",
        "empty": "category",
    }
    request = {name: {"type": kind} for name, kind in types.items()}
    schema = Schema.model_validate({"target": {"name": "returned"}, "request": request})
    made = example(rows, schema)
    assert made == json.loads(json.dumps(made)) and made.keys() == types.keys()
    assert made["country"] == rows.country.mode()[0] and made["vip"] is False and made["empty"] is None
    known = rows.amount.dropna()
    assert type(made["age"]) is int and 0.45 < (known <= made["amount"]).mean() < 0.55
    same = rows[list(made)].astype(object).eq(pd.Series(made)).drop(columns="empty").all(axis=1)
    assert not same.any()
