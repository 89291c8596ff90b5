"""Commands as processes of their own, without the seconds that importing pandas or DuckDB takes each time.

This file is a program: it imports libraries once, and forks for each command. A fork has its own folder, environment and
output, begins without any module of tabloop, and ends by its exit code or a signal, as `python -m tabloop` does. That
`tabloop` imports no library that it does not use is tested elsewhere, with new processes (tests/test_pipeline.py).
"""

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

ALWAYS = ["click", "duckdb", "httpx", "pandas", "psutil", "pyarrow.parquet", "pydantic", "yaml"]
# Variables that libraries read when they are imported; a command gets its own.
OWN = ("DVC_", "MLFLOW_", "PROMETHEUS_")
# Libraries that a command needs besides: imported before its first fork.
BESIDE = {
    "github": ["github"],
    "featurize": ["fastapi", "pyarrow.compute", "pyarrow.dataset", "sqlalchemy", "tqdm"],
    "materialize": ["fastapi", "pyarrow.compute", "pyarrow.dataset", "redis", "sqlalchemy"],
    "propose": ["dvc.repo"],
    "push": ["dvc.repo", "dvc.api"],
    "fetch": ["dvc.repo", "dvc.api"],
}


class Forks:
    """The program below, and what asks it for forks."""

    def __init__(self) -> None:
        self.socket, its = socket.socketpair()
        command = [sys.executable, __file__, str(its.fileno())]
        env = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
        self.process = subprocess.Popen(command, pass_fds=[its.fileno()], env=env)
        self.asking = threading.Lock()
        its.close()

    def run(
        self, arguments: Sequence[str], folder: Path, env: dict[str, str]
    ) -> "subprocess.CompletedProcess[str]":
        """Run `tabloop` with these arguments; the finished process, as of `subprocess.run`. Several may run at once."""
        read, write = zip(*(os.pipe() for _ in range(3)), strict=True)
        message = json.dumps({"arguments": list(arguments), "folder": str(folder), "env": env}).encode()
        with self.asking:
            socket.send_fds(self.socket, [b"%012d" % len(message)], write)
            self.socket.sendall(message)
        for end in write:
            os.close(end)

        def text(end: int) -> str:
            with os.fdopen(end) as pipe:
                return pipe.read()

        with ThreadPoolExecutor() as pool:
            out, err, status = pool.map(text, read)
        return subprocess.CompletedProcess(["tabloop", *arguments], int(status), out, err)

    def close(self) -> None:
        """End the program."""
        self.socket.close()
        self.process.wait()


def serve(asked: socket.socket) -> None:
    """Fork for each command that is asked for, until the other end is closed.

    Between this program and the command stands a process that waits for it, and writes its exit code.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody here waits for those
    for name in ALWAYS:
        importlib.import_module(name)
    while True:
        size, given, *_ = socket.recv_fds(asked, 12, 3)
        if not size:
            return
        left, parts = int(size), list[bytes]()
        while left:
            parts.append(asked.recv(left))
            left -= len(parts[-1])
        command = json.loads(b"".join(parts))
        for argument in command["arguments"]:
            for name in BESIDE.get(argument, []):
                importlib.import_module(name)
        assert threading.active_count() == 1  # a fork has none of the others
        if not os.fork():
            asked.close()
            watch(command, *given)
        for end in given:
            os.close(end)


def watch(command: dict[str, Any], out: int, err: int, status: int) -> NoReturn:
    """Fork for the command, and write its exit code, or the number of the signal that ended it below zero."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not (pid := os.fork()):
        os.close(status)
        be(command, out, err)
    for end in (out, err):
        os.close(end)
    os.write(status, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def be(command: dict[str, Any], out: int, err: int) -> NoReturn:
    """Become the command, and end as Python ends: after SystemExit, an exception, or at its last line."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1), os.dup2(err, 2)
    # Those of this program remember that a file, where its output went, could be sought.
    sys.stdout, sys.stderr = (os.fdopen(at, "w", closefd=False, errors="backslashreplace") for at in (1, 2))
    os.environ.clear()
    os.environ.update(command["env"])
    os.chdir(command["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["tabloop", *command["arguments"]]
    sys.path[0] = ""
    status = 0
    try:
        runpy.run_module("tabloop", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(Exception):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    assert "tabloop" not in sys.modules
    serve(socket.socket(fileno=int(sys.argv[1])))
