"""State that grows: the online store in SQLite and Redis, the log before and after it is compacted, MLflow's two databases.

    uv run benchmarks/state.py store --entities 10000 100000 1000000
    uv run benchmarks/state.py log --files 10000
    uv run benchmarks/state.py registry --runs 200

Redis and PostgreSQL are those of the tests, on this machine. Each command is a process of its own, whose CPU time and peak
memory the system reports; look-ups of both stores are made in turns, by the service's own code.
"""

import argparse
import asyncio
import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import yaml

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests")]

from conftest import clean  # noqa: E402
from kit.conftest import PARAMS, TEMPLATE  # noqa: E402
from redis_server import redis_server  # noqa: E402

VIEWS = {
    "profile": {"age": {"type": "integer"}, "country": {"type": "category"}},
    "spending": {"mean": {"type": "number"}, "largest": {"type": "number"}, "count": {"type": "integer"}},
}
VALUES = {
    "profile": "18 + i % 60 AS age, 'C' || i % 20 AS country",
    "spending": "hash(i) % 100000 / 100 AS mean, hash(i, 1) % 1000000 / 100 AS largest, i % 500 AS count",
}


def run(project: Path, *command: str, **variables: str) -> tuple[str, str]:
    """What a `tabloop` command prints, and its wall and CPU seconds and peak memory in MB as cells of a table."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "tabloop", *command],
        cwd=project,
        env=clean() | variables,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    said = process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} failed"
    wall, cpu = time.perf_counter() - began, used.ru_utime + used.ru_stime
    return said.strip(), f"{wall:.1f} | {cpu:.1f} | {used.ru_maxrss / 1e3:,.0f}"


def make(folder: Path, entities: int) -> Path:
    """A project with the newest row of so many entities in two views."""
    project = folder / f"project{entities}"
    (project / "feature_repo").mkdir(parents=True)
    for path in (TEMPLATE / "feature_repo").iterdir():
        text = path.read_text().replace("{{ cookiecutter.package_name }}", "kit")
        (project / "feature_repo" / path.name).write_text(text)
    schema = PARAMS["schema"] | {"views": VIEWS, "request": {"amount": {"type": "number"}}}
    params = PARAMS | {"schema": schema, "evaluate": PARAMS["evaluate"] | {"segments": []}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    (project / "data/features").mkdir(parents=True)
    for view, values in VALUES.items():
        key = "printf('c%08d', i) AS customer_id, TIMESTAMP '2026-01-01' AS event_timestamp"
        rows = f"SELECT {key}, {values} FROM range({entities}) t(i)"
        duckdb.sql(f"COPY ({rows}) TO '{project}/data/features/{view}.parquet'")
    return project


def fill(project: Path, entities: int) -> None:
    """Write data/online/store.db as Feast does, without Feast."""
    from feast.protos.feast.types import Value_pb2
    from tabloop.serving.online_store import entity_key

    made: Any = Value_pb2.Value
    (project / "data/online").mkdir()
    columns = "entity_key BLOB, feature_name TEXT, value BLOB, vector_value BLOB, event_ts timestamp, created_ts timestamp"
    with contextlib.closing(sqlite3.connect(project / "data/online/store.db")) as db:
        for view, types in VIEWS.items():
            db.execute(f"CREATE TABLE kit_{view} ({columns}, PRIMARY KEY (entity_key, feature_name))")
            for name, column in types.items():
                field = {"integer": "int64_val", "category": "string_val", "number": "double_val"}[
                    column["type"]
                ]
                values = [
                    made(**{field: f"C{k}" if field == "string_val" else k}).SerializeToString()
                    for k in range(500)
                ]
                rows = (
                    (entity_key("customer_id", f"c{i:08d}"), name, values[i % 500]) for i in range(entities)
                )
                db.executemany(f"INSERT INTO kit_{view} VALUES (?, ?, ?, NULL, 1767225600, NULL)", rows)
        db.commit()


async def look_up(where: dict[str, str], entities: int) -> None:
    """Print the times of look-ups, singly and in batches of 100, of both stores in turns."""
    from tabloop.params import Params
    from tabloop.serving.online_store import open_store
    from tabloop.serving.settings import Settings

    schema = PARAMS["schema"] | {"views": VIEWS, "request": {"amount": {"type": "number"}}}
    typed = Params.model_validate(
        PARAMS | {"schema": schema, "evaluate": PARAMS["evaluate"] | {"segments": []}}
    )
    stores = {
        name: open_store(Settings(online_store=url), "kit", "customer_id", typed.schema_.views)
        for name, url in where.items()
    }
    random = np.random.default_rng(0)
    for rows, times in ((1, 4000), (100, 200)):
        taken: dict[str, list[float]] = {name: [] for name in stores}
        for _ in range(times):
            keys = [f"c{i:08d}" for i in random.integers(0, entities, rows)]
            for name, store in stores.items():
                began = time.perf_counter()
                (first, *_) = await store.read(keys)
                taken[name].append(time.perf_counter() - began)
                assert first["age"] is not None and first["count"] is not None
        for name, seconds in taken.items():
            p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
            print(f"| {entities:,} | {name} | {rows} | {p50:.3f} | {p99:.3f} |", flush=True)


def store(entities: list[int], filled: bool) -> None:
    """Materialize to SQLite, unless it is to be filled without, to Redis, and to a Redis that has it all; then look up."""
    for count in entities:
        with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as address:
            project, url = make(Path(folder), count), f"redis://{address}/0"
            print("| entities | to | seconds | CPU | memory, MB |\n|---|---|---|---|---|")
            if filled:
                fill(project, count)
            targets = {"SQLite": {}} if not filled else dict[str, dict[str, str]]()
            for name, variables in (
                targets | {key: {"ONLINE_STORE": url} for key in ("Redis", "Redis, nothing differs")}
            ).items():
                _, cost = run(project, "materialize", **variables)
                print(f"| {count:,} | {name} | {cost} |", flush=True)
            print("| entities | store | rows | p50, ms | p99, ms |\n|---|---|---|---|---|")
            asyncio.run(look_up({"SQLite": str(project / "data/online/store.db"), "Redis": url}, count))


def log(files: int) -> None:
    """Read a log of small files, compact it, read it again."""
    from tabloop.predictions import PREDICTIONS
    from tabloop.serving import log_writer
    from tabloop.serving.log_writer import Table

    with tempfile.TemporaryDirectory() as folder:
        table = Table("predictions", PREDICTIONS | {"feature_amount": "float64"}, folder)
        log_writer.os.fsync = lambda _: None  # type: ignore[attr-defined]  # as far as this process goes
        begin, devnull = (
            datetime.now(UTC).replace(minute=0) - timedelta(hours=28),
            os.open(os.devnull, os.O_WRONLY),
        )
        out = os.dup(1)
        os.dup2(devnull, 1)  # the writer reports each file
        for i in range(files):
            at = begin + timedelta(hours=24 * i / files)
            values: dict[str, list[Any]] = {name: [None] * 50 for name in table.columns}
            values |= {"prediction_id": [f"p{i}-{k}" for k in range(50)], "feature_amount": [1.0] * 50}
            values |= {"predicted_at": [int(at.timestamp() * 1e6)] * 50, "probability": [0.5] * 50}
            table.add(values)
            table.failed = True  # so it keeps the name
            table.path = f"{table.folder}/date={at:%Y-%m-%d}/{at:%H%M%S}-host-1-{i}.parquet"
            table.write()
        os.dup2(out, 1)
        query = (
            "import sys, time; from tabloop import predictions; db = predictions.connect(log=sys.argv[1]); "
        )
        query += "print(db.sql('SELECT count(*), avg(feature_amount) FROM predictions').fetchall()[0])"
        print("| | seconds | CPU | memory, MB |\n|---|---|---|---|")
        for name, command in (
            (f"reading {files:,} small files", ["-c", query, folder]),
            ("tabloop compact", ["-m", "tabloop", "compact"]),
            ("reading, an hour before the small ones may go", ["-c", query, folder]),
            ("removing them", ["-c", REMOVE, folder]),
            ("reading one file an hour", ["-c", query, folder]),
        ):
            began = time.perf_counter()
            environment = clean() | {"PREDICTION_LOG": folder}
            process = subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=subprocess.PIPE, text=True
            )
            assert process.stdout
            said = process.stdout.read().strip()
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0, name
            assert "reading" not in name or said == f"({files * 50}, 1.0)", said
            wall, cpu = time.perf_counter() - began, used.ru_utime + used.ru_stime
            print(f"| {name} | {wall:.1f} | {cpu:.1f} | {used.ru_maxrss / 1e3:,.0f} |", flush=True)


REMOVE = """
import sys
from datetime import UTC, datetime, timedelta
from tabloop.compaction import compact
print(compact(sys.argv[1], datetime.now(UTC) + timedelta(hours=2)))
"""


def registry(runs: int) -> None:
    """Make runs and registered versions, and list them, in SQLite and PostgreSQL in turns."""
    import mlflow
    from postgres_server import postgres_server

    with tempfile.TemporaryDirectory() as folder, postgres_server() as postgres:
        os.chdir(folder)
        clients = {
            "SQLite": mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db"),
            "PostgreSQL": mlflow.MlflowClient(postgres),
        }
        steps = ("a run", "a version", "listing the runs", "listing the versions")
        taken: dict[tuple[str, str], list[float]] = {(name, step): [] for name in clients for step in steps}
        places = {name: client.create_experiment("kit") for name, client in clients.items()}
        for client in clients.values():
            client.create_registered_model("kit")
        for i in range(runs):
            for name, client in clients.items():
                marks = [time.perf_counter()]
                made = client.create_run(places[name], tags={"version": str(i)})
                client.log_param(made.info.run_id, "max_iter", 100)
                client.log_metric(made.info.run_id, "auc", 0.9)
                client.set_terminated(made.info.run_id)
                marks.append(time.perf_counter())
                client.create_model_version(
                    "kit", f"{folder}/model", made.info.run_id, tags={"version": str(i)}
                )
                marks.append(time.perf_counter())
                client.search_runs([places[name]], f"tags.version = '{i}'", max_results=1)
                marks.append(time.perf_counter())
                client.search_model_versions(f"name = 'kit' AND tags.version = '{i}'")
                marks.append(time.perf_counter())
                for step, seconds in zip(steps, np.diff(marks), strict=True):
                    taken[name, step].append(float(seconds))
        print("| | SQLite: p50, ms | p99 | PostgreSQL: p50, ms | p99 |\n|---|---|---|---|---|")
        for step in steps:
            cells = [f"{p * 1e3:.1f}" for name in clients for p in np.percentile(taken[name, step], [50, 99])]
            print(f"| {step} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["store", "log", "registry"])
    parser.add_argument("--entities", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--fill", action="store_true", help="write SQLite's file without `tabloop materialize`"
    )
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--runs", type=int, default=200)
    chosen = parser.parse_args()
    match chosen.part:
        case "store":
            store(chosen.entities, chosen.fill)
        case "log":
            log(chosen.files)
        case _:
            registry(chosen.runs)


if __name__ == "__main__":
    main()
