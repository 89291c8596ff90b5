"""From `git push` to an answer in production, run by a runner, an engine, a registry and a bare repository."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from conftest import (
    MYPY,
    PROCESS,
    ROOT,
    UV,
    Bake,
    Project,
    Run,
    Serve,
    clean,
    environment_of,
    few_rows,
    forks_of,
    free_port,
    git,
    know_types,
    within,
)
from github_api import GitHub
from tabloop.release import parse
from test_container import compose, docker
from test_monitoring import install, traffic

PORT = "18090"
REPOSITORY = "acme/fraud-detection"


# The commands of docs/first-push.md that run as they are: where, and what.
PAGE = [
    (place.strip() or "laptop", commands)
    for place, commands in re.findall(
        r"^```sh(.*)\n((?:.+\n)+?)```$", (ROOT / "docs/first-push.md").read_text(), re.M
    )
]


@dataclass
class Forge:
    """A baked project, the bare repository it is pushed to, and a server that has a clone."""

    project: Path
    origin: Path
    server: Path
    github: GitHub
    work: Path
    environment: Path
    installed: Path  # the environment in which the runner's jobs install the project
    runs: int = 0
    page: list[tuple[str, str]] = field(default_factory=lambda: list(PAGE))

    def git(self, *arguments: str | Path, where: Path | None = None) -> str:
        return git(where or self.project, *arguments)

    def commit(self, message: str) -> None:
        self.git("pull", "--quiet", "--rebase", "--autostash")
        self.git("commit", "--quiet", "--all", "--allow-empty", "--message", message)
        self.git("push", "--quiet")

    def change(self, old: str, new: str) -> None:
        params = self.project / "params.yaml"
        assert old in params.read_text()
        params.write_text(params.read_text().replace(old, new))

    def run(
        self,
        event: str,
        *options: str,
        payload: dict[str, Any] | None = None,
        run_id: str = "",
        actor: str = "someone",
    ) -> tuple[int, str]:
        """Let the runner do what GitHub does on this event; its exit code and its output.

        Args:
            run_id: of a run that is repeated; by default each has its own.
        """
        stands: dict[str, Path] = {}
        if rig := os.environ.get("RIG_ACTIONS"):
            stands |= {a.parent.name: a.parent for a in Path(rig).glob("*/action.yml")}
        stands |= {a.parent.name: a.parent for a in (ROOT / "tests/actions").glob("*/action.yml")}
        texts = "".join(p.read_text() for p in (ROOT / ".github").rglob("*.yml"))
        known = {
            f"{action}@{sha}": stands[action.split("/")[1]]
            for action, sha in re.findall(r"uses: ([\w-]+/[\w-]+)@([0-9a-f]{40})", texts)
            if action.split("/")[1] in stands
        }
        called = re.search(
            r"uses: (.+?)/\.github", (self.project / ".github/workflows/drift.yml").read_text()
        )
        assert called
        known[f"{called[1]}@v1"] = self.work / "template"
        about = {"repository": {"full_name": REPOSITORY, "default_branch": "main", "private": False}}
        happened = self.work / "event.json"
        happened.write_text(json.dumps(about | (payload or {})))
        command = [str(Path(sys.executable).with_name("act")), event, "--eventpath", str(happened), *options]
        for name, path in known.items():
            command += ["--local-repository", f"{name}={path}"]
        for kind in ("artifact", "cache"):
            command += [f"--{kind}-server-path", str(self.work / kind), f"--{kind}-server-addr", "127.0.0.1"]
            command += [f"--{kind}-server-port", str(free_port())]
        command += ["--platform", "ubuntu-latest=-self-hosted", "--pull=false", "--action-offline-mode"]
        command += ["--action-cache-path", str(self.work / "actions"), "--secret", "GITHUB_TOKEN=of-the-test"]
        command += ["--actor", actor]
        self.runs += not run_id
        variables = {
            "GITHUB_API_URL": self.github.url,
            "GITHUB_REPOSITORY": REPOSITORY,
            "ACT_RUN": run_id or str(1000 + self.runs),
            "GITHUB_RUN_ID": run_id or str(1000 + self.runs),
            "ATTESTATIONS": str(self.work / "attestations"),
            "FORGE": str(self.origin),
            "FORKS": forks_of(self.environment).path,  # what the jobs run would import the same again
        }
        for name, value in variables.items():
            command += ["--env", f"{name}={value}"]
        # One job after the other: they share one virtual environment, in which each installs its own checkout.
        command += ["--concurrent-jobs", "1"]
        assert UV
        env = clean(
            PATH=os.pathsep.join([str(ROOT / "tests/actions/bin"), str(Path(UV).parent), os.environ["PATH"]]),
            ACT_ARTIFACTS=str(self.work / "artifacts"),
            UV_PROJECT_ENVIRONMENT=str(self.installed),
            MYPY_CACHE_DIR=str(MYPY),
        )
        if "pyenv" not in sys.executable:
            env["UV_PYTHON"] = sys.executable
        done = subprocess.run(command, cwd=self.project, env=env, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def step(self, place: str, **variables: str) -> str:
        """Do what the next commands of docs/first-push.md say, on the laptop or on the server; their output."""
        where, commands = self.page.pop(0)
        assert where == place, commands
        port = str(int(PORT) + ("production" in commands))
        env = within(self.project, self.environment) | {
            "PORT": port,
            "HEALTHY_SECONDS": "30",
            "WATCH_SECONDS": "1",
            "UV": str(UV),
        }
        text = commands.replace("make ", f"make UV='{UV}' COMPOSE='{compose()}' ")
        text = text.replace("localhost:8001", f"localhost:{PORT}")
        folder = self.server if place == "server" else self.project
        done = subprocess.run(
            ["bash", "-euc", text], cwd=folder, env=env | variables, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def tabloop(self, *arguments: str, code: int = 0) -> str:
        """The output of a `tabloop` command in the project."""
        env = within(self.project, self.environment)
        done = subprocess.run(
            ["tabloop", *arguments], cwd=self.project, env=env, capture_output=True, text=True
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def unattested(self, image: str) -> str:
        """The digest of another image of this name, which no workflow attested."""
        name = f"{image.split('@')[0]}:by-hand"
        dockerfile = f"FROM {image}\nLABEL by=hand\n"
        subprocess.run(
            ["docker", "build", "--quiet", "--tag", name, "-"],
            input=dockerfile,
            text=True,
            check=True,
            capture_output=True,
        )
        docker("push", "--quiet", name)
        return docker("inspect", "--format", "{{index .RepoDigests 0}}", name)

    def release(self, environment: str = "staging") -> dict[str, str]:
        """What the repository's tip says the environment runs."""
        text = self.git("show", f"main:deploy/{environment}/release.env", where=self.origin)
        return parse(text)

    def reconcile(self, environment: str = "staging", code: int = 0) -> str:
        """What the server's pull loop does in one turn."""
        done = subprocess.run(
            ["make", f"COMPOSE={compose()}", f"UV={UV}", "reconcile", f"ENV={environment}"],
            cwd=self.server,
            env=clean(PORT=PORT, HEALTHY_SECONDS="30", WATCH_SECONDS="1"),
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
    """A forge with a copy of this project, not pushed yet."""
    project = shutil.copytree(baked, work / baked.name, symlinks=True)
    origin, server = work / "origin.git", work / "server"
    shutil.copytree(ROOT / ".github", work / "template/.github")  # the runner reads all that lies there
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(origin)], check=True)
    know_types(project, environment)
    installed = environment_of(project, f"environment-act-{PROCESS}")
    with GitHub(origin, REPOSITORY).started() as github:
        forge = Forge(project, origin, server, github, work, environment, installed)
        forge.git("remote", "add", "origin", origin)
        yield forge


def pushed(forge: Forge) -> Forge:
    """A forge whose first commits are pushed."""
    forge.git("push", "--quiet", "--set-upstream", "origin", "main")
    forge.git("clone", "--quiet", forge.origin, forge.server, where=forge.work)
    return forge


@pytest.fixture(scope="module")
def forge(
    bake: Bake, environment: Path, quick: Path, registry: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Forge]:
    """The forge of the story, which several tests tell. (`quick` compiled what its environment shares.)"""
    baked = bake(container_registry=f"{registry}/team-{time.time_ns()}")
    with founded(baked, environment, tmp_path_factory.mktemp("forge")) as forge:
        few_rows(forge.project, transactions=10_000, users=400, max_iter=10)  # the second will be better
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
def another(quick: Path, environment: Path, tmp_path: Path) -> Iterator[Forge]:
    """A forge for one test, whose project was trained on a few rows."""
    with founded(quick, environment, tmp_path) as forge:
        yield pushed(forge)


def test_from_the_first_push_to_a_rollback(forge: Forge) -> None:
    """One story, as each part stands on the one before."""
    # A freshly baked project, no secret, no variable: green, an image in the registry, a commit on staging.
    forge.step("laptop", GIT_COMMITTER_NAME="You")  # commit
    forge.step("laptop")  # push
    code, said = forge.run("push")
    assert code == 0, said[-5000:]
    assert "No `DVC_REMOTE_URL`" in said and "no merged pull request has a run with a cache" in said
    assert forge.step("laptop").startswith("Deploy ")  # pull
    forge.git("clone", "--quiet", forge.origin, forge.server, where=forge.work)
    first = forge.release()
    assert re.fullmatch(r".+/fraud-detection@sha256:[0-9a-f]{64}", first["IMAGE"])
    assert f"attested {first['IMAGE']} provenance" in said and f"attested {first['IMAGE']} sbom.json" in said
    assert re.search("attested model.onnx@sha256:[0-9a-f]{64} provenance", said)
    assert re.search("attested model.json@sha256:[0-9a-f]{64} provenance", said)
    assert forge.git("show", "--format=%s", "--name-only", "main", where=forge.origin).split("\n\n") == [
        f"Deploy {first['MODEL_VERSION']} to staging",
        "deploy/staging/release.env",
    ]
    assert f"now runs {first['IMAGE']}" in forge.step("server")
    answer = json.loads(forge.step("server"))  # by the user's key: the features are in the image
    assert answer["model_version"] == first["MODEL_VERSION"]
    before = forge.served()
    assert before["version"] == first["MODEL_VERSION"]
    assert "staging runs" in forge.reconcile()  # nothing to do

    # A second commit with a better model follows.
    forge.change("max_iter: 10\n", "max_iter: 100\n")
    forge.commit("A better model")
    code, said = forge.run("push", "--var", "BATCH_IMAGE=true")
    assert code == 0, said[-5000:]
    second = forge.release()
    name = second["IMAGE"].split("@")[0]
    batch = f"{name}:batch-{second['MODEL_VERSION']}"  # as the CronJob names it
    features = docker("run", "--rm", "--pull=always", "--entrypoint=ls", batch, "data/features")
    assert features.split() == ["transaction_features.parquet", "user_features.parquet"]
    assert len(set(re.findall(rf"attested {name}@(\S+) provenance", said))) == 2
    assert f"now runs {second['IMAGE']}" in forge.reconcile()
    after = forge.served()
    assert after["version"] == second["MODEL_VERSION"] != first["MODEL_VERSION"]
    assert after["metrics"]["auc"] > before["metrics"]["auc"]

    # A commit whose model fails the gate changes nothing.
    forge.change("min: 0.85", "min: 0.999")
    forge.commit("Too much to ask")
    code, said = forge.run("push")
    assert code != 0 and "❌ **Gate:**" in said
    assert forge.release() == second
    assert "staging runs" in forge.reconcile()
    forge.change("min: 0.999", "min: 0.85")

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
    assert "no earlier release" in forge.tabloop("release", "rollback", "production", code=1)


def dispatch(forge: Forge, expected: int = 0, run_id: str = "", **inputs: str) -> str:
    """What the workflow deploy says."""
    options = [
        part for name, value in inputs.items() for part in ("--input", f"{name.replace('_', '-')}={value}")
    ]
    workflow = ["--workflows", ".github/workflows/deploy.yml"]
    given: dict[str, Any] = {n.replace("_", "-"): v for n, v in inputs.items()}
    code, said = forge.run("workflow_dispatch", *workflow, *options, payload={"inputs": given}, run_id=run_id)
    assert bool(code) == bool(expected), said[-5000:]
    return said


def test_production_by_dispatch_and_back(forge: Forge) -> None:
    """After the story above: what staging runs goes to production, as a commit or a pull request."""
    forge.git("pull", "--quiet", "--rebase")
    start, staged = forge.release("production"), forge.release()
    forge.step("laptop")  # deploy production
    first = forge.release("production")
    assert {n: first[n] for n in ("IMAGE", "MODEL_VERSION")} == {
        n: staged[n] for n in ("IMAGE", "MODEL_VERSION")
    }
    assert f"now runs {first['IMAGE']}" in forge.step("server")
    forge.step("laptop")  # roll back
    assert forge.release("production") == start

    # By the button: by digest; back to a version by its name; as a pull request, once, however often.
    image = first["IMAGE"]
    dispatch(forge, environment="production", image=image)
    assert forge.release("production") == first
    forge.git("pull", "--quiet", "--rebase")
    forge.tabloop("release", "set", "staging", "MODEL_VERSION=newer")
    forge.git("push", "--quiet")
    dispatch(forge, environment="production")
    assert forge.release("production")["MODEL_VERSION"] == "newer"
    for _ in range(2):  # the same run again: it goes no further back
        said = dispatch(forge, environment="production", rollback="true", run_id="3000")
        assert forge.release("production") == first
    assert "run 3000 changed production already: nothing to do" in said
    for _ in range(2):
        dispatch(forge, environment="production", pull_request="true")
    assert forge.release("production") == first
    (pull,) = forge.github.things["pulls"]
    assert pull["base"]["ref"] == "main" and pull["title"] == "Deploy newer to production"
    assert pull["head"]["ref"] == "deploy/production"

    # An image that is not there, one that nobody attested, a push that is refused: red, and nothing is changed.
    tip = forge.git("rev-parse", "main", where=forge.origin)
    for bad, why in (
        (image.split("@")[0] + "@sha256:" + "0" * 64, "can't be pulled"),
        (forge.unattested(image), "was not verified: Error: no attestations found"),
    ):
        assert why in dispatch(forge, 1, environment="production", image=bad)
    hook = forge.origin / "hooks/pre-receive"
    hook.write_text(
        "#!/bin/sh\necho 'error: GH013: Repository rule violations found for refs/heads/main.' >&2\nexit 1\n"
    )
    hook.chmod(0o755)
    said = dispatch(forge, 1, environment="production")
    assert "GH013: Repository rule violations found" in said and "set BOT_TOKEN" in said
    hook.unlink()
    assert forge.git("rev-parse", "main", where=forge.origin) == tip


def remote_of(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_a_pull_request_changes_nothing_shared_and_is_not_trained_again_after_the_merge(
    another: Forge, run: Run
) -> None:
    forge, things = another, another.github.things
    remote, registry = forge.work / "dvc", forge.work / "shared-mlflow.db"
    where = {"DVC_REMOTE_URL": str(remote), "MLFLOW_TRACKING_URI": f"sqlite:///{registry}"}
    shared = [part for name, value in where.items() for part in ("--var", f"{name}={value}")]
    run(forge.project, "tabloop", "remote", "push", **where)  # as the run of main did
    before = remote_of(remote)
    assert before

    forge.page = forge.page[-1:]
    forge.git("switch", "--quiet", "main")
    forge.step("laptop", GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="push.default", GIT_CONFIG_VALUE_0="current")
    pull = forge.github.add_pull("longer")
    payload = {
        "pull_request": {"number": pull["number"], "head": pull["head"], "base": pull["base"]},
        "number": pull["number"],
    }
    tip = forge.git("rev-parse", "main", where=forge.origin)
    code, said = forge.run("pull_request", *shared, payload=payload, run_id="2000")
    assert code == 0, said[-5000:]
    assert "Running stage 'train'" in said
    (comment,) = things["comments"]
    for part in ("**Gate:** ", "| AUC | 0.9", "xychart", "### Image", " MB; ", '"probability"'):
        assert comment["body"].count(part) >= 1, part
    assert comment["body"].count("### Image") == 1
    assert forge.git("rev-parse", "main", where=forge.origin) == tip and "Pushed `" not in said
    assert remote_of(remote) == before and not registry.exists()

    # Merged: main takes what the pull request trained.
    merged = forge.git("commit-tree", f"{pull['head']['sha']}^{{tree}}", "-p", tip, "-m", "Train longer (#1)")
    forge.git("push", "--quiet", "origin", f"{merged}:refs/heads/main")
    forge.git("switch", "--quiet", "main")
    forge.git("pull", "--quiet")
    forge.github.merge(pull, merged)
    earlier = forge.github.add_run(pull["head"]["sha"])
    (forge.work / f"artifacts/{earlier['id']}").symlink_to("2000")
    code, said = forge.run("push", *shared, "--job", "train")
    assert code == 0, said[-5000:]
    assert "Stage 'train' is cached" in said and "Running stage 'train'" not in said
    assert remote_of(remote) > before and registry.exists()


def test_a_fork_without_secrets_passes(another: Forge) -> None:
    """A variable is set, its credentials are not given; the token may only read."""
    forge = another
    forge.github.tokens["of-the-test"].permissions = {"contents": "read"}
    pull = forge.github.add_pull("main", fork="someone/fraud-detection")
    payload = {"pull_request": {"number": pull["number"], "head": pull["head"], "base": pull["base"]}}
    code, said = forge.run(
        "pull_request",
        "--var",
        "DVC_REMOTE_URL=s3://a-bucket/that-needs-a-secret",
        "--job",
        "train",
        payload=payload,
    )
    assert code == 0, said[-5000:]
    assert "This pull request has no secrets" in said and not forge.github.things["comments"]


def test_a_table_is_scored_and_refused_rows_are_red_and_kept_beside_the_scores(
    another: Forge, run: Run
) -> None:
    forge, remote = another, another.work / "scored"
    run(forge.project, "dvc", "remote", "modify", "--local", "local", "url", str(remote))
    run(forge.project, "dvc", "push")
    rows = pd.read_parquet(forge.project / "data/features/holdout.parquet").head(3)
    columns = ["transaction_id", "user_id", "timestamp", "amount", "merchant_category", "channel"]
    rows[columns].assign(amount=[1.5, -1, 2.5]).to_csv(forge.project / "rows.csv", index=False)
    drift = (forge.project / ".github/workflows/drift.yml").read_text()
    called = re.findall("uses: (.+?)/\\.github", drift)[0]
    (forge.project / ".github/workflows/batch.yml").write_text(f"""\
name: batch
on: workflow_dispatch
jobs:
  batch:
    uses: {called}/.github/workflows/batch.yml@v1
    permissions: {{ contents: read, id-token: write }}
    with: {{ source: rows.csv, dvc-remote-url: "{remote}" }}
""")
    forge.git("add", "rows.csv", ".github")
    forge.commit("Score a table")
    code, said = forge.run("workflow_dispatch", "--workflows", ".github/workflows/batch.yml", run_id="4000")
    assert code != 0 and "2 rows scored" in said, said[-5000:]
    scores = forge.work / "artifacts/4000/scores"
    assert list(pd.read_parquet(scores / "scores.parquet")["probability"].between(0, 1)) == [True, True]
    (refused,) = pd.read_parquet(scores / "scores.refused.parquet").to_dict("records")
    assert refused["reasons"].startswith("amount: ")


def test_drift_opens_one_issue_and_retrains_once_and_the_challenger_is_judged(
    another: Forge, run: Run, serve: Serve, project: Project, quick: Path
) -> None:
    """The schedule's workflows, on a project whose models are in a DVC remote and whose service wrote a log."""
    forge, copy, remote = another, project(quick), another.work / "remote"
    forge.git(
        "init", "--quiet", "--bare", "--initial-branch=main", forge.work / "watched.git", where=forge.work
    )
    watched = replace(forge, project=copy, origin=forge.work / "watched.git")
    forge.github.origin = watched.origin
    watched.git("remote", "add", "origin", watched.origin)
    few_rows(
        copy, transactions=8000, users=800
    )  # retrain finds new data; a verdict needs 200 users of each model
    run(copy, "dvc", "remote", "modify", "--local", "local", "url", str(remote))
    run(copy, "dvc", "push")
    run(copy, "tabloop", "release", "set", "staging", "MODEL_VERSION=first")
    watched.git("commit", "--quiet", "--all", "--message", "More data")
    watched.git("push", "--quiet", "--set-upstream", "origin", "main")

    def act(workflow: str, log: Path | str = "", event: str = "workflow_dispatch", expected: int = 0) -> str:
        options = ["--workflows", f".github/workflows/{workflow}.yml", "--var", f"DVC_REMOTE_URL={remote}"]
        options += ["--var", f"PREDICTION_LOG={log}"] if log else []
        options += ["--input", "environment=staging"] if workflow == "promote" else []
        code, said = watched.run(event, *options, payload={"inputs": {"environment": "staging"}})
        assert bool(code) == bool(expected), said[-5000:]
        return said

    def kept(artifact: str) -> set[str]:
        return {path.name for path in forge.work.glob(f"artifacts/*/{artifact}/*")}

    things = forge.github.things
    act("drift", event="schedule")  # not configured: a job that is skipped
    assert not things["issues"]
    assert "is PREDICTION_LOG right" in act("drift", forge.work / "mistyped", event="schedule", expected=1)
    with serve(copy) as server:
        traffic(run, copy, server, 3000, "--drift", "amount=4")
        act("drift", server.log, event="schedule")
        (issue,) = things["issues"]
        assert "⚠️ **Drift** in 3,000" in issue["body"] and issue["labels"][0]["name"] == "model-drift"
        assert {"drift.html", "evidently_drift.html"} <= kept("drift")
        assert things["dispatches"] == [{"workflow": "retrain.yml", "ref": "main", "inputs": {}}]

    # The setting is off: red, with its name. Set, the run is repeated, and pushes to its branch again.
    forge.github.actions_may_open_pulls = False
    said = act("retrain", server.log, expected=1)
    assert (
        "GitHub Actions is not permitted to create or approve pull requests" in said and not things["pulls"]
    )
    forge.github.actions_may_open_pulls = True
    act("retrain", server.log)
    (pull,) = things["pulls"]
    assert re.fullmatch("Make [0-9a-f]{12} the challenger", pull["title"]) and "| AUC | 0.9" in pull["body"]
    assert re.search(r"On production's rows\n\nreplay: .* on 3,000 labelled production rows\n", pull["body"])
    changed = watched.git("diff", "--name-only", "main", "retrain", where=watched.origin).splitlines()
    assert {"dvc.lock", "models/challenger.dvc", "MODEL_CARD.md"} <= set(
        changed
    ) and "models/champion.dvc" not in changed

    # Merged, it is a challenger; this one's threshold takes all for fraud.
    watched.git("fetch", "--quiet")
    watched.git("reset", "--quiet", "--hard", "origin/retrain")
    run(copy, "dvc", "pull", "--quiet")
    watched.git("push", "--quiet", "origin", "HEAD:main")
    forge.github.merge(pull, watched.git("rev-parse", "HEAD"))
    assert "Nothing new" in act("retrain") and len(things["pulls"]) == 1
    install(run, copy, "challenger", threshold=0.0)
    release = copy / "deploy/staging/release.env"
    release.write_text(release.read_text().replace("MODE=off", "MODE=ab").replace("SHARE=0\n", "SHARE=0.5\n"))
    run(copy, "dvc", "push")
    watched.git("commit", "--quiet", "--all", "--message", "Try the challenger in staging")
    watched.git("push", "--quiet", "origin", "HEAD:main")
    with serve(copy, CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.5") as server:
        traffic(run, copy, server, 300)
        assert "**Keep going**" in act("promote", server.log) and len(things["pulls"]) == 1
        traffic(run, copy, server, 12_000, "--seed", "1")
        act("promote", server.log)
        assert {"experiment.json", "experiment.png"} <= kept("experiment")
    _, pull = things["pulls"]
    assert pull["title"].startswith("Withdraw the challenger ") and "| cost of a prediction |" in pull["body"]
    changed = watched.git("diff", "--name-only", "main", "verdict", where=watched.origin).splitlines()
    assert changed == ["MODEL_CARD.md", "models/challenger.dvc"]
