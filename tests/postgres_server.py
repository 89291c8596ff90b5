"""A real PostgreSQL: Debian's where it is installed, else Docker's `postgres:17`."""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import clean, free_port, wait_for

PASSWORD = "s3cret"


def binary(name: str) -> str | None:
    """A program of Debian's package, which is not on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of an empty database."""
    port = free_port()
    url = f"postgresql://mlflow:{PASSWORD}@127.0.0.1:{port}/postgres"
    with installed(port) if binary("initdb") else container(port):
        wait_for(lambda: answers(url), 120)  # an image may have to be pulled
        yield url


@contextlib.contextmanager
def installed(port: int) -> Iterator[None]:
    """The server that is installed. It refuses root: then its own user runs it."""
    folder = Path(tempfile.mkdtemp(prefix="ml-template-postgres-"))
    user = pwd.getpwnam("postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name)
    (folder / "password").write_text(PASSWORD)
    for path in (folder, folder / "password"):
        os.chown(path, user.pw_uid, user.pw_gid)

    def start(*command: str | Path) -> "subprocess.Popen[bytes]":
        log = (folder / "log").open("ab")
        options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if os.getuid() == 0 else {}
        return subprocess.Popen(command, env=clean(LC_ALL="C"), cwd=folder, stdout=log, stderr=log, **options)  # type: ignore[call-overload]

    try:
        made: list[str | Path] = [
            "--pgdata",
            folder / "data",
            "--username",
            "mlflow",
            "--pwfile",
            folder / "password",
        ]
        assert (
            start(
                str(binary("initdb")), *made, "--auth", "scram-sha-256", "--no-sync", "--encoding", "UTF8"
            ).wait()
            == 0
        ), (folder / "log").read_text()
        options = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        settings = [f"--{name}={value}" for name, value in options.items()]
        server = start(str(binary("postgres")), "-D", folder / "data", "-p", str(port), *settings)
        try:
            yield
        finally:
            server.send_signal(signal.SIGQUIT)
            server.wait()
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def container(port: int) -> Iterator[None]:
    """Docker's."""
    assert shutil.which("docker"), "install PostgreSQL (`apt-get install postgresql`) or Docker"
    name = f"ml-template-postgres-{time.monotonic_ns()}"
    run = ["docker", "run", "--detach", "--rm", "--name", name, "--publish", f"127.0.0.1:{port}:5432"]
    variables = [
        "--env",
        "POSTGRES_USER=mlflow",
        "--env",
        f"POSTGRES_PASSWORD={PASSWORD}",
        "--env",
        "POSTGRES_DB=postgres",
    ]
    subprocess.run([*run, *variables, "postgres:17"], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "rm", "--force", name], capture_output=True)


def answers(url: str) -> bool:
    """Whether a client can connect."""
    import psycopg

    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True
