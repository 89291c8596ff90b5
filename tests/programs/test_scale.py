"""Large tables: bounded memory, one line where memory or disk is too small, progress on a terminal and silence in a pipe."""

import fcntl
import importlib.util
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scale
from kit.conftest import TEMPLATE, Project, clean, orders
from tabloop import database
from tabloop.cli import UserError, command
from tabloop.views import refused

from .conftest import Tabloop

MADE = """
import pandas as pd
def simulate(arguments):
    for i in range(3):
        yield {"events": pd.DataFrame({"x": [f"{i}"] * 2, "y": [None if i else "here"] * 2}), "users": pd.DataFrame({"z": [i]})}
"""


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example's simulator, which draws 1,000 transactions at once."""
    (path,) = (TEMPLATE / "src").glob("*/simulator.py")
    spec = importlib.util.spec_from_file_location("simulator", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BLOCK", 1000)
    return module


def test_a_large_simulation_comes_in_blocks_of_users_of_their_own(simulator: Any) -> None:
    asked = {"seed": 7, "users": 305, "start": "2026-01-01", "days": 30}
    (small,) = simulator.simulate(asked | {"transactions": 1000})
    blocks = list(simulator.simulate(asked | {"transactions": 3501}))
    assert [len(block["events"]) for block in blocks] == [1167, 1167, 1167] and len(small["events"]) == 1000
    users, events = (pd.concat([block[name] for block in blocks]) for name in ("users", "events"))
    assert users.user_id.tolist() == [f"u{i:06d}" for i in range(305)]
    assert events.transaction_id.tolist() == [f"t{i:08d}" for i in range(3501)]
    for block in blocks:
        assert set(block["events"].user_id) <= set(block["users"].user_id)
    assert not blocks[0]["events"].amount.equals(blocks[1]["events"].amount)


def test_a_simulator_may_give_its_tables_block_by_block(project: Project, tabloop: Tabloop) -> None:
    folder = project(data={"source": "simulator", "simulator": {}})
    (folder / "src/kit").mkdir(parents=True)
    for name, text in (("__init__", ""), ("model", ""), ("simulator", MADE)):
        (folder / f"src/kit/{name}.py").write_text(text)
    assert "6 events, 3 users" in tabloop(folder, "ingest").stdout
    events = pd.read_parquet(folder / "data/raw/events.parquet")
    assert events.x.tolist() == list("001122") and events.y.notna().tolist() == [True] * 2 + [False] * 4


def large(folder: Path, rows: int = 600_000) -> None:
    """Raw events with keys that take more memory than a small limit allows."""
    (folder / "data/raw").mkdir(parents=True)
    events = (
        orders(1000)
        .loc[np.arange(rows) % 1000]
        .assign(order_id=[f"order number {i:012d}" for i in range(rows)])
    )
    events.to_parquet(folder / "data/raw/events.parquet", index=False)


def test_validate_spills_what_memory_does_not_hold(project: Project, tabloop: Tabloop) -> None:
    large(folder := project())
    said = tabloop(folder, "validate", TABLOOP_MEMORY="0.04")
    assert said.stdout == "validate: 600,000 events keep the schema\n" and said.stderr == ""


def test_too_little_memory_is_one_line_that_says_what_to_do(project: Project, tabloop: Tabloop) -> None:
    large(folder := project(), 50_000)
    said = tabloop(folder, "validate", code=1, TABLOOP_MEMORY="0.001").stderr
    assert said.startswith("validate: out of memory: add memory") and "TABLOOP_MEMORY" in said
    assert said.count("\n") == 1 and not (folder / "reports/validation.json").exists()
    said = tabloop(folder, "validate", code=1, TABLOOP_MEMORY="much").stderr
    assert said == "validate: TABLOOP_MEMORY=much: give a number of GB\n"


def spill() -> None:
    db = database.connect(memory=0.03)
    db.execute("SET max_temp_directory_size = '1MB'")  # by default 90% of the disk's room
    database.run(
        db, "SELECT sum(n) FROM (SELECT count(*) AS n FROM range(5000000) t(i) GROUP BY i)", "spilling"
    )


def write(text: str) -> None:
    with Path("/dev/full").open("w") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (spill, "the disk is full: make room"),
        (lambda: write("x" * 100_000), "the disk is full: make room"),
        (lambda: np.empty(2**56), "out of memory: add memory"),
    ],
)
def test_a_full_disk_and_memory_are_one_line(
    work: Callable[[], Any], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, command("train"):
        work()
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and line.startswith(f"train: {words}")


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), command("train"):
        print(1 // 0)


SLOW = """
import sys, time
from tabloop import database, progress
progress.DELAY = 0.1
db = database.connect(threads=1)
database.run(db, "SELECT count(*) FROM range(12000) a, range(16000) b WHERE hash(a.range, b.range) = 1", "validate: 30,000 events")
with progress.watched("train: fitting 5 rows"):
    time.sleep(1)
print("done")
"""


def on_a_terminal(*arguments: str, folder: Path, typed: bytes = b"", code: int = 0) -> str:
    """What a program writes to a real terminal, on which somebody types."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(arguments, cwd=folder, env=clean(), stdin=its, stdout=its, stderr=its)
    os.close(its)
    os.write(ours, typed)
    said = b""
    while True:
        try:
            said += os.read(ours, 4096)
        except OSError:  # Linux's end of a terminal
            break
    assert process.wait() == code, said.decode()
    os.close(ours)
    return said.decode()


def test_what_takes_long_says_how_far_it_is_on_a_terminal_and_nothing_in_a_pipe(tmp_path: Path) -> None:
    said = on_a_terminal(sys.executable, "-c", SLOW, folder=tmp_path)
    assert re.search(r"validate: 30,000 events: +\d+%\|.*\| (\?|\d\d:\d\d) left", said), said
    assert re.search(r"train: fitting 5 rows: 00:0\d", said) and said.endswith("done\r\n")
    piped = subprocess.run(
        [sys.executable, "-c", SLOW], cwd=tmp_path, env=clean(), capture_output=True, text=True, check=True
    )
    assert (piped.stdout, piped.stderr) == ("done\n", "")


def test_the_benchmark_counts_the_memory_of_child_processes_and_says_what_grows_faster(
    tmp_path: Path,
) -> None:
    child = f"{sys.executable} -c 'import time; x = bytearray(200_000_000); time.sleep(0.3)' & wait"
    assert 0.2 < scale.measure(child, tmp_path).memory < 0.4
    with pytest.raises(SystemExit, match="exit code 3"):
        scale.measure("exit 3", tmp_path)
    few = scale.Cost(2, 2, 0.4)
    assert scale.faster_than_rows(1, 10, few, scale.Cost(20, 24, 3)) == []
    assert scale.faster_than_rows(1, 10, few, scale.Cost(99, 40, 7)) == ["CPU 20 times", "memory 18 times"]


def test_ingest_says_on_a_terminal_how_many_transactions_are_made(project: Project, tabloop: Tabloop) -> None:
    asked = {"seed": 7, "transactions": 4000, "users": 400, "start": "2026-01-01", "days": 30}
    folder = project(data={"source": "simulator", "simulator": asked})
    package = folder / "src/kit"
    package.mkdir(parents=True)
    for name in ("__init__", "model"):
        (package / f"{name}.py").touch()
    (source,) = (TEMPLATE / "src").glob("*/simulator.py")
    (package / "simulator.py").write_text(source.read_text().replace("BLOCK = 250_000", "BLOCK = 1000"))
    script = "from tabloop import progress; progress.DELAY = 0; from tabloop.main import tabloop; tabloop(['ingest'])"
    said = on_a_terminal(sys.executable, "-c", script, folder=folder)
    assert re.search(r"ingest: 4,000 transactions: +\d+%\|.*\| (\?|\d\d:\d\d) left", said), said
    assert "ingest: 400 users, 4,000 events -> data/raw" in said
    piped = tabloop(folder, "ingest")
    assert (piped.stdout, piped.stderr) == ("ingest: 400 users, 4,000 events -> data/raw\n", "")


def test_an_error_of_a_view_says_what_to_do_about_the_disk() -> None:
    with pytest.raises(UserError, match=r"^spend\.sql: the disk is full: make room"), refused("spend.sql"):
        spill()


def test_a_pipe_gets_markdown_and_a_terminal_the_table() -> None:
    """The workflow `promote` takes the text for its pull request from a pipe."""
    text = "**Drift**\n\n| a | b |\n|---|---|\n| 1 | 2 |"
    command = [sys.executable, "-c", f"from tabloop.terminal import print_markdown; print_markdown({text!r})"]
    assert subprocess.run(command, capture_output=True, text=True).stdout == f"{text}\n"
    ours, theirs = pty.openpty()
    subprocess.run(command, stdout=theirs, check=True)
    assert os.read(ours, 1000).decode().split() == ["Drift", "a", "b", "1", "2"]
    os.close(ours)
    os.close(theirs)
