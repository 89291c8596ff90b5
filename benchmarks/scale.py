"""The time and memory of each stage of dvc.yaml at 0.1, 1 and 10 million rows of the example.

    make demo && uv run benchmarks/scale.py demo/fraud-detection [--rows 100000 1000000 10000000] [--stages ingest validate]

Copies the project for each number of rows and runs the stages there, one after another, each as a process of its own. The
memory is the peak of the stage's processes together, looked at 20 times a second. With `--folder` the copies are kept, so that
a later call can run the other stages.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml
from stages import stages

LEFT_OUT = shutil.ignore_patterns(
    ".venv", "data", "models", "mlruns", "mlartifacts", "mlflow.db", "__pycache__"
)
BASE = 0.5  # GB that libraries take, whatever the rows
SLACK = 1.3  # of what grows as the rows do: the time of busy machines varies


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds, and the peak of memory in GB."""

    wall: float
    cpu: float
    memory: float


def memory_of(process: psutil.Process) -> int:
    """Bytes that a process and its children have in memory."""
    total = 0
    try:
        for each in (process, *process.children(recursive=True)):
            total += each.memory_info().rss
    except psutil.Error:  # it ended meanwhile
        pass
    return total


def measure(command: str, folder: Path) -> Cost:
    """Run a command in a folder, in its environment.

    Raises:
        SystemExit: it failed; what it said.
    """
    path = f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    began, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, shell=True, cwd=folder, env=os.environ | {"PATH": path}, stdout=said, stderr=said
        )
        seen = psutil.Process(process.pid)
        while True:
            peak = max(peak, memory_of(seen))
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            time.sleep(0.05)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{command}: exit code {process.returncode}\n{said.read().decode()}")
    return Cost(time.perf_counter() - began, used.ru_utime + used.ru_stime, peak / 1e9)


def prepare(project: Path, folder: Path, rows: int) -> None:
    """A copy of the project whose simulator makes so many rows; a copy that is there stays as it is."""
    if folder.exists():
        return
    shutil.copytree(project, folder, ignore=LEFT_OUT)
    if (project / ".venv").exists():
        (folder / ".venv").symlink_to(project / ".venv")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["data"]["simulator"].update(transactions=rows, users=rows // 50)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def faster_than_rows(small: int, large: int, few: Cost, many: Cost) -> list[str]:
    """What grew faster than the rows between two numbers of rows."""
    most = SLACK * large / small
    grown = []
    if many.cpu > most * max(few.cpu, 1.0):
        grown.append(f"CPU {many.cpu / few.cpu:.0f} times")
    if many.memory > BASE + most * few.memory:
        grown.append(f"memory {many.memory / few.memory:.0f} times")
    return grown


def main() -> None:
    """Print the table, and what grew faster than the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--stages", nargs="+")
    parser.add_argument("--folder", type=Path)
    said = parser.parse_args()
    project = said.project.resolve()
    commands = {name: c for name, c in stages(project).items() if name in (said.stages or stages(project))}
    with tempfile.TemporaryDirectory() as temporary:
        found: dict[str, dict[int, Cost]] = {name: {} for name in commands}
        for rows in said.rows:
            folder = (said.folder or Path(temporary)).resolve() / str(rows)
            prepare(project, folder, rows)
            for name, command in commands.items():
                cost = found[name][rows] = measure(command, folder)
                print(
                    f"{rows:,} {name}: {cost.wall:.1f} s, CPU {cost.cpu:.1f} s, {cost.memory:.2f} GB",
                    file=sys.stderr,
                )
    print("| stage |" + "".join(f" {rows:,}: seconds | CPU | GB |" for rows in said.rows))
    print("|---|" + "---|---|---|" * len(said.rows))
    for name, costs in found.items():
        print(
            f"| {name} |" + "".join(f" {c.wall:.1f} | {c.cpu:.1f} | {c.memory:.2f} |" for c in costs.values())
        )
    for name, costs in found.items():
        for small, large in zip(said.rows, said.rows[1:], strict=False):
            for what in faster_than_rows(small, large, costs[small], costs[large]):
                print(f"\n{name}: from {small:,} to {large:,} rows {what}: faster than the rows")


if __name__ == "__main__":
    main()
