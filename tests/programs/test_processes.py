"""The service as processes: one address, log, count and limit, each may be killed; its metrics, traces and access log."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import duckdb
import httpx
import pytest
from conftest import answers, free_port, wait_for
from kit.conftest import clean
from kit.test_predictor import SCHEMA, rows
from kit.test_serving import ROW, Models, models  # noqa: F401
from kit.test_trace import GIVEN, ID
from tabloop import predictions

FEW = 40  # labels that a client may send in an hour


def forks(pid: int) -> list[int]:
    """The processes of a service, without the log's."""
    children = [
        int(n)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for n in (task / "children").read_text().split()
    ]
    return [child for child in children if b"log_writer" not in Path(f"/proc/{child}/cmdline").read_bytes()]


def running(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def metric(client: httpx.Client, name: str) -> float:
    """A metric's value, summed over its labels, as the process that answers has it."""
    return sum(
        map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", client.get("/metrics").text, re.MULTILINE))
    )


def test_processes_share_address_metrics_limit_ids_and_log_and_one_that_is_killed_is_replaced(
    models: Models,  # noqa: F811
) -> None:
    folder = models("champion")
    with service(folder, WEB_CONCURRENCY="2", FEEDBACK_PER_HOUR=str(FEW)) as (client, process):
        url, given = str(client.base_url), list[str]()
        lines = [httpx.Client(base_url=url, timeout=30) for _ in range(16)]
        first = forks(process.pid)
        assert len(first) == 2
        for line in lines:
            given += [a["prediction_id"] for a in line.post("/predict/batch", json=rows(100)).json()]
            given.append(line.post("/predict", json=ROW).json()["prediction_id"])
        sockets = [
            len([fd for fd in Path(f"/proc/{pid}/fd").iterdir() if "socket" in str(fd.readlink())])
            for pid in first
        ]
        assert min(sockets) > max(sockets) / 4, sockets  # both have some of the 16 connections
        # Every process has the sum, and takes the ids of both.
        assert {metric(line, "predictions_total") for line in lines} == {len(given)}
        assert {metric(line, "prediction_seconds_count") for line in lines} == {16}
        assert all(line.get("/model").json()["latency_ms"]["p50"] > 0 for line in lines)
        found = [
            line.post("/feedback", json={"prediction_id": id, "label": 1}).status_code
            for line, id in zip(lines * 4, given, strict=False)
        ]
        assert found == [202] * FEW + [429] * (64 - FEW)  # one limit for both

        os.kill(first[0], signal.SIGKILL)
        wait_for(lambda: len(forks(process.pid)) == 2 and first[0] not in forks(process.pid))
        for _ in range(20):
            with httpx.Client(base_url=url, timeout=30) as fresh:
                assert fresh.get("/health/ready").status_code == 200
                given.append(fresh.post("/predict", json=ROW).json()["prediction_id"])
                assert metric(fresh, "predictions_total") == len(
                    given
                )  # what the killed one had counted stays
        process.terminate()
        assert process.wait(20) == 0
        said = process.stderr.read() if process.stderr else ""
    assert f"serve: process {first[0]} was killed by SIGKILL; another one is started\n" in said
    assert "Traceback" not in said
    logged = duckdb.read_parquet(f"{folder}/log/predictions/*/*.parquet").project("prediction_id")
    assert sorted(row[0] for row in logged.fetchall()) == sorted(given)
    assert len(duckdb.read_parquet(f"{folder}/log/feedback/*/*.parquet")) == FEW
    assert not list(folder.rglob("*.part"))


def test_where_the_first_process_is_killed_the_others_end_and_the_log_is_written(models: Models) -> None:  # noqa: F811
    folder = models("champion")
    with service(folder, WEB_CONCURRENCY="2", PREDICTION_LOG_SECONDS="60") as (client, process):
        both = forks(process.pid)
        client.post("/predict", json=ROW).raise_for_status()
        process.kill()
        wait_for(lambda: not any(map(running, both)))
        wait_for(lambda: list(folder.rglob("*.parquet")))
        assert len(duckdb.read_parquet(f"{folder}/log/predictions/*/*.parquet")) == 1


@pytest.mark.parametrize("variable, code", [("0", 1), ("two", 1), ("", 0)])
def test_the_number_of_processes_is_a_number(tmp_path: Path, variable: str, code: int) -> None:
    script = "from tabloop.serving.settings import load_settings as l; from tabloop.cli import command\nwith command('serve'): print(l().web_concurrency)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=clean(WEB_CONCURRENCY=variable), capture_output=True, text=True
    )
    assert done.returncode == code
    assert (
        done.stdout == "1\n" if not code else done.stderr.startswith(f"serve: WEB_CONCURRENCY={variable}: ")
    )


def test_a_process_that_ends_by_itself_ends_the_service(tmp_path: Path) -> None:
    """It would end again. The orchestrator is told by the exit code, as with one process."""
    script = """if True:
        import os, sys, time
        from tabloop.serving.processes import Processes

        def work():
            try:
                os.close(os.open("first", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                time.sleep(60)
            sys.exit(3)

        sys.exit(Processes(work).run(2))
    """
    began = time.monotonic()
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, timeout=30).returncode == 3
    assert time.monotonic() - began < 10


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


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_port_that_is_taken_is_one_line_before_a_model_is_loaded(tmp_path: Path, processes: str) -> None:
    code = "from tabloop.serving import serve; serve(lambda chosen: 1 / 0)"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        # As in an image, which has no params.yaml.
        env = clean(PROJECT_ROOT=str(tmp_path), PORT=port, MODELS=str(tmp_path), WEB_CONCURRENCY=processes)
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
        )
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"serve: 127.0.0.1:{port} can't be listened on: ")
    assert done.stderr.endswith(": stop what listens there, or set another PORT\n")


def test_metrics_tell_readiness_and_the_last_drift_check(
    models: Models,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = models("champion")
    with service(folder) as (client, _):
        client.post("/predict", json=ROW).raise_for_status()
        assert metric(client, "service_ready") == 1
        assert metric(client, "drift_checked_timestamp_seconds") == 0
        wait_for(lambda: (folder / "log").exists())
        monkeypatch.setenv("PREDICTION_LOG", str(folder / "log"))
        predictions.mark_checked()
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
        assert process.wait(10) == -signal.SIGTERM  # it waits for nobody
    if stdout == "closed":
        return
    with os.fdopen(read) as file:
        lines = [json.loads(line) for line in file if line.endswith("\n")]
    posts = [line for line in lines if line["path"] == "/predict/batch"]
    assert "secret" not in json.dumps(lines)
    if stdout == "read":  # those that waited at the end, too
        assert len(posts) == 3 and lines[-3:] == posts
    assert len(posts) >= 3
    for line in posts:
        found = line["method"], line["status"], line["trace_id"], line["rows"]
        assert found == ("POST", 200, ID, 1) and 0 < line["seconds"] < 10
        assert abs(datetime.fromisoformat(line["time"]).timestamp() - time.time()) < 60


@contextmanager
def service(folder: Path, **variables: str) -> Iterator[tuple[httpx.Client, "subprocess.Popen[str]"]]:
    """The service as a process of its own, asked over sockets."""
    code = "from tabloop.serving import create_app, serve; serve(lambda chosen: create_app('kit', chosen))"
    port = free_port()
    chosen = {"PREDICTION_LOG_SECONDS": "0.2"} | variables
    env = clean(MODELS=str(folder), PORT=str(port), **chosen)
    env.setdefault("PREDICTION_LOG", str(folder / "log"))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, env=env, stderr=subprocess.PIPE, text=True
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_for(lambda: process.poll() is not None or answers(client, "/health/live"))
            assert process.poll() is None, process.communicate()[1]
            yield client, process
    finally:
        process.kill()
        process.wait()


def test_without_an_entity_each_row_is_routed_by_its_own_id(models: Models) -> None:  # noqa: F811
    """Not by its trace, which all rows of a batch share, and which a client may send with each request."""
    schema = SCHEMA.model_copy(update={"entity": None})
    folder = models("champion", "challenger", schema_=schema)
    row = {name: value for name, value in ROW.items() if name != "customer"}
    trace = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-00"}
    with service(folder, CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.5") as (client, _):
        batch = client.post("/predict/batch", json=[row] * 100, headers=trace).raise_for_status().json()
        assert 20 < sum(answer["variant"] == "challenger" for answer in batch) < 80
        single = [client.post("/predict", json=row, headers=trace).json()["variant"] for _ in range(40)]
        assert 5 < single.count("challenger") < 35
