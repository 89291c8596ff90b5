"""The service as a process of its own, with a graph that takes long or a store that is locked: others are answered."""

import math
import sqlite3
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import numpy as np
import onnxruntime
import pytest
from kit.test_predictor import DETAIL, SCHEMA, rows
from kit.test_serving import LOOKED_UP, ROW, Models, graph, models, store  # noqa: F401
from tabloop.serving.explanation import MAX_WAITING

from .test_processes import service


def test_while_explanations_are_computed_predictions_are_answered_and_few_wait(models: Models) -> None:  # noqa: F811
    """Each takes more than 0.06 s for one call. If predictions waited for it, their median could not be below that."""
    models("champion")
    folder = models("challenger", made={"slow": rounds_of(0.12)})
    some = {"CHALLENGER_MODE": "ab", "CHALLENGER_SHARE": "0", "PREDICTION_LOG": ""}
    with service(folder, **some) as (client, process):

        def ask(_: int) -> httpx.Response:
            return httpx.post(f"{client.base_url}/explain/challenger", json=ROW | {"label": 2.0}, timeout=60)

        with ThreadPoolExecutor(MAX_WAITING + 6) as pool:
            began = time.perf_counter()
            answers, took = [pool.submit(ask, at) for at in range(MAX_WAITING + 6)], list[float]()
            while not all(answer.done() for answer in answers):
                predicted = client.post("/predict", json=ROW).raise_for_status()
                took.append(predicted.elapsed.total_seconds())
            seconds = time.perf_counter() - began
        found = [answer.result() for answer in answers]
        explained = [answer.json() for answer in found if answer.status_code == 200]
        refused = [answer for answer in found if answer.status_code != 200]
        # All come at once; where one was explained before another came, one more could wait.
        assert MAX_WAITING < len(explained) < MAX_WAITING + 6 and seconds > 0.06 * len(explained)
        assert all(answer == explained[0] for answer in explained)
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(503, "1")}
        assert "too many explanations wait" in refused[0].json()["detail"]
        assert statistics.median(took) < 0.05
        assert client.post("/explain", json=ROW).json()["variant"] == "champion"  # the queue is empty again
        text = client.get("/metrics").text
        assert f'responses_total{{status="503"}} {len(refused)}.0' in text
        process.terminate()
        assert "Traceback" not in process.communicate(timeout=30)[1]


def test_a_slow_challenger_in_the_shadow_delays_no_answer(models: Models) -> None:  # noqa: F811
    """It takes more than 0.4 s for a call. If an answer waited for it, the median could not be below that."""
    models("champion")
    folder = models("challenger", made={"slow": rounds_of(0.5)})
    with service(folder, CHALLENGER_MODE="shadow") as (client, process):
        took = []
        for row in rows(40):
            began = time.perf_counter()
            assert client.post("/predict", json=row).json()["variant"] == "champion"
            took.append(time.perf_counter() - began)
        assert statistics.median(took) < 0.2
        many = rows(5_000)
        for _ in range(3):  # more than may wait
            assert len(client.post("/predict/batch", json=many).raise_for_status().json()) == 5_000
        metrics = client.get("/metrics").text
        dropped = float(metrics.split("\nshadow_dropped_total ")[1].split()[0])
        assert 0 < dropped < 15_040
        assert "too slow" in client.get("/model").json()["challenger_error"]
        began = time.monotonic()
        process.terminate()
        said = process.communicate(timeout=30)[1]
        assert time.monotonic() - began < 20  # it does not score all that waits
    assert said.count("serve: challenger: too slow for the shadow") == 1


def test_in_an_ab_test_a_slow_challenger_soon_rests(models: Models) -> None:  # noqa: F811
    """While its graph works nobody is answered. It takes more than 0.2 s for a call; after one or two the champion answers."""
    models("champion")
    folder = models("challenger", made={"slow": rounds_of(0.5)})
    with service(folder, CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.5") as (client, process):
        took, variants = list[float](), list[str]()
        for row in rows(40):
            began = time.perf_counter()
            variants.append(client.post("/predict", json=row).raise_for_status().json()["variant"])
            took.append(time.perf_counter() - began)
        assert 1 <= variants.count("challenger") <= 2  # by its share it would be 20
        assert sorted(took)[-3] < 0.2
        batch = client.post("/predict/batch", json=rows(400)).raise_for_status()
        assert {answer["variant"] for answer in batch.json()} == {"champion"}
        assert "too slow for an A/B test" in client.get("/model").json()["challenger_error"]
        assert "\nchallenger_errors_total 1.0" in client.get("/metrics").text
        process.terminate()
        assert process.communicate(timeout=30)[1].count("serve: challenger: too slow for an A/B test") == 1


def rounds_of(seconds: float) -> int:
    """How many rounds of the graph's loop take so much CPU time on this machine, now; at least half of it later."""
    session = onnxruntime.InferenceSession(graph(SCHEMA, slow=50_000))
    inputs = {
        name: np.array([[ROW[name]]], object if column.type == "category" else np.float32)
        for name, column in SCHEMA.features.items()
    }
    began = time.process_time()
    session.run(["probability"], inputs)
    return round(50_000 * seconds / (time.process_time() - began))


def test_while_the_store_is_locked_other_clients_are_answered(models: Models) -> None:  # noqa: F811
    """A batch whose rows are looked up, beside a client that gives all features.

    A look-up that waits for the lock would take 100 s for the batch and 0.1 s for each turn of the event loop.
    """
    folder = models("champion", schema_=LOOKED_UP)
    given = {name: value for name, value in ROW.items() if name != "label"}
    batch = [given | {"customer": f"c{i % 10}"} for i in range(2000)]
    path = store(folder / "store.db")
    with service(folder, ONLINE_STORE=str(path)) as (client, _), closing(sqlite3.connect(path)) as writer:
        assert client.get("/health/ready").status_code == 200
        by_key = client.post("/predict/batch", json=batch).raise_for_status().json()
        assert by_key[9]["probability"] == pytest.approx(1 / (1 + math.exp(-9)))
        writer.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(lambda: client.post("/predict/batch", json=batch))
            took: list[float] = []
            with httpx.Client(base_url=client.base_url) as other:
                while not slow.done() or len(took) < 20:
                    began = time.perf_counter()
                    assert other.post("/predict", json=ROW).json()["prediction"] == 1
                    took.append(time.perf_counter() - began)
        assert statistics.median(took) < 0.05 and slow.result().elapsed.total_seconds() < 10
        # This graph gives no probability to a missing label, and says so.
        assert slow.result().status_code == 500 and slow.result().json() == {"detail": DETAIL}
        writer.rollback()
        text = client.get("/metrics").text
        assert 'online_store_errors_total{reason="locked"} 1.0' in text
        assert "missing_online_features_total 0.0" in text
