"""Commands that are killed, or whose disk is full: what was there is whole, and the next run goes on."""

import contextlib
import resource
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pandas as pd
from kit import test_batch
from kit.conftest import Project, clean, orders
from kit.test_batch import here, read, scored  # noqa: F401
from tabloop import batch

from .conftest import Tabloop
from .test_stages import features


def test_killed_in_the_middle_the_old_outputs_are_whole_and_the_next_run_works(
    project: Project, tabloop: Tabloop
) -> None:
    def outputs() -> dict[str, bytes]:
        with contextlib.closing(sqlite3.connect(folder / "data/online/store.db")) as store:
            return features(folder) | {"store": "\n".join(store.iterdump()).encode()}

    folder = project(orders())
    tabloop(folder, "ingest"), tabloop(folder, "featurize")
    before = outputs()
    # When the views are there; when all is, and the first folder has its old name no more.
    for at in ("tabloop.featurize.write_part", "tabloop.files.shutil.rmtree"):
        when = "'.old' in str(v[0]) and kill()" if "rmtree" in at else "kill()"
        code = f"import os, tabloop.featurize; kill = lambda: os.kill(os.getpid(), 9); own = {at}; "
        code += (
            f"{at} = lambda *v, **o: ({when}, own(*v, **o))[1]; from tabloop.main import tabloop; tabloop()"
        )
        killed = subprocess.run([sys.executable, "-c", code, "featurize"], cwd=folder, env=clean())
        assert killed.returncode == -9 and (folder / "data/.features.part").exists()
        assert outputs() == before
    tabloop(folder, "featurize")
    assert features(folder) == {name: content for name, content in before.items() if name != "store"}
    assert not list((folder / "data").glob(".*"))


KILLED = """
import os, sys
from tabloop import batch
batch.BLOCK, batch.PART = 8, 16
function, calls = getattr(batch, sys.argv[1]), int(sys.argv[2])
def killed(*arguments):
    global calls
    if calls == 0:
        os.kill(os.getpid(), 9)
    calls -= 1
    return function(*arguments)
setattr(batch, sys.argv[1], killed)
batch.batch("in.parquet", sys.argv[3], "champion")
"""


def killed(folder: Path, function: str, calls: int, output: str) -> None:
    """A run that dies by SIGKILL instead of calling a function once more."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, function, str(calls), output], cwd=folder, env=clean()
    )
    assert done.returncode == -signal.SIGKILL


def test_a_run_that_is_killed_again_and_again_goes_on_after_its_last_part(
    here: Path,  # noqa: F811
    scored: list[int],  # noqa: F811
) -> None:
    test_batch.orders().to_parquet("in.parquet")
    batch.batch("in.parquet", "whole.parquet", "champion")
    for calls in (1, 1):
        killed(
            here, "write_part", calls, "out.parquet"
        )  # one part more is there, blocks of the next are scored
        assert not Path("out.parquet").exists()
    scored.clear()
    batch.batch("in.parquet", "out.parquet", "champion")
    assert sum(scored) == 60 - 32
    pd.testing.assert_frame_equal(read("out.parquet"), read("whole.parquet"))
    pd.testing.assert_frame_equal(read("out.refused.parquet"), read("whole.refused.parquet"))
    assert not list(here.glob(".*.batch"))


def limited(folder: Path, *arguments: str) -> str:
    """What a command says that may write no file of more than 50 kB."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    command, env = [sys.executable, "-B", "-m", "tabloop", *arguments], clean()
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_a_stage_whose_disk_is_full_is_one_line_and_its_old_outputs_are_whole(
    project: Project, tabloop: Tabloop
) -> None:
    folder = project(orders(200))
    tabloop(folder, "ingest"), tabloop(folder, "featurize")
    before = {path: path.read_bytes() for path in (folder / "data").rglob("*.parquet")}
    orders(40_000).to_csv(folder / "events.csv", index=False)
    full = "the disk is full: make room where it writes, in the project's folder"
    assert full in limited(folder, "ingest")
    assert {path: path.read_bytes() for path in (folder / "data").rglob("*.parquet")} == before
    tabloop(folder, "ingest")
    assert full in limited(folder, "featurize")
    assert all(path.read_bytes() == before[path] for path in before if path.parent.name == "features")


def test_a_full_disk_is_one_line_and_the_output_is_as_it_was(here: Path) -> None:  # noqa: F811
    test_batch.orders(20_000).to_parquet("in.parquet")
    Path("out.parquet").write_text("precious")

    said = limited(here, "batch", "in.parquet", "out.parquet")
    assert said.startswith("batch: out.parquet can't be written: the disk is full: make room")
    assert Path("out.parquet").read_text() == "precious"
