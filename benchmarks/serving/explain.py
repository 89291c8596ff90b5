"""Explanations per second, and what they cost the predictions beside them.

    make demo && uv run benchmarks/serving/explain.py demo/fraud-detection

Needs wrk. The service is loaded in turn with predictions alone, with explanations alone, and with both at once. Ratios are
medians over the rounds, each of two turns that follow one another.
"""

import argparse
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import compare
import pandas as pd

CONNECTIONS = 16  # of the predictions; the explanations have one, so that there always is one in work


def measure(url: str, rows: list[compare.Row], rounds: int) -> dict[str, float]:
    """The figures of one running service."""
    found: dict[str, list[float]] = {}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(rounds):
            alone = compare.load(f"{url}/predict", rows, CONNECTIONS)
            explained = compare.load(f"{url}/explain", rows, 1)
            both = pool.submit(compare.load, f"{url}/predict", rows, CONNECTIONS)
            beside = compare.load(f"{url}/explain", rows, 1)
            loaded = both.result()
            for name, value in {
                "explanations/s": explained["rate"],
                "explanations/s beside predictions": beside["rate"],
                "predictions/s": alone["rate"],
                "p99, ms": alone["p99"],
                "predictions/s, times": loaded["rate"] / alone["rate"],
                "p50, times": loaded["p50"] / alone["p50"],
                "p99, times": loaded["p99"] / alone["p99"],
                "failed": loaded["failed"] + beside["failed"] + explained["failed"],
            }.items():
                found.setdefault(name, []).append(value)
    return {name: median(values) for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("project", type=Path, help="a trained project's folder")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is missing: apt-get install wrk")
    project = options.project.resolve()
    package = next(project.glob("src/*/app.py")).parent.name
    schema = json.loads((project / "models/champion/model.json").read_text())["schema"]
    features = [name for view in schema.get("views", {}).values() for name in view] + [
        *schema.get("request", {})
    ]
    table = pd.read_parquet(project / "models/champion/reference.parquet", columns=features).dropna()
    rows = json.loads(table.head(compare.BATCH).to_json(orient="records"))
    compare.WORK.mkdir(parents=True, exist_ok=True)
    environment = {"MODELS": str(project / "models"), "PREDICTION_LOG": str(compare.WORK / "log")}
    server = compare.Server("ours", f"python -m {package}.app", "", environment)
    with compare.running(server, compare.programs(server, project), project, rows[0]) as (_, url, _):
        measure(url, rows, 1)  # warm
        found = measure(url, rows, options.rounds)
    print("| | |\n|---|---|")
    print("\n".join(f"| {name} | {value:,.2f} |" for name, value in found.items()))


if __name__ == "__main__":
    main()
