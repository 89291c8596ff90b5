"""The image, built and run as on a server: read-only, without capabilities, not as root."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from conftest import UV, Project, Run, answers, clean, free_port, wait_for
from redis_server import redis_server

IMAGE = "ghcr.io/fraud-detection:dev"
KEY = {"user_id": "u000001", "amount": 12.5, "merchant_category": "fuel", "channel": "online"}
HARDENED = ["--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges:true"]


def docker(*arguments: str | Path, code: int = 0) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout.strip()


def compose() -> str:
    """Compose: the plugin, or the program that has the same commands."""
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
    return "docker compose" if plugin else "docker-compose"


@contextmanager
def posting(to: str, row: dict[str, Any], headers: dict[str, str] | None = None) -> Iterator[None]:
    """Some hundred requests a second, whether they are answered or not."""
    ended = threading.Event()

    def post() -> None:
        with httpx.Client(headers=headers) as client:
            while not ended.wait(0.005):
                with suppress(httpx.HTTPError):
                    client.post(to, json=row)

    thread = threading.Thread(target=post)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@pytest.fixture(scope="session")
def image(trained: Path, run: Run) -> str:
    run(trained, "make", f"UV={UV}", "image")
    return IMAGE


@pytest.fixture
def container(image: str) -> Iterator[str]:
    """The name of a hardened container that runs on a port of its own."""
    name = f"ml-template-test-{time.monotonic_ns()}"
    docker("run", "--detach", "--name", name, "--publish", "127.0.0.1::8000", *HARDENED, image)
    try:
        yield name
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True)


def url(container: str) -> str:
    return "http://" + docker("port", container, "8000/tcp").splitlines()[0]


def inspect(thing: str, part: str) -> Any:
    return json.loads(docker("inspect", "--format", f"{{{{json {part}}}}}", thing))


def test_without_an_image_smoke_says_what_makes_one(baked: Path) -> None:
    command = ["bash", "deploy/release.sh", "smoke", "127.0.0.1:1/none:here"]
    done = subprocess.run(command, cwd=baked, env=clean(), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "release: there is no image 127.0.0.1:1/none:here: `make image` builds it\n"


def test_the_image_has_what_serves_and_labels_that_identify_it(image: str, trained: Path) -> None:
    card = json.loads((trained / "models/champion/model.json").read_text())
    labels = inspect(image, ".Config.Labels")
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=trained, capture_output=True, text=True, env=clean()
    )
    assert labels["org.opencontainers.image.version"] == card["version"]
    assert labels["org.opencontainers.image.revision"] == head.stdout.strip()
    assert labels["ml.data-hash"] == card["data_hash"]
    held = docker(
        "run", "--rm", image, "sh", "-c", "ls /venv/lib/python*/site-packages; find /app -type f; id -u"
    )
    for library in ("sklearn", "pandas", "feast", "mlflow", "duckdb", "pyarrow", "pip"):
        assert f"\n{library}\n" not in held
    assert "/app/models/champion/model.onnx" in held and held.endswith("\n10001")
    base = docker("image", "inspect", "--format", "{{.Size}}", "python:3.11-slim")
    assert int(inspect(image, ".Size")) - int(base) < 200e6  # what the project adds


def test_hardened_it_becomes_healthy_answers_and_keeps_its_log(container: str, tmp_path: Path) -> None:
    wait_for(lambda: inspect(container, ".State.Health.Status") == "healthy")
    answer = httpx.post(f"{url(container)}/predict", json=KEY).raise_for_status().json()
    began = time.monotonic()
    docker("stop", "--time", "20", container)
    assert time.monotonic() - began < 15  # it took the signal, it was not killed
    assert inspect(container, ".State.ExitCode") in (0, 143)
    said = subprocess.run(["docker", "logs", container], capture_output=True, text=True)
    assert "shutdown complete" in said.stderr and "elemetry" not in said.stderr
    docker("cp", f"{container}:/log/predictions", tmp_path / "predictions")
    logged = duckdb.read_parquet(f"{tmp_path}/predictions/date=*/*.parquet").df()
    assert logged.prediction_id.tolist() == [answer["prediction_id"]]


def test_a_full_disk_fails_no_request(image: str) -> None:
    name = "ml-template-test-full"
    small = ["--tmpfs", "/small:size=8k,mode=1777", "--env", "PREDICTION_LOG=/small"]
    variables = ["--env", "PREDICTION_LOG_SECONDS=0.3", "--publish", "127.0.0.1::8000"]
    docker("run", "--detach", "--rm", "--name", name, *HARDENED, *small, *variables, image)
    try:
        with httpx.Client(base_url=url(name)) as client:
            wait_for(lambda: answers(client))
            for i in range(200):
                assert client.post("/predict", json=KEY | {"user_id": f"u{i:06d}"}).status_code == 200
            wait_for(lambda: "No space left" in (client.get("/model").json()["log"]["error"] or ""))
            assert client.post("/predict", json=KEY).status_code == 200
    finally:
        docker("rm", "--force", name)


def test_without_the_features_that_it_looks_up_it_is_not_built(
    image: str, trained: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    (copy / "data/online/store.db").unlink()
    built = subprocess.run(["docker", "build", "."], cwd=copy, capture_output=True, text=True)
    assert (
        built.returncode
        and "image: the champion looks features up, and data/online/store.db is" in built.stderr
    )


def test_the_target_batch_scores_a_table_hardened_as_the_service(
    image: str, trained: Path, run: Run, tmp_path: Path
) -> None:
    assert image  # its layers are those of the target's
    docker("build", "--target", "batch", "--tag", "ml-template-test-batch", trained)
    tables = tmp_path / "tables"
    tables.mkdir(mode=0o777)
    tables.chmod(0o777)
    names = "transaction_id, user_id, timestamp, amount, merchant_category, channel"
    rows = duckdb.read_parquet(f"{trained}/data/features/holdout.parquet")
    rows.project(names).write_csv(f"{tables}/in.csv")
    options = ["--rm", "--volume", f"{tables}:/batch", *HARDENED]
    said = docker("run", *options, "ml-template-test-batch", "/batch/in.csv", "/batch/out.parquet")
    run(trained, "tabloop", "batch", tables / "in.csv", tables / "here.parquet")
    mine, here = (duckdb.read_parquet(f"{tables}/{name}.parquet").fetchall() for name in ("out", "here"))
    assert mine == here and f"{len(mine):,} rows scored by the champion" in said
    command = ["docker", "run", *options, "ml-template-test-batch", "/batch/none.csv", "/batch/x.parquet"]
    failed = subprocess.run(command, capture_output=True, text=True)
    assert (failed.returncode, failed.stderr) == (1, "batch: /batch/none.csv: no such file\n")


def test_by_one_setting_its_store_is_redis(image: str, trained: Path, run: Run, tmp_path: Path) -> None:
    name, port = "ml-template-test-redis", str(free_port())
    with redis_server(tmp_path) as address:
        setting = {"ONLINE_STORE": f"redis://{address}/0"}
        variables = [f"--env={key}={value}" for key, value in (setting | {"PORT": port}).items()]
        docker("run", "--detach", "--name", name, "--network", "host", *HARDENED, *variables, image)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                logs = ["docker", "logs", name]
                reason = f"serve: not ready: UserError: ONLINE_STORE={setting['ONLINE_STORE']} has no row"
                wait_for(
                    lambda: (
                        not answers(client)
                        and reason in subprocess.run(logs, capture_output=True, text=True).stderr
                    )
                )
                run(trained, "tabloop", "materialize", **setting)
                wait_for(lambda: answers(client))
                assert client.post("/predict", json=KEY).json()["variant"] == "champion"
                assert "missing_online_features_total 0.0" in client.get("/metrics").text
        finally:
            docker("rm", "--force", "--volumes", name)


def test_reconcile_runs_an_environment_by_its_release(
    image: str, trained: Path, project: Project, run: Run
) -> None:
    """With the image itself. What can go wrong: tests/test_reconcile.py."""
    server = project(trained)
    (server / "deploy/staging/secret.env").write_text("API_KEYS=secret\n")
    up = ["make", f"UV={UV}", f"COMPOSE={compose()}", "reconcile", "ENV=staging"]
    try:
        assert f"staging now runs {IMAGE}" in run(server, *up, PORT="18080").stdout
        with httpx.Client(base_url="http://127.0.0.1:18080", headers={"X-API-Key": "secret"}) as client:
            by_key = client.post("/predict", json=KEY).json()
            assert by_key["variant"] == "champion"
            assert "missing_online_features_total 0.0" in client.get("/metrics").text  # they are in the image
            assert httpx.post("http://127.0.0.1:18080/predict", json=KEY).status_code == 401
        # Its own metrics are what a new release is judged by: this one's log can't be written.
        release = server / "deploy/staging/release.env"
        release.write_text(release.read_text() + "PREDICTION_LOG=/nowhere\nPREDICTION_LOG_SECONDS=0.1\n")
        with posting("http://127.0.0.1:18080/predict", KEY, {"X-API-Key": "secret"}):
            said = run(server, *up, code=2, PORT="18080", WATCH_SECONDS="8")
        why = rf"release: {IMAGE}: the prediction log lost 0 rows and failed \d+ times; staging runs {IMAGE} again"
        assert re.search(f"^{why}$", said.stderr, re.M)
    finally:
        run(server, *compose().split(), "--project-name", "fraud-detection-staging", "down", "--volumes")


def test_a_new_model_alone_rebuilds_only_its_layer(image: str, trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "copy", symlinks=True)
    card = json.loads((copy / "models/champion/model.json").read_text())
    (copy / "models/champion/model.json").write_text(json.dumps(card | {"version": "another"}))
    built = subprocess.run(
        ["docker", "build", "--progress", "plain", "--tag", "ml-template-test:model", "."],
        cwd=copy,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    layers = [inspect(name, ".RootFS.Layers") for name in (image, "ml-template-test:model")]
    assert (
        layers[0][:-2] == layers[1][:-2] and layers[0][-2] != layers[1][-2]
    )  # the last one is the check's, empty
    docker("rmi", "ml-template-test:model")
