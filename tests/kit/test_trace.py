"""W3C Trace Context, the access log, what the champion does not know, the log's lag and the last drift check."""

import json
import os
import subprocess
import sys
import time

import duckdb
import httpx
import pytest
from conftest import answers, free_port, wait_for
from tabloop import predictions
from tabloop.serving.trace import begin

from .conftest import clean
from .test_predictor import rows, service
from .test_processes import metric
from .test_serving import ROW, Models, models  # noqa: F401

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{ID}-{SPAN}-01"


@pytest.mark.parametrize(
    "given, flags", [(GIVEN, "01"), (f"cc-{ID}-{SPAN}-ff-more", "03"), (f" {GIVEN}\t", "01")]
)
def test_a_valid_trace_goes_on(given: str, flags: str) -> None:
    version, trace, span, own = begin([(b"traceparent", given.encode())]).decode().split("-")
    assert (version, trace, own) == ("00", ID, flags)
    assert span != SPAN and len(span) == 16


@pytest.mark.parametrize(
    "given",
    [
        [],
        [GIVEN, GIVEN],
        *([g] for g in ("", GIVEN.upper(), GIVEN + "-more", "ff" + GIVEN[2:], GIVEN[:-1], f"cc{GIVEN[2:]}x")),
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{ID}-{'0' * 16}-01"],
    ],
)
def test_without_a_valid_one_a_trace_begins(given: list[str]) -> None:
    made = {begin([(b"traceparent", value.encode()) for value in given]) for _ in range(3)}
    assert len(made) == 3 and not any(ID.encode() in trace for trace in made)
    assert all(
        len(begin([(b"traceparent", trace)])) == 55 and trace[3:35] in begin([(b"traceparent", trace)])
        for trace in made
    )


def test_the_trace_is_on_every_answer_and_with_each_prediction_in_the_log(models: Models) -> None:  # noqa: F811
    folder = models("champion")
    with service(folder) as (client, process):
        headers = {"traceparent": GIVEN}
        for path, body in (
            ("/predict", ROW),
            ("/predict/batch", rows(3)),
            ("/predict", {}),
            ("/nowhere", {}),
        ):
            assert client.post(path, json=body, headers=headers).headers["traceparent"][3:35] == ID
        assert client.get("/health/live").headers["traceparent"][:3] == "00-"
        own = client.post("/predict", json=ROW).headers["traceparent"][3:35]
        process.terminate()
        process.wait(20)
    found = duckdb.read_parquet(f"{folder}/log/predictions/*/*.parquet").project("trace_id").fetchall()
    assert sorted(trace for (trace,) in found) == sorted([ID] * 4 + [own])


def test_metrics_tell_readiness_and_the_last_drift_check(models: Models) -> None:  # noqa: F811
    folder = models("champion")
    with service(folder) as (client, _):
        client.post("/predict", json=ROW).raise_for_status()
        assert metric(client, "service_ready") == 1
        assert metric(client, "drift_checked_timestamp_seconds") == 0
        wait_for(lambda: (folder / "log").exists())
        predictions.mark_checked(str(folder / "log"))
        wait_for(lambda: abs(metric(client, "drift_checked_timestamp_seconds") - time.time()) < 60)


@pytest.mark.parametrize("stdout", ["read", "blocked", "closed"])
def test_the_access_log_never_stops_the_service(models: Models, stdout: str) -> None:  # noqa: F811
    folder, port = models("champion"), free_port()
    code = "from tabloop.serving import create_app, serve; serve(lambda chosen: create_app('kit', chosen))"
    env = clean(MODELS=str(folder), PORT=str(port), PREDICTION_LOG="", ACCESS_LOG="1")
    read, write = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=env, stdout=write)
    os.close(write)
    if stdout == "closed":
        os.close(read)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            wait_for(lambda: answers(client, "/health/live"))
            for _ in range(600 if stdout == "blocked" else 3):  # a pipe holds 64 KiB
                assert (
                    client.post(
                        "/predict/batch?key=secret", json=[ROW], headers={"traceparent": GIVEN}
                    ).status_code
                    == 200
                )
            if stdout == "closed":
                wait_for(lambda: metric(client, "access_log_dropped_total") > 0)
    finally:
        process.terminate()
        assert process.wait(10) == 0  # it waits for nobody
    if stdout == "read":
        lines = [json.loads(line) for line in os.fdopen(read)]
        line = next(line for line in lines if line["path"] == "/predict/batch")
        assert (line["method"], line["status"], line["trace_id"], line["rows"]) == ("POST", 200, ID, 1)
        assert 0 < line["seconds"] < 10 and "secret" not in json.dumps(lines)
