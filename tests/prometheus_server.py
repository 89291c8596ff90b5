"""A real Prometheus and its promtool: Debian's `prometheus` where it is installed, else Docker's image of `make monitor`."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from conftest import clean, free_port, wait_for

IMAGE = "prom/prometheus:v3.5.0"  # of deploy/compose.yaml


def program(name: str, folder: Path, container: str = "") -> list[str]:
    """The command `prometheus` or `promtool`, which may read and write in the folder."""
    if shutil.which(name):
        return [name]
    named = ["--name", container] if container else []
    run = ["docker", "run", "--rm", *named, "--network", "host", "--user", "0", "--workdir", str(folder)]
    return [*run, "--volume", f"{folder}:{folder}", "--entrypoint", f"/bin/{name}", IMAGE]


def promtool(folder: Path, *arguments: str) -> str:
    """What promtool prints, run in the folder; it must find nothing wrong."""
    command = [*program("promtool", folder), *arguments]
    done = subprocess.run(command, cwd=folder, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Prometheus:
    """A running Prometheus."""

    def __init__(self, client: httpx.Client) -> None:
        self.client = client

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that fire now."""
        found = self.client.get("/api/v1/alerts").raise_for_status().json()["data"]["alerts"]
        return [alert for alert in found if alert["state"] == "firing"]

    def firing(self) -> set[str]:
        """Their names."""
        return {alert["labels"]["alertname"] for alert in self.alerts()}


@contextlib.contextmanager
def prometheus_server(folder: Path, config: str) -> Iterator[Prometheus]:
    """Prometheus by a configuration that is a text; its rules' files and its data lie in the folder."""
    (folder / "prometheus.yml").write_text(config)
    port, name = free_port(), f"ml-template-prometheus-{time.monotonic_ns()}"
    command = [
        *program("prometheus", folder, name),
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "stderr").open("w") as stderr:
        server = subprocess.Popen(command, cwd=folder, env=clean(), stdout=stderr, stderr=stderr)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

            def ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return client.get("/-/ready").status_code == 200
                return False

            wait_for(lambda: server.poll() is not None or ready(), 120)  # an image may have to be pulled
            assert server.poll() is None, (folder / "stderr").read_text()
            yield Prometheus(client)
    finally:
        if command[0] == "docker":
            subprocess.run(["docker", "rm", "--force", name], capture_output=True)
        server.kill()
        server.wait()
