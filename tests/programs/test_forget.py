"""A person is removed from the log on disk and in S3, from the data, from SQLite and Redis: killed, at once, meanwhile."""

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pandas as pd
import pytest
from forks import Forks
from kit.conftest import orders, project
from redis import Redis
from redis_server import redis_server
from s3_server import s3_server
from tabloop import forget, params, predictions
from tabloop.cli import UserError
from tabloop.compaction import compact
from tabloop.serving.log_writer import Table
from tabloop.serving.online_store import entity_key

from .conftest import Tabloop, tabloop
from .test_scale import on_a_terminal

__all__ = ["project", "tabloop"]  # fixtures
NOW = datetime.now(UTC)
PERSON, OTHER = "c003", "c004"
YES, NO = lambda listed: True, lambda listed: False


def write(log: str, name: str, at: datetime, rows: list[dict[str, Any]]) -> None:
    """A file of the log by the service's own writer."""
    columns = {"predictions": predictions.PREDICTIONS, "feedback": predictions.FEEDBACK}[name]
    table = Table(name, columns, log)
    table.add({column: [row.get(column) for row in rows] for column in columns})
    table.failed, table.path = (
        True,
        f"{table.folder}/date={at:%Y-%m-%d}/{at:%H%M%S}-{rows[0]['prediction_id']}.parquet",
    )
    table.write()
    assert not table.failed


def logged(log: str) -> None:
    """Four hours of both persons, half of them compacted, all labelled."""
    for hours in range(4):
        at, ids = NOW - timedelta(hours=hours + 3), [f"{who}-{hours}" for who in (PERSON, OTHER)]
        for who, key in zip((PERSON, OTHER), ids, strict=True):
            write(
                log,
                "predictions",
                at,
                [{"prediction_id": key, "entity": who, "predicted_at": int(at.timestamp() * 1e6)}],
            )
        write(log, "feedback", at, [{"prediction_id": key, "label": 1, "received_at": 0} for key in ids])
        if hours == 1:
            compact(log, NOW)


def who(log: str) -> list[tuple[str, int, int]]:
    """Each entity that a reader of the log finds, its predictions and labels."""
    db = predictions.connect(log=log)
    both = "predictions LEFT JOIN outcomes USING (prediction_id)"
    return db.sql(f"SELECT entity, count(*), count(label) FROM {both} GROUP BY 1 ORDER BY 1").fetchall()


def raw(log: str, table: str, column: str) -> set[str]:
    """A column's values in all files of the log's table, also in those that no reader takes."""
    fs, folder = fsspec.url_to_fs(f"{log}/{table}")
    fs.invalidate_cache()
    return {v for p in fs.find(folder) for v in pd.read_parquet(fs.open(p))[column]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Path:
    """A project with data and a store."""
    folder = project.__wrapped__(tmp_path_factory.mktemp("made"))(orders())  # type: ignore[attr-defined]
    for stage in ("ingest", "validate", "featurize"):
        tabloop.__wrapped__(forks)(folder, stage)  # type: ignore[attr-defined]
    return Path(folder)


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, on which this process works, with a log."""
    folder = shutil.copytree(made, tmp_path / "here")
    monkeypatch.setattr(forget, "ROOT", folder)
    monkeypatch.setattr(forget, "STORE", folder / "data/online/store.db")
    monkeypatch.setattr(predictions, "ROOT", folder)
    monkeypatch.setenv("ONLINE_STORE", str(folder / "data/online/store.db"))
    monkeypatch.setenv("PREDICTION_LOG", str(folder / "data/log"))
    logged(str(folder / "data/log"))
    return folder


def settings(folder: Path) -> params.Params:
    return params.load(folder / "params.yaml")


def left(folder: Path, entity: str = PERSON) -> list[str]:
    """The files of the project's data that have the entity."""
    found = [
        p for p in folder.glob("data/*/*.parquet") if entity in set(pd.read_parquet(p).get("customer_id", []))
    ]
    store = (folder / "data/online/store.db").read_bytes()
    return [p.name for p in sorted(found)] + ["store.db"] * (entity_key("customer_id", entity) in store)


def test_a_person_is_removed_and_nobody_else(here: Path, tabloop: Tabloop) -> None:
    log = str(here / "data/log")
    before = len(pd.read_parquet(here / "data/raw/events.parquet"))
    everywhere = [
        "events.parquet",
        "customer_features.parquet",
        "train.parquet",
        "holdout.parquet",
        "store.db",
    ]
    assert set(left(here)) == set(everywhere) == set(left(here, OTHER))
    assert who(log) == [(PERSON, 4, 4), (OTHER, 4, 4)]
    variables = {"PREDICTION_LOG": log}
    refused = tabloop(here, "forget", PERSON, code=1, **variables)
    assert refused.stderr == "forget: nothing was removed: answer y, or give --yes without a terminal\n"
    assert set(left(here)) == set(everywhere) and "data/raw/events.parquet\n" in refused.stdout
    said = tabloop(here, "forget", PERSON, "--yes", **variables).stdout
    for line in ("events.csv STILL HAS ", "dvc gc --workspace", "git filter-repo", "docker image prune"):
        assert line in said
    assert not left(here) and set(left(here, OTHER)) == set(everywhere)
    own = int((orders()["customer_id"] == PERSON).sum())
    assert len(pd.read_parquet(here / "data/raw/events.parquet")) == before - own
    assert who(log) == [(OTHER, 4, 4)] and raw(log, "predictions", "entity") == {OTHER}
    assert all(key.startswith(OTHER) for key in raw(log, "feedback", "prediction_id"))
    compact(log, NOW), compact(log, NOW + timedelta(hours=3))  # its files still know what they cover
    assert who(log) == [(OTHER, 4, 4)]
    (line,) = tabloop(here, "forget", PERSON, "--yes", code=1, **variables).stderr.splitlines()
    assert line.startswith("forget: there is nothing of customer_id 'c003' in the log, data/raw, ")


@pytest.mark.parametrize(
    ("entity", "given"), [("", ""), ("a\0b", r"a\x00b"), ("it's \\ 'x' 日", "it's \\ 'x' 日")]
)
def test_each_key_that_the_service_takes_can_be_forgotten(
    here: Path, tabloop: Tabloop, entity: str, given: str
) -> None:
    """An empty one, too, and one with a NUL, which no argument of a command can have."""
    log, at = str(here / "data/log"), NOW - timedelta(hours=1)
    row = {"prediction_id": "odd", "entity": entity, "predicted_at": int(at.timestamp() * 1e6)}
    write(log, "predictions", at, [row])
    write(log, "feedback", at, [{"prediction_id": "odd", "label": 1, "received_at": 0}])
    raw_ = pd.read_parquet(here / "data/raw/events.parquet")
    raw_.loc[raw_["customer_id"] == PERSON, "customer_id"] = entity
    raw_.to_parquet(here / "data/raw/events.parquet")
    tabloop(here, "forget", given, "--yes", PREDICTION_LOG=log)
    assert who(log) == [(PERSON, 4, 4), (OTHER, 4, 4)]
    assert entity not in set(pd.read_parquet(here / "data/raw/events.parquet")["customer_id"])


def test_a_log_in_s3(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server(tmp_path / "requests"):
        monkeypatch.setenv("PREDICTION_LOG", log := "s3://bucket/forget")
        logged(log)
        _, again = forget.forget(settings(here), PERSON, YES)
        assert not again and who(log) == [(OTHER, 4, 4)]
        assert raw(log, "predictions", "entity") == {OTHER}


def test_killed_at_each_step_and_run_again(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, at, killed = Path.replace, 0, True
    while killed:
        at += 4
        folder = shutil.copytree(here, tmp_path / str(at))
        monkeypatch.setattr(forget, "ROOT", folder)
        monkeypatch.setattr(forget, "STORE", folder / "data/online/store.db")
        monkeypatch.setenv("ONLINE_STORE", str(folder / "data/online/store.db"))
        monkeypatch.setenv("PREDICTION_LOG", log := str(folder / "data/log"))
        if not (child := os.fork()):
            steps = [0]

            def dies(path: Path, target: Path, steps: list[int] = steps, at: int = at) -> Path:
                steps[0] += 1
                if steps[0] == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                return replace(path, target)

            monkeypatch.setattr(Path, "replace", dies)
            forget.forget(settings(folder), PERSON, YES)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL)
        killed = status != 0
        # Others' rows are whole, and this person's labels are not there without their predictions.
        counts = {name: (rows, labels) for name, rows, labels in who(log)}
        assert counts[OTHER] == (4, 4)
        if killed:
            shutil.copytree(folder / "data/raw", folder / "data/.raw.old")  # as `ingest` may have left
            forget.forget(settings(folder), PERSON, YES)
        assert who(log) == [(OTHER, 4, 4)] and not left(folder)
        assert not any(key.startswith(PERSON) for key in raw(log, "feedback", "prediction_id"))
        assert not [*folder.rglob("data/*/*.part")] and not (folder / "data/.raw.old").exists()
    assert at >= 12


def test_what_the_service_logs_meanwhile_is_removed_or_said(here: Path) -> None:
    log = str(here / "data/log")
    write_again = iter(range(2))

    def meanwhile(times: int) -> Callable[[str], bool]:
        def act(listed: str) -> bool:
            write(
                log,
                "predictions",
                NOW,
                [{"prediction_id": f"late-{next(write_again)}", "entity": PERSON, "predicted_at": 0}],
            )
            return True

        return act

    text, again = forget.forget(settings(here), PERSON, meanwhile(1))
    assert not again and raw(log, "predictions", "entity") == {OTHER}
    write(log, "predictions", NOW, [{"prediction_id": "new", "entity": PERSON, "predicted_at": 0}])
    remove_rows, count = forget.remove_rows, iter(range(99))
    with pytest.MonkeyPatch.context() as patch:

        def always(*arguments: Any) -> None:
            remove_rows(*arguments)
            write(
                log,
                "predictions",
                NOW,
                [{"prediction_id": f"more-{next(count)}", "entity": PERSON, "predicted_at": 0}],
            )

        patch.setattr(forget, "remove_rows", always)
        text, again = forget.forget(settings(here), PERSON, YES)
    assert again and "NEW ROWS ARRIVED: predictions in " in text.splitlines()[-1]


def test_on_a_terminal_it_lists_asks_and_removes_only_after_a_yes(here: Path) -> None:
    command = sys.executable, "-m", "tabloop", "forget", PERSON
    for typed in (b"n\n", b"\n"):
        said = on_a_terminal(*command, folder=here, typed=typed, code=1)
        assert "data/raw" in said.partition("Remove them? [y/N]: ")[0] and "nothing was removed" in said
    assert left(here)
    on_a_terminal(*command, folder=here, typed=b"y\n")
    assert not left(here)


def test_two_at_once_and_what_was_not_agreed(here: Path) -> None:
    with (here / "params.yaml").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another forget is running"):
            forget.forget(settings(here), PERSON, YES)
    with pytest.raises(UserError, match="nothing was removed"):
        forget.forget(settings(here), PERSON, NO)
    with pytest.raises(UserError, match="there is nothing of customer_id"):
        forget.forget(settings(here), " ", YES)
    assert who(str(here / "data/log"))[0] == (PERSON, 4, 4)


@pytest.mark.parametrize(
    ("values", "entity"),
    [
        ("[7::BIGINT, 77, NULL]", "7"),
        ("[7::DOUBLE, 7.5, NULL]", "7"),
        ("[DATE '2026-01-07', DATE '2026-01-08', NULL]", "2026-01-07"),
        ("[' o''Neil ', 'O''Neil', NULL]", "o'Neil"),
    ],
)
def test_a_key_of_any_type(values: str, entity: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "data/raw/events.parquet"
    file.parent.mkdir(parents=True)
    duckdb.sql(f"COPY (SELECT unnest({values}) AS customer_id, 1 AS one) TO '{file}'")
    monkeypatch.setattr(forget, "ROOT", tmp_path)
    monkeypatch.setattr(forget, "STORE", tmp_path / "data/online/store.db")
    monkeypatch.setenv("ONLINE_STORE", "none")
    monkeypatch.setenv("PREDICTION_LOG", str(tmp_path / "log"))
    from kit.monitored import params as made

    ((place, (rows, remove)),) = forget.found(made(), "customer_id", entity).items()
    assert (place, rows) == ("data/raw/events.parquet", 1)
    remove()
    assert len(pd.read_parquet(file)) == 2 and not forget.found(made(), "customer_id", entity)


def test_redis(here: Path, tmp_path: Path, tabloop: Tabloop) -> None:
    with redis_server(tmp_path) as address:
        variables = {"ONLINE_STORE": f"redis://{address}", "PREDICTION_LOG": str(here / "data/log")}
        tabloop(here, "materialize", **variables)
        client: Any = Redis.from_url(f"redis://{address}")
        before = [key for key in client.scan_iter() if PERSON.encode() in key]
        assert before and client.sismember("tabloop:kit:keys", before[0])
        size = client.dbsize()
        assert (
            f"ONLINE_STORE=redis://{address}" in tabloop(here, "forget", PERSON, "--yes", **variables).stdout
        )
        assert not client.exists(*before) and not client.sismember("tabloop:kit:keys", before[0])
        assert client.dbsize() == size - 1 and not left(here)
        assert "0 of " in tabloop(here, "materialize", **variables).stdout  # it is not brought back
        assert client.dbsize() == size - 1


def test_whether_the_next_ingest_brings_them_back(here: Path) -> None:
    assert "STILL HAS" in forget.source(settings(here), "customer_id", PERSON)
    rows = orders()
    rows[rows["customer_id"] != PERSON].to_csv(here / "events.csv", index=False)
    assert "events.csv has no row of this person" in forget.source(settings(here), "customer_id", PERSON)
    (here / "events.csv").unlink()
    assert "It can't be read: events.csv: no such file" in forget.source(
        settings(here), "customer_id", PERSON
    )
    simulated = settings(here).model_copy(update={"data": params.Data(source="simulator")})
    assert "the next ingest makes the same rows" in forget.source(simulated, "customer_id", PERSON)


def test_the_log_that_training_reads_is_another_place(here: Path) -> None:
    (here / "data/log").rename(here / "old")
    data = params.Data(source="events.csv", feedback="old")
    chosen = settings(here).model_copy(update={"data": data})
    _, again = forget.forget(chosen, PERSON, YES)
    assert not again and raw(str(here / "old"), "predictions", "entity") == {OTHER}


def test_the_log_that_adopt_moved_aside_is_another_place(here: Path) -> None:
    (here / "data/log/before-1").mkdir()
    for table in ("predictions", "feedback"):
        shutil.copytree(here / "data/log" / table, here / "data/log/before-1" / table)
    forget.forget(settings(here), PERSON, YES)
    for log in ("data/log", "data/log/before-1"):
        assert raw(str(here / log), "predictions", "entity") == {OTHER}


def test_a_store_that_is_no_database_is_one_line_and_nothing_is_removed(here: Path) -> None:
    (here / "data/online/store.db").write_text("no database, " * 99)
    with pytest.raises(UserError, match=r"store\.db: file is not a database$"):
        forget.forget(settings(here), PERSON, YES)
    assert raw(str(here / "data/log"), "predictions", "entity") == {PERSON, OTHER}
