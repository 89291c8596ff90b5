"""How long adopting a large table takes, and how much memory: CSV of 30 columns of all types.

    make demo && uv run benchmarks/adopt.py demo/fraud-detection --rows 100000 1000000 10000000

The table is the same at each run. The project is cloned, so that it stays as it is.
"""

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import duckdb


def write(path: Path, rows: int) -> None:
    """A CSV of 30 columns: a key, an entity, a time, 15 numbers, 7 integers, 4 categories and a target."""

    def drawn(seed: int, values: int) -> str:
        return f"(hash(i, {seed}) % {values})"

    columns = ["'o' || i AS order_id", f"{drawn(0, rows // 20)} AS customer_id"]
    columns += ["TIMESTAMP '2015-01-01' + to_seconds(i * 30) AS ordered_at"]
    columns += [f"{drawn(k, 1_000_000)} / 1e4 * {k} AS number_{k}" for k in range(1, 16)]
    columns += [f"{drawn(20 + k, 1000 * k)} AS integer_{k}" for k in range(1, 8)]
    columns += [f"'level ' || {drawn(30 + k, 50 * k)} AS category_{k}" for k in range(1, 5)]
    columns += ["(hash(i, 1) % 1000000 + hash(i, 99) % 1000000 > 1600000)::INTEGER AS returned"]
    duckdb.sql(f"COPY (SELECT {', '.join(columns)} FROM range({rows}) t(i)) TO '{path}'")


def measure(project: Path, table: Path) -> tuple[float, float, float]:
    """Wall and CPU seconds, and peak memory in GB."""
    environment = os.environ | {"PATH": f"{project / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "project"
        subprocess.run(["git", "clone", "--quiet", project.resolve(), clone], check=True)
        roles = ["--target", "returned", "--entity", "customer_id", "--timestamp", "ordered_at"]
        began = time.perf_counter()
        process = subprocess.Popen(
            ["python", "-m", "tabloop", "adopt", table, *roles], cwd=clone, env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, "adopt failed"
        return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6


def main() -> None:
    """Print a line for each number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    said = parser.parse_args()
    lines = ["| rows | file, GB | seconds | CPU | memory, GB |", "|---|---|---|---|---|"]
    for rows in said.rows:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "orders.csv"
            write(table, rows)
            size = table.stat().st_size / 1e9
            wall, cpu, memory = measure(said.project, table)
        lines.append(f"| {rows:,} | {size:.2f} | {wall:.1f} | {cpu:.1f} | {memory:.2f} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
