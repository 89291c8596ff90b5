"""How often drift is called where there is none, how often where there is some; and a log of ten million rows.

    make demo && uv run --directory demo/fraud-detection python $PWD/benchmarks/drift.py --windows 100

Each window is a log of rows drawn from the holdout, scored by the champion, checked as `make drift` does.
"""

import argparse
import resource
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

PACKAGE = next(Path("src").glob("*/monitoring")).parent.name
drift, graph, params = (
    import_module(f"{PACKAGE}.{n}") for n in ("monitoring.drift", "model.graph", "params")
)
Shift = Callable[[pd.DataFrame], pd.DataFrame]
SHIFTS: dict[str, Shift] = {
    "none": lambda rows: rows,
    "amount x 1.2": lambda rows: rows.assign(amount=rows.amount * 1.2),
    "amount x 1.5": lambda rows: rows.assign(amount=rows.amount * 1.5),
    "amount x 2": lambda rows: rows.assign(amount=rows.amount * 2),
    "a fifth of country missing": lambda rows: rows.assign(
        country=rows.country.mask(np.arange(len(rows)) % 5 == 0)
    ),
    "all of three columns shifted": lambda rows: rows.assign(
        amount=rows.amount * 2, avg_7d_spend=rows.avg_7d_spend * 2, age=rows.age + 15
    ),
}


def write(rows: pd.DataFrame, folder: Path, version: str, part: int = 0) -> None:
    """As the service logs them."""
    today = folder / f"predictions/date={datetime.now(UTC):%Y-%m-%d}"
    today.mkdir(parents=True, exist_ok=True)
    ids = [uuid.uuid4().hex for _ in range(len(rows))]
    logged = rows.assign(
        prediction_id=ids, predicted_at=pd.Timestamp.now("UTC"), variant="champion", model_version=version
    )
    logged.to_parquet(today / f"{part}.parquet", index=False)


def main(windows: int, sizes: list[int], large: int) -> None:
    chosen, champion = params.load(), params.ROOT / "models/champion"
    version = import_module(f"{PACKAGE}.rollout").version("champion")
    scorer = graph.Graph(champion / "model.onnx", chosen.schema_)
    holdout = pd.read_parquet("data/features/holdout.parquet")[list(chosen.schema_.features)]
    print("| shift | rows | called drift | of which by a column's bar |\n|---|---|---|---|")
    for name, shift in SHIFTS.items():
        for size in sizes:
            found = []
            for seed in range(windows if name == "none" else max(10, windows // 5)):
                rows = shift(holdout.sample(size, replace=True, random_state=seed))
                with tempfile.TemporaryDirectory() as folder:
                    write(rows.assign(probability=scorer.probability(rows)), Path(folder), version)
                    found.append(drift.check(chosen, champion, folder, Path(folder) / "drift.html"))
            rate = np.mean([f["drift"] for f in found])
            columns = np.mean([any(c["drift"] for c in f["columns"].values()) for f in found])
            print(f"| {name} | {size:,} | {rate:.0%} of {len(found)} | {columns:.0%} |", flush=True)
    if large:
        with tempfile.TemporaryDirectory() as folder:
            rows = holdout.sample(500_000, replace=True, random_state=0)
            rows = rows.assign(probability=scorer.probability(rows))
            for part in range(large // len(rows)):
                write(rows, Path(folder), version, part)
            began = time.perf_counter()
            found = [drift.check(chosen, champion, folder, Path(folder) / "drift.html")]
            took, peak = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print(
                f"\n{found[0]['rows']:,} rows, {found[0]['sampled']:,} of them compared: {took:.1f} s, peak of this process {peak:.1f} GB"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--windows", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 5000, 20000])
    parser.add_argument("--large", type=int, default=10_000_000, help="rows of the large log; 0: none")
    main(**vars(parser.parse_args()))
