"""The whole loop on one machine, told as it goes; every step that changes what runs is a commit of this project.

Train, serve, traffic, drift, retrain on what was served, challenger in the shadow, A/B, promotion; then a challenger
that is bad, withdrawn; and a roll-back. `git log` tells it again.
"""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from .params import ROOT, UserError, stage

LOG = ROOT / "data/log"
PACKAGE = __package__ or ""


def tell(text: str) -> None:
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def run(*command: str, code: tuple[int, ...] = (0,), **variables: str) -> str:
    """What a command says.

    Raises:
        UserError: it ended otherwise than with one of `code`.
    """
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | variables)
    if done.returncode not in code:
        raise UserError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()


def module(name: str, *arguments: str, code: tuple[int, ...] = (0,)) -> str:
    return run(sys.executable, "-m", f"{PACKAGE}.{name}", *arguments, code=code, PREDICTION_LOG=str(LOG))


def commit(message: str) -> None:
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--allow-empty", "--no-verify", "--message", message)
    print("  " + run("git", "log", "-1", "--format=commit %h: %s"))


def release(**changes: str) -> None:
    """Change deploy/staging/release.env."""
    path = ROOT / "deploy/staging/release.env"
    text = path.read_text()
    for name, value in changes.items():
        text = re.sub(f"^{name}=.*$", f"{name}={value}", text, flags=re.MULTILINE)
    path.write_text(text)


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The service as deploy/staging/release.env has it; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    text = (ROOT / "deploy/staging/release.env").read_text()
    chosen = dict(line.split("=", 1) for line in text.splitlines() if line.startswith("CHALLENGER_"))
    env = os.environ | chosen | {"PORT": port, "PREDICTION_LOG": str(LOG), "PREDICTION_LOG_SECONDS": "1"}
    command = [sys.executable, "-m", f"{PACKAGE}.serving"]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            if process.poll() is not None:
                raise UserError("the service did not start: `make serve` says why")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/health/ready")
                break
            time.sleep(0.05)
        model = json.load(urllib.request.urlopen(f"{url}/model"))
        challenger = (
            f", challenger {model['challenger']['version']} ({model['challenger_mode']})"
            if model["challenger"]
            else ""
        )
        print(f"  served: champion {model['champion']['version']}{challenger}")
        yield url
    finally:
        process.terminate()
        process.wait()


def traffic(url: str, rows: int, *options: str) -> None:
    print("  " + module("monitoring.simulate", "--url", url, "--rows", str(rows), *options))


def experiment() -> dict[str, Any]:
    print("  " + module("monitoring.experiment", "staging").replace("\n", "\n  "))
    found: dict[str, Any] = json.loads((ROOT / "reports/experiment.json").read_text())
    return found


def until_decided(rounds: int = 8) -> str:
    """Traffic, and a look at the experiment, until there is a verdict; looking often is allowed."""
    with served() as url:
        for seed in range(rounds):
            traffic(url, 6000, "--seed", str(seed + 10))
            time.sleep(2)  # the log's interval
            if (found := experiment())["verdict"] != "keep going":
                break
    return str(found["verdict"])


def main() -> None:
    from .params import load

    if run("git", "status", "--porcelain"):
        raise UserError(
            "there are uncommitted changes: commit or stash them first, as the loop makes commits"
        )
    schema = load().schema_
    column = next(
        (n for n, c in [*schema.request.items(), *schema.features.items()] if c.type == "number"), None
    )
    if column is None:
        raise UserError("the loop lets a column of type `number` drift, and the schema has none")
    drift = ["--drift", f"{column}=100"]
    shutil.rmtree(LOG, ignore_errors=True)

    tell("1. Train: data to a gated model, which becomes the champion")
    run("dvc", "repro")
    commit("Loop: first champion")

    tell("2. Serve it, with traffic as in training: no drift")
    with served() as url:
        traffic(url, 5000)
    print("  " + module("monitoring.drift").splitlines()[0])

    tell(
        f"3. The world changes: {column} arrives in another unit, a hundred times what it was. Drift is found"
    )
    with served() as url:
        traffic(url, 15000, *drift, "--seed", "1")
    print("  " + module("monitoring.drift", code=(3,)).splitlines()[0])
    print("  " + module("monitoring.performance", code=(0, 3)).splitlines()[0])

    tell(
        "4. Retrain, with the labelled predictions among the data; the candidate passes the gate, is the challenger"
    )
    params = ROOT / "params.yaml"
    params.write_text(params.read_text().replace("  feedback: null", "  feedback: data/log", 1))
    run("dvc", "repro")
    print("  " + module("summary", "--markdown").splitlines()[2])
    title = module("rollout", "challenge").splitlines()[0]
    release(CHALLENGER_MODE="shadow")
    commit(f"Loop: {title}, in the shadow")

    tell("5. In the shadow: the champion answers, both are logged, the comparison is paired")
    with served() as url:
        traffic(url, 3000, "--seed", "2")
    time.sleep(1)
    experiment()

    tell("6. A/B: each customer meets one of them; the verdict may be looked at as often as one likes")
    release(CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.5")
    commit("Loop: A/B, half of the customers")
    step = "promote" if until_decided() == "promote" else "withdraw"
    title = module("rollout", step).splitlines()[0]
    release(CHALLENGER_MODE="off", CHALLENGER_SHARE="0")
    commit(f"Loop: {title}")

    tell("7. A bad challenger: its threshold lets everything pass. The experiment takes it back")
    champion = ROOT / "models/champion"
    shutil.copytree(champion, ROOT / "models/challenger")
    card = json.loads((champion / "model.json").read_text())
    (ROOT / "models/challenger/model.json").write_text(
        json.dumps(card | {"version": "bad0bad0bad0", "threshold": 1.0})
    )
    run("dvc", "add", "models/challenger")
    release(CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.5")
    commit("Loop: a bad challenger")
    if until_decided() != "withdraw":
        raise UserError("the bad challenger was not found out")
    title = module("rollout", "withdraw").splitlines()[0]
    release(CHALLENGER_MODE="off", CHALLENGER_SHARE="0")
    commit(f"Loop: {title}")

    tell("8. Roll back the promotion: git has the pin of the champion before, DVC its files")
    if promotion := run("git", "log", "-1", "--format=%H", "--grep", "Loop: Promote"):
        run("git", "checkout", f"{promotion}^", "--", "models/champion.dvc")
        run("dvc", "checkout", "--force", "models/champion.dvc")
        commit("Loop: Roll back the promotion")
        with served():
            pass
    tell(
        "That was the loop. `git log --grep Loop` has it; reports/drift.html and reports/experiment.png show it."
    )


if __name__ == "__main__":
    with stage("loop"):
        main()
