"""How often drift is found where there is none, how often where there is some; and a log of ten million rows.

    make demo && uv run --directory demo/fraud-detection python $PWD/benchmarks/drift.py --windows 100

Each window is a log of rows drawn from the holdout, scored by the champion, checked as `tabloop drift` does.
"""

import argparse
import resource
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from tabloop import drift, params, predictions, roles
from tabloop.onnx_model import FILE, OnnxModel

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
    """Rows of features and `probability`, as the service logs them."""
    today = folder / f"predictions/date={datetime.now(UTC):%Y-%m-%d}"
    today.mkdir(parents=True, exist_ok=True)
    logged = rows.rename(
        columns={name: predictions.feature(str(name)) for name in rows if name != "probability"}
    )
    logged["prediction_id"] = [uuid.uuid4().hex for _ in range(len(rows))]
    logged = logged.assign(
        predicted_at=pd.Timestamp.now("UTC"), variant="champion", model_version=version, entity=None
    )
    logged.to_parquet(today / f"{part}.parquet", index=False)


def main(windows: int, sizes: list[int], large: int) -> None:
    chosen, card = params.load(), roles.required("champion")
    scorer, version = OnnxModel(roles.MODELS / "champion" / FILE, card.schema_), card.version
    holdout = pd.read_parquet("data/features/holdout.parquet")[list(chosen.schema_.features)]
    print("| shift | rows | drift found | a column drifted |\n|---|---|---|---|")
    for name, shift in SHIFTS.items():
        for size in sizes:
            found = []
            for seed in range(windows if name == "none" else max(10, windows // 5)):
                rows = shift(holdout.sample(size, replace=True, random_state=seed))
                with tempfile.TemporaryDirectory() as folder:
                    write(rows.assign(probability=scorer.probability(rows)), Path(folder), version)
                    found.append(drift.check(chosen, folder, Path(folder) / "drift.html"))
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
            found = [drift.check(chosen, folder, Path(folder) / "drift.html")]
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
