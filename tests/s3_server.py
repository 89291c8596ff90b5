"""An S3 of this machine: moto's server, which speaks HTTP, with an empty bucket `bucket`."""

import contextlib
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from conftest import free_port, wait_for


@contextlib.contextmanager
def s3_server(log: Path) -> Iterator[Path]:
    """The environment points to it. Its log has a line for each request."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    with log.open("w") as file, pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("ACCESS_KEY_ID", "key"),
            ("SECRET_ACCESS_KEY", "secret"),
            ("ENDPOINT_URL", url),
            ("DEFAULT_REGION", "us-east-1"),
        ):
            patch.setenv(f"AWS_{name}", value)
        process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            wait_for(lambda: _made(f"{url}/bucket"))
            yield log
        finally:
            process.kill()
            process.wait()


def _made(bucket: str) -> bool:
    try:
        return httpx.put(bucket).is_success
    except httpx.TransportError:
        return False


@contextlib.contextmanager
def requests(log: Path) -> Iterator[Counter[str]]:
    """How many requests come meanwhile: `list`, and GET, HEAD, PUT, POST of objects."""
    before, counted = len(log.read_text()), Counter[str]()
    yield counted
    for method, path in re.findall(r'"(\w+) (\S+) HTTP', log.read_text()[before:]):
        counted["list" if "list-type" in path else method] += 1
