"""`tabloop batch` beside ONNX Runtime alone, in turns, on the same rows, model and number of threads.

    uv run benchmarks/batch.py demo/fraud-detection 10_000_000

after `make demo`. ONNX Runtime gets its inputs ready-made and writes nothing: what it takes is the least that scoring can take.
Every output is held against the input and against ONNX Runtime's own scores, row by row.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import onnxruntime
from tabloop.card import ModelCard

ROUNDS = 2
BLOCK = 1 << 15
READY = 1 << 20  # rows of which the inputs are made, again and again the same
Took = tuple[float, float, float]  # seconds, seconds of CPU, MB


def write_rows(project: Path, folder: Path, rows: int) -> dict[str, Path]:
    """Rows of the holdout, each many times with another amount: with all features, as CSV, and with those of the request alone."""
    schema = ModelCard.read(project / "models/champion").schema_
    names = list(schema.features)
    holdout = f"read_parquet('{project}/data/features/holdout.parquet')"
    key, entity, time_ = schema.key[0], schema.entity, schema.timestamp
    varied = f"SELECT * REPLACE (amount * (0.9 + random() / 5) AS amount, 'b' || range AS {key})"
    copies = -(-rows // duckdb.execute(f"SELECT count(*) FROM {holdout}").fetchall()[0][0])
    paths = {name: folder / name for name in ("all.parquet", "request.parquet", "all.csv")}
    table = f"(SELECT setseed(0.5)), ({varied} FROM {holdout}, range({copies}) LIMIT {rows})"
    listed = f"{key}, {entity}, {time_}"
    duckdb.sql(f"COPY (SELECT {listed}, {', '.join(names)} FROM {table}) TO '{paths['all.parquet']}'")
    written = f"FROM '{paths['all.parquet']}'"
    duckdb.sql(
        f"COPY (SELECT {listed}, {', '.join(schema.request)} {written}) TO '{paths['request.parquet']}'"
    )
    duckdb.sql(f"COPY ({written}) TO '{paths['all.csv']}'")
    return paths


def ready_inputs(project: Path, rows_file: Path) -> dict[str, np.ndarray]:
    """The graph's inputs for the first rows of a file with all features."""
    schema = ModelCard.read(project / "models/champion").schema_
    frame = duckdb.execute(f"FROM '{rows_file}' LIMIT {READY}").df()
    return {
        name: (frame[name].to_numpy(np.float32) if column.numeric else frame[name].to_numpy(object))[:, None]
        for name, column in schema.features.items()
    }


def scores(project: Path, rows_file: Path) -> np.ndarray:
    """What ONNX Runtime alone gives for the first rows of a file with all features."""
    session = onnxruntime.InferenceSession(str(project / "models/champion/model.onnx"))
    return np.ravel(session.run(["probability"], ready_inputs(project, rows_file))[0])


def fault(rows_file: Path, output: Path, key: str, expected: np.ndarray) -> str:
    """What is wrong with an output: rows that are missing or in another order, or scores of other rows; empty: nothing."""
    pairs = f"(SELECT {key} AS i FROM '{rows_file}') POSITIONAL JOIN (SELECT {key} AS o FROM '{output}')"
    if apart := duckdb.execute(f"SELECT count(*) FROM {pairs} WHERE i IS DISTINCT FROM o").fetchall()[0][0]:
        return f"{apart:,} rows are not where the input has them"
    found = duckdb.execute(f"SELECT probability FROM '{output}' LIMIT {len(expected)}").fetchnumpy()
    wrong = int((np.abs(found["probability"] - expected) > 1e-5).sum())
    return f"{wrong:,} rows have another score than ONNX Runtime's" if wrong else ""


def onnx_alone(project: Path, rows_file: Path, rows: int, threads: int) -> Took:
    """The graph alone: one call at a time with so many threads of its own, or so many calls at once with one each."""
    inputs = ready_inputs(project, rows_file)
    ready = len(next(iter(inputs.values())))

    def rate(calls: int) -> Took:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads // calls
        session = onnxruntime.InferenceSession(str(project / "models/champion/model.onnx"), options)

        def score(at: int) -> None:
            session.run(None, {name: values[at : at + BLOCK] for name, values in inputs.items()})

        begun, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(calls) as pool:
            list(pool.map(score, (at % ready // BLOCK * BLOCK for at in range(0, rows, BLOCK))))
        return time.perf_counter() - begun, time.process_time() - cpu, 0.0

    return min(rate(1), rate(threads))


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The same in a process of its own: what it holds would count for the processes that this one starts."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def tabloop(project: Path, rows_file: Path, folder: Path) -> Took:
    command = [sys.executable, "-m", "tabloop", "batch", str(rows_file), str(folder / "scores.parquet")]
    begun = time.perf_counter()
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True)
    said, (_, status, used) = process.stdout.read() if process.stdout else "", os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command}: {said}")
    return time.perf_counter() - begun, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main(project: Path, rows: int) -> None:
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_rows(project, folder, rows)
        ways: dict[str, Callable[[], Took]] = {
            "ONNX Runtime alone, inputs ready-made": lambda: apart(
                onnx_alone, project, paths["all.parquet"], rows, threads
            ),
            "Parquet with all features": lambda: tabloop(project, paths["all.parquet"], folder),
            "CSV with all features": lambda: tabloop(project, paths["all.csv"], folder),
            "Parquet, features looked up at each row's time": lambda: tabloop(
                project, paths["request.parquet"], folder
            ),
        }
        expected = apart(scores, project, paths["all.parquet"])
        key = ModelCard.read(project / "models/champion").schema_.key[0]
        output = folder / "scores.parquet"
        took: dict[str, list[Took]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, run in ways.items():
                took[way].append(run())
                if output.exists() and (wrong := apart(fault, paths["all.parquet"], output, key, expected)):
                    sys.exit(f"{way}: {wrong}")
                output.unlink(missing_ok=True)
                print(way, took[way][-1], file=sys.stderr, flush=True)
    best = {way: tuple(map(min, zip(*found, strict=True))) for way, found in took.items()}
    base = next(iter(best.values()))
    print(
        f"| {rows:,} rows, {threads} threads | seconds | CPU | rows/s | of the rate alone | per CPU second | memory, MB |"
    )
    print("|---|---|---|---|---|---|---|")
    for way, (seconds, cpu, memory) in best.items():
        figures = f"{rows / seconds:,.0f} | {base[0] / seconds:.2f} | {base[1] / cpu:.2f}"
        print(
            f"| {way} | {seconds:.1f} | {cpu:.1f} | {figures} | {memory:,.0f} |"
            if memory
            else f"| {way} | {seconds:.1f} | {cpu:.1f} | {figures} | |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2].replace("_", "")))
