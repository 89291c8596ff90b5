"""Grown up: data, models, prediction log and feedback in an object store, by the README's own commands."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import UV, Project, Run, Serve, clean, edit, share_bytecode
from s3_server import s3_server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """An S3 of this machine, which the environment points to; its log."""
    with s3_server(tmp_path / "s3.log") as log:
        yield log


def test_everything_moves_to_an_object_store(
    store: Path, run: Run, serve: Serve, project: Project, quick: Path, tmp_path: Path
) -> None:
    assert UV, "run the tests by `make test`"
    copy, log = project(quick), "s3://bucket/log"
    for packages in (["s3fs"], ["--group", "pipeline", "dvc[s3]"]):
        subprocess.run([UV, "add", "--quiet", *packages], cwd=copy, check=True, env=clean())
    share_bytecode(copy / ".venv")
    path = f"{copy / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    there = {"PATH": path, "UV_PROJECT_ENVIRONMENT": str(copy / ".venv"), "PREDICTION_LOG": log}

    run(copy, "dvc", "remote", "modify", "local", "url", "s3://bucket/dvc", **there)
    run(copy, "dvc", "push", **there)
    run(copy, "git", "commit", "--quiet", "--all", "--message", "Data and models in S3")
    run(tmp_path, "git", "clone", "--quiet", copy, "colleague")
    run(tmp_path / "colleague", "dvc", "pull", **there)
    models = [folder / "models/champion/model.onnx" for folder in (copy, tmp_path / "colleague")]
    assert models[0].read_bytes() == models[1].read_bytes()

    assert "there is no prediction log in s3://bucket/log" in run(copy, "make", "drift", **there).stdout
    with serve(copy, **there) as server:
        sent = f"ARGS=--url {server.url} --rows 2500 --drift amount=4"
        run(copy, "make", f"UV={UV}", "traffic", sent, **there)
        assert "Traceback" not in server.stop()
    assert "**Drift** in 2,500 predictions" in run(copy, "make", "drift", **there).stdout
    assert "AUC 0." in run(copy, "make", "performance", **there).stdout

    edit(copy, lambda p: p["data"].update(feedback=log))
    said = run(copy, "dvc", "repro", "featurize", **there).stdout
    assert "2,500 labelled predictions -> data/raw" in said
    assert "2,500 labelled predictions join the data" in said

    nowhere = there | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}
    for command in ("drift", "performance"):
        failed = run(copy, "tabloop", command, code=1, **nowhere).stderr
        assert failed.startswith(f"{command}: {log} can't be read: ") and len(failed.splitlines()) == 1
    failed = run(copy, "tabloop", "ingest", code=1, **nowhere).stderr
    assert failed.startswith("ingest: ") and (copy / "data/raw/feedback.parquet").exists()


@pytest.mark.parametrize(("url", "why"), [("s3://bucket/log", "s3fs"), ("nowhere://x", "protocol")])
def test_a_log_that_needs_a_package_names_it(run: Run, quick: Path, url: str, why: str) -> None:
    for command in (["python", "-m", "fraud_detection.app"], ["tabloop", "drift"]):
        done = run(quick, *command, code=1, PREDICTION_LOG=url)
        assert f"{url}: " in done.stderr and why in done.stderr.lower()
        assert len(done.stderr.splitlines()) == 1
