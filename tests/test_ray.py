"""`engine: ray` on a real cluster: a head without cores and two workers, each with processes of its own.

They are started by Ray's `cluster_utils.Cluster`, which runs what `ray start` runs.
"""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from conftest import wait_for
from kit.conftest import PARAMS, clean, orders
from kit.test_batch import add_model

MODEL = """
import time
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
def fit(features, target, schema, params):
    time.sleep(0.3)
    return make_pipeline(make_column_transformer(("passthrough", ["amount"])), LogisticRegression(C=params["C"])).fit(features, target)
"""


def children(cluster: Any) -> list[psutil.Process]:
    """All processes of the cluster: GCS, raylets, workers."""
    own = [
        info.process
        for node in cluster.list_all_nodes()
        for all_ in node.all_processes.values()
        for info in all_
    ]
    found = [psutil.Process(process.pid) for process in own]
    return [*found, *(child for process in found for child in process.children(recursive=True))]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    small: dict[str, Any] = {"object_store_memory": 80_000_000, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    for _ in range(2):
        started.add_node(num_cpus=1, **small)
    before = children(started)
    assert len(before) >= 4
    yield started
    started.shutdown()
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in before))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with raw data, a champion, a table to score and a space to search."""
    folder = tmp_path_factory.mktemp("ray")
    shutil.copytree(
        Path(__file__).parents[1] / "{{cookiecutter.project_slug}}/feature_repo", folder / "feature_repo"
    )
    for sql in folder.glob("feature_repo/*.sql"):
        sql.unlink()
    store = folder / "feature_repo/feature_store.yaml"
    store.write_text(store.read_text().replace("{{ cookiecutter.package_name }}", "kit"))
    (folder / "src/kit").mkdir(parents=True)
    (folder / "src/kit/model.py").write_text(MODEL)
    orders(2000, 97).to_csv(folder / "events.csv", index=False)
    add_model(folder, "champion", "v1")
    rows = 150_000
    table = pd.DataFrame({"order_id": np.arange(rows), "label": np.random.default_rng(0).normal(size=rows)})
    table = table.assign(amount=table.label * 10 + 25, country="DE")  # some are negative, which is refused
    table.to_parquet(folder / "in.parquet")
    tabloop(folder, "local", "ingest")
    return folder


def tabloop(
    folder: Path, engine: str, *arguments: str, code: int = 0, kill: Any = None, **variables: str
) -> str:
    """What the command says; `kill`: a cluster of which a worker ends in the middle, by SIGKILL."""
    changes = {"engine": engine, "train": {"C": 1.0}, "tune": {"C": {"low": 0.1, "high": 10.0, "log": True}}}
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | changes, sort_keys=False))
    command = [sys.executable, "-m", "tabloop", *arguments]
    with subprocess.Popen(
        command,
        cwd=folder,
        env=clean(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        if kill:
            at_work = list[psutil.Process]()
            while not at_work and process.poll() is None:
                at_work = [child for child in children(kill) if "ray::call" in name_of(child)]
            assert at_work and process.poll() is None
            at_work[0].send_signal(signal.SIGKILL)
        said = process.communicate(timeout=80)[0]
    assert process.returncode == code, said
    return said


def name_of(process: psutil.Process) -> str:
    """What a process is called now; "" if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_batch_has_the_same_bytes_and_a_worker_may_die(home: Path, cluster: Any) -> None:
    tabloop(home, "local", "batch", "in.parquet", "local.parquet", code=3)
    said = tabloop(
        home, "ray", "batch", "in.parquet", "ray.parquet", code=3, kill=cluster, RAY_ADDRESS=cluster.address
    )
    assert f"engine: ray at {cluster.address}, 2 cores" in said and " refused -> " in said
    for ending in ("parquet", "refused.parquet"):
        assert (home / f"ray.{ending}").read_bytes() == (home / f"local.{ending}").read_bytes()


def test_features_have_the_same_bytes_and_a_worker_may_die(home: Path, cluster: Any) -> None:
    made = {}
    for engine in ("local", "ray"):
        kill = cluster if engine == "ray" else None
        tabloop(home, engine, "featurize", kill=kill, RAY_ADDRESS=cluster.address)
        made[engine] = {p.name: p.read_bytes() for p in (home / "data/features").iterdir()}
    assert {"train.parquet", "holdout.parquet"} < made["ray"].keys() and made["ray"] == made["local"]


def test_a_search_computes_the_same_and_a_worker_may_die(home: Path, cluster: Any) -> None:
    found = {}
    for engine, trials in (("ray", 4), ("local", 1)):
        kill = cluster if engine == "ray" else None
        if not (home / "data/features/train.parquet").exists():
            tabloop(home, "local", "featurize")
        tabloop(
            home,
            engine,
            "tune",
            "--trials",
            str(trials),
            "--no-write",
            kill=kill,
            RAY_ADDRESS=cluster.address,
        )
        with sqlite3.connect(home / "data/tune.db") as db:
            found[engine] = db.execute(
                "SELECT number, state, value, param_value FROM trials JOIN trial_params USING (trial_id) "
                "LEFT JOIN trial_values USING (trial_id) ORDER BY number"
            ).fetchall()
        (home / "data/tune.db").unlink()
    assert len(found["ray"]) == 4 and {state for _, state, *_ in found["ray"]} <= {"COMPLETE", "PRUNED"}
    assert found["ray"][0] == found["local"][0]


def test_what_is_missing_is_a_line_within_seconds(home: Path, tmp_path: Path) -> None:
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        other.listen()  # takes connections and never answers
        addresses = {
            "": "RAY_ADDRESS is not set: give the host:port that `ray start --head` prints",
            "ray://here:10001": "RAY_ADDRESS is ray://here:10001: give the host:port",
            f"127.0.0.1:{free.getsockname()[1]}": "no Ray cluster answers at 127.0.0.1:",
            f"127.0.0.1:{other.getsockname()[1]}": "no Ray cluster answers at 127.0.0.1:",
        }
        for address, line in addresses.items():
            began = time.monotonic()
            said = tabloop(home, "ray", "batch", "in.parquet", "out.parquet", code=1, RAY_ADDRESS=address)
            assert line in said and "Traceback" not in said and time.monotonic() - began < 20, said
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\nu.find_spec = lambda n, *a: None if n == 'ray' else find(n, *a)\n"
    )
    said = tabloop(home, "ray", "batch", "in.parquet", "out.parquet", code=1, PYTHONPATH=str(tmp_path))
    assert "Ray is not installed: run `uv sync --group ray`" in said


def test_a_worker_with_another_tabloop_is_a_line(home: Path, cluster: Any) -> None:
    code = """
import importlib.metadata, sys
from tabloop import ray_engine
ray_engine.version = lambda name: "0.0.1"
with ray_engine.cluster(len) as cluster:
    try:
        cluster.submit("abc").result()
    except ray_engine.LostError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=home,
        env=clean(RAY_ADDRESS=cluster.address),
        capture_output=True,
        text=True,
    )
    assert "a worker of the Ray cluster has tabloop " in done.stdout and done.stdout.endswith(
        "and here is 0.0.1\n"
    )
