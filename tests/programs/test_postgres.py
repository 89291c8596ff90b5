"""MLflow on a real PostgreSQL, directly and behind MLflow's server: registered once, whatever is killed."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import free_port, wait_for
from kit.conftest import clean
from postgres_server import PASSWORD, postgres_server
from tabloop import registry
from tabloop.cli import UserError

from .test_registry import EVALUATION, PROJECT, aliases, card, register


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL."""
    with postgres_server() as url:
        yield url


class Server:
    """MLflow's server on PostgreSQL, which has the artefacts, too."""

    def __init__(self, postgres: str, folder: Path) -> None:
        self.port, self.postgres, self.folder = free_port(), postgres, folder
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.postgres, "--artifacts-destination", str(self.folder)]
        env = clean(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")  # seven processes that nothing here needs
        self.folder.mkdir(exist_ok=True)
        log = (self.folder.parent / "mlflow.log").open("a")
        self.process = subprocess.Popen(
            command, cwd=self.folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
        wait_for(lambda: self.process.poll() is not None or self.answers(), 120)
        assert self.process.poll() is None

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").is_success
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, 9)
        self.process.wait()


@pytest.fixture(scope="module")
def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An MLflow server."""
    server = Server(postgres, tmp_path_factory.mktemp("server") / "artifacts")
    server.start()
    try:
        yield server
    finally:
        server.kill()


def entries() -> list[str]:
    """The model version of each of the registry's."""
    found = registry.connect(PROJECT).search_model_versions("name = 'kit'")
    return sorted(str(entry.tags["version"]) for entry in found)


def test_directly_on_postgresql(postgres: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres)
    assert [register(folder, version) for version in ("a", "b", "a")] == [1, 2, 1]
    registry.mirror(PROJECT, {"champion": "a", "challenger": "b"})
    assert aliases() == {"champion": "a", "challenger": "b"}
    registry.mirror(PROJECT, {"champion": "b", "challenger": None})
    assert aliases() == {"champion": "b"}
    import mlflow

    assert mlflow.artifacts.list_artifacts("models:/kit@champion")


def test_two_registers_at_once_make_one_version(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each looks before the other has registered: they meet at the last step."""
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    barrier, original = threading.Barrier(2, timeout=60), mlflow.register_model

    def together(*values: Any, **options: Any) -> Any:
        barrier.wait()
        return original(*values, **options)

    register(folder, "a")
    monkeypatch.setattr(mlflow, "register_model", together)
    registry.connect(PROJECT)
    run: str = mlflow.search_runs(search_all_experiments=True).run_id[0]
    with monkeypatch.context() as patch:
        patch.setattr(registry, "run_of", lambda *_: run)
        made: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: made.append(registry.register(PROJECT, card("both"), EVALUATION, folder))
            )
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 2 and len(set(made)) == 1 and entries().count("both") == 1
    registry.mirror(PROJECT, {"champion": "both", "challenger": None})
    assert aliases() == {"champion": "both"}


def test_a_server_that_is_killed_in_the_middle(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is there, and has no model yet."""
    from mlflow.utils import rest_utils

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    original: Any = rest_utils.http_request
    killed = list[str]()

    def request(*values: Any, **options: Any) -> Any:
        endpoint = options.get("endpoint") or values[1]
        if "logged-models" in endpoint and not killed:
            killed.append(endpoint)
            server.kill()
        return original(*values, **options)

    version = "killed"
    with monkeypatch.context() as patch:
        patch.setattr(rest_utils, "http_request", request)
        with pytest.raises(UserError, match=r"^MLflow at http://.+ failed: .+; run this again$") as caught:
            register(folder, version)
    assert killed and "\n" not in str(caught.value)
    server.start()
    candidate = folder / version
    first = registry.register(PROJECT, card(version), EVALUATION, candidate)
    assert registry.register(PROJECT, card(version), EVALUATION, candidate) == first
    assert entries().count(version) == 1
    import mlflow

    (entry,) = [
        e for e in registry.connect(PROJECT).search_model_versions("name = 'kit'") if int(e.version) == first
    ]
    assert mlflow.artifacts.list_artifacts(f"models:/kit/{entry.version}")  # not of the run that was cut off


def test_a_database_that_is_down_and_a_package_that_is_missing_are_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mlflow.store.db.utils.MAX_RETRY_COUNT", 1)  # it tries for 100 s
    url = f"postgresql://mlflow:{PASSWORD}@127.0.0.1:{free_port()}/postgres"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    with pytest.raises(
        UserError, match=r"^MLflow at postgresql://127\.0\.0\.1:\d+/postgres does not "
    ) as caught:
        registry.connect(PROJECT)
    said = str(caught.value) + "".join(capfd.readouterr())
    assert PASSWORD not in said and "\n" not in said and "Traceback" not in said
    script = "import sys; sys.modules['psycopg'] = None; from tabloop.cli import command\n"
    script += "with command('register'):\n  from tabloop import registry; from tabloop.params import load; registry.connect(load())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=clean(MLFLOW_TRACKING_URI=url),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "register: MLflow on PostgreSQL: run `uv add --group pipeline 'psycopg[binary]'`\n"
