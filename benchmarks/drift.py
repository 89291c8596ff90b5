"""How often drift is found where there is none, how large a shift must be to be found, and a log of ten million rows.

    uv run benchmarks/drift.py --windows 200 --each 20 --sizes 2000 --large 0
    uv run benchmarks/drift.py --windows 0 --large 10000000

Each window has a reference of its own, 10,000 rows, and both are drawn from known distributions: eight features of all
types, and a score of five of them. The verdict is that of `tabloop drift`, with the bars that a bake has.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = tempfile.TemporaryDirectory()
os.environ["PROJECT_ROOT"] = FOLDER.name

import duckdb  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import yaml  # noqa: E402
from tabloop import drift, params, predictions, roles  # noqa: E402
from tabloop.card import ModelCard, Parity  # noqa: E402

TEMPLATE = Path(__file__).parents[1] / "{{cookiecutter.project_slug}}/params.yaml"
REFERENCE, WILD = 10_000, 1e9
TYPES = {"normal": "number", "lognormal": "number", "gaps": "number", "counts": "integer", "flag": "boolean"}
TYPES |= {"few": "category", "many": "category", "heavy": "number"}
FEW, FEW_SHARES = np.array(["a", "b", "c", "d", "e"]), [0.4, 0.3, 0.15, 0.1, 0.05]
MANY = [f"shop {i}" for i in range(1000)]
MANY_SHARES = (weights := 1 / np.arange(1, 1001)) / weights.sum()
Random = np.random.Generator
Shift = Callable[[pd.DataFrame, float, Random], dict[str, object]]


def draw(rows: int, random: Random) -> pd.DataFrame:
    """Rows of the features, without the score."""
    normal = random.normal(size=rows)
    return pd.DataFrame(
        {
            "normal": normal,
            "lognormal": random.lognormal(3, 1, rows),
            "gaps": np.where(random.random(rows) < 0.2, np.nan, random.gamma(2, size=rows)),
            "counts": random.poisson(3, rows),
            "flag": random.random(rows) < 0.3,
            "few": random.choice(FEW, rows, p=FEW_SHARES),
            "many": pd.Categorical.from_codes(random.choice(len(MANY), rows, p=MANY_SHARES), pd.Index(MANY)),
            "heavy": 0.5 * normal + random.standard_t(3, rows),
        }
    )


def scored(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows and their score."""
    full = rows.astype({"counts": float, "flag": float}).fillna({"normal": 0, "gaps": 2, "counts": 3})
    score = full.normal + np.log(full.lognormal) - 0.5 * full.gaps + full.flag + 0.3 * full.counts - 6
    return rows.assign(probability=1 / (1 + np.exp(-score.clip(-30, 30))))


def some(rows: pd.DataFrame, share: float, random: Random) -> np.ndarray:
    """Which rows are changed, about this share of them."""
    return random.random(len(rows)) < share


def correlated(rows: pd.DataFrame, r: float, random: Random) -> dict[str, object]:
    """`lognormal` as before by itself, correlated with `normal`."""
    latent = r * rows.normal + (1 - r**2) ** 0.5 * random.normal(size=len(rows))
    return {"lognormal": np.exp(3 + latent)}


# Name -> the column that changes, how, and how much, from nothing that matters to what no one could overlook.
SHIFTS: dict[str, tuple[str, Shift, list[float]]] = {
    "location: a normal column moves by so many standard deviations": (
        "normal",
        lambda rows, by, _: {"normal": rows.normal + by},
        [0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5],
    ),
    "location: a lognormal column is multiplied": (
        "lognormal",
        lambda rows, by, _: {"lognormal": rows.lognormal * by},
        [1.1, 1.2, 1.3, 1.4, 1.5, 2],
    ),
    "spread: a normal column's standard deviation is multiplied": (
        "normal",
        lambda rows, by, _: {"normal": rows.normal * by},
        [1.1, 1.2, 1.25, 1.3, 1.35, 1.4, 1.5],
    ),
    "tail: this share of a lognormal column is a hundred times as large": (
        "lognormal",
        lambda rows, by, random: {
            "lognormal": rows.lognormal.mask(some(rows, by, random), rows.lognormal * 100)
        },
        [0.005, 0.01, 0.015, 0.02, 0.03, 0.05],
    ),
    "missing: this share of a column is missing": (
        "normal",
        lambda rows, by, random: {"normal": rows.normal.mask(some(rows, by, random))},
        [0.05, 0.08, 0.1, 0.11, 0.12, 0.15],
    ),
    "levels: this share of a column becomes one of its rarer levels": (
        "few",
        lambda rows, by, random: {"few": rows.few.mask(some(rows, by, random), "e")},
        [0.02, 0.04, 0.05, 0.06, 0.08, 0.1],
    ),
    "new level: this share of a column is a level that training never saw": (
        "few",
        lambda rows, by, random: {"few": rows.few.mask(some(rows, by, random), "new")},
        [0.005, 0.01, 0.015, 0.02, 0.03],
    ),
    "correlation: two independent columns are correlated": (
        "lognormal",
        correlated,
        [0.1, 0.15, 0.2, 0.25, 0.3, 0.4],
    ),
    "a column is gone": ("counts", lambda rows, by, _: {"counts": None}, [1]),
    "one wild row: 1e9 in four columns": (
        "normal",
        lambda rows, by, _: {
            name: rows[name].astype(float).mask(rows.index == 0, WILD)
            for name in ("normal", "lognormal", "gaps", "heavy")
        },
        [1],
    ),
}


def install() -> tuple[params.Params, ModelCard]:
    """A champion without a graph, and the settings, in the folder of this run."""
    monitoring = yaml.safe_load(TEMPLATE.read_text().partition("\nmonitoring:\n")[2])
    columns = {name: {"type": kind} for name, kind in TYPES.items()}
    settings = {
        "project": "benchmark",
        "data": {"source": "none"},
        "schema": {"target": {"name": "target"}, "request": columns},
        "split": {"holdout": 0.2},
        "train": {},
        "evaluate": {"confidence": 0.95, "cost": {"false_positive": 1, "false_negative": 1}},
        "gates": [{"metric": "auc", "min": 0.5}],
        "monitoring": monitoring,
    }
    chosen = params.Params.model_validate(settings)
    card = ModelCard(
        version="benchmark",
        data_hash="none",
        framework="none",
        rows=80_000,
        schema=chosen.schema_,
        # Training saw all shops but the rarest: there are always some new ones.
        categories={"few": FEW.tolist(), "many": MANY[:700]},
        ranges={},
        example={},
        parity=Parity(rows=0, largest_difference=0),
        threshold=0.5,
    )
    return chosen, card


def pin(card: ModelCard, reference: pd.DataFrame) -> None:
    """Make it the champion with this reference data."""
    folder = roles.MODELS / "champion"
    folder.mkdir(parents=True, exist_ok=True)
    card.write(folder)
    reference.to_parquet(folder / "reference.parquet", index=False)
    pinned = {"outs": [{"md5": roles.folder_hash(folder), "path": "champion"}]}
    roles.pin_file("champion").write_text(yaml.safe_dump(pinned))


def window(
    chosen: params.Params, card: ModelCard, rows: int, seed: int, shift: Shift | None = None, by: float = 0
) -> dict[str, dict[str, dict[str, bool]]]:
    """The verdict on one window of so many rows, and a reference of its own."""
    random = np.random.default_rng(seed)
    pin(card, scored(draw(REFERENCE, random)))
    current = draw(rows, random)
    # The score is the model's of the changed rows; with one wild row, too.
    current = scored(current.assign(**shift(current, by, random))) if shift else scored(current)  # type: ignore[arg-type]
    logged = current.rename(columns={name: predictions.feature(name) for name in TYPES})  # noqa: F841
    db = duckdb.connect()
    db.sql(
        "CREATE TABLE predictions AS SELECT *, 'champion' AS variant, 'benchmark' AS model_version FROM logged"
    )
    return drift.compare(chosen, db, card, [])


def rates(windows: int, each: int, sizes: list[int]) -> None:
    """Print how often drift is found without a shift, and from which shift on it is found in 95% of windows."""
    chosen, card = install()
    print("| no shift, rows | windows | called drift | with a column marked |\n|---|---|---|---|")
    for rows in sizes:
        found = [window(chosen, card, rows, seed) for seed in range(windows)]
        whole = sum(bool(one["drift"]) for one in found)
        marked = sum(any(column["drift"] for column in one["columns"].values()) for one in found)
        print(f"| {rows:,} | {windows} | {whole} | {marked} |", flush=True)
    print(f"\nFrom which amount on {each} of {each} windows have it; and what was found at which amount.\n")
    print(
        "| shift | rows | the column is marked | the whole is called drift | marked, drift |\n|---|---|---|---|---|"
    )
    for name, (column, shift, amounts) in SHIFTS.items():
        for rows in sizes:
            verdicts: dict[float, tuple[int, int]] = {}
            for which in (0, 1):
                low, high = 0, len(amounts)
                while low < high:  # the more, the more often
                    middle = (low + high) // 2
                    if (by := amounts[middle]) not in verdicts:
                        runs = [window(chosen, card, rows, 10**6 + n, shift, by) for n in range(each)]
                        marked = sum(bool(run["columns"][column]["drift"]) for run in runs)
                        verdicts[by] = (marked, sum(bool(run["drift"]) for run in runs))
                    low, high = (low, middle) if verdicts[by][which] == each else (middle + 1, high)
                print(f"| {name} | {rows:,} | " if not which else "", end="")
                print(f"{amounts[low]:g} | " if low < len(amounts) else "never | ", end="")
            print("; ".join(f"{by:g}: {n}, {m}" for by, (n, m) in sorted(verdicts.items())), "|", flush=True)


def write_log(rows: int, folder: Path) -> None:
    """A log as the service writes it: files of 10,000 rows by day."""
    random, now = np.random.default_rng(0), pd.Timestamp.now("UTC")
    part = scored(draw(500_000, random)).rename(columns={name: predictions.feature(name) for name in TYPES})
    part = part.assign(
        predicted_at=now, variant="champion", model_version="benchmark", entity="someone", threshold=0.5
    )
    day = folder / f"predictions/date={now:%Y-%m-%d}"
    day.mkdir(parents=True)
    for n in range(rows // len(part)):
        ids = [f"{n:08x}{i:024x}" for i in range(len(part))]
        part.assign(prediction_id=ids).to_parquet(day / f"{n}.parquet", index=False, row_group_size=10_000)


def large(rows: int) -> None:
    """Print how long `tabloop drift` takes on a log of so many rows, and its peak of memory."""
    _, card = install()
    pin(card, scored(draw(REFERENCE, np.random.default_rng(1))))
    settings = Path(FOLDER.name, "params.yaml")
    chosen, _ = install()
    settings.write_text(yaml.safe_dump(chosen.model_dump(mode="json", by_alias=True)))
    write_log(rows, Path(FOLDER.name, "log"))
    environment = os.environ | {"PREDICTION_LOG": f"{FOLDER.name}/log"}
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tabloop", "drift"], env=environment, capture_output=True, text=True
    )
    took, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"\n{done.stdout.splitlines()[0] if done.stdout else done.stderr}")
    print(f"{took:.1f} s, {used.ru_utime + used.ru_stime:.1f} s of CPU, peak {used.ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--windows", type=int, default=200, help="without a shift; 0: no shift either")
    parser.add_argument("--each", type=int, default=20, help="windows of each shift")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 20_000, 100_000])
    parser.add_argument("--large", type=int, default=10_000_000, help="rows of the large log; 0: none")
    arguments = parser.parse_args()
    if arguments.windows:
        rates(arguments.windows, arguments.each, arguments.sizes)
    if arguments.large:
        large(arguments.large)
