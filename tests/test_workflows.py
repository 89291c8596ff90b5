"""From `git push` to an answer in production, run by a runner, an engine, a registry and a bare repository."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import ROOT, UV, Bake, Project, Run, Serve, clean, edit, free_port, within
from tabloop.release import Release
from test_container import compose, docker
from test_monitoring import install, traffic

PORT = "18090"


Things = dict[str, list[dict[str, Any]]]


class GitHub(ThreadingHTTPServer):
    """GitHub's API as far as it is used here: comments, pull requests, issues, dispatches; on loopback."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.things: Things = {"comments": [], "pulls": [], "issues": [], "dispatches": []}


class Handler(BaseHTTPRequestHandler):
    """One request to it."""

    server: GitHub

    def do_GET(self) -> None:
        self.answer(self.server.things[self.path.split("?")[0].rsplit("/", 1)[1]])

    def do_POST(self) -> None:
        made = self.body() | {"id": 7, "number": 7, "html_url": "https://example.org/pull/7"}
        self.server.things[self.path.rsplit("/", 1)[1]].append(made)
        self.answer(made)

    def do_PATCH(self) -> None:
        (thing,) = self.server.things[self.path.split("/")[-2]]
        thing.update(self.body())
        self.answer(thing)

    def body(self) -> dict[str, Any]:
        assert self.headers["authorization"].startswith("Bearer ")
        return dict(json.loads(self.rfile.read(int(self.headers["content-length"]))))

    def answer(self, body: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(scope="module")
def registry() -> Iterator[str]:
    """The address of a container registry: RIG_REGISTRY, else a container."""
    if given := os.environ.get("RIG_REGISTRY"):
        yield given
        return
    name = docker("run", "--detach", "--rm", "--publish", "127.0.0.1::5000", "registry:3")
    yield docker("port", name, "5000/tcp").splitlines()[0]
    docker("rm", "--force", name)


@dataclass
class Forge:
    """A baked project, the bare repository it is pushed to, and a server that has a clone."""

    project: Path
    origin: Path
    server: Path
    github: GitHub
    work: Path
    environment: Path

    def git(self, *arguments: str | Path, where: Path | None = None) -> str:
        who = {
            f"GIT_{role}_{part}": "test@example.com"
            for role in ("AUTHOR", "COMMITTER")
            for part in ("NAME", "EMAIL")
        }
        done = subprocess.run(
            ["git", *arguments], cwd=where or self.project, env=clean() | who, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, message: str) -> None:
        self.git("pull", "--quiet", "--rebase", "--autostash")
        self.git("commit", "--quiet", "--all", "--allow-empty", "--message", message)
        self.git("push", "--quiet")

    def change(self, old: str, new: str) -> None:
        params = self.project / "params.yaml"
        assert old in params.read_text()
        params.write_text(params.read_text().replace(old, new))

    def run(self, event: str, *options: str, payload: dict[str, Any] | None = None) -> tuple[int, str]:
        """Let the runner do what GitHub does on this event; its exit code and its output."""
        stands = {a.parent.name: a.parent for a in (ROOT / "tests/actions").glob("*/action.yml")}
        if rig := os.environ.get("RIG_ACTIONS"):
            stands |= {a.parent.name: a.parent for a in Path(rig).glob("*/action.yml")}
        texts = "".join(p.read_text() for p in (ROOT / ".github").rglob("*.yml"))
        known = {
            f"{action}@{sha}": stands[action.split("/")[1]]
            for action, sha in re.findall(r"uses: ([\w-]+/[\w-]+)@([0-9a-f]{40})", texts)
            if action.split("/")[1] in stands
        }
        known["org/ml-template@v1"] = self.work / "template"
        happened = self.work / "event.json"
        happened.write_text(json.dumps(payload or {}))
        command = [str(Path(sys.executable).with_name("act")), event, "--eventpath", str(happened), *options]
        for name, path in known.items():
            command += ["--local-repository", f"{name}={path}"]
        for kind in ("artifact", "cache"):
            command += [f"--{kind}-server-path", str(self.work / kind), f"--{kind}-server-addr", "127.0.0.1"]
            command += [f"--{kind}-server-port", str(free_port())]
        command += ["--platform", "ubuntu-latest=-self-hosted", "--pull=false", "--action-offline-mode"]
        command += ["--action-cache-path", str(self.work / "actions"), "--secret", "GITHUB_TOKEN=of-the-test"]
        # One job after the other: they share one virtual environment, in which each installs its own checkout.
        command += ["--env", f"GITHUB_API_URL={self.github.url}", "--concurrent-jobs", "1"]
        assert UV
        kept = ROOT / f".cache/environment-act-{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}"
        env = clean(
            PATH=f"{Path(UV).parent}{os.pathsep}{os.environ['PATH']}",
            ACT_ARTIFACTS=str(self.work / "artifacts"),
            UV_PROJECT_ENVIRONMENT=str(kept / ".venv"),
            MYPY_CACHE_DIR=str(kept / "mypy"),
        )
        if "pyenv" not in sys.executable:
            env["UV_PYTHON"] = sys.executable
        done = subprocess.run(command, cwd=self.project, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def tabloop(self, *arguments: str, code: int = 0) -> str:
        """The output of a `tabloop` command in the project."""
        env = within(self.project, self.environment)
        done = subprocess.run(
            ["tabloop", *arguments], cwd=self.project, env=env, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def release(self, environment: str = "staging") -> dict[str, str]:
        """What the repository's tip says the environment runs."""
        text = self.git("show", f"main:deploy/{environment}/release.env", where=self.origin)
        return Release.parse(text).values

    def reconcile(self, environment: str = "staging", code: int = 0) -> str:
        """What the server's pull loop does in one turn."""
        done = subprocess.run(
            ["make", f"COMPOSE={compose()}", f"UV={UV}", "reconcile", f"ENV={environment}"],
            cwd=self.server,
            env=clean(PORT=PORT, HEALTHY_SECONDS="30"),
            capture_output=True,
            text=True,
        )
        assert bool(done.returncode) == bool(code), done.stdout + done.stderr
        return done.stdout + done.stderr

    def served(self) -> dict[str, Any]:
        """/model of what answers now, which is asked for a prediction, too."""
        with httpx.Client(base_url=f"http://127.0.0.1:{PORT}") as client:
            model = client.get("/model").json()["champion"]
            answer = client.post("/predict", json=model["example"]).json()
            assert answer["model_version"] == model["version"]
            return dict(model)


@contextlib.contextmanager
def founded(baked: Path, environment: Path, work: Path) -> Iterator[Forge]:
    """A forge with a project of few rows and a quick model, pushed once."""
    project = shutil.copytree(baked, work / baked.name, symlinks=True)
    edit(project, lambda p: p["data"]["simulator"].update(transactions=10_000, users=400))
    origin, server = work / "origin.git", work / "server"
    shutil.copytree(ROOT / ".github", work / "template/.github")  # the runner reads all that lies there
    with GitHub() as github:
        threading.Thread(target=github.serve_forever, daemon=True).start()
        forge = Forge(project, origin, server, github, work, environment)
        forge.git("init", "--quiet", "--bare", "--initial-branch=main", origin, where=work)
        forge.git("remote", "add", "origin", origin)
        forge.change("max_iter: 100", "max_iter: 10")  # the second will be better
        forge.git("commit", "--quiet", "--all", "--message", "A quick model")
        forge.git("push", "--quiet", "--set-upstream", "origin", "main")
        forge.git("clone", "--quiet", origin, server, where=work)
        yield forge
        github.shutdown()


@pytest.fixture(scope="module")
def forge(
    bake: Bake, environment: Path, registry: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Forge]:
    """The forge of the story, which several tests tell."""
    baked = bake(container_registry=f"{registry}/team-{time.time_ns()}")
    with founded(baked, environment, tmp_path_factory.mktemp("forge")) as forge:
        yield forge
        for name in ("staging", "production"):
            files = ["--file", "deploy/compose.yaml", "--env-file", f"deploy/{name}/release.env"]
            down = [
                *compose().split(),
                "--project-name",
                f"fraud-detection-{name}",
                *files,
                "down",
                "--volumes",
            ]
            subprocess.run(down, cwd=forge.server, capture_output=True)


@pytest.fixture
def another(baked: Path, environment: Path, tmp_path: Path) -> Iterator[Forge]:
    """A forge for one test."""
    with founded(baked, environment, tmp_path) as forge:
        yield forge


def test_from_the_first_push_to_a_rollback(forge: Forge) -> None:
    """One story, as each part stands on the one before."""
    # A freshly baked project, no secret, no variable: green, an image in the registry, a commit on staging.
    code, said = forge.run("push")
    assert code == 0, said[-5000:]
    assert "No `DVC_REMOTE_URL`" in said and "No `MLFLOW_TRACKING_URI`" in said
    first = forge.release()
    assert re.fullmatch(r".+/fraud-detection@sha256:[0-9a-f]{64}", first["IMAGE"])
    assert f"attested {first['IMAGE']} provenance" in said and f"attested {first['IMAGE']} sbom.json" in said
    assert forge.git("show", "--format=%s", "--name-only", "main", where=forge.origin).split("\n\n") == [
        f"Deploy {first['MODEL_VERSION']} to staging",
        "deploy/staging/release.env",
    ]
    assert f"now runs {first['IMAGE']}" in forge.reconcile()
    before = forge.served()
    assert before["version"] == first["MODEL_VERSION"]
    assert "staging runs" in forge.reconcile()  # nothing to do

    # A second commit with a better model follows.
    forge.change("max_iter: 10\n", "max_iter: 100\n")
    forge.commit("A better model")
    code, said = forge.run("push")
    assert code == 0, said[-5000:]
    second = forge.release()
    assert f"now runs {second['IMAGE']}" in forge.reconcile()
    after = forge.served()
    assert after["version"] == second["MODEL_VERSION"] != first["MODEL_VERSION"]
    assert after["metrics"]["auc"] > before["metrics"]["auc"]

    # A commit whose model fails the gate changes nothing.
    forge.change("min_auc: 0.85", "min_auc: 0.999")
    forge.commit("Too much to ask")
    code, said = forge.run("push")
    assert code != 0 and "❌ **Gate:**" in said
    assert forge.release() == second
    assert "staging runs" in forge.reconcile()
    forge.change("min_auc: 0.999", "min_auc: 0.85")

    # An image that does not start is replaced by the last one that ran, with a message, and is not tried again.
    broken = f"{first['IMAGE'].split('@')[0]}:broken"
    dockerfile = f'FROM {first["IMAGE"]}\nCMD ["false"]\n'
    built = subprocess.run(
        ["docker", "build", "--tag", broken, "-"], input=dockerfile, text=True, capture_output=True
    )
    assert built.returncode == 0, built.stderr
    docker("push", "--quiet", broken)
    digest = docker("inspect", "--format", "{{index .RepoDigests 0}}", broken)
    forge.commit("The bar as it was")
    forge.git("pull", "--quiet", "--rebase")
    forge.tabloop("release", "set", "staging", f"IMAGE={digest}", "MODEL_VERSION=broken")
    forge.git("push", "--quiet")
    said = forge.reconcile(code=1)
    assert f"did not become healthy; staging runs {second['IMAGE']} again" in said
    assert forge.served()["version"] == second["MODEL_VERSION"]
    assert "waiting for another commit" in forge.reconcile(code=1)

    # A rollback is a commit, made within seconds, with its history. A second one goes further back.
    began = time.monotonic()
    forge.tabloop("release", "rollback", "staging")
    forge.git("push", "--quiet")
    assert "staging runs" in forge.reconcile()
    assert time.monotonic() - began < 30
    assert forge.release() == second
    history = forge.git("log", "--format=%s", "--", "deploy/staging/release.env").splitlines()
    assert history[:2] == [f"Roll back staging to {second['MODEL_VERSION']}", "Deploy broken to staging"]
    forge.tabloop("release", "rollback", "staging")
    forge.git("push", "--quiet")
    assert forge.release() == first
    assert f"now runs {first['IMAGE']}" in forge.reconcile()
    assert forge.served()["version"] == first["MODEL_VERSION"]
    assert "never changed" in forge.tabloop("release", "rollback", "production", code=1)


def dispatch(forge: Forge, **inputs: str) -> str:
    options = [
        part for name, value in inputs.items() for part in ("--input", f"{name.replace('_', '-')}={value}")
    ]
    workflow = ["--workflows", ".github/workflows/deploy.yml"]
    code, said = forge.run(
        "workflow_dispatch",
        *workflow,
        *options,
        payload={"inputs": {n.replace("_", "-"): v for n, v in inputs.items()}},
    )
    assert code == 0, said[-5000:]
    return said


def test_production_by_dispatch_and_back(forge: Forge) -> None:
    """After the story above: what staging runs goes to production, as a commit or a pull request."""

    def staged(version: str) -> dict[str, str]:
        forge.git("pull", "--quiet", "--rebase")
        forge.tabloop("release", "set", "staging", f"MODEL_VERSION={version}")
        forge.git("push", "--quiet")
        return {name: forge.release()[name] for name in ("IMAGE", "MODEL_VERSION")}

    start = forge.release("production")
    first = start | staged("of-staging")
    dispatch(forge, environment="production")
    assert forge.release("production") == first
    second = start | staged("newer")
    dispatch(forge, environment="production")
    assert forge.release("production") == second != first
    for expected in (first, start):  # the button pressed twice goes further back
        dispatch(forge, environment="production", rollback="true")
        assert forge.release("production") == expected
    assert "pull-request: https://example.org/pull/7" in dispatch(
        forge, environment="production", pull_request="true"
    )
    assert forge.release("production") == start
    (pull,) = forge.github.things["pulls"]
    assert pull["base"] == "main" and pull["title"] == "Deploy newer to production"
    assert f"refs/heads/{pull['head']}" in forge.git(
        "for-each-ref", "--format=%(refname)", where=forge.origin
    )


def test_a_pull_request_is_tested_and_gets_one_comment_and_nothing_is_pushed(another: Forge) -> None:
    """Twice: there is one comment, of the last run. With a DVC remote, which is used."""
    forge = another
    tip = forge.git("rev-parse", "main", where=forge.origin)
    remote = forge.work / "dvc"
    payload = {"pull_request": {"number": 7, "head": {"ref": "topic"}, "base": {"ref": "main"}}}
    for _ in range(2):
        code, said = forge.run("pull_request", "--var", f"DVC_REMOTE_URL={remote}", payload=payload)
        assert code == 0, said[-5000:]
    assert list(remote.rglob("*.dir")) and "No `DVC_REMOTE_URL`" not in said
    (comment,) = forge.github.things["comments"]
    for part in ("**Gate:** AUC", "| auc | 0.9", "xychart", "### Image", " MB; ", '"probability"'):
        assert comment["body"].count(part) >= 1, part
    assert comment["body"].count("### Image") == 1
    assert forge.git("rev-parse", "main", where=forge.origin) == tip and "Pushed `" not in said


def test_drift_opens_one_issue_and_retrains_once_and_the_challenger_is_judged(
    another: Forge, run: Run, serve: Serve, project: Project, trained: Path
) -> None:
    """The schedule's workflows, on a project whose models are in a DVC remote and whose service wrote a log."""
    forge, copy, remote = another, project(trained), another.work / "remote"
    forge.git(
        "init", "--quiet", "--bare", "--initial-branch=main", forge.work / "watched.git", where=forge.work
    )
    watched = replace(forge, project=copy, origin=forge.work / "watched.git")
    watched.git("remote", "add", "origin", watched.origin)
    params = copy / "params.yaml"
    params.write_text(
        params.read_text().replace("max_iter: 100", "max_iter: 120")
    )  # for retrain to find another model
    run(copy, "dvc", "remote", "modify", "--local", "local", "url", str(remote))
    run(copy, "dvc", "push")
    watched.git("commit", "--quiet", "--all", "--message", "Longer training")
    watched.git("push", "--quiet", "--set-upstream", "origin", "main")

    def act(workflow: str, log: Path | str = "", event: str = "workflow_dispatch") -> str:
        options = ["--workflows", f".github/workflows/{workflow}.yml", "--var", f"DVC_REMOTE_URL={remote}"]
        options += ["--var", f"PREDICTION_LOG={log}"] if log else []
        options += ["--input", "environment=staging"] if workflow == "promote" else []
        code, said = watched.run(event, *options, payload={"inputs": {"environment": "staging"}})
        assert code == 0, said[-5000:]
        return said

    things = forge.github.things
    assert "No `PREDICTION_LOG`" in act("drift", event="schedule") and not things["issues"]
    with serve(copy) as server:
        traffic(run, copy, server, 3000, "--drift", "amount=4")
        for _ in range(2):  # the next night, it has not gone away
            act("drift", server.log, event="schedule")
            (issue,) = things["issues"]
            assert "⚠️ **Drift** in 3,000" in issue["body"] and issue["labels"] == ["model-drift"]
            assert things["dispatches"] == [
                {"ref": "main"} | {"id": 7, "number": 7, "html_url": issue["html_url"]}
            ]
        assert "not again within 7 days" in issue["body"]
    things["pulls"].clear()
    act("retrain")
    (pull,) = things["pulls"]
    assert re.fullmatch("Make [0-9a-f]{12} the challenger", pull["title"]) and "| auc | 0.9" in pull["body"]
    changed = watched.git("diff", "--name-only", "main", pull["head"], where=watched.origin).splitlines()
    assert {"dvc.lock", "models/challenger.dvc"} <= set(changed) and "models/champion.dvc" not in changed

    # Merged, it is a challenger; this one's threshold lets all fraud pass.
    watched.git("fetch", "--quiet")
    watched.git("reset", "--quiet", "--hard", f"origin/{pull['head']}")
    run(copy, "dvc", "pull", "--quiet")
    install(run, copy, "challenger", threshold=0.99)
    release = copy / "deploy/staging/release.env"
    release.write_text(release.read_text().replace("MODE=off", "MODE=ab").replace("SHARE=0\n", "SHARE=0.5\n"))
    run(copy, "dvc", "push")
    watched.git("commit", "--quiet", "--all", "--message", "Try the challenger in staging")
    watched.git("push", "--quiet", "origin", "HEAD:main")
    things["pulls"].clear()
    with serve(copy, CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.5") as server:
        traffic(run, copy, server, 300)
        assert "**Keep going**" in act("promote", server.log) and not things["pulls"]
        traffic(run, copy, server, 12_000, "--seed", "1")
        act("promote", server.log)
    (pull,) = things["pulls"]
    assert pull["title"].startswith("Withdraw the challenger ") and "| cost of a prediction |" in pull["body"]
    assert (
        watched.git("diff", "--name-only", "main", pull["head"], where=watched.origin)
        == "models/challenger.dvc"
    )
