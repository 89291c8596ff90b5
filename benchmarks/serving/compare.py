"""Requests per second, latency, memory: this project's service beside others that serve the same model.

    make demo && uv run benchmarks/serving/compare.py demo/fraud-detection

Needs wrk (`apt-get install wrk`). Each server has one worker. In turn, each is started, its answers are compared with the
model's, it is timed in alternation with the limit, and stopped. What the project's environment lacks is installed below
.cache/benchmarks.
"""

import argparse
import fcntl
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any
from urllib.request import Request, urlopen

import pandas as pd

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[1] / ".cache/benchmarks"
WORK = CACHE / "work"
MODEL = WORK / "model.joblib"
CONNECTIONS = (1, 16, 64)
BATCH = 1000
SECONDS = 2  # of load at a time
CHECKED, TOLERANCE = 20, 1e-4  # rows, and how far off a probability may be
START_SECONDS = 60
LARGE = 10_000  # rows of the batches that arrive beside single rows
ARROW = "application/vnd.apache.arrow.stream"
# Servers of the same constant, as `limit`; and this service, in several processes too.
NOT_PEERS = ("limit", "protocol", "granian", "granian rsgi", "ours", "ours, 2 processes", "naive")
WRK = """
local bodies, at = {}, 0
function init(args)
  wrk.headers["Content-Type"], wrk.headers["Accept"] = args[2], args[2]
  local whole = args[2] ~= "application/json"
  for line in io.lines(args[1], whole and "*a" or "*l") do
    if line ~= "" then bodies[#bodies + 1] = wrk.format("POST", nil, nil, line) else break end
  end
end
function request()
  at = at % #bodies + 1
  return bodies[at]
end
function done(all, latency)
  local e, text = all.errors, '{"rate":%f,"failed":%d,"p50":%f,"p99":%f,"seconds":%f}'
  print(text:format((all.requests - e.status) / all.duration * 1e6, e.connect + e.read + e.write + e.timeout
    + e.status, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, all.duration / 1e6))
end
"""
Row = dict[str, Any]
Found = dict[str, float]


@dataclass
class Server:
    name: str
    command: str  # its first word is a program of the server's environment
    packages: str = ""  # of an environment of its own; none: the project's
    environment: dict[str, str] = field(default_factory=dict)
    path: str = "/predict"
    batch_path: str | None = None  # none: it takes no batch
    many: Callable[[list[Row]], Any] = list  # what it is sent for these rows
    one: Callable[[Row], Any] | None = None  # and for one; none: a batch of one
    arrow: bool = False  # whether it takes batches as Arrow IPC streams, too


def tensors(rows: list[Row]) -> Row:
    """Rows as the Open Inference Protocol has them: a tensor for each column."""
    inputs = []
    for name, value in rows[0].items():
        text = isinstance(value, str)
        tensor = {"name": name, "shape": [len(rows), 1], "datatype": "BYTES" if text else "FP32"}
        kind = {"parameters": {"content_type": "str"}} if text else {}
        inputs.append(tensor | kind | {"data": [row[name] for row in rows]})
    return {"inputs": inputs, "outputs": [{"name": "predict_proba"}]}


def probabilities(answer: Any) -> list[float]:
    """P(positive) of each row, from whichever server's answer."""
    match answer:
        case {"outputs": [{"data": both}]}:
            return list(both[1::2])
        case {"predictions": pairs}:
            return [pair[1] for pair in pairs]
        case {"probability": value}:
            return list(value) if isinstance(value, list) else [value]
    return [value["probability"] if isinstance(value, dict) else value for value in answer]


def servers(package: str, card: dict[str, Any]) -> list[Server]:
    """All that are compared. Each peer's batching is on; its access log is off where that can be chosen."""
    script, users = f"python {HERE / 'servers.py'}", itertools.count()
    answer = {"prediction_id": "0" * 32, "probability": card["threshold"], "prediction": 0}
    answer |= {"model_version": card["version"], "variant": "champion"}
    constant = {"ANSWER": json.dumps(answer, separators=(",", ":"))}
    everything = {"CHALLENGER_MODE": "ab", "CHALLENGER_SHARE": "0.5", "PREDICTION_LOG": str(WORK / "log")}
    everything |= {"MODELS": str(WORK / "models")}
    bento = {"SERVER": "bentoml", "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(WORK / "bentoml")}
    mlserver = {"NAME": "m", "IMPLEMENTATION": "mlserver_sklearn.SKLearnModel", "URI": str(MODEL)}
    mlserver |= {"CONTENT_TYPE": "pd", "MAX_BATCH_SIZE": "64", "MAX_BATCH_TIME": "0.001"}
    mlserver = {f"MLSERVER_MODEL_{name}": value for name, value in mlserver.items()}
    mlserver |= {f"MLSERVER_{kind}_PORT": str(free_port()) for kind in ("GRPC", "METRICS")}
    mlserver |= {"MLSERVER_DEBUG": "false", "MLSERVER_PARALLEL_WORKERS": "0"}
    infer, saved = "/v2/models/m/infer", MODEL.with_suffix(".mlflow")

    def asked(row: Row) -> Row:
        entity = card["schema"].get("entity")
        return row | ({entity: f"user-{next(users)}"} if entity else {})

    def ours(rows: list[Row]) -> list[Row]:
        return [asked(row) for row in rows]

    def bentoml(rows: list[Row]) -> Row:
        return {"rows": rows}

    def mlflow(rows: list[Row]) -> Row:
        return {"dataframe_records": rows}

    service, start = f"python -m {package}.app", f"mlserver start {WORK}"
    serve = f"bentoml serve servers:Model --working-dir {HERE} --port {{port}}"
    granian = f"granian --working-dir {HERE} --port {{port}} --loop uvloop --http 1 --no-ws --interface"
    two = {"WEB_CONCURRENCY": "2"}
    invoke = f"mlflow models serve --env-manager local -w 1 -m {saved} -p {{port}}"
    return [
        Server("limit", f"{script} limit", "", constant, one=dict),
        Server("protocol", f"{script} protocol", "", constant, one=dict),
        Server("granian", f"{granian} asginl servers:reading", "granian", constant, one=dict),
        Server("granian rsgi", f"{granian} rsgi servers:rsgi", "granian", constant, one=dict),
        Server("ours", service, "", everything, "/predict", "/predict/batch", ours, asked, arrow=True),
        Server(
            "ours, 2 processes",
            service,
            "",
            everything | two,
            "/predict",
            "/predict/batch",
            ours,
            asked,
            arrow=True,
        ),
        Server("naive", f"{script} naive", batch_path="/predict/batch", one=dict),
        Server("litserve", f"{script} litserve", "litserve", {"SERVER": "litserve"}, one=dict),
        Server("bentoml", serve, "bentoml", bento, "/predict", "/predict", bentoml),
        Server("mlserver", start, "mlserver mlserver-sklearn", mlserver, infer, infer, tensors),
        Server("mlflow", invoke, "", {}, "/invocations", "/invocations", mlflow),
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def last_line(text: str) -> str:
    return ["no output", *filter(None, map(str.strip, text.splitlines()))][-1][:200]


def said(*command: str | Path, **options: Any) -> str:
    """The last line that a command writes. Raises: RuntimeError: it failed, with that line."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(last_line(done.stderr or done.stdout))
    return last_line(done.stdout)


def programs(server: Server, project: Path) -> Path:
    """The bin folder of its environment: the project's, or one of its own with the model's packages in the same versions."""
    python, place, uv = project / ".venv/bin/python", CACHE / server.name, os.environ.get("UV", "uv")
    if not server.packages:
        return python.parent
    code = "import sys, importlib.metadata as m; print(*(f'{n}=={m.version(n)}' for n in sys.argv[1:]))"
    pins = said(python, "-c", code, "scikit-learn", "pandas", "numpy", "joblib").split()
    if not place.exists():
        said(uv, "venv", "--python", python.resolve(), place)
    wanted = [*server.packages.split(), *pins, "httptools", "uvloop"]  # faster, where a server can use them
    said(uv, "pip", "install", "--compile-bytecode", "--python", place / "bin/python", *wanted)
    return place / "bin"


def ask(url: str, body: Any) -> Any:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=START_SECONDS) as answer:
        return json.load(answer)


@contextmanager
def running(server: Server, folder: Path, project: Path, body: Any) -> Iterator[tuple[int, str, float]]:
    """The started server: its process, where it listens, the seconds to its first answer."""
    port, log = str(free_port()), WORK / f"{server.name}.log"
    name, *arguments = server.command.format(port=port).split()
    environment = os.environ | {"PORT": port, "MLSERVER_HTTP_PORT": port, "MODEL": str(MODEL)}
    environment |= {"PYTHONPATH": str(project / "src"), "PATH": f"{folder}:{os.environ['PATH']}"}
    # scikit-learn's second thread would wait for the core that wrk has, and some peers all but stand still.
    environment |= {"OMP_NUM_THREADS": "1"} | server.environment
    url, began = f"http://127.0.0.1:{port}", time.perf_counter()
    options: dict[str, Any] = {"cwd": WORK, "env": environment, "start_new_session": True}
    with log.open("w") as out:
        process = subprocess.Popen([folder / name, *arguments], stdout=out, stderr=out, **options)
    try:
        while True:
            try:
                ask(url + server.path, body)
                break
            except OSError as error:
                if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                    raise RuntimeError(f"{error}; {last_line(log.read_text())}") from None
                time.sleep(0.01)
        yield process.pid, url, time.perf_counter() - began
    finally:
        for how in (signal.SIGTERM, signal.SIGKILL):  # the latter also for children that it left behind
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, how)
                process.wait(15)


def family(pid: int) -> list[Path]:
    """/proc of a process and of its descendants."""
    own = Path(f"/proc/{pid}")
    children = [int(child) for task in own.glob("task/*/children") for child in task.read_text().split()]
    return [own, *(member for child in children for member in family(child))]


def memory(pid: int) -> float:
    """MB of a process and its descendants, PSS: what they share counts once."""
    lines = [line for own in family(pid) for line in (own / "smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def processor(pid: int) -> float:
    """Seconds of CPU time that a process and its descendants have taken."""
    stats = [(own / "stat").read_text().rpartition(")")[2].split() for own in family(pid)]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def load(url: str, bodies: list[Any], connections: int, pid: int = 0, rows: int = 1) -> Found:
    """wrk's figures: rows answered a second, and a second of the server's CPU time; failures, p50 and p99 in ms.

    Args:
        bodies: each is sent as JSON, or if it is bytes, as an Arrow IPC stream.
        pid: the server's process; 0: its CPU time is not asked for.
        rows: of each body.
    """
    script, sent = (WORK / f"{url.rpartition('/')[2]}{rows}.{kind}" for kind in ("lua", "sent"))
    script.write_text(WRK)
    binary = isinstance(bodies[0], bytes)
    sent.write_bytes(bodies[0] if binary else "".join(json.dumps(body) + "\n" for body in bodies).encode())
    kind = ARROW if binary else "application/json"
    options = f"-t1 -c{connections} -d{SECONDS}s --timeout=60s -s {script} {url} -- {sent} {kind}"
    before = processor(pid) if pid else 0
    found = dict(json.loads(said("wrk", *options.split())))
    found["rate"] *= rows
    taken = processor(pid) - before if pid else 0
    return found | {"cpu": found["rate"] * found["seconds"] / max(taken, 0.01)}


def stream(rows: list[Row]) -> bytes:
    """Rows as an Arrow IPC stream."""
    import pyarrow as pa

    table, content = pa.Table.from_pylist(rows), io.BytesIO()
    with pa.ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table)
    return content.getvalue()


def beside(server: Server, url: str, bodies: list[Any], batch: Any) -> tuple[float, float]:
    """p99 of single rows on 16 connections, in ms: alone, and while large batches arrive one after the other."""
    quiet = load(url + server.path, bodies, 16)["p99"]
    with ThreadPoolExecutor(1) as pool:
        batches = pool.submit(load, url + str(server.batch_path), [batch], 1, rows=LARGE)
        loud = load(url + server.path, bodies, 16)["p99"]
        batches.result()
    return quiet, loud / quiet


def check(answer: Any, known: list[float]) -> None:
    """Raises: ValueError: the answer is not the model's."""
    worst = max(abs(a - b) for a, b in zip(probabilities(answer), known, strict=True))
    if not worst < TOLERANCE:
        raise ValueError(f"its answers are not the model's: {worst:.2g} off")


def measure(
    server: Server, limit: Server, project: Path, rows: list[Row], known: list[float], rounds: int
) -> Found:
    """Every figure of one server. It raises what keeps the server from running.

    In each round the server is loaded and then the limit, so that other work on the machine slows both. The figures
    are medians over the rounds, also those of the ratio to the limit.
    """
    folder = programs(server, project)
    bodies = [server.one(row) if server.one else server.many([row]) for row in rows]
    with running(server, folder, project, bodies[0]):
        pass  # the start that counts is the next, of all: its files are in memory
    bare = replace(limit, name="bare")
    with (
        running(server, folder, project, bodies[0]) as (pid, url, cold),
        running(bare, programs(bare, project), project, rows[0]) as (bare_pid, bare_url, _),
    ):
        found = {"cold": cold}
        for body, value in zip(bodies[:CHECKED], known, strict=False):
            if server.environment.keys() != {"ANSWER"}:
                check(ask(url + server.path, body), [value])
        load(url + server.path, bodies, CONNECTIONS[1])  # warm
        for c in CONNECTIONS:
            pairs = [
                (load(url + server.path, bodies, c, pid), load(bare_url + bare.path, rows, c, bare_pid))
                for _ in range(rounds)
            ]
            for key in ("rate", "cpu", "p50", "p99"):
                found[f"{key}{c}"] = median(mine[key] for mine, _ in pairs)
                found[f"{key}{c}/limit"] = median(mine[key] / theirs[key] for mine, theirs in pairs)
            found[f"failed{c}"] = sum(mine["failed"] for mine, _ in pairs)
        found["memory"] = memory(pid)
        if server.batch_path:
            batch = server.many(rows)
            check(ask(url + server.batch_path, batch), known)
            sent = {"batch": batch} | ({"arrow": stream(batch)} if server.arrow else {})
            for key, body in sent.items():
                batches = [load(url + server.batch_path, [body], 1, pid, BATCH) for _ in range(rounds)]
                found |= {
                    key: median(f["rate"] for f in batches),
                    f"{key}cpu": median(f["cpu"] for f in batches),
                }
        if server.arrow:
            large = server.many([*rows] * (LARGE // BATCH))
            for key, body in (("large", large), ("largearrow", stream(large))):
                both = [beside(server, url, bodies, body) for _ in range(rounds)]
                found |= {
                    key: median(ratio for _, ratio in both),
                    "quiet": median(quiet for quiet, _ in both),
                }
    return found


def report(results: dict[str, Found | str]) -> None:
    """Markdown: the figures, and what they are to others'."""
    done = {name: found for name, found in results.items() if isinstance(found, dict)}

    def cell(name: str, column: str) -> str:
        """`figure:digits`, or `figure/whose` for the ratio."""
        key, _, digits = column.partition(":")
        key, _, whose = key.partition("/")
        if whose and f"{key}/limit" in done[name]:  # both were timed beside the limit: what slowed one is out
            key += "/limit"
            if whose == "limit":
                return f"{done[name][key]:,.2f}"
        others = [n for n in done if (n not in NOT_PEERS if whose == "peer" else n == whose)]
        mine, theirs = done[name].get(key), [done[n][key] for n in others if done[n].get(key)]
        if mine is None or (whose and not theirs):
            return "—"
        best = max if key.startswith(("rate", "cpu", "batch", "arrow")) else min
        return f"{mine / best(theirs):,.2f}" if whose else f"{mine:,.{digits}f}"

    def table(title: str, heads: str, columns: str) -> None:
        print(f"{title}\n\n| server | {heads} |\n|{'---|' * (heads.count('|') + 2)}")
        for name, found in results.items():
            cells = [found] if isinstance(found, str) else [cell(name, column) for column in columns.split()]
            print(f"| {' | '.join([name, *cells])} |")
        print(flush=True)

    rates = "times naive | times the best peer"
    times = "times naive's | times the best peer's"
    for c in CONNECTIONS:
        table(
            f"Single rows, connections: {c}",
            f"requests/s | of the limit | {rates} | p50, ms | p99, ms | times the limit's p99 | failed",
            f"rate{c}:0 rate{c}/limit rate{c}/naive rate{c}/peer p50{c}:2 p99{c}:2 p99{c}/limit failed{c}:0",
        )
        table(
            f"The same for each second of the server's CPU time, connections: {c}",
            f"requests | of the limit | {rates}",
            f"cpu{c}:0 cpu{c}/limit cpu{c}/naive cpu{c}/peer",
        )
    table(
        f"Batches of {BATCH:,} rows, for each second of the server's CPU time; the same as Arrow",
        f"JSON: rows | {rates} | Arrow: rows/s | rows a CPU second",
        "batchcpu:0 batchcpu/naive batchcpu/peer arrow:0 arrowcpu:0",
    )
    table(
        f"p99 of single rows on 16 connections while batches of {LARGE:,} rows arrive",
        "alone, ms | with JSON, times | with Arrow, times",
        "quiet:2 large:2 largearrow:2",
    )
    table(
        f"Batches of {BATCH:,} rows; cold start; memory",
        f"rows/s | {rates} | start, s | {times} | memory, MB | {times}",
        "batch:0 batch/naive batch/peer cold:1 cold/naive cold/peer memory:0 memory/naive memory/peer",
    )


def prepare(project: Path, package: str, card: dict[str, Any]) -> None:
    """The champion, itself again as challenger, and the estimator that it was, in a clean folder."""
    shutil.rmtree(WORK, ignore_errors=True)
    for role, version in (("champion", card["version"]), ("challenger", card["version"][::-1])):
        shutil.copytree(project / "models/champion", WORK / "models" / role)
        (WORK / "models" / role / "model.json").write_text(json.dumps(card | {"version": version}))
    environment = os.environ | {"PACKAGE": package, "PYTHONPATH": str(project / "src"), "MODEL": str(MODEL)}
    said(project / ".venv/bin/python", HERE / "servers.py", "fit", cwd=project, env=environment)


def compare(
    chosen: list[Server], limit: Server, project: Path, rows: list[Row], known: list[float], rounds: int
) -> dict[str, Found | str]:
    """Each server's figures, or why there are none."""
    results: dict[str, Found | str] = {}
    for server in chosen:
        try:
            results[server.name] = measure(server, limit, project, rows, known, rounds)
        except Exception as error:  # the others are still compared
            results[server.name] = f"could not run: {' '.join(str(error).split())}"
        print(f"{server.name}: done", file=sys.stderr, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("project", type=Path, help="a trained project's folder")
    parser.add_argument("--rounds", type=int, default=5, help=f"for each point measured, of {SECONDS} s")
    parser.add_argument("--only", action="append", metavar="NAME", help="just this server; may be repeated")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        parser.error("wrk is missing: apt-get install wrk")
    project = options.project.resolve()
    package = next(project.glob("src/*/app.py")).parent.name
    card = json.loads((project / "models/champion/model.json").read_text())
    features = [name for view in card["schema"].get("views", {}).values() for name in view]
    features += card["schema"].get("request", {})
    # Without missing values, as not every server's input has a way to say them.
    table = pd.read_parquet(project / "models/champion/reference.parquet").dropna()
    table = table.sample(BATCH, replace=len(table) < BATCH, random_state=0)
    rows, known = json.loads(table[features].to_json(orient="records")), table["probability"].tolist()

    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            parser.error("another run is under way, which would slow this one")
        prepare(project, package, card)
        limit, *others = servers(package, card)
        chosen = [s for s in (limit, *others) if not options.only or s.name in options.only]
        report(compare(chosen, limit, project, rows, known, options.rounds))


if __name__ == "__main__":
    main()
