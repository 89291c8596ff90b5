"""The service's prediction log with its real writer process, which is stopped, killed, and given targets that fail."""

import asyncio
import contextlib
import fcntl
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import httpx
import pandas as pd
import pytest
from conftest import answers, free_port, wait_for
from kit.conftest import TEMPLATE, clean
from kit.test_serving import ROW, Models, models  # noqa: F401
from prometheus_client import REGISTRY
from tabloop import predictions
from tabloop.params import Column
from tabloop.serving import prediction_log
from tabloop.serving.log_writer import MAX_BYTES, Table
from tabloop.serving.prediction_log import PredictionLog

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """`impatient()`: from now on the service waits for a writer that hangs for parts of a second, not for ten."""

    def shorten() -> None:
        monkeypatch.setattr(prediction_log, "QUIET_SECONDS", 0.2)
        monkeypatch.setattr(prediction_log, "STOP_SECONDS", 0.3)

    return shorten


@contextlib.asynccontextmanager
async def started(
    target: object, seconds: float = 0.2, entity: str | None = None, **columns: str
) -> AsyncIterator[PredictionLog]:
    """A log that has been started, and is stopped at the end."""
    typed = {name: Column.model_validate({"type": kind}) for name, kind in columns.items()}
    log = PredictionLog(str(target), seconds, entity, typed)
    await log.start()
    try:
        yield log
    finally:
        await log.stop()


def give(log: PredictionLog, rows: int = 5) -> list[str]:
    """Hand over outcomes; the ids of their predictions."""
    ids = [os.urandom(16).hex() for _ in range(rows)]
    log.add_feedback(ids, [1] * rows)
    return ids


async def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "still not so"
        await asyncio.sleep(0.01)


def send(log: PredictionLog, number: signal.Signals) -> int:
    """Send the writer's process a signal; its id."""
    assert log.process
    log.process.send_signal(number)
    return log.process.pid


def logged(folder: Path) -> list[str]:
    """The ids of all outcomes in the log, in order."""
    rows = duckdb.read_parquet(f"{folder}/feedback/*/*.parquet").project("prediction_id")
    return sorted(row[0] for row in rows.fetchall())


def counted(outcome: str) -> float:
    """Rows with this outcome, as /metrics has them."""
    return REGISTRY.get_sample_value("prediction_log_rows_total", {"outcome": outcome}) or 0


def gone(pid: int) -> bool:
    """Whether a process has ended, waited for or not."""
    with contextlib.suppress(FileNotFoundError):
        return "(zombie)" in Path(f"/proc/{pid}/status").read_text()
    return True


def test_a_frozen_writer_is_said_and_loses_nothing_when_it_goes_on(
    tmp_path: Path, impatient: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    async def scene() -> None:
        async with started(tmp_path) as log:
            given = give(log)
            await until(lambda: log.waiting == 0)
            impatient()
            send(log, signal.SIGSTOP)
            given += give(log)
            await until(lambda: log.error)
            assert log.describe()["error"] == "its process hangs, rows wait" and log.waiting == 5
            given += give(log)
            send(log, signal.SIGCONT)
            await until(lambda: log.waiting == 0)
            assert log.describe() == {
                "target": str(tmp_path),
                "error": None,
                "rows": {"waiting": 0, "dropped": 0},
            }
            assert logged(tmp_path) == sorted(given)

    asyncio.run(scene())
    assert capsys.readouterr().err == "serve: prediction log: its process hangs, rows wait\n"


def test_a_frozen_writer_does_not_stop_the_end_of_the_service(
    tmp_path: Path, impatient: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    impatient()

    async def scene() -> None:
        async with started(tmp_path, seconds=60) as log:
            pid = send(log, signal.SIGSTOP)
            give(log, 7)
            began = time.monotonic()
        assert time.monotonic() - began < 20  # not the minute of its flush interval
        await until(lambda: gone(pid))
        assert log.waiting == 0 and log.dropped == 7

    asyncio.run(scene())
    assert "serve: prediction log: 7 rows are lost at the end\n" in capsys.readouterr().err


@contextlib.contextmanager
def hanging_server() -> Iterator[int]:
    """The port of a server that takes connections and requests and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        lines: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    lines.append(server.accept()[0])

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        for line in lines:
            line.close()


def test_a_target_that_never_answers_is_said_and_does_not_stop_the_end(
    impatient: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    impatient()

    async def scene(port: int) -> None:
        async with started(f"webhdfs://127.0.0.1:{port}/log") as log:
            give(log, 3)
            await until(lambda: log.error)
            assert log.error == "its process hangs, rows wait"
            began = time.monotonic()
        assert time.monotonic() - began < 20 and log.dropped == 3

    with hanging_server() as port:
        asyncio.run(scene(port))
    assert "3 rows are lost at the end" in capsys.readouterr().err


def test_a_writer_whose_service_was_killed_does_not_wait_for_its_target_for_ever() -> None:
    rows = {"prediction_id": ["a"], "label": [1]}
    with hanging_server() as port:
        options = (f"webhdfs://127.0.0.1:{port}/log", 0.1, {"feedback": predictions.FEEDBACK})
        script = f"import log_writer\nlog_writer.LAST_SECONDS = 1\nlog_writer.main{options}"
        command = [sys.executable, "-c", script]
        batch = pickle.dumps(100) + pickle.dumps(("feedback", 1, {"received_at": 0}, rows))
        done = subprocess.run(command, cwd=prediction_log.WRITER.parent, input=batch, timeout=30)
    assert done.returncode == -signal.SIGALRM


def test_rows_of_a_writer_that_is_killed_are_counted_and_another_one_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scene() -> None:
        before = counted("dropped")
        async with started(tmp_path) as log:
            first = give(log, 100)
            await until(lambda: log.waiting == 0)
            pid = send(log, signal.SIGSTOP)
            for _ in range(300):  # more than the pipe takes: what the service still has is lost, too
                give(log, 100)
            send(log, signal.SIGKILL)
            await until(lambda: log.process is None)
            give(log, 9)  # nobody takes them
            with monkeypatch.context() as patch:  # and for a while nobody can
                patch.setattr(sys, "executable", "/nowhere")
                await asyncio.sleep(1.2)
                assert log.process is None
            await until(lambda: log.process)
            last = give(log, 10)
            assert log.process and log.process.pid != pid
        assert logged(tmp_path) == sorted(first + last)
        assert log.waiting == 0 and log.dropped == 30_009
        assert counted("dropped") - before == 30_009

    asyncio.run(scene())
    said = capsys.readouterr().err
    assert "its process died, 30,000 rows are lost" in said and len(said.splitlines()) == 1


def test_a_writer_that_lags_behind_drops_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(prediction_log, "MAX_WAITING", 100_000)
    monkeypatch.setattr(prediction_log, "QUIET_SECONDS", 60)

    async def scene() -> None:
        async with started(tmp_path) as log:
            send(log, signal.SIGSTOP)
            given = []
            while not log.dropped:
                given += give(log, 1000)
            assert log.waiting + log.dropped == len(given) and log.error
            send(log, signal.SIGCONT)
            await until(lambda: log.waiting == 0)
            assert len(logged(tmp_path)) + log.dropped == len(given) and log.error is None

    asyncio.run(scene())
    assert capsys.readouterr().err == "serve: prediction log: its process lags behind, rows are dropped\n"


def test_a_full_disk_leaves_no_half_files_and_rows_wait(tmp_path: Path) -> None:
    async def scene() -> None:
        async with started(tmp_path) as log:
            assert log.process
            resource.prlimit(log.process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
            given = give(log)
            await until(lambda: log.error)
            assert log.error and "File too large" in log.error and log.waiting == 5
            assert not [path for path in tmp_path.rglob("*") if path.is_file()]
            resource.prlimit(
                log.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            )
            await until(lambda: log.waiting == 0)
            assert logged(tmp_path) == sorted(given) and log.error is None
            resource.prlimit(log.process.pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
            give(log, 4)  # until the end there is no room
        assert log.dropped == 4 and not list(tmp_path.rglob("*.part"))

    asyncio.run(scene())


UNSHARE = [shutil.which("unshare") or "", "--map-root-user", "--mount"]


@pytest.mark.skipif(
    not UNSHARE[0] or subprocess.run([*UNSHARE, "true"], capture_output=True).returncode != 0,
    reason="no file system of its own can be mounted here",
)
def test_on_a_disk_that_is_full_the_service_answers_counts_what_it_drops_and_goes_on(
    models: Models,  # noqa: F811
) -> None:
    folder = models("champion")
    (log := folder / "log").mkdir()
    port, code = free_port(), "from tabloop.serving import *; serve(lambda chosen: create_app('kit', chosen))"
    env = clean(
        MODELS=str(folder),
        PORT=str(port),
        PREDICTION_LOG=str(log),
        PREDICTION_LOG_SECONDS="0.2",
        LOG=str(log),
    )
    mounted = 'mount -t tmpfs -o size=1m none "$LOG" && exec "$0" -c "$1"'
    process = subprocess.Popen([*UNSHARE, "sh", "-c", mounted, sys.executable, code], env=env)
    own = Path(f"/proc/{process.pid}/root{log}")  # as the service sees it
    rows, sent = [ROW | {"customer": f"c{at}"} for at in range(10_000)], 0
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

            def state() -> dict[str, Any]:
                return dict(client.get("/model").json()["log"])

            def waits(rows: int) -> bool:
                return bool(state()["rows"]["waiting"] <= rows)

            wait_for(lambda: answers(client))
            while not state()["rows"]["dropped"] and sent < 400_000:
                client.post("/predict/batch", json=rows).raise_for_status()
                sent += len(rows)
            assert "No space left" in state()["error"] and state()["rows"]["dropped"]
            assert client.get("/health/ready").json() == {"status": "ready", "degraded": ["log"]}
            for path in own.rglob("*.parquet"):
                path.unlink()
            wait_for(lambda: waits(0))
            assert state()["error"] is None and not list(own.rglob("*.part"))
            client.post("/predict/batch", json=rows[:10]).raise_for_status()
            wait_for(lambda: waits(0))
            kept = len(duckdb.read_parquet(f"{own}/predictions/*/*.parquet"))
            counts = re.findall(
                r'prediction_log_rows_total{outcome="(.*)"} (.*)', client.get("/metrics").text
            )
        found = {outcome: float(number) for outcome, number in counts}
        assert found["written"] + found["dropped"] == sent + 10 and 10 < kept <= found["written"]
    finally:
        process.kill()
        process.wait()


def test_long_texts_that_can_not_be_written_do_not_fill_the_memory(tmp_path: Path) -> None:
    """Of 50,000 rows with such texts, which any client may send, the writer took 1.3 GB."""
    target = tmp_path / "log"
    target.write_text("a file where the folder should be")

    async def scene() -> None:
        async with started(target, entity="user") as log:
            assert log.process and log.process.stdin
            for turn in range(14):
                log.add_feedback([f"{turn}{row:04}" + "😀" * 1000 for row in range(500)], [1] * 500)
                while log.process.stdin.transport.get_write_buffer_size():
                    await asyncio.sleep(0.01)
            await until(lambda: 5000 < log.waiting <= MAX_BYTES / 4000)
            await until(lambda: log.error and "NotADirectory" in log.error)

    asyncio.run(scene())


def test_half_files_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    day = tmp_path / "feedback/date=2026-01-01"
    day.mkdir(parents=True)
    dead, living, other = day / "a.parquet.part", day / "b.parquet.part", day / "c.txt"
    for path in (dead, living, other):
        path.write_bytes(b"half")

    async def scene() -> None:
        with living.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # as its writer does
            async with started(tmp_path) as log:
                give(log)
                await until(lambda: log.waiting == 0)
                assert sorted(day.iterdir()) == [living, other]

    asyncio.run(scene())


def test_a_file_that_failed_is_written_again_under_the_same_name(tmp_path: Path) -> None:
    """An object store may have the first one, though its answer was an error: no row is there twice."""
    target = tmp_path / "log"
    target.write_text("a file where the folder should be")
    table = Table("feedback", dict(predictions.FEEDBACK), str(target))
    table.add({"prediction_id": ["a"], "label": [1], "received_at": [0]})
    table.write()
    first = table.path
    time.sleep(1.1)
    table.add({"prediction_id": ["b"], "label": [1], "received_at": [0]})
    target.unlink()
    table.write()
    assert table.path == first and len(pd.read_parquet(first)) == 2


def test_features_called_like_the_logs_columns_or_of_another_type_do_not_stop_it(tmp_path: Path) -> None:
    """The entity of the champion may be a feature of the challenger; an online store may be of another schema."""

    async def scene() -> None:
        async with started(tmp_path, entity="label", label="category", visits="integer") as log:
            card = SimpleNamespace(source_table=None)
            model: Any = SimpleNamespace(role="champion", version="v", threshold=0.5, card=card)
            log.add_predictions(model, ["a"], {"label": ["x"], "visits": [3.5]}, [0.5])
            await until(lambda: log.waiting == 0)
            assert log.dropped == 1 and log.error
            log.add_predictions(model, ["b"], {"label": ["x"], "visits": [3]}, [0.5])
            await until(lambda: log.waiting == 0)
            assert log.error is None
        rows = duckdb.read_parquet(f"{tmp_path}/predictions/*/*.parquet")
        columns = "prediction_id, entity, feature_label, feature_visits"
        assert rows.project(columns).fetchall() == [("b", "x", "x", 3)]

    asyncio.run(scene())


def test_orchestrators_wait_until_the_log_is_written() -> None:
    """For open requests, then for the log; in Kubernetes the pause before SIGTERM counts, too."""

    def seconds(file: str, pattern: str) -> float:
        found = re.search(pattern, (TEMPLATE / file).read_text())
        assert found, pattern
        return float(found[1])

    app = "packages/tabloop/src/tabloop/serving/app.py"
    needed = seconds(app, r"timeout_graceful_shutdown=(\d+)") + prediction_log.STOP_SECONDS
    pause = seconds("deploy/kubernetes/service.yaml", r'preStop: { exec: { command: \[sleep, "(\d+)"\]')
    assert seconds("deploy/kubernetes/service.yaml", r"GracePeriodSeconds: (\d+)") > pause + needed
    assert seconds("deploy/compose.yaml", r"stop_grace_period: (\d+)s") > needed
