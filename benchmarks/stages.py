"""Where a `dvc repro` spends its time: each stage's wall time, and the share of it that is imports.

    make -C demo/fraud-detection setup && uv run benchmarks/stages.py demo/fraud-detection

Runs the stages one after another in a trained project's environment, without DVC, once each.
"""

import re
import subprocess
import sys
import time
from pathlib import Path

import yaml


def measure(project: Path, command: list[str]) -> tuple[float, float]:
    """Wall seconds of one command, and the seconds of it spent importing, as Python's -X importtime says."""
    python = project / ".venv/bin/python"
    plain = time.perf_counter()
    subprocess.run([python, *command], cwd=project, check=True, capture_output=True)
    wall = time.perf_counter() - plain
    traced = subprocess.run(
        [python, "-X", "importtime", *command], cwd=project, capture_output=True, text=True
    )
    # Measured apart from the wall time, as tracing costs some; "self" of each module, so that none counts twice.
    imports = (
        sum(int(us) for us in re.findall(r"^import time:\s+(\d+) \|", traced.stderr, re.MULTILINE)) / 1e6
    )
    return wall, imports


def main(project: Path) -> None:
    graph = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    rows = {name: measure(project, stage["cmd"].split()[1:]) for name, stage in graph.items()}
    print("| stage | seconds | of which imports | share |\n|---|---|---|---|")
    for name, (wall, imports) in rows.items():
        print(f"| {name} | {wall:.1f} | {imports:.1f} | {imports / wall:.0%} |", flush=True)
    wall, imports = (sum(row[i] for row in rows.values()) for i in (0, 1))
    print(f"| all | {wall:.1f} | {imports:.1f} | {imports / wall:.0%} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
