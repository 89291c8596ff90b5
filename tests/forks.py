"""Commands as processes of their own, without the seconds that importing pandas, MLflow or DVC takes each time.

This file is a program: it forks for each command, and what one imported of installed libraries it imports itself, so that
the next fork has it. A fork has the folder, umask, environment, input and output of the command, begins without any module
of tabloop or of a project, gets its signals, and ends as it does: tests/programs/test_forks.py. That `tabloop` imports no library that it does not use is tested elsewhere, with new processes
(tests/test_pipeline.py), and so is what happens to processes that are killed.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import types
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

COMMANDS = (
    Path(__file__).parent / "forked"
)  # a PATH with this folder in front runs `tabloop` and `dvc` as forks
# Variables that Python reads when it starts, or libraries when they are imported; a command gets its own.
OWN = ("DVC_", "MLFLOW_", "PROMETHEUS_", "PYTHONPATH")
# Feast sets a variable when it is imported, which the Prometheus client then reads; MLflow imports it as its plugin.
# Some libraries ask whether pytest is imported.
NOT_BEFORE = ("feast", "prometheus_client", "mlflow.tracking.request_header.registry", "pytest", "_pytest")


class Forks:
    """The program below, which listens at `path`. The processes of a run of the tests share it: each import costs once."""

    def __init__(self, python: str | Path = sys.executable, env: dict[str, str] | None = None) -> None:
        # The path of a socket has some 100 letters at most.
        self.alone = not (tests := os.environ.get("PYTEST_XDIST_TESTRUNUID"))
        name = f"forks-{tests}-{zlib.crc32(os.fsencode(python)):x}"
        self.folder = Path(tempfile.mkdtemp() if self.alone else Path(tempfile.gettempdir(), name))
        self.folder.mkdir(exist_ok=True)
        self.path = str(self.folder / "forks")
        users = self.folder / "users"  # a pipe, which the program reads: at its end nobody has it open
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if new := not users.exists():
                os.mkfifo(users)
            self.used = os.open(users, os.O_RDWR)  # so that it does not wait for a reader
            if new:
                self.start(python, env or dict(os.environ), users)
        atexit.register(self.close)

    def start(self, python: str | Path, env: dict[str, str], users: Path) -> None:
        """Start the program."""
        env = {name: value for name, value in env.items() if not name.startswith(OWN)}
        with socket.socket(socket.AF_UNIX) as listener, users.open() as pipe:
            listener.bind(self.path)
            listener.listen()
            command = [python, __file__, str(self.folder), str(listener.fileno())]
            self.process = subprocess.Popen(command, pass_fds=[listener.fileno()], env=env, stdin=pipe)

    def run(
        self, arguments: Sequence[str], folder: Path, env: dict[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        """Run `tabloop` with these arguments; the finished process, as of `subprocess.run`. Several may run at once."""
        command = [str(COMMANDS / "tabloop"), *arguments]
        return subprocess.run(
            command,
            cwd=folder,
            env=env | {"FORKS": self.path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )

    def close(self) -> None:
        """Let the program end, if no other process uses it."""
        os.close(self.used)
        if self.alone:
            self.process.wait()


def install(environment: Path) -> None:
    """Let each Python of a virtual environment run forks_hook.py first, where $FORKS is set."""
    hook = Path(__file__).with_name("forks_hook.py")
    line = f"import os; 'FORKS' in os.environ and exec(open({str(hook)!r}).read(), {{'__file__': {str(hook)!r}}})"
    for packages in environment.glob("lib/python3*/site-packages"):
        (packages / "zz_forks.pth").write_text(line + "\n")  # .pth files are read in the order of their names


def serve(folder: Path, listener: socket.socket) -> None:
    """Fork for each command that is asked for, until this program's input ends; then the folder is removed.

    Between this program and the command stands a process that waits for it, and answers with its exit code.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for those
    known = set(sys.modules)
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        asked, _ = listener.accept()
        size, ends, *_ = socket.recv_fds(asked, 12, 3)
        with asked.makefile("rb") as file:
            at, mask, count, *words = os.fsdecode(file.read(int(size))).split("\0")
        argv, env = words[: int(count)], dict(word.split("=", 1) for word in words[int(count) :])
        command = {"folder": at, "umask": int(mask), "argv": argv, "env": env}
        import_what_was_imported(folder, known)
        assert threading.active_count() == 1  # a fork has none of the others
        if not os.fork():
            listener.close()
            watch(command, ends, asked, folder, known)
        for end in ends:
            os.close(end)
        asked.close()
    shutil.rmtree(folder, ignore_errors=True)


def import_what_was_imported(folder: Path, known: set[str]) -> None:
    """Import what forks did, of the installed libraries, and note the names: each is tried once."""
    sys.modules |= dict.fromkeys(NOT_BEFORE)  # type: ignore[arg-type]  # so they can't be imported here
    for names in folder.glob("*.imported"):
        for name in names.read_text().split():
            if name not in known:
                known.add(name)
                with contextlib.suppress(Exception):  # some are made by others, some import those
                    importlib.import_module(name)
        names.unlink()
    for name in NOT_BEFORE:
        del sys.modules[name]
    if pydantic := sys.modules.get("pydantic"):
        pydantic.TypeAdapter(int)  # the first looks for plugins of Pydantic in all 300 packages
    if dill := sys.modules.get("dill"):
        dill.extend(False)  # as Feast imports it: pickles of a command without Feast would have other bytes
    gc.freeze()  # else a fork's collection copies all of it


def watch(
    command: dict[str, Any], ends: list[int], asked: socket.socket, folder: Path, known: set[str]
) -> NoReturn:
    """Fork for the command, and answer with its exit code, or the number of the signal that ended it below zero.

    Who asked for it sends the numbers of the signals that it gets; it is killed if they are killed.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not (pid := os.fork()):
        asked.close()
        be(command, ends, folder, known)
    ended = os.pidfd_open(pid)
    either: list[Any] = [ended, asked]
    while ended not in select.select(either, [], [])[0]:
        numbers = asked.recv(16)
        for number in numbers or [signal.SIGKILL]:
            os.kill(pid, number)
        if not numbers:
            break
    with contextlib.suppress(OSError):
        asked.sendall(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def be(command: dict[str, Any], ends: list[int], folder: Path, known: set[str]) -> NoReturn:
    """Become the command, and end as Python ends: after SystemExit, an exception, or at its last line."""
    for at, end in enumerate(ends):
        os.dup2(end, at)
        os.close(end)
    # Those of this program remember that a file, where its output went, could be sought.
    sys.stdin = os.fdopen(0, errors=sys.stdin.errors, closefd=False)
    sys.stdout = os.fdopen(1, "w", errors=sys.stdout.errors, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    os.environ.clear()
    os.environ.update(command["env"])
    os.chdir(command["folder"])
    os.umask(command["umask"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    name, *words = command["argv"]
    if path := os.environ.pop("FORKS_PATH", ""):  # of a Python that would have run it: forks_hook.py
        sys.path[:], sys.executable = path.split(os.pathsep), os.environ.pop("FORKS_PYTHON")
    else:
        sys.path[:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    first = {"python-m": str(Path.cwd()), "python-c": ""}.get(name, str(Path(sys.executable).parent))
    sys.path.insert(0, first)
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    status = 0
    try:
        if name == "python-c":
            sys.argv = ["-c", *words[1:]]
            exec(words[0], vars(main))
        else:
            sys.argv = words if name == "python-m" else command["argv"]
            runpy._run_module_as_main(sys.argv[0])  # type: ignore[attr-defined]  # as `python -m` does
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:
        inner = error.__traceback__ and error.__traceback__.tb_next  # without this function
        sys.excepthook(type(error), error.with_traceback(inner), inner)
        status = -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    say_what_is_imported(folder, known)
    with contextlib.suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    if status == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status & 0xFF)


def say_what_is_imported(folder: Path, known: set[str]) -> None:
    """Write the names of modules of installed libraries, but for those that the program knows, to a file in the folder."""
    libraries = tuple(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
    names = [
        name
        for name, it in [*sys.modules.items()]
        if name not in known and (getattr(it, "__file__", None) or "").startswith(libraries)
    ]
    if names:
        part = folder / f"{os.getpid()}"
        part.write_text("\n".join(names))
        part.rename(f"{part}.imported")


if __name__ == "__main__":
    assert "tabloop" not in sys.modules
    serve(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
