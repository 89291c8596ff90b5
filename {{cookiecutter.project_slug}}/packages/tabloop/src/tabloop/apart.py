"""Play the loop apart from the project: in a clone with its own log, registry, cache and port, removed at the end."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from tabloop import files, locks
from tabloop.cli import UserError, git
from tabloop.params import ROOT

PAGE = "reports/loop.html"
BUSY = "another loop is running in this project: wait, or stop it"
# Variables by which a step would leave the clone.
REACHING = ("GIT_", "GITHUB_", "MLFLOW_", "DVC_", "PROJECT_ROOT")
# Of the clone, whatever the user's git has.
GIT = (f"core.hooksPath={os.devnull}", "commit.gpgSign=false", "user.name=loop", "user.email=loop@localhost")
CONFIG = """[core]\n remote = project\n[cache]\n dir = {own}\n['remote "project"']\n url = {shared}\n"""


def main() -> None:
    """Play the last commit's loop, and leave its page.

    Raises:
        UserError: nothing was trained and committed, another loop plays, or the data or models are not here.
    """
    with locks.alone(ROOT, BUSY), stoppable(), files.scratch(ROOT / "loop") as scratch:
        folder = clone(scratch)
        play(folder)
        files.write(ROOT / PAGE, (folder / PAGE).read_text("utf-8"))
    story = f"The story, with a picture: {(ROOT / PAGE).as_uri()}"
    print(f"\nThe loop is complete; this project is unchanged. {story}")


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """End by a signal as by an error: what was begun is removed first."""
    signals = {signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}  # not on Windows
    signals = {s for s in signals if signal.getsignal(s) != signal.SIG_IGN}

    def stop(number: int, _: FrameType | None) -> None:
        for other in signals:
            signal.signal(other, signal.SIG_IGN)
        print("loop: stopped; this project is unchanged", file=sys.stderr)
        sys.exit(128 + number)

    for number in signals:
        signal.signal(number, stop)
    yield


def clone(scratch: Path) -> Path:
    """A clone of the last commit with its data and models; the project in it.

    It borrows git's objects, and has the project's DVC cache as its remote: it writes to neither.
    """
    try:
        git("cat-file", "-e", "HEAD:./models/champion.dvc", where=ROOT)
    except UserError:
        how = "run `make train`, commit, and run this again"
        raise UserError(f"the last commit has no model: {how}") from None
    top = git("rev-parse", "--show-toplevel", where=ROOT)
    own = [f"--config={setting}" for setting in GIT]
    git("clone", "--quiet", "--shared", *own, top, str(scratch / "clone"), where=ROOT)
    folder = scratch / "clone" / ROOT.relative_to(Path(top).resolve())
    last = git("log", "-1", "--format=%h %s", where=ROOT)
    print(f"The loop plays the last commit, {last}, in a clone of it")
    cache = subprocess.run(["dvc", "cache", "dir"], cwd=ROOT, capture_output=True, encoding="utf-8")
    config = CONFIG.format(own=folder / ".dvc/cache", shared=cache.stdout.strip())
    (folder / ".dvc/config.local").write_text(config, "utf-8")
    pull = ["dvc", "pull", "--quiet"]
    if subprocess.run(pull, cwd=folder, env=environment(folder), capture_output=True).returncode:
        what = "the last commit's data and models are not here"
        raise UserError(f"{what}: run `uv run dvc pull` or `make train`")
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Variables with which a command runs the clone's code, and meets no setting of a server."""
    from tabloop.serving.settings import Settings

    served = {name.upper() for name in Settings.model_fields}
    env = {n: v for n, v in os.environ.items() if not n.startswith(REACHING) and n.upper() not in served}
    code = [str(folder / part) for part in ("src", "packages/tabloop/src") if (folder / part).is_dir()]
    env["PYTHONPATH"] = os.pathsep.join([*code, *filter(None, [env.get("PYTHONPATH")])])
    return env


def play(folder: Path) -> None:
    """Run the steps as a group of processes, of which none outlives this one: where it is killed, their input ends."""
    command = [sys.executable, "-m", "tabloop.loop"]
    env = environment(folder)
    process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.PIPE, start_new_session=True)
    try:
        if code := process.wait():
            sys.exit(code)  # it said why
    finally:
        until = time.monotonic() + 5
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < until:
                os.killpg(process.pid, signal.SIGKILL)
                process.poll()
                time.sleep(0.02)
