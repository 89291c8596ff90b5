"""/explain: why a row gets its score, by the model that answers it, and out of the way of the predictions."""

import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tabloop.params import Schema
from tabloop.serving import create_app, explanation
from tabloop.serving.direct_route import ROW_BYTES
from tabloop.serving.explanation import UNEXPLAINED

from .test_predictor import BAD, PARTIAL, beside_partial, counted, predictor_of
from .test_serving import LOOKED_UP, NAMES, ROW, Models, models, settings, store  # noqa: F401

# The graph with number_in="variant": P is the sigmoid of `label` + `variant`. ROW is the baseline: 0.5 and "1".
OTHER = {name: 7.5 if value == 0.5 else "another" for name, value in ROW.items()} | {"variant": "3"}


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_name(answer: dict[str, Any]) -> dict[str, float]:
    return {part["feature"]: part["contribution"] for part in answer["contributions"]}


@pytest.fixture
def client(models: Models) -> Iterator[TestClient]:  # noqa: F811
    """A client of the service of a graph with two inputs that matter."""
    with TestClient(create_app("kit", settings(models("champion", **PARTIAL)))) as made:
        yield made


def test_two_features_share_what_they_do_together(client: TestClient) -> None:
    row = ROW | {"label": -2.0, "variant": "3"}
    answer = client.post("/explain", json=row).raise_for_status().json()
    predicted = client.post("/predict", json=row).json()
    for name in ("probability", "prediction", "model_version", "variant"):
        assert answer[name] == predicted[name]
    none, label, variant, both = (sigmoid(x) for x in (1.5, -1, 3.5, 1))
    assert answer["method"] == "exact" and answer["base_value"] == pytest.approx(none, abs=1e-6)
    found = by_name(answer)
    assert found["label"] == pytest.approx(((label - none) + (both - variant)) / 2, abs=1e-6)
    assert found["variant"] == pytest.approx(((variant - none) + (both - label)) / 2, abs=1e-6)
    assert answer["base_value"] + sum(found.values()) == pytest.approx(answer["probability"], abs=1e-12)
    assert list(found)[:2] == ["label", "variant"] and set(found) == set(NAMES)
    assert not any(found[name] for name in NAMES if name not in ("label", "variant"))
    first = answer["contributions"][0]
    assert (first["value"], first["baseline"], first["looked_up"], first["error"]) == (-2, 0.5, False, 0)


def test_the_baseline_itself_has_nothing_to_explain(client: TestClient) -> None:
    answer = client.post("/explain", json=ROW | {"customer": "c1"}).json()
    assert answer["base_value"] == answer["probability"] and not any(by_name(answer).values())


def test_of_many_features_orders_are_sampled_and_add_up_all_the_same(client: TestClient) -> None:
    first, second = (client.post("/explain", json=OTHER).raise_for_status().json() for _ in range(2))
    assert first == second and first["method"] == "sampled"  # the same row, the same sample
    found = by_name(first)
    assert first["base_value"] + sum(found.values()) == pytest.approx(first["probability"], abs=1e-12)
    errors = {part["feature"]: part["error"] for part in first["contributions"]}
    none, label, variant, both = (sigmoid(x) for x in (1.5, 8.5, 3.5, 10.5))
    exact = ((label - none) + (both - variant)) / 2
    assert abs(found["label"] - exact) <= 2 * errors["label"] + 1e-6 and errors["label"] < 0.01
    assert not any(found[name] or errors[name] for name in NAMES if name not in ("label", "variant"))


def test_a_missing_value_is_a_value(models: Models) -> None:  # noqa: F811
    """Missing here, missing in the baseline, or in both."""
    baseline = ROW | {"variant": None, "prediction_id": None, "date": None}
    folder = models("champion", example=baseline)
    with TestClient(create_app("kit", settings(folder))) as client:
        row = ROW | {"label": 2.0, "variant": None, "prediction_id": "x", "date": None, "copy": None}
        answer = client.post("/explain", json=row).raise_for_status().json()
        assert answer["method"] == "exact"
        assert by_name(answer)["label"] == pytest.approx(sigmoid(2) - sigmoid(0.5), abs=1e-6)


def test_a_number_that_only_the_row_or_only_the_baseline_has_adds_its_part() -> None:
    schema = Schema.model_validate(
        {"target": {"name": "returned"}, "request": {name: {"type": "number"} for name in "xyz"}}
    )

    def inputs(columns: dict[str, list[float | None]]) -> dict[str, np.ndarray]:
        return {name: np.array(values, np.float32)[:, None] for name, values in columns.items()}

    def probability(given: dict[str, np.ndarray]) -> np.ndarray:
        return np.ravel(0.5 + 0.2 * np.isnan(given["x"]) - 0.4 * np.isnan(given["y"]))

    card = SimpleNamespace(example={"x": 1.0, "y": None, "z": None})
    model: Any = SimpleNamespace(
        schema=schema, card=card, version="v", inputs=inputs, probability=probability
    )
    players, found = explanation.contributions(model, {"x": None, "y": 2.0, "z": None})
    assert players == ["x", "y"] and found.contributions == pytest.approx([0.2, 0.4])


def test_what_can_not_be_explained_is_refused_as_for_a_prediction(client: TestClient) -> None:
    bodies: list[dict[str, Any]] = [
        {"json": {"colour": "red"}},
        {"json": ROW | {"label": "x"}},
        {"json": [ROW]},
        {"content": b"{"},
        {"content": b""},
        {"content": b" " * ROW_BYTES + b"{}"},
    ]
    for body in bodies:
        asked, predicted = (client.post(path, **body) for path in ("/explain", "/predict"))
        assert asked.status_code == predicted.status_code in (413, 422) and asked.json() == predicted.json()
    assert client.get("/explain").status_code == 405
    assert client.post("/explain/challenger", json=ROW).status_code == 404


def test_a_row_that_the_graph_can_not_score_is_said_once_and_counts_for_no_prediction(
    client: TestClient, capsys: pytest.CaptureFixture[str]
) -> None:
    unscored = counted("unscored_rows_total")
    for _ in range(3):
        refused = client.post("/explain", json=BAD)
        assert refused.status_code == 500 and refused.json() == {"detail": UNEXPLAINED}
    assert client.post("/explain", json=ROW).status_code == 200
    assert counted("unscored_rows_total") == unscored
    assert capsys.readouterr().err.count("serve: champion: a row can't be explained") == 1


def test_with_api_keys_an_explanation_needs_one(models: Models) -> None:  # noqa: F811
    with TestClient(create_app("kit", settings(models("champion"), api_keys="secret"))) as client:
        assert client.post("/explain", json=ROW).status_code == 401
        assert client.post("/explain", json=ROW, headers={"X-API-Key": "secret"}).status_code == 200
        operation = client.get("/openapi.json").json()["paths"]["/explain"]["post"]
        assert operation["security"] and {"401", "422", "503"} <= operation["responses"].keys()


def test_who_has_no_key_does_not_read_what_the_store_knows_of_somebody(models: Models) -> None:  # noqa: F811
    folder = models("champion", schema_=LOOKED_UP)
    store(folder / "store.db")
    given = {name: value for name, value in ROW.items() if name != "label"}
    for keys in ("", "secret"):
        with TestClient(create_app("kit", settings(folder, api_keys=keys))) as client:
            key = {"X-API-Key": "secret"}
            answer = client.post("/explain", json=given | {"customer": "c3"}, headers=key).json()
            assert answer["probability"] == pytest.approx(sigmoid(3))
            (part,) = (part for part in answer["contributions"] if part["feature"] == "label")
            assert part["looked_up"] and part["value"] == (3 if keys else None)
            assert part["contribution"] == pytest.approx(sigmoid(3) - sigmoid(0.5), abs=1e-6)
            told = client.post("/explain", json=ROW | {"label": 2.5}, headers=key).json()["contributions"][0]
            assert (told["feature"], told["value"], told["looked_up"]) == ("label", 2.5, False)
            refused, predicted = (
                client.post(path, json=given, headers=key) for path in ("/explain", "/predict")
            )
            assert refused.status_code == 422 and refused.json() == predicted.json()


def test_what_is_not_known_about_a_row_is_said(models: Models) -> None:  # noqa: F811
    known = {"categories": {"variant": ["1", "3"]}, "ranges": {"label": (0.0, 1.0)}}
    folder = models("champion", schema_=LOOKED_UP, **known)
    store(folder / "store.db")
    given = {name: value for name, value in ROW.items() if name != "label"}
    for keys, value in (("", "label"), ("secret", "label 3")):
        with TestClient(create_app("kit", settings(folder, api_keys=keys))) as client:

            def facts(row: dict[str, Any], client: TestClient = client) -> list[str]:
                return client.post("/explain", json=row, headers={"X-API-Key": "secret"}).json()["not_known"]

            assert facts(ROW) == []
            assert facts(given | {"customer": "c3"}) == [
                f"{value} is outside the training data's range, 0 to 1"  # the value is for who has a key
            ]
            assert facts(ROW | {"variant": "9"}) == ["variant 9 is a level that training did not have"]
            assert facts(ROW | {"label": -0.5}) == ["label -0.5 is outside the training data's range, 0 to 1"]


def test_the_model_that_answers_an_entity_explains_it(models: Models) -> None:  # noqa: F811
    folder = models("champion", "challenger")
    app = create_app("kit", settings(folder, challenger_mode="ab", challenger_share=0.5))
    with TestClient(app) as client:
        variants = set()
        for at in range(30):
            row = ROW | {"customer": f"c{at}", "label": 1.0}
            predicted, explained = (client.post(path, json=row).json() for path in ("/predict", "/explain"))
            assert explained["variant"] == explained["model_version"] == predicted["variant"]
            variants.add(explained["variant"])
        assert variants == {"champion", "challenger"}
        assert client.post("/explain", json=ROW).json()["variant"] == "champion"  # nobody's row
        for role in variants:
            assert client.post(f"/explain/{role}", json=ROW | {"customer": "c1"}).json()["variant"] == role
    with TestClient(create_app("kit", settings(folder, challenger_mode="shadow"))) as client:
        assert client.post("/explain", json=ROW).json()["variant"] == "champion"
        assert client.post("/explain/challenger", json=ROW).json()["variant"] == "challenger"


def test_where_the_challenger_fails_the_champion_explains(
    models: Models,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    app = beside_partial(models, challenger_mode="ab", challenger_share=1, prediction_log="")
    challenger = predictor_of(app).challenger
    assert challenger
    with TestClient(app) as client:
        for _ in range(10):
            assert client.post("/explain", json=BAD | {"customer": "c"}).json()["variant"] == "champion"
        assert client.post("/explain/challenger", json=BAD).status_code == 500
        assert not challenger.breaker.resting  # that its rows can't be explained takes no prediction from it
        assert client.post("/predict", json=ROW | {"customer": "c"}).json()["variant"] == "challenger"
    assert capsys.readouterr().err.count("\n") == 1


def test_explanations_are_no_predictions(models: Models) -> None:  # noqa: F811
    folder = models("champion")
    before = counted("predictions_total", variant="champion", model_version="champion")
    seconds = counted("explanation_seconds_count")
    with TestClient(create_app("kit", settings(folder))) as client:
        for _ in range(3):
            client.post("/explain", json=ROW | {"label": 2.0}).raise_for_status()
    assert counted("predictions_total", variant="champion", model_version="champion") == before
    assert counted("explanation_seconds_count") == seconds + 3
    assert not list((folder / "log").rglob("*.parquet"))


def test_an_explanation_that_takes_too_long_is_ended(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation, "SECONDS", 0.0)
    refused = client.post("/explain", json=OTHER)
    assert refused.status_code == 503 and "takes more than 0 s" in refused.json()["detail"]
    assert "retry-after" not in refused.headers  # it would take as long again
    monkeypatch.undo()
    assert client.post("/explain", json=OTHER).status_code == 200
