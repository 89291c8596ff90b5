"""The time and memory of each stage of a `dvc repro`, and the share of it that is imports.

    make demo && uv run benchmarks/stages.py demo/fraud-detection [ANOTHER_PROJECT]

Runs the stages of dvc.yaml one after another in a trained project's environment, without DVC. With two projects, for
example of two versions of the template, each stage runs in both in turn, and the table has the ratios.
"""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import yaml

ROUNDS = 3  # the best of which counts


@dataclass
class Cost:
    """Wall and CPU seconds, seconds of the wall time spent in imports, peak memory in MB."""

    wall: float = 0.0
    cpu: float = 0.0
    imports: float = 0.0
    memory: float = 0.0


def measure(project: Path, command: str) -> Cost:
    """The cost of one stage."""
    path = f"{project / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    best = Cost(wall=float("inf"))
    for _ in range(ROUNDS):
        began = time.perf_counter()
        process = subprocess.Popen(
            command,
            shell=True,
            cwd=project,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, f"{project}: {command} failed"
        wall = time.perf_counter() - began
        if wall < best.wall:
            best = Cost(wall, used.ru_utime + used.ru_stime, memory=used.ru_maxrss / 1e3)
    # Apart from the wall time, because tracing costs some. "self" of each module, so that none counts twice.
    traced = subprocess.run(
        command,
        shell=True,
        cwd=project,
        env=environment | {"PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
    )
    selves = re.findall(r"^import time:\s+(\d+) \|", traced.stderr, re.MULTILINE)
    best.imports = sum(map(int, selves)) / 1e6
    return best


def stages(project: Path) -> dict[str, str]:
    """The command of each stage."""
    graph = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    return {name: stage["cmd"] for name, stage in graph.items()}


def total(costs: list[Cost]) -> Cost:
    """The sum of times, and the largest memory."""
    return Cost(
        sum(c.wall for c in costs),
        sum(c.cpu for c in costs),
        sum(c.imports for c in costs),
        max(c.memory for c in costs),
    )


def main(projects: list[Path]) -> None:
    """Print the table."""
    print(
        "| stage | seconds | CPU | imports | memory, MB |"
        + (" times the other's seconds | CPU | memory |" * (len(projects) > 1))
    )
    print("|---|---|---|---|---|" + "---|---|---|" * (len(projects) > 1))
    found: list[list[Cost]] = []
    names = list(dict.fromkeys(name for project in projects for name in stages(project)))
    for name in [*names, "all"]:
        if name == "all":
            costs = [total([row[i] for row in found]) for i in range(len(projects))]
        else:
            commands = [stages(project).get(name) for project in projects]
            costs = [measure(p, c) if c else Cost() for p, c in zip(projects, commands, strict=True)]
            found.append(costs)
        first = costs[0]
        line = f"| {name} | {first.wall:.1f} | {first.cpu:.1f} | {first.imports:.1f} | {first.memory:.0f} |"
        if len(costs) > 1:
            other = costs[1]
            ratios = (first.wall, other.wall), (first.cpu, other.cpu), (first.memory, other.memory)
            line += "".join(f" {this / that:.2f} |" if that else " new |" for this, that in ratios)
        print(line, flush=True)


if __name__ == "__main__":
    main([Path(folder).resolve() for folder in sys.argv[1:]])
