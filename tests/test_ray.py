"""`engine: ray` on a real cluster: a head without cores and two workers, each with processes of its own.

They are started by Ray's `cluster_utils.Cluster`, which runs what `ray start` runs.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from conftest import UV, Bake, torch_environment_of, wait_for
from kit.conftest import PARAMS, clean, orders
from kit.test_batch import add_model
from tabloop.card import ModelCard
from tabloop.metrics import auc
from tabloop.onnx_model import OnnxModel

MODEL = """
import time
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
def fit(features, target, schema, params):
    time.sleep(0.3)
    return make_pipeline(make_column_transformer(("passthrough", ["amount"])), LogisticRegression(C=params["C"])).fit(features, target)
"""
FEW = "SELECT customer_id, ordered_at, age, country FROM events WHERE customer_id < 'c002'"
# tabloop with small parts and blocks, so that few rows have many, and without the fits that choose the threshold.
TABLOOP = "import runpy; from tabloop import batch, ray_join, threshold; batch.PART = 1 << 15; ray_join.ROWS = 150; threshold.FOLDS = 1; runpy.run_module('tabloop', run_name='__main__')"
# What a trial's first score is, computed here.
SCORE = """
from tabloop import owner, tune
from tabloop.metrics import auc
from tabloop.params import load
params = load()
rows = tune.read_rows(params)
fit = owner.module("model").fit
print([auc(rows.target[rows.part == part], tune.predict(fit, rows, params, part)) for part in tune.FOLDS])
"""
# `tabloop`, where a network is trained together by two forks of this process and PyTorch alone, without Ray.
PYTORCH = """
import os
import torch
from torch import distributed
from tabloop import ray_torch
from tabloop.torch_training import learn
class Rank(ray_torch.Worker):
    def __init__(self, file):
        super().__init__(None)
        self.file = file
    def load(self):
        return {}
    def save(self, state):
        if self.rank == 0:
            torch.save(state, self.file)
def train_together(network, rows, settings, checkpoint):
    checkpoint.parent.mkdir()
    other = os.fork()
    meet = f"file://{checkpoint.absolute()}.meet"
    distributed.init_process_group("gloo", init_method=meet, rank=0 if other else 1, world_size=2)
    learn(network, rows, settings, Rank(checkpoint))
    if not other:
        os._exit(0)
    assert os.waitpid(other, 0)[1] == 0
    return 2, torch.load(checkpoint, weights_only=True)
ray_torch.train_together = train_together
"""
# Of a machine of the cluster.
SMALL: dict[str, Any] = {
    "object_store_memory": 80_000_000,
    "include_dashboard": False,
    "include_log_monitor": False,
}
Kill = Callable[["subprocess.Popen[str]"], None]


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
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder, empty at first, of packages that are not installed beside Ray here."""
    return tmp_path_factory.mktemp("packages")


@pytest.fixture(scope="module")
def cluster(packages: Path) -> Iterator[Any]:
    # The watcher asks whether a cloud takes a machine away: one process more, which imports Ray Train, for each training.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
    os.environ["PYTHONPATH"] = str(packages)
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500}  # that a node is lost
    started = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "no_monitor": True, "_system_config": soon, **SMALL},
    )
    for _ in range(2):
        started.add_node(num_cpus=1, **SMALL)
    before = children(started)
    assert len(before) >= 4
    yield started
    started.shutdown()
    wait_for(lambda: not any(p.is_running() and p.status() != "zombie" for p in before))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with features, a champion, a table to score and a space to search."""
    folder = tmp_path_factory.mktemp("ray")
    shutil.copytree(
        Path(__file__).parents[1] / "{{cookiecutter.project_slug}}/feature_repo", folder / "feature_repo"
    )
    for sql in folder.glob("feature_repo/*.sql"):
        sql.unlink()
    (folder / "feature_repo/customer_features.sql").write_text(FEW)  # most blocks have none of its rows
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
    tabloop(folder, "local", "featurize")
    return folder


def tabloop(
    folder: Path,
    engine: str,
    *arguments: str,
    code: int = 0,
    kill: Kill | None = None,
    train: dict[str, Any] | None = None,
    launcher: Sequence[str | None] = (),
    program: str = "",
    **variables: str,
) -> str:
    """What the command says. `kill` gets its process, or its launcher's, once it has workers, and ends something by SIGKILL.

    `program` is Python that is run before.
    """
    searched = {"train": {"C": 1.0}, "tune": {"C": {"low": 0.1, "high": 10.0, "log": True}}}
    changes = {"engine": engine} | ({"train": train} if train else searched)
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | changes, sort_keys=False))
    command = [*filter(None, launcher), sys.executable, "-c", program + TABLOOP, *arguments]
    out, err, env = subprocess.PIPE, subprocess.STDOUT, clean(**variables)
    with subprocess.Popen(command, cwd=folder, env=env, text=True, stdout=out, stderr=err) as process:
        said = ""
        if kill:
            assert process.stdout
            while "engine: ray at" not in said and (line := process.stdout.readline()):
                said += line
            kill(process)
        said += process.communicate(timeout=400)[0]
    assert process.returncode == code, said
    return said


def at_work(cluster: Any, process: "subprocess.Popen[str]", name: str = "call") -> psutil.Process:
    """A worker that computes a block, or what else Ray calls so, once there is one."""
    while process.poll() is None:
        for child in children(cluster):
            try:
                if f"ray::{name}" in " ".join(child.cmdline()):
                    return child
            except psutil.Error:
                pass  # it is gone
        time.sleep(0.005)
    raise AssertionError("the command has ended")


def test_a_batch_has_the_same_bytes_and_command_and_worker_may_die(home: Path, cluster: Any) -> None:
    tabloop(home, "local", "batch", "in.parquet", "local.parquet", code=3)

    def command(process: "subprocess.Popen[str]") -> None:
        wait_for(lambda: list(home.glob(".ray.parquet.batch/*.refused")))
        process.kill()

    run = home, "ray", "batch", "in.parquet", "ray.parquet"
    tabloop(*run, code=-signal.SIGKILL, kill=command, RAY_ADDRESS=cluster.address)
    left = len(list(home.glob(".ray.parquet.batch/*.refused")))
    assert 1 <= left < 5 and not (home / "ray.parquet").exists()
    said = tabloop(*run, code=3, kill=lambda p: at_work(cluster, p).kill(), RAY_ADDRESS=cluster.address)
    assert f"continues after {left} parts of an interrupted run" in said
    assert f"engine: ray at {cluster.address}, 2 cores" in said and " refused -> " in said
    for ending in ("parquet", "refused.parquet"):
        assert (home / f"ray.{ending}").read_bytes() == (home / f"local.{ending}").read_bytes()


def test_under_uv_run_no_worker_installs_packages(home: Path, cluster: Any) -> None:
    """Ray's own way sends the project's folder to each worker, which runs `uv run` there, with or without a network."""
    seen: list[str] = []

    def look(process: "subprocess.Popen[str]") -> None:
        at_work(cluster, process)
        seen.extend(" ".join(child.cmdline()) for child in children(cluster))

    where = {"launcher": (UV, "run", "--no-project"), "RAY_ADDRESS": cluster.address}
    tabloop(home, "ray", "batch", "in.parquet", "uv.parquet", code=3, kill=look, **where)
    assert any("ray::call" in line for line in seen)
    assert not [line for line in seen if "uv run" in line]


def test_a_search_computes_the_same_and_command_and_worker_may_die(home: Path, cluster: Any) -> None:
    def trials() -> list[tuple[str, list[float]]]:
        """The state of each trial and the means that it reported, in the order of their numbers."""
        with sqlite3.connect(home / "data/tune.db") as db:
            states = db.execute("SELECT trial_id, state FROM trials ORDER BY number").fetchall()
            steps = (
                "SELECT intermediate_value FROM trial_intermediate_values WHERE trial_id = ? ORDER BY step"
            )
            return [(state, [mean for (mean,) in db.execute(steps, [at])]) for at, state in states]

    def command(process: "subprocess.Popen[str]") -> None:
        wait_for(lambda: (home / "data/tune.db").exists() and "COMPLETE" in dict(trials()))
        process.kill()

    search = home, "ray", "tune", "--trials", "5", "--no-write"
    tabloop(*search, code=-signal.SIGKILL, kill=command, RAY_ADDRESS=cluster.address)
    left = trials()
    done = [trial for trial in left if trial[0] == "COMPLETE"]
    assert 1 <= len(done) < 5
    going = [number for number, (state, _) in enumerate(left) if state == "RUNNING"]
    tabloop(*search, kill=lambda p: at_work(cluster, p).kill(), RAY_ADDRESS=cluster.address)
    states = [state for state, _ in trials()]
    assert [trial for trial in trials()[: len(left)] if trial[0] == "COMPLETE"] == done
    # What the killed command had going is tried again, and five come to an end.
    assert [number for number, state in enumerate(states) if state == "FAIL"] == going
    assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"} and len(states) == 5 + len(going)
    here = subprocess.run(
        [sys.executable, "-c", SCORE], cwd=home, env=clean(), capture_output=True, text=True
    )
    scores = json.loads(here.stdout)
    # Of params.yaml's arguments, which are tried first, and again if the killed command had them.
    means = [float(np.mean(scores[: n + 1])) for n in range(3)]
    assert ("COMPLETE", means) in trials(), here.stderr


def test_features_have_the_same_bytes_and_a_machine_may_be_lost(home: Path, cluster: Any) -> None:
    def files() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (home / "data/features").iterdir()}

    def machine(process: "subprocess.Popen[str]") -> None:
        """End a raylet that has workers, with which they and its part of the object store are gone."""
        while process.poll() is None:
            for node in cluster.worker_nodes:
                raylet = node.all_processes["raylet"][0].process
                with contextlib.suppress(psutil.Error):
                    workers = psutil.Process(raylet.pid).children(recursive=True)
                    if any("ray::" in " ".join(worker.cmdline()) for worker in workers):
                        return raylet.kill()
        raise AssertionError("the command has ended")

    local = files()
    shutil.rmtree(home / "data/features")
    tabloop(home, "ray", "featurize", kill=machine, RAY_ADDRESS=cluster.address)
    cluster.add_node(num_cpus=1, **SMALL)  # in place of it
    assert {"train.parquet", "holdout.parquet"} < local.keys() and files() == local


@pytest.fixture(scope="module")
def network(home: Path, packages: Path, bake: Bake, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same project with PyTorch's model."""
    folder = tmp_path_factory.mktemp("network") / "project"
    project = bake(framework="torch")
    shutil.copytree(home, folder)
    (folder / "src/kit/__init__.py").touch()
    for name in ("model.py", "train.py"):
        shutil.copy(project / "src/fraud_detection" / name, folder / "src/kit")
    own = {path.name for path in Path(np.__file__).parents[1].iterdir()}
    (installed,) = torch_environment_of(project).glob("lib/python3*/site-packages")
    for path in installed.iterdir():
        if path.name not in own and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    return folder


def test_a_network_is_trained_together_and_command_and_worker_may_die(
    network: Path, packages: Path, cluster: Any
) -> None:
    made = network / "models/candidate"

    def train(engine: str, **options: Any) -> tuple[str, float]:
        """What the command says, and the AUC of its model on the holdout."""
        where = {"RAY_ADDRESS": cluster.address, "PYTHONPATH": str(packages), "CUDA_VISIBLE_DEVICES": ""}
        settings = {"batch_size": 2048, "epochs": 150, "patience": 150}
        said = tabloop(network, engine, "run", "train", train=settings, **options, **where)
        rows = pd.read_parquet(network / "data/features/holdout.parquet")
        card = ModelCard.read(made)
        return said, auc(
            rows.returned.to_numpy(), OnnxModel(made / "model.onnx", card.schema_).probability(rows)
        )

    def command(process: "subprocess.Popen[str]") -> None:
        wait_for(lambda: list(network.glob(".checkpoints/*.ray.pt")), 150)
        process.kill()

    def worker(process: "subprocess.Popen[str]") -> None:
        (before,) = (path.read_bytes() for path in network.glob(".checkpoints/*.ray.pt"))
        wait_for(lambda: any(p.read_bytes() != before for p in network.glob(".checkpoints/*.ray.pt")), 150)
        at_work(cluster, process, "RayTrainWorker").kill()

    _, alone = train("local")
    train("ray", kill=command, code=-signal.SIGKILL)
    said, together = train("ray", kill=worker)
    assert "train: continues after epoch " in said
    assert "train: on cpu in float32, 2 workers of Ray: epoch " in said and "of 150, log loss" in said
    assert alone > 0.9 and abs(together - alone) < 0.005
    assert not (network / ".checkpoints").exists()
    killed = (made / "model.onnx").read_bytes()
    train("ray", program=PYTORCH)
    # Neither Ray nor what was killed has changed anything.
    assert (made / "model.onnx").read_bytes() == killed


def test_a_network_is_not_trained_together_where_that_is_slower_or_can_not_be(
    network: Path, packages: Path, cluster: Any
) -> None:
    where = {"PYTHONPATH": str(packages), "CUDA_VISIBLE_DEVICES": "", "RAY_ADDRESS": cluster.address}
    said = tabloop(network, "ray", "run", "train", train={"epochs": 2}, **where)
    assert "train: without Ray's workers, as batch_size is below 2,048: that is slower" in said
    broken = {"epochs": 2, "batch_size": 2048, "learning_rate": 1e30}
    said = tabloop(network, "ray", "run", "train", train=broken, code=1, **where)
    assert "train: params.yaml: train: the log loss is " in said and "lower learning_rate" in said
    assert "Traceback" not in said


def test_what_is_missing_is_a_line_within_seconds(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tabloop import ray_engine

    said = tabloop(home, "ray", "batch", "in.parquet", "out.parquet", code=1, RAY_ADDRESS="")
    line = "RAY_ADDRESS is not set: give the host:port that `ray start --head` prints"
    assert said.endswith(f"\nbatch: {line}\n") and "Traceback" not in said and not list(home.glob("out*"))
    with socket.socket() as free, socket.socket() as other:
        free.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        other.listen()  # takes connections and never answers
        addresses = {
            "ray://here:10001": "RAY_ADDRESS is ray://here:10001: give the host:port",
            f"127.0.0.1:{free.getsockname()[1]}": "no Ray cluster answers at 127.0.0.1:",
            f"127.0.0.1:{other.getsockname()[1]}": "no Ray cluster answers at 127.0.0.1:",
        }
        for address, line in addresses.items():
            monkeypatch.setenv("RAY_ADDRESS", address)
            began = time.monotonic()
            with pytest.raises(ray_engine.LostError, match=line), ray_engine.cluster(len):
                pass
            assert time.monotonic() - began < 10
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    with (
        pytest.raises(ray_engine.LostError, match="Ray is not installed: run `uv sync"),
        ray_engine.cluster(len),
    ):
        pass


def test_a_worker_with_another_tabloop_is_a_line(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tabloop import ray_engine

    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setattr(ray_engine, "version", lambda name: "0.0.1")
    # Ray is imported here already, by `cluster`.
    monkeypatch.setattr("ray._private.ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV", False)
    with (
        pytest.raises(
            ray_engine.LostError,
            match=f"a worker of the Ray cluster has tabloop {version('tabloop')}, and here is 0.0.1",
        ),
        ray_engine.cluster(len) as found,
    ):
        found.submit("abc").result()


def test_the_pods_of_the_cluster_on_the_page_are_valid() -> None:
    """KubeRay's own fields have no schema here; what it makes pods of has Kubernetes' one."""
    page = (Path(__file__).parents[1] / "docs/ray.md").read_text()
    (cluster,) = (yaml.safe_load(part.split("```")[0]) for part in page.split("```yaml")[1:])
    spec = cluster["spec"]
    assert f"{version('ray').rpartition('.')[0]}." in f"{spec['rayVersion']}."
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **group["template"]}
        kubernetes_validate.validate(pod, "1.34", strict=True)
