"""`tabloop batch` by one and two of Ray's workers, and the same on one and two cores without Ray, in turns on the same rows.

    uv run benchmarks/ray_scaling.py demo/fraud-detection 1_000_000

after `make demo`. A worker has one core; the command itself, which reads, cuts and writes, runs beside them. CPU seconds are those
of the command and of all processes of the cluster. Each command begins by connecting to the cluster, and its workers by importing.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from batch import write_rows

ROUNDS = 2
Took = tuple[float, float]  # seconds, seconds of CPU


class Used(threading.Thread):
    """Adds up the CPU seconds of a cluster, ten times a second: its workers end with the command, before one could ask them."""

    def __init__(self, cluster: Any) -> None:
        super().__init__(daemon=True)
        nodes = [node.all_processes for node in cluster.list_all_nodes()]
        own = [info.process for node in nodes for infos in node.values() for info in infos]
        self.own = [psutil.Process(process.pid) for process in own]
        self.before, self.now = self.look(), dict[int, float]()
        self.over = threading.Event()
        self.start()

    def look(self) -> dict[int, float]:
        """The CPU seconds of each process so far."""
        found = {}
        for process in (*self.own, *(child for one in self.own for child in one.children(recursive=True))):
            with contextlib.suppress(psutil.Error):
                found[process.pid] = process.cpu_times().user + process.cpu_times().system
        return found

    def run(self) -> None:
        """Look until the end."""
        while not self.over.wait(0.1):
            self.now |= self.look()

    def end(self) -> float:
        """The CPU seconds since the beginning."""
        self.over.set()
        self.join()
        return sum(self.now.values()) - sum(self.before.get(pid, 0) for pid in self.now)


def score(project: Path, engine: str, rows: Path, output: Path, cores: int, address: str = "") -> Took:
    """One run of the command; of Ray's, without the cluster's CPU seconds."""
    params = yaml.safe_load((project / "params.yaml").read_text()) | {"engine": engine}
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    command = [sys.executable, "-m", "tabloop", "batch", str(rows), str(output)]
    if engine == "local":
        command = ["taskset", "--cpu-list", ",".join(map(str, range(cores))), *command]
    begun = time.perf_counter()
    env = os.environ | {"RAY_ADDRESS": address}
    process = subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, text=True)
    said, (_, status, used) = process.stdout.read() if process.stdout else "", os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command}: {said}")
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime


def main(project: Path, rows: int) -> None:
    """Print the table."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    took: dict[tuple[str, int], list[Took]] = {}
    kept = (project / "params.yaml").read_text()
    small: dict[str, Any] = {"object_store_memory": 200_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    try:
        with tempfile.TemporaryDirectory() as name:
            file = write_rows(project, Path(name), rows)["all.parquet"]
            for cores in (1, 2):
                cluster.add_node(num_cpus=1, **small)
                for _ in range(ROUNDS):
                    alone = score(project, "local", file, Path(name, "local.parquet"), cores)
                    used = Used(cluster)
                    wall, cpu = score(project, "ray", file, Path(name, "ray.parquet"), cores, cluster.address)
                    took.setdefault(("without Ray", cores), []).append(alone)
                    took.setdefault(("Ray", cores), []).append((wall, cpu + used.end()))
            same = Path(name, "ray.parquet").read_bytes() == Path(name, "local.parquet").read_bytes()
    finally:
        cluster.shutdown()
        (project / "params.yaml").write_text(kept)
    print(
        f"the same bytes: {same}\n\n| {rows:,} rows | cores | seconds | CPU | rows/s | of one core's | of without Ray | a CPU second |"
    )
    print("|---|---|---|---|---|---|---|---|")
    best = {way: tuple(map(min, zip(*found, strict=True))) for way, found in took.items()}
    for (engine, cores), (wall, cpu) in best.items():
        one, alone = best[engine, 1][0], best["without Ray", cores]
        ratios = f"{one / wall:.2f} | {alone[0] / wall:.2f} | {alone[1] / cpu:.2f}"
        print(f"| {engine} | {cores} | {wall:.1f} | {cpu:.1f} | {rows / wall:,.0f} | {ratios} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2].replace("_", "")) if len(sys.argv) > 2 else 1_000_000)
