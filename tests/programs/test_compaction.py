"""The compacted prediction log, on disk and in a real S3: killed at each step, twice at once, read meanwhile, late files."""

import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from kit.conftest import PARAMS, clean
from s3_server import requests, s3_server
from tabloop import log_files, predictions
from tabloop.cli import UserError
from tabloop.compaction import compact, remove_old
from tabloop.predictions import FEEDBACK
from tabloop.serving.log_writer import Table

NOW = datetime.now(UTC)
HOUR = (NOW - timedelta(hours=5)).replace(minute=0)
LATER = NOW + timedelta(hours=3)  # when what is covered may be removed
STEPS = (
    "ls",
    "find",
    "open",
    "get",
    "put_file",
    "modified",
    "rm",
    "rm_file",
    "pipe_file",
)  # of a file system; and os.link


class Killed(BaseException):
    """As SIGKILL: nothing of ours handles it. On disk it is a real one."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log of the requests to an S3."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as log:
        yield log


@pytest.fixture(params=["disk", "s3"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A prediction log that does not exist yet."""
    if request.param == "disk":
        return str(tmp_path / "log")
    request.getfixturevalue("s3")
    return f"s3://bucket/{tmp_path.name}"


class Written:
    """Writes files by the service's own writer, of an hour of the past, and knows all rows."""

    def __init__(self, log: str) -> None:
        self.log, self.ids = log, list[str]()

    def __call__(self, rows: int = 2, at: datetime = HOUR, **columns: str) -> str:
        """Write a file of feedback; further columns: name and type. Its path."""
        table = Table("feedback", FEEDBACK | columns, self.log)
        ids = [f"p{len(self.ids) + i:06d}" for i in range(rows)]
        values: dict[str, list[Any]] = {"prediction_id": ids, "label": [1] * rows, "received_at": [0] * rows}
        table.add(values | {name: [1] * rows for name in columns})
        table.failed = True  # so it keeps the name
        table.path = f"{table.folder}/date={at:%Y-%m-%d}/{at:%H}{len(self.ids):04d}-host-1-0.parquet"
        table.write()
        assert not table.failed
        self.ids += ids
        return table.path

    def check(self) -> None:
        """A reader sees each row once."""
        assert read(self.log) == self.ids


def files(log: str) -> list[str]:
    return log_files.current(*fsspec.url_to_fs(f"{log}/feedback"))


def stored(log: str) -> list[str]:
    """The names of all files."""
    fs, folder = fsspec.url_to_fs(log)
    fs.invalidate_cache()
    return sorted(path.rpartition("/")[2] for path in fs.find(folder))


def compacted(log: str) -> list[tuple[str, str]]:
    """Hour and generation of each compacted file."""
    return [(made[1], made[3]) for name in stored(log) if (made := log_files.COMPACTED.fullmatch(name))]


def read(log: str) -> list[str]:
    """The ids that a reader finds."""
    fs, _ = fsspec.url_to_fs(log)
    found = fs.cat([path.removeprefix("s3://") for path in files(log)]).values()
    return sorted(
        i for file in found for i in pq.read_table(pa.BufferReader(file))["prediction_id"].to_pylist()
    )


def interrupt(
    monkeypatch: pytest.MonkeyPatch, log: str, at: int, act: Callable[[], object]
) -> Callable[[], int]:
    """Let `act` happen before the step number `at` of what follows, once; how many steps there were."""
    fs, steps = fsspec.url_to_fs(log)[0], [0]
    inside = [False]

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*values: Any, **options: Any) -> Any:
            if inside[0]:
                return function(*values, **options)
            inside[0] = True
            steps[0] += 1
            try:
                if steps[0] == at:
                    act()
            finally:
                inside[0] = False
            return function(*values, **options)

        return call

    for name in STEPS:
        monkeypatch.setattr(fs, name, before(getattr(fs, name)), raising=False)
    monkeypatch.setattr(os, "link", before(os.link))
    return lambda: steps[0]


def two_generations(log: str) -> Written:
    """An hour of which a part is compacted, and that has late files; and an hour that was never compacted."""
    written = Written(log)
    written(), written(), written(at=HOUR - timedelta(hours=1)), written(at=HOUR - timedelta(hours=1))
    compact(log, NOW)
    written(), written(), written(at=HOUR + timedelta(hours=1)), written(at=HOUR + timedelta(hours=1))
    return written


def test_one_file_an_hour_and_what_it_covers_is_removed_an_hour_later(log: str) -> None:
    written = Written(log)
    for hour in (0, 1):
        for _ in range(3):
            written(at=HOUR + timedelta(hours=hour))
    written(at=NOW)  # this hour is not over
    assert compact(log, NOW) == (
        "predictions: 0 files -> 0, 0 merged ones removed; feedback: 6 files -> 2, 0 merged ones removed"
    )
    written.check()
    assert len(files(log)) == 3 and len(stored(log)) == 9
    assert "0 files -> 0, 0 merged" in compact(log, NOW).partition("; ")[2]
    assert (
        "0 files -> 0, 6 merged" in compact(log, datetime.now(UTC) + timedelta(minutes=61)).partition("; ")[2]
    )
    written.check()
    assert compacted(log) == sorted((f"{HOUR + timedelta(hours=h):%H}", "000001") for h in (0, 1))
    assert len(stored(log)) == 3


def test_late_files_are_taken_by_the_next_run(log: str) -> None:
    written = Written(log)
    written(), written(), compact(log, NOW)
    late = written()
    written.check()
    assert "feedback: 1 files -> 1, 0 " in compact(log, NOW)
    compact(log, LATER)
    written.check()
    assert compacted(log) == [(f"{HOUR:%H}", "000002")] and len(stored(log)) == 1
    # The writer may write a file again, as it got no answer the first time.
    fs, _ = fsspec.url_to_fs(log)
    fs.pipe_file(late, b"whatever: its rows are known")
    written.check()
    assert "feedback: 0 files -> 0, 1 merged ones removed" in compact(log, LATER)
    written.check()


def test_killed_at_each_step_and_run_again(log: str, tmp_path: Path) -> None:
    def killed(folder: str, now: datetime, at: int) -> bool:
        """Whether it was killed before the step `at`: on disk in a process of its own, by a signal."""
        with pytest.MonkeyPatch.context() as patch:
            if "://" in folder:

                def die() -> None:
                    raise Killed

                interrupt(patch, folder, at, die)
                try:
                    compact(folder, now)
                except Killed:
                    return True
                return False
            if not (child := os.fork()):
                interrupt(patch, folder, at, lambda: os.kill(os.getpid(), signal.SIGKILL))
                compact(folder, now)
                os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status in (0, signal.SIGKILL)
        return status != 0

    at = 0
    while True:
        at += 5 if "://" in log else 1
        folder = f"{log}/{at}"
        written = two_generations(folder)
        first = killed(folder, NOW, at)
        written.check()
        second = killed(folder, LATER, at)
        written.check()
        if not first and not second:
            break
        compact(folder, NOW), compact(folder, LATER)
        written.check()
        assert len(stored(folder)) == 3  # nothing is left over, no unfinished file either
    assert at >= 10


def test_two_at_once_and_a_reader_meanwhile(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step of one, another one runs from its beginning to its end, and a file comes late."""
    at, steps = 0, 1
    while at < steps:
        at += 4 if "://" in log else 1
        written = two_generations(folder := f"{log}/{at}")

        def meanwhile(written: Written = written, folder: str = folder) -> None:
            listed = files(folder)
            written()
            compact(folder, NOW)
            written.check()
            fs, _ = fsspec.url_to_fs(folder)
            assert all(fs.exists(path) for path in listed)  # a reader has listed them

        with monkeypatch.context() as patch:
            made = interrupt(patch, folder, at, meanwhile)
            compact(folder, NOW)
            steps = made()
        written.check()
        with monkeypatch.context() as patch:
            interrupt(patch, folder, at, partial(compact, folder, LATER))
            compact(folder, LATER)
        written.check()
        compact(folder, NOW), compact(folder, LATER)
        written.check()
        assert len(stored(folder)) == 3
    assert at >= 10


def test_any_order_of_writing_compacting_and_removing_counts_each_row_once(tmp_path: Path) -> None:
    for seed in range(10):
        chance = random.Random(seed)
        written = Written(str(tmp_path / str(seed)))
        written()
        for _ in range(10):
            action = chance.choice(("write", "write", "another schema", "compact", "remove", "again"))
            hour = HOUR - timedelta(hours=chance.randrange(3))
            if action == "write":
                written(chance.randrange(1, 4), hour)
            elif action == "another schema":
                written(1, hour, more=chance.choice(("int64", "float64")))
            elif action == "again" and (parts := sorted(Path(written.log).rglob("*-host-*"))):
                part = chance.choice(parts)
                content = part.read_bytes()
                compact(written.log, LATER)
                part.write_bytes(content)
            elif action != "again":
                compact(written.log, NOW if action == "compact" else LATER)
            written.check()


def test_two_processes_at_once(s3: Path) -> None:
    written = Written(log := "s3://bucket/processes")
    for _ in range(40):
        written(at=HOUR)
    script = "import sys; from tabloop.compaction import compact; print(compact(sys.argv[1]))"
    command = [sys.executable, "-c", script, log]
    both = [
        subprocess.Popen(command, env=clean(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted("feedback: 40 files -> 1" in text for text in said) == [False, True]
    written.check()
    assert len(files(log)) == 1


def test_rows_of_other_types_are_never_converted(tmp_path: Path) -> None:
    written = Written(str(tmp_path / "log"))
    for kind in ("int64", "float64", "int64"):
        written(more=kind)
    written()
    compact(written.log, NOW), compact(written.log, LATER)
    written.check()
    kinds = [str(pq.read_schema(path).types[3:]) for path in files(written.log)]
    assert len(set(kinds)) == 3 and len(stored(written.log)) == 3


def test_a_damaged_file_is_named_and_stays_and_the_other_hours_are_compacted(log: str) -> None:
    written = Written(log)
    written(), written(), written(at=HOUR + timedelta(hours=1)), written(at=HOUR + timedelta(hours=1))
    fs, _ = fsspec.url_to_fs(log)
    path = files(log)[0].removeprefix("s3://").replace("0000-host", "9999-host")
    fs.pipe_file(path, b"half a file")
    with pytest.raises(UserError, match=rf"^feedback: 2 files -> 1, 0 .*; .*/{HOUR:%H}: .+") as caught:
        compact(log, NOW)
    assert "\n" not in str(caught.value)
    fs.rm(path)
    compact(log, NOW)
    written.check()


def test_an_object_store_gets_few_requests(s3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "s3://bucket/many"
    written = Written(log)
    for i in range(60):
        written(at=HOUR - timedelta(hours=i % 3))
    monkeypatch.setenv("PREDICTION_LOG", log)
    with requests(s3) as before:
        written.check()
    with requests(s3) as counted:
        compact(log, NOW)
    assert counted["list"] <= 3 and counted["GET"] == 60 and counted["PUT"] == 3
    with requests(s3) as counted:
        compact(log, LATER)
    assert counted["list"] <= 3 and counted["GET"] <= 6 and counted["POST"] == 3 and counted["PUT"] == 0
    with requests(s3) as counted:
        compact(log, LATER)
    assert counted["list"] <= 3 and counted.total() <= 5  # nothing to do; no predictions
    with requests(s3) as after:
        written.check()
    assert after["list"] == before["list"] == 1 and 10 * after.total() < before.total()
    with requests(s3) as counted:
        since = datetime.now(UTC) - timedelta(days=400)
        fs, folder = fsspec.url_to_fs(f"{log}/feedback")
        assert len(log_files.current(fs, folder, since)) == 3
    assert counted["list"] <= 3 and counted.total() == counted["list"]


def test_a_log_that_can_not_be_read_or_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "log").write_text("a file")
    with pytest.raises(UserError, match="/log can't be read: ") as caught:
        compact(str(tmp_path / "log"))
    assert "\n" not in str(caught.value)
    assert compact(str(tmp_path / "nowhere")).startswith("predictions: 0 files -> 0, ")
    written = Written(str(tmp_path / "full"))
    written(), written()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        compact(written.log)
    written.check()
    assert len(stored(written.log)) == 2  # no unfinished file


def test_whole_days_are_removed_and_a_reader_sees_all_of_one_or_nothing(log: str) -> None:
    """Killed before each step and repeated, when days leave and when their files do."""
    at, reached = 0, True
    while reached:
        at, reached = at + (3 if "://" in log else 1), False
        written = Written(folder := f"{log}/{at}")
        for days in (5, 4, 2):
            written(at=HOUR - timedelta(days=days))
        everything, kept, listed = list(written.ids), written.ids[-2:], files(folder)

        def die(folder: str = folder, states: tuple[list[str], ...] = (everything, kept)) -> None:
            assert read(folder) in states
            raise Killed

        for now in (NOW, LATER):
            with pytest.MonkeyPatch.context() as patch:
                interrupt(patch, folder, at, die)
                try:
                    remove_old(folder, 3, now)
                except Killed:
                    reached = True
            assert read(folder) in ((everything, kept) if now == NOW else (kept,))
            remove_old(folder, 3, now)
            assert read(folder) == kept
            if now == NOW:
                fs, _ = fsspec.url_to_fs(folder)
                assert all(
                    fs.exists(path.removeprefix("s3://")) for path in listed
                )  # a reader has listed them
        assert len([name for name in stored(folder) if "from=" not in name]) == 1
        compact(folder, LATER)
        assert read(folder) == kept
    assert at >= 6


def test_the_command(tmp_path: Path) -> None:
    written = Written(str(tmp_path / "log"))
    written(), written()
    predicted = Table("predictions", predictions.PREDICTIONS, written.log)
    values: dict[str, list[Any]] = {name: [None] * 2 for name in predictions.PREDICTIONS}
    predicted.add(values | {"prediction_id": ["p000000", "another"], "predicted_at": [0] * 2})
    predicted.failed = True
    predicted.path = f"{predicted.folder}/date=2026-01-01/010000-host-1-0.parquet"
    predicted.write()
    params = tmp_path / "params.yaml"
    command = [sys.executable, "-m", "tabloop", "compact"]

    def tabloop(keep_days: int | None) -> "subprocess.CompletedProcess[str]":
        settings = {"data": PARAMS["data"] | {"feedback": "log"}, "monitoring": {"keep_days": keep_days}}
        params.write_text(yaml.safe_dump(PARAMS | settings))
        env = clean(PREDICTION_LOG=written.log)
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)

    done = tabloop(None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("; feedback: 2 files -> 1, 0 merged ones removed\n") and not done.stderr
    assert len(done.stdout.splitlines()) == 1 and Path(predicted.path).exists()
    assert "keep_days must exceed window_days, 7" in tabloop(7).stderr
    assert re.match(
        r"compact: 2 predictions before \d{4}-\d\d-\d\d, 1 of them labelled, expired; "
        "0 expired days removed; the next ingest skips their labels\ncompact: ",
        tabloop(8).stdout,
    )
    (marker,) = Path(written.log).glob("predictions/from=*")
    os.utime(marker, (0, 0))
    assert tabloop(8).stdout.startswith("compact: 1 expired days removed\n")
    assert not Path(predicted.path).parent.exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREDICTION_LOG", written.log)
        with pytest.raises(predictions.NothingLogged):
            predictions.connect()
