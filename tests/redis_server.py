"""A real Redis: Debian's `redis-server` where it is installed, else Docker's `redis:7`."""

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import clean, free_port, wait_for
from redis import Redis, RedisError

_running: dict[str, tuple["subprocess.Popen[bytes]", str]] = {}  # the process and container by address


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[str]:
    """Its address, `127.0.0.1:PORT`. `options` are those of redis-server."""
    port, name = free_port(), f"ml-template-redis-{time.monotonic_ns()}"
    command = ["redis-server", "--port", str(port), "--save", "", "--dir", str(folder), *options]
    if not shutil.which(command[0]):
        ports = [port, *(int(options[at + 1]) for at, option in enumerate(options) if option == "--tls-port")]
        published = [part for p in ports for part in ("--publish", f"127.0.0.1:{p}:{p}")]
        run = ["docker", "run", "--rm", "--name", name, *published, "--volume", f"{folder}:{folder}:ro"]
        command = [*run, "redis:7", *command[: -2 - len(options)], *options]
    server = subprocess.Popen(command, env=clean(), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: server.poll() is not None or listens(port), 120)  # an image may have to be pulled
        assert server.poll() is None, f"{command} ended with {server.returncode}"
        _running[f"127.0.0.1:{port}"] = server, name if command[0] == "docker" else ""
        yield f"127.0.0.1:{port}"
    finally:
        if command[0] == "docker":
            subprocess.run(["docker", "rm", "--force", name], capture_output=True)
        server.kill()
        server.wait()


@contextlib.contextmanager
def stopped(address: str) -> Iterator[None]:
    """Meanwhile the server does nothing, as after `kill -STOP`, and its connections stay open."""

    def send(number: signal.Signals, command: str) -> None:
        server, container = _running[address]
        if container:
            subprocess.run(["docker", command, container], check=True, capture_output=True)
        else:
            server.send_signal(number)

    send(signal.SIGSTOP, "pause")
    try:
        yield
    finally:
        send(signal.SIGCONT, "unpause")


def listens(port: int) -> bool:
    """Whether it answers, be it that a password is missing."""
    try:
        Redis(port=port).ping()
    except RedisError as error:
        return "uthentication required" in str(error)
    return True
