"""What a server does in each turn, with a real engine, Compose, registry and git. Every failure is made to happen.

The image is a stand-in that starts in a second, and is as strict about its health as the service.
"""

import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import PYTHON, clean, free_port, git, locked, wait_for
from tabloop import live
from test_container import compose, docker, posting

PROJECT = "reconciled"
SERVE = """
import collections, http.server, os, signal, sys, time
behaviour, began = os.environ["BEHAVIOUR"], time.monotonic()
answers, counts = os.environ.get("ANSWERS"), collections.Counter()  # the metrics of the service, by its names
if behaviour == "exits":
    sys.exit("there is no model")
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = behaviour == "works" or behaviour == "slow" and time.monotonic() - began > 4
        self.send_response(200 if ready and not os.path.exists("/tmp/hangs") else 503)
        self.end_headers()
        if self.path == "/metrics":
            self.wfile.write("".join(f"{name} {count:.1f}\\n" for name, count in counts.items()).encode())
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        status = 500 if answers == "5xx" else 200
        counts[f'responses_total{{status="{status}"}}'] += 1
        counts["prediction_seconds_count"] += 1
        counts['prediction_seconds_bucket{le="0.1"}'] += answers != "slowly"
        counts['prediction_seconds_bucket{le="0.25"}'] += answers != "slowly"
        counts['prediction_seconds_bucket{le="+Inf"}'] += 1
        counts['prediction_log_rows_total{outcome="dropped"}'] += answers == "unlogged"
        counts["prediction_log_errors_total"] += 0
        if answers == "exits" and time.monotonic() - began > 4:
            os._exit(1)
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""
ASK = "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['PORT'], timeout=1)"


@pytest.fixture(scope="module")
def images(registry: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Images in the registry, by digest, each named by how it behaves; none is kept on this machine."""
    remove_images()
    folder = tmp_path_factory.mktemp("images")
    (folder / "serve.py").write_text(SERVE)
    shutil.copy(live.__file__, folder / "live.py")
    names = {}
    for behaviour in ("works", "works-too", "slow", "exits", "is-never-healthy"):
        health = f"--interval=300ms --timeout=2s --retries={30 if behaviour == 'slow' else 3}"
        (folder / "Dockerfile").write_text(
            f"FROM python:{PYTHON}-slim\nCOPY serve.py /\nCOPY live.py /tabloop/\nWORKDIR /\nENV BEHAVIOUR={behaviour.removesuffix('-too')} PORT=8000\n"
            f"LABEL org.opencontainers.image.title={PROJECT} of={behaviour}\n"
            f'HEALTHCHECK {health} CMD ["python", "-c", "{ASK}"]\nCMD ["python", "/serve.py"]\n'
        )
        tag = f"{registry}/{PROJECT}:{behaviour}"
        docker("build", "--tag", tag, folder)
        docker("push", tag)
        names[behaviour] = docker("inspect", "--format", "{{index .RepoDigests 0}}", tag)
        docker("rmi", tag)
    yield names
    remove_images()


def down(environment: str) -> None:
    command = [*compose().split(), "--project-name", f"{PROJECT}-{environment}", "down", "--volumes"]
    subprocess.run([*command, "--timeout", "0"], capture_output=True, check=True)


def remove_images() -> None:
    """Remove all images of these tests from this machine, by whatever name they were pulled."""
    for environment in ("staging", "production"):
        down(environment)  # of tests that were killed
    ours = docker("images", "--quiet", "--filter", f"label=org.opencontainers.image.title={PROJECT}").split()
    if ours:
        docker("rmi", "--force", *dict.fromkeys(ours))


@dataclass
class Machine:
    """A server that has a clone, and a desk that pushes commits."""

    desk: Path
    server: Path
    variables: dict[str, str] = field(default_factory=dict)

    def command(self, environment: str = "staging") -> list[str | Path]:
        return [self.server / "deploy/release.sh", "reconcile", environment]

    def environ(self, **variables: str) -> dict[str, str]:
        settings = {"COMPOSE": compose(), "HEALTHY_SECONDS": "10", "PAUSE_SECONDS": "0", "WATCH_SECONDS": "0"}
        without = {name: value for name, value in clean().items() if not name.startswith("GITHUB_")}
        return without | settings | self.variables | variables

    def turn(self, code: int = 0, environment: str = "staging", **variables: str) -> str:
        """What one turn says; a line, after which, for a release that is bad, there are those of the container."""
        done = subprocess.run(
            self.command(environment), env=self.environ(**variables), capture_output=True, text=True
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, f"{done.returncode}: {said}"
        assert code == 1 or len(said.splitlines()) == 1, said
        return said

    def begin(self, environment: str = "staging", **variables: str) -> "subprocess.Popen[str]":
        """A turn that is at work, in a session of its own."""
        return subprocess.Popen(
            self.command(environment),
            env=self.environ(**variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def git(self, *arguments: str | Path) -> str:
        return git(self.desk, *arguments)

    def declare(self, environment: str = "staging", push: bool = True, **values: object) -> None:
        """Push a commit that sets these names of release.env."""
        path = self.desk / f"deploy/{environment}/release.env"
        lines = [line for line in path.read_text().splitlines() if line.partition("=")[0] not in values]
        path.write_text("\n".join([*lines, *(f"{name}={value}" for name, value in values.items())]) + "\n")
        if push:
            self.push()

    def push(self) -> None:
        self.git("commit", "--quiet", "--all", "--message", "A change")
        self.git("push", "--quiet", "origin", "HEAD:main")

    def state(self, name: str, environment: str = "staging") -> Path:
        return self.server / f".git/reconcile/{environment}/{name}"

    def container(self, environment: str = "staging") -> str:
        """The name of the environment's one container."""
        label = f"label=com.docker.compose.project={PROJECT}-{environment}"
        (name,) = docker("ps", "--all", "--format", "{{.Names}}", "--filter", label).splitlines()
        return name

    def runs(self, environment: str = "staging", part: str = ".Config.Image") -> Any:
        """A part of what Docker knows of the container, which must be healthy."""
        container = self.container(environment)
        assert docker("inspect", "--format", "{{.State.Health.Status}}", container) == "healthy"
        return json.loads(docker("inspect", "--format", f"{{{{json {part}}}}}", container))


@pytest.fixture
def machine(baked: Path, tmp_path: Path) -> Iterator[Machine]:
    """A machine on which nothing runs, and ports that nothing listens on."""
    made = Machine(tmp_path / "desk", tmp_path / "server")
    shutil.copytree(baked, made.desk, symlinks=True)
    script = made.desk / "deploy/release.sh"  # by another name: other tests run containers by the default one
    script.write_text(script.read_text().replace("fraud-detection", PROJECT))
    made.git("init", "--quiet", "--bare", "--initial-branch=main", tmp_path / "origin.git")
    made.git("remote", "add", "origin", tmp_path / "origin.git")
    for environment in ("staging", "production"):
        made.declare(environment, push=False, PORT=free_port())
    made.push()
    made.git("clone", "--quiet", tmp_path / "origin.git", made.server)
    yield made
    for folder in (made.server / ".git/reconcile").glob("*/"):
        down(folder.name)


def test_a_release_runs_and_the_same_turn_twice_changes_nothing(
    machine: Machine, images: dict[str, str]
) -> None:
    machine.declare(IMAGE=images["works"])
    assert machine.turn() == f"release: staging now runs {images['works']}\n"
    before = machine.runs(part=".Id")
    assert machine.turn() == f"release: staging runs {images['works']}\n"
    assert machine.runs(part=".Id") == before
    machine.declare(IMAGE=images["works-too"])
    assert machine.turn() == f"release: staging now runs {images['works-too']}\n"
    assert machine.runs() == images["works-too"]
    docker("rm", "--force", machine.container())
    assert machine.turn() == f"release: staging runs {images['works-too']}\n"  # it is there again
    assert machine.runs() == images["works-too"]


def test_a_release_that_does_not_become_healthy_is_bad_and_the_last_good_one_runs(
    machine: Machine, images: dict[str, str]
) -> None:
    machine.declare(IMAGE=images["exits"])
    said = machine.turn(code=1)
    assert "there is no model\n" in said  # the container's last lines
    assert f"{images['exits']} did not become healthy; there is nothing to fall back to" in said
    assert "waiting for another commit" in machine.turn(code=1)
    machine.declare(IMAGE=images["works"])
    assert "now runs" in machine.turn()
    bad = images["is-never-healthy"]
    machine.declare(IMAGE=bad)
    said = f"release: {bad} did not become healthy; staging runs {images['works']} again\n"
    assert machine.turn(code=1) == said
    assert machine.runs() == images["works"]
    before = machine.runs(part=".Id")
    waits = f"release: {bad} failed here; waiting for another commit\n"
    assert machine.turn(code=1) == waits
    assert machine.runs(part=".Id") == before
    docker("rm", "--force", machine.container())
    assert machine.turn(code=1) == waits
    assert machine.runs() == images["works"]  # kept up all the while


def test_a_release_that_was_only_slow_is_good_and_what_was_good_is_never_bad(
    machine: Machine, images: dict[str, str]
) -> None:
    slow = images["slow"]
    machine.declare(IMAGE=slow)
    assert "there is nothing to fall back to" in machine.turn(code=1, HEALTHY_SECONDS="1")
    assert machine.turn() == f"release: staging now runs {slow}\n"
    machine.declare(IMAGE=images["works"])
    machine.turn()
    machine.declare(IMAGE=slow)  # a rollback, at a moment at which it is too slow
    said = machine.turn(code=75, HEALTHY_SECONDS="1")
    assert f"staging: {slow} did not become healthy; staging runs {images['works']} again; the next" in said
    assert machine.runs() == images["works"] and not machine.state("bad.yaml").exists()
    assert machine.turn() == f"release: staging now runs {slow}\n"


class Door:
    """A port that leads to another one while it is open."""

    def __init__(self, to: str) -> None:
        host, _, port = to.rpartition(":")
        self.to, self.port, self.server = (host, int(port)), free_port(), socket.socket()

    def open(self) -> None:
        self.server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self.accept, args=[self.server], daemon=True).start()

    def accept(self, server: socket.socket) -> None:
        while True:
            try:
                client = server.accept()[0]
            except OSError:
                return
            there = socket.create_connection(self.to)
            for pair in ((client, there), (there, client)):
                threading.Thread(target=self.pass_on, args=pair, daemon=True).start()

    def pass_on(self, source: socket.socket, target: socket.socket) -> None:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def test_a_registry_that_is_down_and_an_image_that_is_missing_are_tried_again(
    machine: Machine, images: dict[str, str], registry: str
) -> None:
    machine.declare(IMAGE=images["works"])
    machine.turn()
    before = machine.runs(part=".Id")
    door = Door(registry)
    behind = images["works-too"].replace(registry, f"127.0.0.1:{door.port}")
    machine.declare(IMAGE=behind)
    assert "connection refused" in machine.turn(code=75)
    assert machine.turn(code=75) == (
        "release: staging: attempt 2 failed like the one before; the next one in 0 s\n"
    )
    assert machine.runs(part=".Id") == before and not machine.state("bad.yaml").exists()
    door.open()
    assert machine.turn() == f"release: staging now runs {behind}\n"
    missing = f"{behind.partition('@')[0]}:missing"
    machine.declare(IMAGE=missing)
    said = machine.turn(code=75, PAUSE_SECONDS="100")
    assert re.search("manifest unknown|not found", said) and f"staging runs {behind} again" in said
    assert re.fullmatch(
        r"release: staging: the next attempt in \d+ s\n", machine.turn(code=75, PAUSE_SECONDS="100")
    )
    docker("tag", behind, missing)  # another way for it to be there
    machine.declare(CHALLENGER_MODE="shadow")  # what is declared anew has no pause
    assert machine.turn(PAUSE_SECONDS="100") == f"release: staging now runs {missing}\n"
    door.server.close()


def test_pauses_grow_and_a_pause_does_nothing(machine: Machine, images: dict[str, str]) -> None:
    machine.declare(IMAGE=f"127.0.0.1:{free_port()}/nobody:listens")
    pauses: list[int] = []
    for attempt in (1, 2, 5, 6, 9):
        if pauses:  # as if so many attempts had been made, and the last pause were over
            first, reason = machine.state("later").read_text().splitlines()
            machine.state("later").write_text(f"{first.split()[0]} {attempt - 1} 0\n{reason}\n")
        said = machine.turn(code=75, PAUSE_SECONDS="30")
        pauses.append(int(re.findall(r"(?:next one|next attempt) in (\d+) s", said)[0]))
    assert "the next attempt in" in machine.turn(code=75, DOCKER_HOST="unix:///nowhere", PAUSE_SECONDS="30")
    assert pauses == [30, 60, 480, 900, 900]
    machine.declare(CHALLENGER_MODE="shadow")  # what is declared anew begins anew
    assert "; the next attempt in 30 s" in machine.turn(code=75, PAUSE_SECONDS="30")
    machine.declare(IMAGE=images["works"])
    assert "now runs" in machine.turn(PAUSE_SECONDS="30")


def test_a_daemon_or_a_plugin_that_is_missing_is_tried_again(
    machine: Machine, images: dict[str, str]
) -> None:
    machine.declare(IMAGE=images["works"])
    for variables, reason in (
        ({"DOCKER_HOST": "unix:///nowhere/docker.sock"}, "unix:///nowhere/docker.sock"),
        ({"COMPOSE": "docker composer"}, "'docker composer version' fails: is Docker Compose installed?"),
    ):
        assert reason in machine.turn(code=75, **variables)
        assert "failed like the one before" in machine.turn(code=75, **variables)
    assert machine.turn() == f"release: staging now runs {images['works']}\n"
    assert not machine.state("later").exists()


def test_a_port_that_is_taken_is_tried_again_while_the_good_release_runs(
    machine: Machine, images: dict[str, str]
) -> None:
    machine.declare(IMAGE=images["works"])
    machine.turn()
    with socket.create_server(("0.0.0.0", 0)) as taken:
        machine.declare(IMAGE=images["works-too"], PORT=taken.getsockname()[1])
        said = machine.turn(code=75)
        assert "already" in said and f"staging runs {images['works']} again" in said
        assert machine.runs() == images["works"] and not machine.state("bad.yaml").exists()
    assert machine.turn() == f"release: staging now runs {images['works-too']}\n"


def test_a_good_release_that_hangs_gets_a_moment_and_then_a_new_container(
    machine: Machine, images: dict[str, str]
) -> None:
    machine.declare(IMAGE=images["works"])
    machine.turn()
    before = machine.runs(part=".Id")
    docker("pause", machine.container())
    assert "release: staging: " in machine.turn(code=75)
    docker("unpause", machine.container())
    health = ("inspect", "--format", "{{.State.Health.Status}}", machine.container())
    wait_for(lambda: docker(*health) == "healthy")
    machine.turn()
    assert machine.runs(part=".Id") == before  # it was only a moment
    docker("exec", machine.container(), "touch", "/tmp/hangs")
    wait_for(lambda: docker(*health) == "unhealthy")
    assert f"{images['works']} did not become healthy" in machine.turn(code=75)
    assert machine.turn() == f"release: staging now runs {images['works']}\n"
    assert machine.runs(part=".Id") != before
    assert not machine.state("bad.yaml").exists()


def test_compose_yaml_alone_is_compared_too_and_falls_back_too(
    machine: Machine, images: dict[str, str]
) -> None:
    machine.declare(IMAGE=images["works"])
    machine.turn()
    file = machine.desk / "deploy/compose.yaml"
    text = file.read_text()
    file.write_text(text.replace("    read_only: true", "    read_only: true\n    mem_limit: 96m"))
    machine.push()
    assert machine.turn() == f"release: staging now runs {images['works']}\n"
    assert machine.runs(part=".HostConfig.Memory") == 96 << 20
    file.write_text(text.replace("    read_only: true", '    command: ["false"]'))
    machine.push()
    assert f"did not become healthy; staging runs {images['works']} again" in machine.turn(code=1)
    assert machine.runs(part=".HostConfig.Memory") == 96 << 20
    file.write_text(text + "services: twice\n")
    machine.push()
    assert "yaml" in machine.turn(code=75)
    assert machine.runs() == images["works"]


def test_every_name_reaches_the_container_and_secrets_are_not_in_git(
    machine: Machine, images: dict[str, str]
) -> None:
    machine.declare(
        IMAGE=images["works"], PREDICTION_LOG="s3://bucket/log", ONLINE_STORE="redis://store:6379"
    )
    secret = machine.server / "deploy/staging/secret.env"
    secret.write_text("API_KEYS=of-the-first\nAWS_SECRET_ACCESS_KEY='a$b'\n")
    machine.turn()
    has = dict(item.split("=", 1) for item in machine.runs(part=".Config.Env"))
    assert has["PREDICTION_LOG"] == "s3://bucket/log" and has["ONLINE_STORE"] == "redis://store:6379"
    assert has["API_KEYS"] == "of-the-first" and has["AWS_SECRET_ACCESS_KEY"] == "a$b"
    assert has["CHALLENGER_MODE"] == "off" and has["PORT"] == "8000"
    assert machine.state(".").stat().st_mode & 0o077 == 0
    git = subprocess.run(["git", "status", "--porcelain"], cwd=machine.server, capture_output=True, text=True)
    assert git.stdout == ""
    secret.write_text("API_KEYS=of-the-second\n")
    assert "now runs" in machine.turn()
    assert "API_KEYS=of-the-second" in machine.runs(part=".Config.Env")


def test_two_turns_at_once_are_one_and_one_that_is_killed_hinders_no_other(
    machine: Machine, images: dict[str, str]
) -> None:
    def killed() -> None:
        label = f"label=com.docker.compose.project={PROJECT}-staging"
        turn = machine.begin()
        wait_for(lambda: "slow" in docker("ps", "--filter", label, "--format", '{{.Label "of"}}'))
        assert machine.turn() == "release: another turn of staging is at work\n"
        os.killpg(turn.pid, signal.SIGKILL)
        turn.wait()

    machine.declare(IMAGE=images["works"])
    machine.turn()
    machine.declare(IMAGE=images["slow"])
    killed()
    machine.git("revert", "--no-edit", "HEAD")
    machine.git("push", "--quiet", "origin", "HEAD:main")
    assert machine.turn() == f"release: staging runs {images['works']}\n"
    assert machine.runs() == images["works"]
    machine.declare(IMAGE=images["slow"])
    killed()
    assert machine.turn() == f"release: staging now runs {images['slow']}\n"
    assert machine.runs() == images["slow"]


def test_a_new_release_that_fails_on_live_traffic_is_bad_and_the_last_good_one_runs(
    machine: Machine, images: dict[str, str]
) -> None:
    good = images["works"]
    machine.declare(IMAGE=good)
    assert len(machine.turn(WATCH_SECONDS="60").splitlines()) == 1  # there is nothing to fall back to
    port = re.findall(r"^PORT=(\d+)$", (machine.desk / "deploy/staging/release.env").read_text(), re.M)[-1]
    watched = f"release: staging: {good} is healthy; its live metrics are watched for {{}} s\n"

    def turn(code: int, seconds: str) -> str:
        command, env = machine.command(), machine.environ(WATCH_SECONDS=seconds)
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == code, done.stdout
        return done.stdout.replace(watched.format(seconds), "")

    with posting(f"http://127.0.0.1:{port}/predict", {}):
        for answers, why in {
            "5xx": r"(\d+) answers of \1 were 5xx",
            "slowly": r"p99 of \d+ requests is above 0.25 s",
            "unlogged": r"the prediction log lost \d+ rows and failed 0 times",
            "exits": r"it was healthy, and is not any more",
        }.items():
            machine.declare(ANSWERS=answers)
            said = turn(1, "8").splitlines()[-1]
            assert re.fullmatch(f"release: {good}: {why}; staging runs {good} again", said), said
            assert "ANSWERS" not in "".join(machine.runs(part=".Config.Env"))
        # Once: it is not tried again.
        assert turn(1, "8") == f"release: {good} failed here; waiting for another commit\n"
        machine.declare(ANSWERS="well")
        said = turn(0, "2")
        assert re.fullmatch(
            r"release: staging: \d+ requests, 0 batches, 0 answers 5xx(; fewer than 100.+)? while it was watched\n"
            f"release: staging now runs {good}\n",
            said,
        ), said
        assert "ANSWERS=well" in machine.runs(part=".Config.Env")
    machine.declare(ANSWERS="nobody")
    assert "0 answers 5xx; fewer than 100: p99 says nothing while it was watched" in turn(0, "1")
    machine.declare(ANSWERS="well")
    assert turn(0, "60") == f"release: staging now runs {good}\n"  # it was good before
    assert "WATCH_SECONDS=2m: give a number" in machine.turn(code=1, WATCH_SECONDS="2m")


def test_two_turns_at_once_watch_once_and_one_that_is_killed_is_repeated(
    machine: Machine, images: dict[str, str]
) -> None:
    machine.declare(IMAGE=images["works"])
    machine.turn()
    machine.declare(IMAGE=images["works-too"])
    turn = machine.begin(WATCH_SECONDS="60")
    assert turn.stdout and "are watched for 60 s" in turn.stdout.readline()
    assert machine.turn() == "release: another turn of staging is at work\n"
    time.sleep(0.5)  # Docker's client is at work
    os.kill(turn.pid, signal.SIGKILL)  # alone: what it started lives on
    turn.wait()
    again = machine.begin(WATCH_SECONDS="1")
    assert "are watched for 1 s" in again.communicate()[0]
    assert again.returncode == 0 and machine.runs() == images["works-too"]
    assert machine.turn() == f"release: staging runs {images['works-too']}\n"
    os.killpg(turn.pid, signal.SIGKILL)


def test_staging_and_production_share_a_machine_and_a_clone(
    machine: Machine, images: dict[str, str], baked: Path
) -> None:
    ports = [
        re.findall(r"^PORT=(\d+)$", file.read_text(), re.M) for file in baked.glob("deploy/*/release.env")
    ]
    assert sorted(ports) == [["8000"], ["8001"]]
    machine.declare(IMAGE=images["works"])
    machine.declare("production", IMAGE=images["works-too"])
    pull = machine.server / ".git/reconcile/pull"
    pull.parent.mkdir()
    with locked(pull):
        turns = [machine.begin(environment) for environment in ("staging", "production")]
        time.sleep(1)
        assert not machine.state("wanted.yaml").exists()  # one git at a time
    said = [turn.communicate()[0] for turn in turns]
    assert said == [
        f"release: staging now runs {images['works']}\n",
        f"release: production now runs {images['works-too']}\n",
    ]
    assert machine.runs() == images["works"] and machine.runs("production") == images["works-too"]


def test_git_that_cannot_be_reached_is_said_and_the_last_known_release_is_kept(
    machine: Machine, images: dict[str, str]
) -> None:
    machine.declare(IMAGE=images["works"])
    machine.turn()
    origin = machine.desk.parent / "origin.git"
    docker("rm", "--force", machine.container())
    origin.rename(origin.with_name("elsewhere.git"))
    pulled = subprocess.run(machine.command(), env=machine.environ(), capture_output=True, text=True)
    assert pulled.returncode == 75 and machine.runs() == images["works"]
    assert pulled.stderr.startswith("release: staging: git pull: fatal: ")
    assert len(pulled.stderr.splitlines()) == 1
    origin.with_name("elsewhere.git").rename(origin)
    assert machine.turn() == f"release: staging runs {images['works']}\n"


def test_an_environment_that_does_not_exist_is_one_line(machine: Machine) -> None:
    assert machine.turn(code=1, environment="stagin") == (
        "release: deploy/stagin/release.env is missing; there are: "
        "deploy/production/release.env deploy/staging/release.env\n"
    )


def test_old_images_are_removed_and_those_that_run_are_kept(machine: Machine, images: dict[str, str]) -> None:
    def here(behaviour: str) -> bool:
        labels = (f"label=org.opencontainers.image.title={PROJECT}", f"label=of={behaviour}")
        return docker("images", "--quiet", "--filter", labels[0], "--filter", labels[1]) != ""

    for name in ("works", "works-too"):
        machine.declare(IMAGE=images[name])
        machine.turn()
    assert here("works") and here("works-too")  # a week's are kept
    machine.declare(CHALLENGER_MODE="shadow")
    machine.turn(KEEP_IMAGES="0s")
    assert not here("works") and here("works-too")


class GitHub(http.server.ThreadingHTTPServer):
    """GitHub's deployments, on loopback: what it would refuse, this one refuses, and says so in `refused`."""

    def __init__(self, commits: set[str]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits, self.refused = commits, list[str]()
        self.deployments: list[dict[str, Any]] = []
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()

    def refusal(self, path: str, token: str | None, body: dict[str, Any]) -> tuple[int, str]:
        """Why GitHub would not take this, or 201."""
        if token != "Bearer of-the-test":
            return 401, "Bad credentials"
        if path == "/repos/acme/reconciled/deployments":
            if body.get("ref") not in self.commits:
                return 422, f"No ref found for: {body.get('ref')}"
            if body.get("required_contexts") != []:
                return 409, "Conflict: Commit status checks failed"
            return 201, "" if body["auto_merge"] is False else "it would merge"
        number = re.fullmatch(r"/repos/acme/reconciled/deployments/(\d+)/statuses", path)
        if not number or int(number[1]) > len(self.deployments):
            return 404, "Not Found"
        known = {"error", "failure", "inactive", "in_progress", "queued", "pending", "success"}
        if body.get("state") not in known or len(body.get("description", "")) > 140:
            return 422, "Validation Failed"
        return 201, ""


class Handler(http.server.BaseHTTPRequestHandler):
    """One request to it."""

    server: GitHub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, why = self.server.refusal(self.path, self.headers["authorization"], body)
        answer: dict[str, Any] = {"message": why}
        if status != 201:
            self.server.refused.append(why)
        elif self.path.endswith("/statuses"):
            self.server.deployments[int(self.path.split("/")[-2]) - 1]["statuses"].append(body)
        else:
            self.server.deployments.append(body | {"statuses": []})
            url = f"http://127.0.0.1:{self.server.server_port}{self.path}/{len(self.server.deployments)}"
            answer = {"url": url, "id": len(self.server.deployments), "statuses_url": f"{url}/statuses"}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, *arguments: Any) -> None:
        pass


def test_github_hears_of_each_outcome_once(machine: Machine, images: dict[str, str]) -> None:
    machine.declare(IMAGE=f"127.0.0.1:{free_port()}/nobody:listens")
    github = GitHub({machine.git("rev-parse", "HEAD")})
    api = f"http://127.0.0.1:{github.server_port}"
    machine.variables = {
        "GITHUB_TOKEN": "of-the-test",
        "GITHUB_API_URL": api,
        "GITHUB_REPOSITORY": "acme/reconciled",
    }

    def states() -> list[list[str]]:
        return [[status["state"] for status in made["statuses"]] for made in github.deployments]

    for _ in range(2):
        machine.turn(code=75)
    assert states() == [["error"]]
    assert "connection refused" in github.deployments[0]["statuses"][0]["description"]
    for behaviour, code in (("works", 0), ("exits", 1)):
        machine.declare(IMAGE=images[behaviour])
        github.commits.add(machine.git("rev-parse", "HEAD"))
        machine.turn(code=code)
    machine.turn(code=1)
    assert states() == [["error"], ["success"], ["failure"]]
    assert {made["environment"] for made in github.deployments} == {"staging"} and not github.refused
    assert f"{images['exits']} did not become"[:140] in github.deployments[2]["statuses"][0]["description"]

    # A failure to report is one line, and fails no turn.
    modes = ["off", "shadow"]
    for variables, why in (
        ({"GITHUB_TOKEN": "revoked"}, "curl: (22) The requested URL returned error: 401"),
        ({"GITHUB_API_URL": f"http://127.0.0.1:{free_port()}"}, "curl: (7) Failed to connect to 127.0.0.1"),
    ):
        machine.declare(IMAGE=images["works"], CHALLENGER_MODE=modes.pop())
        command, env = machine.command(), machine.environ(**variables)
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 0 and "now runs" in done.stdout
        assert done.stderr.startswith(f"release: GitHub was not told: {why}")
        assert len(done.stderr.splitlines()) == 1
    github.shutdown()


def test_the_repository_is_read_from_the_address_it_was_cloned_from(machine: Machine) -> None:
    origin = machine.desk.parent / "origin.git"
    machine.declare(IMAGE=f"127.0.0.1:{free_port()}/nobody:listens")
    github = GitHub({machine.git("rev-parse", "HEAD")})
    machine.variables = {
        "GITHUB_TOKEN": "of-the-test",
        "GITHUB_API_URL": f"http://127.0.0.1:{github.server_port}",
    }
    addresses = (
        "https://github.com/acme/reconciled.git",
        "https://github.com/acme/reconciled",
        "git@github.com:acme/reconciled.git",
        "ssh://git@github.com/acme/reconciled.git/",
    )
    for address in addresses:
        for name, value in (("remote.origin.url", address), (f"url.{origin}.insteadOf", address)):
            subprocess.run(["git", "config", name, value], cwd=machine.server, check=True)
        machine.turn(code=75)
        shutil.rmtree(machine.state("."))
    assert len(github.deployments) == len(addresses) and not github.refused
    github.shutdown()
