"""Hostile clients against the real service, with good clients beside them: as a process, and in 512 MB of memory."""

import contextlib
import http.client
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from conftest import Serve, answers, free_port, wait_for
from hostile import ATTACKS, ROW
from test_container import HARDENED, docker, image  # noqa: F401

Address = tuple[str, int]


@dataclass
class Bystander:
    """A good client, each of whose requests must be answered."""

    address: Address
    slowest: float = 0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        """Ask one request after the other, every tenth time on a new connection."""
        while not self.ended.is_set():
            client = http.client.HTTPConnection(*self.address, timeout=20)
            for _ in range(10):
                began = time.monotonic()
                try:
                    client.request("POST", "/predict", ROW)
                    answer = client.getresponse()
                    body = answer.read()
                    if answer.status != 200:
                        self.wrong.append(f"{answer.status} {body!r}")
                except (OSError, http.client.HTTPException) as error:
                    self.wrong.append(repr(error))
                    break
                self.slowest = max(self.slowest, time.monotonic() - began)
                self.answered += 1
            client.close()


@contextlib.contextmanager
def bystanders(address: Address, count: int = 4) -> Iterator[None]:
    """Good clients ask meanwhile; none gets an error, and none waits for long."""
    clients = [Bystander(address) for _ in range(count)]
    threads = [threading.Thread(target=client.ask, daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for client in clients:
            client.ended.set()
        for thread in threads:
            thread.join(30)
    assert not [client.wrong[:3] for client in clients if client.wrong]
    assert min(client.answered for client in clients) > 5
    # On two busy cores. The soak of benchmarks/serving/endure.py holds one second.
    assert max(client.slowest for client in clients) < 5, [client.slowest for client in clients]


@pytest.fixture(scope="module")
def small(image: str) -> Iterator[tuple[str, Address]]:  # noqa: F811
    """A hardened container of 512 MB: its name, and where it listens."""
    name, port = f"ml-template-test-{time.monotonic_ns()}", free_port()
    memory = ["--memory", "512m", "--memory-swap", "512m", "--ulimit", "nofile=4096"]
    service = ["--network", "host", "--env", f"PORT={port}"]
    docker("run", "--detach", "--name", name, *memory, *service, *HARDENED, image)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            wait_for(lambda: answers(client))
        yield name, ("127.0.0.1", port)
    finally:
        subprocess.run(["docker", "rm", "--force", "--volumes", name], capture_output=True)


def peak(container: str) -> float:
    """The most memory that the service has had, in MB."""
    status = docker("exec", container, "cat", "/proc/1/status")
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024


def hostile(address: Address, name: str) -> None:
    """Run one of hostile.py's attacks, in a process of its own."""
    program = Path(__file__).with_name("hostile.py")
    subprocess.run([sys.executable, program, *map(str, address), name], check=True)


@pytest.mark.parametrize("name", ATTACKS)
def test_in_512_mb_no_client_costs_another_one(name: str, small: tuple[str, Address]) -> None:
    container, address = small
    with bystanders(address):
        hostile(address, name)
    assert httpx.get(f"http://{address[0]}:{address[1]}/health/ready").status_code == 200
    assert docker("inspect", "--format", "{{.State.OOMKilled}} {{.State.Running}}", container) == "false true"
    assert peak(container) < 400


def test_who_resets_connections_loses_no_answer_of_another(serve: Serve, quick: Path) -> None:
    with serve(quick) as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        with bystanders(address, 16):
            hostile(address, "resets")
        assert server.client.get("/model").headers["x-content-type-options"] == "nosniff"
        said = server.stop()
        assert "Traceback" not in said and "WARNING" not in said


def test_at_sigterm_who_keeps_a_connection_is_told_and_loses_no_answer(serve: Serve, quick: Path) -> None:
    told: list[str] = []

    def ask() -> None:
        """Ask on one connection until the service says that it is the last answer."""
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            while True:
                client.request("POST", "/predict", ROW)
                answer = client.getresponse()
                answer.read()
                if answer.status != 200 or answer.getheader("connection") == "close":
                    told.append(f"{answer.status} {answer.getheader('connection')}")
                    return
        except (OSError, http.client.HTTPException) as error:
            told.append(repr(error))

    with serve(quick) as server:
        port = int(server.url.rpartition(":")[2])
        threads = [threading.Thread(target=ask, daemon=True) for _ in range(16)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert "Traceback" not in server.stop()
        for thread in threads:
            thread.join(5)
    assert told == ["200 close"] * 16
