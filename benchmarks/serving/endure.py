"""Minutes of mixed load with hostile clients beside it: is a good client slow or in error, is the log exact, is memory flat?

    uv run benchmarks/serving/endure.py demo/fraud-detection --seconds 600

Needs `make demo`. Good clients send rows one by one and in batches, outcomes, and ask for every page; hostile ones do what
HOSTILE lists. Prints memory as it goes. It ends with exit code 1 if something is wrong.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

ADDRESS = ("127.0.0.1", 8090)
URL = f"http://{ADDRESS[0]}:{ADDRESS[1]}"
PAGES = ("/health/ready", "/health/live", "/metrics", "/model", "/", "/docs", "/openapi.json")
SLOWEST = 1.0  # seconds that a good client may wait
GROWTH = 1.15  # of memory, from the second quarter of the time to the last


def request(path: str, body: bytes | None = None) -> bytes:
    """A GET, or with a body a POST."""
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nhost: x\r\n"
    return head.encode() + (b"\r\n" if body is None else b"content-length: %d\r\n\r\n%s" % (len(body), body))


class Client:
    """A good client on one connection. It notes how long each answer takes, and each that is not as it should be."""

    def __init__(self, kind: str, results: "Results") -> None:
        self.kind, self.results = kind, results
        self.reader: asyncio.StreamReader | None = None

    async def ask(self, path: str, body: bytes | None = None, status: int = 200) -> bytes:
        """The answer's body; empty after an error."""
        began = time.perf_counter()
        try:
            if not self.reader:
                self.reader, self.writer = await asyncio.open_connection(*ADDRESS, limit=1 << 20)
            self.writer.write(request(path, body))
            head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
            found = await self.reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r")[0]))
            if int(head.split()[1]) != status:
                raise ValueError(f"{path}: {head.splitlines()[0]!r} {found[:200]!r}")
        except (OSError, EOFError, ValueError, IndexError) as error:
            self.results.errors[self.kind].append(f"{type(error).__name__}: {error}")
            self.reader, found, head = None, b"", b""
        self.results.seconds[self.kind].append(time.perf_counter() - began)
        if b"connection: close" in head:
            self.reader = None
        return found


class Results:
    """What good clients saw. `ids` is a file with the id of each prediction that was answered."""

    def __init__(self, ids: Path) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.errors: dict[str, list[str]] = defaultdict(list)
        self.ids, self.latest = ids.open("w"), deque[str](maxlen=5000)
        self.outcomes = 0  # that were accepted
        self.late = 0.0  # seconds that these clients were late themselves, at most

    def answered(self, body: bytes) -> None:
        """Note the predictions of an answer."""
        answer = json.loads(body or b"[]")
        for prediction in [answer] if isinstance(answer, dict) else answer:
            assert 0 <= prediction["probability"] <= 1
            self.ids.write(prediction["prediction_id"] + "\n")
            self.latest.append(prediction["prediction_id"])


async def good(card: dict[str, Any], until: float, results: Results) -> None:
    """All good clients, until then."""
    row, schema = card["example"], card["schema"]

    looked_up = {name for view in schema["views"].values() for name in view}
    by_key = {name: value for name, value in row.items() if name not in looked_up}

    def rows(n: int) -> list[dict[str, Any]]:
        """Every second one has all features, the others those of the request and the entity's key."""
        entities = [{schema["entity"]: f"u{random.randrange(5000):06d}"} for _ in range(n)]
        return [random.choice((row, by_key)) | entity for entity in entities]

    def outcomes(n: int) -> list[dict[str, Any]]:
        return [{"prediction_id": results.latest.popleft(), "label": random.randrange(2)} for _ in range(n)]

    async def single(client: Client) -> None:
        results.answered(await client.ask("/predict", json.dumps(rows(1)[0]).encode()))
        await asyncio.sleep(0.01)

    async def batch(client: Client) -> None:
        results.answered(await client.ask("/predict/batch", json.dumps(rows(1000)).encode()))
        await asyncio.sleep(0.5)

    async def feedback(client: Client) -> None:
        await asyncio.sleep(0.1)
        if len(results.latest) > 200:
            one, many = outcomes(1)[0], outcomes(100)
            results.outcomes += bool(await client.ask("/feedback", json.dumps(one).encode(), 202))
            accepted = await client.ask("/feedback/batch", json.dumps(many).encode(), 202)
            results.outcomes += json.loads(accepted or b'{"accepted": 0}')["accepted"]

    async def page(client: Client) -> None:
        await client.ask(random.choice(PAGES))
        await asyncio.sleep(0.1)

    async def work(turn: Callable[[Client], Awaitable[None]]) -> None:
        client = Client(turn.__name__, results)
        while time.time() < until:
            await turn(client)

    async def idle(client: Client) -> None:
        """Ask nothing: by how much these clients are late themselves, as the machine is busy."""
        began = time.perf_counter()
        await asyncio.sleep(0.01)
        results.late = max(results.late, time.perf_counter() - began - 0.01)

    await asyncio.gather(*map(work, [*[single] * 16, *[batch] * 2, feedback, page, idle]))


@contextlib.asynccontextmanager
async def connected(receive: int = 0) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """A connection as a function that sends; `receive` is the size of its receive buffer. It is reset at the end."""
    loop = asyncio.get_running_loop()
    with socket.socket() as line:
        line.setblocking(False)
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if receive:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
        await loop.sock_connect(line, ADDRESS)
        yield lambda data: asyncio.wait_for(loop.sock_sendall(line, data), 20)


def many(row: bytes, n: int) -> bytes:
    """The row n times, as a JSON list."""
    return b"[%s%s]" % (row, (b"," + row) * (n - 1))


async def reset(row: bytes) -> None:
    """Ask, and reset the connection before the answer."""
    async with connected() as send:
        await send(request("/predict", row) * random.randrange(1, 4))
        await asyncio.sleep(random.choice((0, 0.001, 0.01)))


async def slow_reader(row: bytes) -> None:
    """Ask a hundred times on one connection and read nothing."""
    async with connected(receive=2048) as send:
        await send(request(random.choice(PAGES)) * 100)
        await send(request("/predict/batch", many(row, 5000)))
        await asyncio.sleep(15)


async def endless_head(row: bytes) -> None:
    """A head without an end."""
    async with connected() as send:
        await send(b"GET /model HTTP/1.1\r\n")
        while True:
            await send(b"x-%d: %s\r\n" % (random.randrange(10**6), b"a" * 8000))
            await asyncio.sleep(0.01)


async def endless_body(row: bytes) -> None:
    """A body that arrives byte by byte."""
    async with connected() as send:
        await send(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n")
        while True:
            await send(b" ")
            await asyncio.sleep(1)


async def garbage(row: bytes) -> None:
    """Random bytes, or a request with some."""
    noise = random.randbytes(random.randrange(1, 20_000))
    async with connected() as send:
        await send(
            random.choice(
                (noise, b"\x16\x03\x01" + noise, request("/predict", noise), request("/" + "x" * 7000))
            )
        )
        await asyncio.sleep(0.05)


WRONG = [
    ("/predict/batch", many(b"{}", 10_000)),
    ("/predict/batch", many(b'{"x1":1,"x2":2,"x3":3,"x4":4,"x5":5,"x6":6,"x7":7,"x8":8}', 9_000)),
    ("/predict/batch", many(b"{}", 5_000_000)),
    ("/feedback/batch", many(b'{"prediction_id":"0123456789abcdef0123456789abcdef","label":1}', 10_000)),
    ("/feedback/batch", many(b"{}", 5_000_000)),
    ("/feedback", many(b"{}", 5_000_000)),
]


async def wrong_batch(row: bytes) -> None:
    """As many rows as are allowed or more, all of them wrong."""
    async with connected() as send:
        await send(request(*random.choice(WRONG)))
        await asyncio.sleep(2)


HOSTILE = {reset: 8, slow_reader: 3, endless_head: 2, endless_body: 8, garbage: 2, wrong_batch: 1}


async def hostile(row: bytes, until: float, attempts: dict[str, int]) -> None:
    """All hostile clients, so many of each kind, until then."""

    async def work(attack: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                await attack(row)
            attempts[attack.__name__] += 1
            await asyncio.sleep(0.01)

    with contextlib.suppress(TimeoutError):
        workers = [work(attack) for attack, n in HOSTILE.items() for _ in range(n)]
        await asyncio.wait_for(asyncio.gather(*workers), until - time.time())


def memory(pid: int) -> list[float]:
    """MB resident, of a process and its children."""
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    pages = [int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in (pid, *children)]
    return [n * os.sysconf("SC_PAGE_SIZE") / 1e6 for n in pages]


def attack(row: dict[str, Any], until: float) -> None:
    """The process of the hostile clients."""
    attempts: dict[str, int] = defaultdict(int)
    asyncio.run(hostile(json.dumps(row).encode(), until, attempts))
    print(
        "hostile:", ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in attempts.items()), flush=True
    )


def ask(card: dict[str, Any], until: float, folder: str, answer: "multiprocessing.Queue[Any]") -> None:
    """The process of the good clients."""
    results = Results(Path(folder, "ids"))
    asyncio.run(good(card, until, results))
    results.ids.close()
    print(f"the good clients' own process was late by {results.late * 1000:.0f} ms at most", flush=True)
    answer.put((dict(results.seconds), dict(results.errors), results.outcomes))


def exact(folder: str, outcomes: int, counted: float, dropped: float) -> list[str]:
    """What is wrong with the log: each prediction that was answered is in it once, each outcome accepted, and no other."""
    db = duckdb.connect()
    db.sql(
        f"CREATE TABLE given AS SELECT column0 AS id FROM read_csv('{folder}/ids', header = false, columns = {{'column0': 'VARCHAR'}})"
    )
    db.sql(f"CREATE TABLE log AS SELECT prediction_id AS id FROM '{folder}/log/predictions/*/*.parquet'")
    (answered, logged, distinct, missing) = db.sql(
        "SELECT (SELECT count(*) FROM given), (SELECT count(*) FROM log), (SELECT count(DISTINCT id) FROM log), "
        "(SELECT count(*) FROM given ANTI JOIN log USING (id))"
    ).fetchall()[0]
    feedback = db.sql(f"SELECT count(*) FROM '{folder}/log/feedback/*/*.parquet'").fetchall()[0][0]
    print(
        f"log: {answered:,} predictions read by good clients, {missing:,} of them not in it; {logged:,} rows, {distinct:,} ids, "
        f"{counted:,.0f} counted as answered; {feedback:,} outcomes of {outcomes:,} accepted; {dropped:,.0f} dropped"
    )
    sound = missing == 0 and logged == distinct == counted and feedback == outcomes and dropped == 0
    return [] if sound else ["the log is not exact"]


def report(
    seconds: dict[str, list[float]], errors: dict[str, list[str]], used: list[list[float]]
) -> list[str]:
    """Print what good clients saw and the memory of service and log; what is wrong."""
    wrong = []
    for kind, taken in seconds.items():
        p50, p99, most = np.quantile(taken, (0.5, 0.99, 1)) * 1000
        failed = errors.get(kind, [])
        print(
            f"{kind:9}{len(taken):10,} requests, {len(failed)} errors, p50 {p50:.1f}, p99 {p99:.1f}, slowest {most:.0f} ms"
        )
        wrong += [f"{kind}: {failed[0]}"] if failed else []
        wrong += [f"{kind}: one waited {most:,.0f} ms"] if most > SLOWEST * 1000 else []
    quarter = len(used) // 4
    for name, mb in zip(("service", "log"), zip(*used, strict=True), strict=True):
        early, late = max(mb[quarter : 2 * quarter]), max(mb[-quarter:])
        print(f"memory of {name}: {early:.0f} MB at most in the second quarter, {late:.0f} MB in the last")
        wrong += [f"memory of {name} grows"] if late > early * GROWTH else []
    return wrong


def errors_of(lines: list[str]) -> list[str]:
    """Print how much the service said; the first of its tracebacks, which no client may cause."""
    ends = [at for at, line in enumerate(lines) if re.match(r"[\w.]+(Error|Exception)\b", line)]
    print(f"the service said {len(lines):,} lines, {len(ends):,} tracebacks")
    return (
        [f"{len(ends):,} tracebacks, the first:", *lines[max(0, ends[0] - 12) : ends[0] + 1]] if ends else []
    )


def settled() -> tuple[float, float]:
    """Rows that the service answered and that its log dropped, once it has no requests of hostile clients any more."""
    before = -1.0
    while True:
        time.sleep(2)
        metrics = urllib.request.urlopen(f"{URL}/metrics").read().decode()
        names = r"predictions_total{.*}", r'prediction_log_rows_total{outcome="dropped"}'
        answered, dropped = (
            sum(map(float, re.findall(rf"^{n} (\S+)", metrics, re.MULTILINE))) for n in names
        )
        if answered == before:
            return answered, dropped
        before = answered


def main(project: Path, seconds: int) -> list[str]:
    """Run it; what is wrong."""
    card = json.loads((project / "models/champion/model.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"PORT": str(ADDRESS[1]), "PREDICTION_LOG": f"{folder}/log", "PREDICTION_LOG_SECONDS": "1"}
        command = [str(project / ".venv/bin/python"), "-m", f"{project.name.replace('-', '_')}.app"]
        with (
            Path(folder, "said").open("w") as said,
            subprocess.Popen(command, cwd=project, env=os.environ | chosen, stderr=said) as service,
        ):
            while not answers():
                if service.poll() is not None:
                    return ["the service does not start: " + Path(folder, "said").read_text()]
                time.sleep(0.1)
            until = time.time() + seconds
            answer: multiprocessing.Queue[Any] = multiprocessing.Queue()
            clients = [multiprocessing.Process(target=ask, args=(card, until, folder, answer))]
            clients += [multiprocessing.Process(target=attack, args=(card["example"], until))]
            for process in clients:
                process.start()
            used = []
            for at in itertools.count(1):
                time.sleep(max(0, min(until, until - seconds + at) - time.time()))
                used.append(memory(service.pid))
                if at % 10 == 0 or time.time() >= until:
                    print(f"{at:5} s  {' + '.join(f'{mb:.0f}' for mb in used[-1])} MB", flush=True)
                if time.time() >= until:
                    break
            seen, errors, outcomes = answer.get(timeout=60)
            for process in clients:
                process.join()
            answered, dropped = settled()
            began = time.monotonic()
            service.send_signal(signal.SIGTERM)
            service.wait(timeout=45)
            print(f"SIGTERM to end: {time.monotonic() - began:.1f} s")

        wrong = errors_of(Path(folder, "said").read_text().splitlines()) + report(seen, errors, used)
        return wrong + exact(folder, outcomes, answered, dropped)


def answers() -> bool:
    """Whether the service is ready."""
    with contextlib.suppress(OSError):
        return bool(urllib.request.urlopen(f"{URL}/health/ready").status == 200)
    return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("project", type=Path)
    parser.add_argument("--seconds", type=int, default=600)
    arguments = parser.parse_args()
    wrong = main(arguments.project.resolve(), arguments.seconds)
    print("\n".join(wrong) or "nothing is wrong")
    sys.exit(bool(wrong))
