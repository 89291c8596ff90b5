"""The online store without Feast: what the service reads is what Feast reads, from SQLite and from a real Redis."""

import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import free_port
from kit.conftest import PARAMS, Project, clean, orders
from kit.test_card import CARD
from prometheus_client import REGISTRY
from redis import Redis, RedisError
from redis_server import redis_server, stopped
from tabloop import redis_copy
from tabloop.cli import UserError
from tabloop.params import Params, Schema
from tabloop.serving import online_store
from tabloop.serving.online_store import OnlineStore, entity_key, open_store
from tabloop.serving.settings import STORE as DEFAULT
from tabloop.serving.settings import Settings, load_settings

from .conftest import Tabloop

STORE = "data/online/store.db"
VIEWS = {
    "profile": {"age": {"type": "integer"}, "country": {"type": "category"}, "vip": {"type": "boolean"}},
    "spending": {"mean": {"type": "number"}, "largest": {"type": "number"}},
}
SPENDING = """
SELECT customer_id, ordered_at + INTERVAL 1 SECOND AS ordered_at, avg(amount) OVER past AS mean,
  nullif(max(amount) OVER past, 50) AS largest
FROM events WINDOW past AS (PARTITION BY customer_id ORDER BY ordered_at)
"""
SEGMENTS = {"evaluate": PARAMS["evaluate"] | {"segments": []}}
KEYS = [*(f"c{i:03d}" for i in range(40)), "Ω ключ", "nobody"]
# What Feast itself answers from SQLite and from Redis, by column, in a process of its own: its imports take seconds.
# Then Feast writes to another database of Redis.
FEAST = """
import contextlib, io, json, sys
from tabloop.feature_store import import_feast, opened
FeatureStore, _ = import_feast()
from feast.infra.online_stores.redis import RedisOnlineStoreConfig
from tabloop.online_file import span
from tabloop.params import ROOT, load

schema, (keys, address) = load().schema_, json.load(sys.stdin)
names = [f"{view}:{column}" for view, columns in schema.views.items() for column in columns]

def answers(store):
    rows = [{schema.entity: key} for key in keys]
    return store.get_online_features(features=names, entity_rows=rows).to_dict()

with opened(ROOT) as store:
    def redis(database):
        store.config._online_store = RedisOnlineStoreConfig(connection_string=f"{address},db={database}")
        return FeatureStore(config=store.config)
    found = answers(store), answers(redis(0))
    with contextlib.redirect_stdout(io.StringIO()):
        redis(1).materialize(*span())
print(json.dumps(found))
"""


def events() -> pd.DataFrame:
    """Orders of customers of whom some have no country, no vip, or a key that is not ASCII."""
    rows = orders()
    rows["vip"] = (rows.age % 2 == 0).astype("boolean").mask(rows.age % 5 == 0)
    rows["country"] = rows.country.mask(rows.age % 7 == 0)
    rows.loc[rows.index[-1], "customer_id"] = "Ω ключ"
    rows.loc[rows.index[-2], "age"] = -(2**40)
    return rows


# Seconds: what a store that answers gets, as other tests may leave this one little of the machine.
AMPLE = 30.0


@pytest.fixture(autouse=True)
def budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online_store, "BUDGET", AMPLE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis server."""
    with redis_server(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture
def redis(server: str) -> Iterator[Any]:
    """A client of database 0, which is empty."""
    client: Any = Redis.from_url(f"redis://{server}/0")
    client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of this module's project."""
    return tmp_path_factory.mktemp("made") / "project"


@pytest.fixture
def folder(project: Project, tabloop: Tabloop, made: Path, tmp_path: Path) -> Path:
    """A project whose features are made, of two views with every type of column."""
    if not made.exists():
        schema = {"views": VIEWS, "request": {"amount": {"type": "number"}}}
        folder = project(events(), schema=schema, **SEGMENTS)
        (folder / "feature_repo/spending.sql").write_text(SPENDING)
        tabloop(folder, "ingest")
        tabloop(folder, "featurize", TZ="America/New_York")
        folder.rename(made)
    return shutil.copytree(made, tmp_path / "project")


def opened(where: str | Path, password: str = "") -> OnlineStore:
    schema = Params.model_validate(
        PARAMS | {"schema": PARAMS["schema"] | {"views": VIEWS}} | SEGMENTS
    ).schema_
    return open_store(
        Settings(online_store=where, online_store_password=password), "kit", schema.entity, schema.views
    )


def read(where: str | Path, keys: list[str] = KEYS) -> dict[str, list[Any]]:
    """What the service finds, by column."""
    rows = asyncio.run(opened(where).read(keys))
    return {name: [row[name] for row in rows] for view in VIEWS.values() for name in view}


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def keys_of(keys: int) -> list[str]:
    """So many different keys; the store knows the first 20 and the last 20."""
    return [*KEYS[:20], *(f"nobody {n}" for n in range(keys - 40)), *KEYS[20:40]]


REASONS = ("gone", "locked", "unreadable", "unreachable", "slow", "resting")


def failed(*reasons: str) -> float:
    """Requests whose look-up failed, for these reasons or for any."""
    return sum(counted("online_store_errors_total", reason=reason) for reason in reasons or REASONS)


def test_sqlite_and_redis_give_what_feast_gives(
    folder: Path, tabloop: Tabloop, server: str, redis: Any
) -> None:
    done = tabloop(folder, "materialize", ONLINE_STORE=f"redis://{server}/0")
    assert done.stdout == f"materialize: 41 of 41 entities written, 0 removed -> redis://{server}/0\n"
    asked = json.dumps([KEYS, server])
    command = [sys.executable, "-c", FEAST]
    feast = subprocess.run(command, cwd=folder, env=clean(), input=asked, capture_output=True, text=True)
    assert feast.returncode == 0, feast.stderr
    mine = read(folder / STORE)
    for theirs in json.loads(feast.stdout):
        assert theirs.pop("customer_id") == KEYS
        assert mine == theirs
    assert mine == read(f"redis://{server}/0")
    assert mine["age"][-1] is None and -(2**40) in mine["age"]
    assert {type(v) for column in mine.values() for v in column} == {int, str, bool, float, type(None)}

    other: Any = Redis.from_url(f"redis://{server}/1")
    keys = {key for key in redis.scan_iter() if not key.startswith(b"tabloop:")}
    assert keys == set(other.keys()) and len(keys) == 41
    assert all(redis.hgetall(key) == other.hgetall(key) for key in keys)


def test_only_what_differs_is_written_and_what_is_gone_is_removed(
    folder: Path, tabloop: Tabloop, server: str, redis: Any
) -> None:
    def materialize() -> str:
        """What it says it wrote; Redis's own count of the hashes written is the same."""
        redis.config_resetstat()
        said = tabloop(folder, "materialize", ONLINE_STORE=f"redis://{server}/0").stdout
        wrote = redis.info("commandstats").get("cmdstat_hset", {"calls": 0})["calls"]
        assert said.startswith(f"materialize: {wrote} of ")
        assert read(f"redis://{server}/0") == read(folder / STORE)
        return said.removeprefix("materialize: ").split(" -> ")[0]

    def change(sql: str) -> None:
        with contextlib.closing(sqlite3.connect(folder / STORE)) as db:
            db.executescript(sql)

    redis.set("of another program", "kept")
    redis.hset("u1ourkit", "a", "kept")
    assert materialize() == "41 of 41 entities written, 0 removed"
    assert materialize() == "0 of 41 entities written, 0 removed"
    c001 = f"entity_key = X'{entity_key('customer_id', 'c001').hex()}'"
    change(
        f"UPDATE kit_spending SET value = (SELECT max(value) FROM kit_spending), event_ts = 9e8 WHERE {c001}"
    )
    assert materialize() == "1 of 41 entities written, 0 removed"
    change(f"DELETE FROM kit_spending WHERE {c001}")  # it stays in the other view
    assert materialize() == "1 of 41 entities written, 0 removed"
    change(f"DELETE FROM kit_profile WHERE {c001}")
    assert materialize() == "0 of 40 entities written, 1 removed"
    redis.delete(entity_key("customer_id", "c002") + b"kit")  # evicted, for example
    assert materialize() == "1 of 40 entities written, 0 removed"
    redis.delete("tabloop:kit", "tabloop:kit:keys")
    assert materialize() == "0 of 40 entities written, 0 removed"
    c003 = f"entity_key = X'{entity_key('customer_id', 'c003').hex()}'"
    change(f"DELETE FROM kit_spending WHERE {c003}; DELETE FROM kit_profile WHERE {c003}")
    assert materialize() == "0 of 39 entities written, 1 removed"
    assert redis.get("of another program") == b"kept" == redis.hget("u1ourkit", "a")

    change("DELETE FROM kit_spending")
    failed = tabloop(folder, "materialize", code=1, ONLINE_STORE=f"redis://{server}/0").stderr
    assert (
        failed.startswith("materialize: data/online/store.db has no row of spending")
        and failed.count("\n") == 1
    )
    assert redis.dbsize() == 39 + 4


def test_it_is_ready_once_every_view_has_a_row(
    folder: Path, tabloop: Tabloop, server: str, redis: Any
) -> None:
    url, empty = f"redis://{server}/0", folder / "empty.db"
    with contextlib.closing(sqlite3.connect(empty)) as db:
        db.executescript("CREATE TABLE kit_profile (entity_key, feature_name, value, event_ts)")
    for where in (folder / "nowhere.db", empty, url):
        with pytest.raises(
            UserError, match=f"^ONLINE_STORE={where} has no row of profile: `make materialize`"
        ):
            asyncio.run(opened(where).check(VIEWS))
    asyncio.run(opened("none").check(VIEWS))
    asyncio.run(opened(folder / STORE).check(VIEWS))
    tabloop(folder, "materialize", ONLINE_STORE=url)

    async def lost() -> None:
        store = opened(url)
        await store.check(VIEWS)
        redis.flushall()
        await store.check(VIEWS)  # no reason to stop a service that answers
        assert (await store.read(["c001"]))[0]["age"] is None and not store.breaker.error
        with pytest.raises(UserError, match="no row of profile"):
            await opened(url).check(VIEWS)

    asyncio.run(lost())


def test_a_redis_that_hangs_costs_a_request_its_budget_and_nobody_else_anything(
    folder: Path, tabloop: Tabloop, server: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"redis://{server}/0"
    tabloop(folder, "materialize", ONLINE_STORE=url)
    monkeypatch.setattr(online_store, "REST", 0.0)

    async def hang() -> None:
        store, failures = opened(url), failed()
        slow = failed("slow")
        await store.check(VIEWS)
        keys = keys_of(10_000)
        assert sum(row["age"] is not None for row in await store.read(keys)) == 40
        # More requests than there are connections.
        many = await asyncio.gather(*(store.read(["c001"]) for _ in range(300)))
        assert all(row["age"] == 19 for (row,) in many) and failed() == failures

        monkeypatch.setattr(online_store, "BUDGET", 0.5)
        redis.client_pause(5000)
        began, turns, reading = time.monotonic(), 0, asyncio.ensure_future(store.read(keys))
        while not reading.done():
            await asyncio.sleep(0.005)
            turns += 1
        assert 0.5 <= time.monotonic() - began < 8 and turns > 10  # 0.5 s and 0.2 ms for each key
        assert {row["age"] for row in reading.result()} == {None} and len(reading.result()) == 10_000
        assert failed() == failures + 1 == failures + failed("slow") - slow
        assert "TimeoutError" in str(store.breaker.error)
        redis.ping()  # answered when the pause is over
        monkeypatch.setattr(online_store, "BUDGET", AMPLE)
        assert (await store.read(["c001"]))[0]["age"] == 19

        for client in redis.client_list(_type="normal"):  # as after a restart of the server
            if client["id"] != str(redis.client_id()):
                redis.client_kill_filter(_id=client["id"])
        assert (await store.read(["c001"]))[0]["age"] == 19
        assert failed() == failures + 1

    asyncio.run(hang())


def test_a_redis_that_is_stopped_costs_one_budget_and_then_nothing_until_it_is_back(
    folder: Path,
    tabloop: Tabloop,
    server: str,
    redis: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = f"redis://{server}/0"
    tabloop(folder, "materialize", ONLINE_STORE=url)

    async def scene() -> None:
        store = opened(url)
        store.breaker.rest = 1
        assert (await store.read(["c001"]))[0]["age"] == 19
        slow, resting, unknown = failed("slow"), failed("resting"), counted("missing_online_features_total")
        monkeypatch.setattr(online_store, "BUDGET", 1.0)
        with stopped(server):
            rows = await store.read(keys_of(2000))
            assert len(rows) == 2000 and {row["age"] for row in rows} == {None}
            for _ in range(100):
                assert (await store.read(["c001"]))[0]["age"] is None
        assert failed("slow") == slow + 1 and failed("resting") == resting + 100
        assert counted("missing_online_features_total") == unknown
        await asyncio.sleep(store.breaker.rest)
        monkeypatch.setattr(online_store, "BUDGET", AMPLE)
        assert (await store.read(["c001"]))[0]["age"] == 19

    asyncio.run(scene())
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith(
        f"serve: online store: {url}: TimeoutError; no look-up for"
    )


def test_a_redis_that_answers_slowly_costs_no_more_than_a_request_may_take(
    folder: Path, tabloop: Tabloop, server: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of a batch is answered within the budget, and yet the batch ends: 40 parts would take 12 s."""
    tabloop(folder, "materialize", ONLINE_STORE=f"redis://{server}/0")
    monkeypatch.setattr(online_store, "KEY_SECONDS", 0.0)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
        while data := await reader.read(1 << 20):
            await asyncio.sleep(seconds)
            writer.write(data)

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = server.split(":")
        back, forth = await asyncio.open_connection(host, int(port))
        await asyncio.gather(relay(reader, forth, 0.3), relay(back, writer, 0))

    async def scene() -> None:
        async with await asyncio.start_server(connect, "127.0.0.1", 0) as proxy:
            port = proxy.sockets[0].getsockname()[1]
            store, slow = opened(f"redis://127.0.0.1:{port}/0"), failed("slow")
            await store.read(["c001"])  # connects, which takes some messages
            monkeypatch.setattr(online_store, "BUDGET", 1.0)
            began = time.monotonic()
            rows = await store.read(keys_of(2000))
            assert time.monotonic() - began < 6 and failed("slow") == slow + 1
            assert rows[0]["age"] is not None and rows[-1]["age"] is None

    asyncio.run(scene())


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Lock the file as a writer does that commits."""
    with contextlib.closing(sqlite3.connect(path, check_same_thread=False)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield
        db.rollback()


def test_a_locked_file_costs_a_batch_one_budget_and_nobody_else_anything(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds are generous, as a wait for each row would take 100 s or more, and the event loop's turns 0.1 s."""
    monkeypatch.setattr(online_store, "BUDGET", 0.2)

    async def scene() -> None:
        store = opened(folder / STORE)
        locked, resting, unknown = (
            failed("locked"),
            failed("resting"),
            counted("missing_online_features_total"),
        )
        with lock(folder / STORE):
            began, turns, reading = time.monotonic(), 0, asyncio.ensure_future(store.read(keys_of(2000)))
            while not reading.done():
                await asyncio.sleep(0)
                turns += 1
            assert time.monotonic() - began < 10 and turns > 100
            assert len(reading.result()) == 2000 and {row["age"] for row in reading.result()} == {None}
            assert failed("locked") == locked + 1 and "locked" in str(store.breaker.error)
            began = time.monotonic()
            for _ in range(1000):
                assert (await store.read(["c001"]))[0]["age"] is None
            assert failed("locked") == locked + 1 and failed("resting") == resting + 1000
        assert counted("missing_online_features_total") == unknown  # they were not looked up
        store.breaker.asked_from = 0.0  # when the rest is over
        assert (await store.read(["c001", "nobody"]))[0]["age"] == 19
        assert counted("missing_online_features_total") == unknown + 1
        assert store.breaker.error is None  # so that /health/ready is not degraded any more

    asyncio.run(scene())
    said = capsys.readouterr().err
    assert said.startswith("serve: online store: ") and said.count("\n") == 1
    assert said.endswith("database is locked; no look-up for 5 s\n")


def test_a_file_that_is_locked_for_a_moment_is_waited_for(folder: Path) -> None:
    async def scene() -> None:
        store, failures = opened(folder / STORE), failed()
        with lock(folder / STORE):
            reading = asyncio.ensure_future(store.read(["c001"]))
            await asyncio.sleep(0.1)
            assert not reading.done()
        assert (await reading)[0]["age"] == 19 and failed() == failures

    asyncio.run(scene())


def replaced(path: Path) -> None:
    other = path.with_name("other.db")
    shutil.copy(path, other)
    with contextlib.closing(sqlite3.connect(other)) as db:
        db.executescript(
            f"DELETE FROM kit_profile WHERE entity_key = X'{entity_key('customer_id', 'c001').hex()}'"
        )
    other.replace(path)


def overwritten(path: Path) -> None:
    """As `cp` does: the same file with the content of another, without a word to SQLite."""
    replaced(other := Path(shutil.copy(path, path.with_name("third.db"))))
    path.write_bytes(other.read_bytes())


def other_kind(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


CHANGES: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    # What happens to the file, how the look-up is counted, whether another file was open.
    "replaced": (replaced, "", True),
    "overwritten": (overwritten, "", False),
    "deleted": (Path.unlink, "gone", True),
    "a folder": (other_kind(Path.mkdir), "gone", True),
    "a pipe, which nobody writes to": (other_kind(os.mkfifo), "gone", True),
    "a text": (lambda path: path.write_text("no database\n" * 1000), "unreadable", False),
    "empty": (lambda path: os.truncate(path, 0), "unreadable", False),
    "a part of a page less": (lambda path: os.truncate(path, path.stat().st_size - 100), "unreadable", False),
    "half of it": (lambda path: os.truncate(path, path.stat().st_size // 8192 * 4096), "unreadable", False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_while_it_is_open_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(online_store, "OPEN", 0.1)
    monkeypatch.setattr(online_store, "REST", 0.1)
    path = folder / STORE
    saved = path.read_bytes()
    apply, reason, stale = CHANGES[change]

    async def scene() -> None:
        store = opened(path)
        assert [row["age"] for row in await store.read(["c001", "c002"])] == [19, 20]
        before = failed(), counted("online_store_stale_total"), counted("missing_online_features_total")
        apply(path)
        await asyncio.sleep(0.15)
        (row,) = await store.read(["c001"])
        assert row["age"] is None and counted("online_store_stale_total") == before[1] + stale
        assert failed() == before[0] + bool(reason) == before[0] + (failed(reason) - reasons[reason])
        assert counted("missing_online_features_total") == before[2]  # one view knows c001, or none was asked

        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)
        path.write_bytes(saved)
        await asyncio.sleep(0.25)
        assert (await store.read(["c001"]))[0]["age"] == 19

    reasons = {name: failed(name) for name in (*REASONS, "")}
    asyncio.run(scene())


def test_damaged_values_are_missing(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / STORE)) as db:
        for value in (
            "x'18'",
            "x'18ffff'",
            f"x'20{'ff' * 400}01'",
            "x'12'",
            "x'1202ff'",
            "'text'",
            "7",
            "x'2901'",
        ):
            db.execute(f"UPDATE kit_profile SET value = {value}, event_ts = 'x'")
            db.commit()
            rows = read(folder / STORE, ["c001"])
            assert rows["age"] == rows["country"] == [None], value
            assert rows["mean"] != [None]


def test_a_redis_that_is_down_or_refuses(folder: Path, tabloop: Tabloop, server: str, redis: Any) -> None:
    down = f"redis://127.0.0.1:{free_port()}/0"
    failures, unknown = failed("unreachable"), counted("missing_online_features_total")
    assert {tuple(column) for column in read(down, ["c001", "c002"]).values()} == {(None, None)}
    assert failed("unreachable") == failures + 1 and counted("missing_online_features_total") == unknown
    with pytest.raises(RedisError):
        asyncio.run(opened(down).check(VIEWS))
    assert f"ONLINE_STORE={down}: " in tabloop(folder, "materialize", code=1, ONLINE_STORE=down).stderr

    url = f"redis://{server}/0"
    redis.config_set("requirepass", "p@ss")
    try:
        refused = tabloop(folder, "materialize", code=1, ONLINE_STORE=url).stderr
        assert "uthentication required" in refused and refused.count("\n") == 1
        wrong = tabloop(folder, "materialize", code=1, ONLINE_STORE=f"redis://:wrong@{server}/0").stderr
        assert "wrong" not in wrong and wrong.count("\n") == 1
        tabloop(folder, "materialize", ONLINE_STORE=url, ONLINE_STORE_PASSWORD="p@ss")
        store = opened(url, "p@ss")
        assert asyncio.run(store.read(["c001"]))[0]["age"] == 19
        assert opened(f"redis://:p%40ss@{server}/0").where == f"{server}/0"
    finally:
        Redis.from_url(f"redis://:p%40ss@{server}").config_set("requirepass", "")


def test_redis_by_tls_and_a_cluster_which_is_refused(folder: Path, tabloop: Tabloop, tmp_path: Path) -> None:
    made = "req -x509 -nodes -newkey rsa:2048 -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    key, certificate, port = tmp_path / "key.pem", tmp_path / "certificate.pem", free_port()
    subprocess.run(
        ["openssl", *made.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    key.chmod(0o644)  # a container's user reads it
    tmp_path.chmod(0o755)
    files = ["--tls-key-file", str(key), "--tls-cert-file", str(certificate), "--tls-auth-clients", "no"]
    with redis_server(tmp_path, "--tls-port", str(port), *files):
        url = f"rediss://127.0.0.1:{port}/0"
        refused = tabloop(folder, "materialize", code=1, ONLINE_STORE=url).stderr
        assert "CERTIFICATE_VERIFY_FAILED" in refused and refused.count("\n") == 1
        url += f"?ssl_ca_certs={certificate}"
        assert "41 of 41 entities written" in tabloop(folder, "materialize", ONLINE_STORE=url).stdout
        assert read(url) == read(folder / STORE)
    with redis_server(tmp_path, "--cluster-enabled", "yes", "--cluster-port", str(free_port())) as address:
        failed = tabloop(folder, "materialize", code=1, ONLINE_STORE=f"redis://{address}/0").stderr
        assert (
            failed
            == f"materialize: ONLINE_STORE=redis://{address}/0 is a Redis Cluster: give a single server\n"
        )


def test_a_copy_that_is_killed_is_completed_by_the_next(
    folder: Path, server: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each of its parts: what is there is of whole entities, and the store is not said to be complete."""
    monkeypatch.setattr(redis_copy, "ROOT", folder)
    monkeypatch.setattr(redis_copy, "STORE", folder / STORE)
    monkeypatch.setattr(redis_copy, "PART", 10)
    whole = read(folder / STORE)
    for at in range(1, 6):
        redis.flushall()
        if not (child := os.fork()):
            steps, write = [0], redis_copy.write_part

            def step(*values: Any, at: int = at, steps: list[int] = steps, write: Any = write) -> int:
                steps[0] += 1
                if steps[0] == at:
                    os.kill(os.getpid(), 9)
                return write(*values)

            redis_copy.write_part = step  # type: ignore[assignment]
            redis_copy.write_redis(list(VIEWS), f"redis://{server}/0", "")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 9
        assert redis.dbsize() == (at - 1) * 10 + (at > 1)
        with pytest.raises(UserError, match="has no row of"):
            asyncio.run(opened(f"redis://{server}/0").check(VIEWS))
        done = redis_copy.write_redis(list(VIEWS), f"redis://{server}/0", "")
        assert done.startswith(f"{41 - (at - 1) * 10} of 41 entities written, 0 removed")
        assert read(f"redis://{server}/0") == whole


def test_the_setting(folder: Path, tabloop: Tabloop, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = asyncio.run(opened("none").read(["c001"]))
    assert set(rows[0]) == {name for view in VIEWS.values() for name in view} and set(rows[0].values()) == {
        None
    }
    with pytest.raises(UserError, match="mysql://x: Redis URL must specify"):
        opened("mysql://x")
    assert (
        "ONLINE_STORE=mysql://x: " in tabloop(folder, "materialize", code=1, ONLINE_STORE="mysql://x").stderr
    )
    monkeypatch.setenv("ONLINE_STORE", "")  # as Compose and workflows pass what is not set
    assert load_settings().online_store == DEFAULT
    (folder / STORE).unlink()
    failed = tabloop(folder, "materialize", code=1, ONLINE_STORE="redis://127.0.0.1:1").stderr
    assert failed.startswith("materialize: data/online/store.db has no row of profile: run `make train`")
    said = "materialize: {} of 205 values written, {} removed -> data/online\n".format
    assert tabloop(folder, "materialize").stdout == said(205, 0)
    with contextlib.closing(sqlite3.connect(folder / STORE)) as db:  # only what differs is written
        whole = read(folder / STORE)
        db.execute("UPDATE kit_profile SET value = x'' WHERE feature_name = 'age' AND value_text = '20'")
        db.execute("INSERT INTO kit_spending (entity_key, feature_name) VALUES (x'00', 'mean_amount')")
        db.commit()
    assert read(folder / STORE) != whole
    assert tabloop(folder, "materialize").stdout == said(1, 1) and read(folder / STORE) == whole
    assert read(folder / STORE)["age"][1] == 19


def test_a_key_of_several_rows_is_looked_up_once_and_each_of_its_rows_counts(folder: Path) -> None:
    store, unknown = opened(folder / STORE), counted("missing_online_features_total")
    ages = counted("online_feature_age_seconds_count", view="profile")
    rows = asyncio.run(store.read(["nobody", "c001", "nobody", *["c001"] * 1000, "c002"]))
    assert counted("missing_online_features_total") == unknown + 2
    assert counted("online_feature_age_seconds_count", view="profile") == ages + 2
    one, another = asyncio.run(store.read(["c001", "c002"]))
    assert rows == [rows[0], one, rows[0], *[one] * 1000, another] and one != another
    assert set(rows[0].values()) == {None}


def test_the_age_of_features_is_counted_by_view(folder: Path) -> None:
    """Whatever the zone of the machine that made them."""
    sums = [counted("online_feature_age_seconds_sum", view=view) for view in VIEWS]
    read(folder / STORE, ["c001", "nobody"])
    for view, before, pause in zip(VIEWS, sums, (0, 1), strict=True):
        age = counted("online_feature_age_seconds_sum", view=view) - before
        newest = events().query("customer_id == 'c001'").ordered_at.max() + pd.Timedelta(seconds=pause)
        assert time.time() - age == pytest.approx(newest.timestamp(), abs=5)


def test_an_image_without_the_store_is_not_built(folder: Path) -> None:
    """The last step of the Dockerfile."""

    def build(views: dict[str, Any], code: int) -> str:
        request = {"amount": {"type": "number"}}
        schema = PARAMS["schema"] | {"views": views, "request": request}
        card = CARD.model_copy(update={"schema_": Schema.model_validate(schema)})
        card.write(folder / "models/champion")
        command = [
            sys.executable,
            "-c",
            "from tabloop.serving.online_store import check_image; check_image()",
        ]
        done = subprocess.run(command, cwd=folder, env=clean(), capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stderr

    assert build(VIEWS, 0) == ""
    (folder / STORE).unlink()
    assert build({}, 0) == ""
    failed = build(VIEWS, 1)
    assert failed.startswith("image: the champion looks features up, and data/online/store.db is missing")
    assert failed.count("\n") == 1
