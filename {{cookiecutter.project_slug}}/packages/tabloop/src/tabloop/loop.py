"""Play the whole loop on this machine. Every step that changes what runs is a commit of this project."""

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
from collections.abc import Iterable, Iterator

from tabloop import experiment, owner, release, roles
from tabloop.cli import FOUND, UserError
from tabloop.params import ROOT, Params, load

LOG, ENVIRONMENT = ROOT / "data/log", "staging"


def run(*command: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a command in the project; its standard output.

    Raises:
        UserError: its exit code is not one of `codes`.
    """
    env = os.environ | {"PREDICTION_LOG": str(LOG)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=env)
    if done.returncode not in codes:
        raise UserError(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()


def tabloop(*arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a tabloop command; its standard output."""
    return run(sys.executable, "-m", "tabloop", *arguments, codes=codes)


def commit(message: str) -> None:
    """Commit everything."""
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--allow-empty", "--no-verify", "--message", f"Loop: {message}")
    print("  " + run("git", "log", "-1", "--format=commit %h: %s"))


def challenger(mode: str, share: str = "0") -> None:
    """Set how the environment uses its challenger; `commit` commits it."""
    release.change(ENVIRONMENT, CHALLENGER_MODE=mode, CHALLENGER_SHARE=share)


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The service as the environment's release.env configures it; its address.

    Raises:
        UserError: it does not become ready.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    env = os.environ | {"PORT": port, "PREDICTION_LOG": str(LOG), "PREDICTION_LOG_SECONDS": "1"}
    env |= {n: v for n, v in release.read(ENVIRONMENT).values.items() if n.startswith("CHALLENGER_")}
    env["PYTHONPATH"] = f"{ROOT / 'src'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    command = [sys.executable, "-m", f"{owner.package()}.app"]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        print(f"  serving {ready(url, process)}")
        yield url
    finally:
        process.terminate()
        process.wait()  # it writes the rest of the log first


def ready(url: str, process: "subprocess.Popen[bytes]") -> str:
    """Wait until the service is ready; what it serves."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/health/ready", timeout=10)
            break
        time.sleep(0.05)
    else:
        raise UserError("the service does not start: run `make serve` to see why")
    with urllib.request.urlopen(f"{url}/model", timeout=10) as answer:
        model = json.load(answer)
    other = model["challenger"]
    also = f", challenger {other['version']} ({model['challenger_mode']})" if other else ""
    return f"champion {model['champion']['version']}{also}"


def traffic(rows: int, *options: str, seeds: Iterable[int] = (0,)) -> None:
    """Serve, and for each seed send rows and then their labels. All of them are in the log afterwards."""
    with served() as url:
        for seed in seeds:
            print("  " + tabloop("traffic", "--url", url, "--rows", str(rows), "--seed", str(seed), *options))


def verdict() -> str:
    """The verdict on the challenger as it stands."""
    print("  " + tabloop("experiment", ENVIRONMENT).replace("\n", "\n  "))
    return str(json.loads(experiment.REPORT.read_text())["verdict"])


def until_decided(rounds: int = 8) -> str:
    """Traffic and the verdict in turns, until it is another than to keep going."""
    for seed in range(rounds):
        traffic(6000, seeds=[seed + 10])
        if (decided := verdict()) != "keep going":
            break
    return decided


def main() -> None:
    """Play the loop.

    Raises:
        UserError: there are uncommitted changes, a step fails, or the bad challenger is not withdrawn.
    """
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if run("git", "status", "--porcelain"):
        raise UserError(
            "there are uncommitted changes: commit or stash them first, as the loop makes commits"
        )
    column = drifting(load())
    shutil.rmtree(LOG, ignore_errors=True)
    train_and_drift(column)
    retrain_and_promote()
    withdraw_a_bad_challenger()
    roll_back()
    print("\nThe loop is complete. See `git log --grep Loop`, reports/drift.html and reports/experiment.png.")


def drifting(params: Params) -> str:
    """The column that drifts: the first number, of the request if it has one."""
    schema = params.schema_
    if found := [n for n, c in {**schema.request, **schema.features}.items() if c.type == "number"]:
        return found[0]
    raise UserError("the loop needs a column of type `number`, and the schema has none")


def train_and_drift(column: str) -> None:
    """The first champion, and data that drifts."""
    print("\n1. Train: data to a gated model, which becomes the champion")
    run("dvc", "repro")
    commit("first champion")
    print("\n2. Serve it, with traffic as in training: no drift")
    traffic(5000)
    print("  " + tabloop("drift").splitlines()[0])
    print(f"\n3. The data changes: {column} arrives in another unit, a hundred times as large: drift")
    traffic(5000, "--drift", f"{column}=100", seeds=range(1, 5))
    print("  " + tabloop("drift", codes=(FOUND,)).splitlines()[0])
    print("  " + tabloop("performance", codes=(0, FOUND)).splitlines()[0])


def retrain_and_promote() -> None:
    """A candidate trained on the labelled predictions, tried in shadow and in an A/B test."""
    print(
        "\n4. Retrain with the labelled predictions: the candidate passes the gate and becomes the challenger"
    )
    params = ROOT / "params.yaml"
    # Of the newest rows only some are held out, those of the last round: train has the others, whose labels came before.
    text = re.sub(r"(?m)^  holdout: [\d.]+", "  holdout: 0.04", params.read_text())
    text = text.replace("feedback_in_holdout: false", "feedback_in_holdout: true", 1)
    params.write_text(text.replace("  feedback: null", "  feedback: data/log", 1))
    run("dvc", "repro")
    print("  " + tabloop("summary", "--markdown").splitlines()[2])
    title = tabloop("rollout", "challenge")
    challenger("shadow")
    commit(f"{title}, in shadow")
    print("\n5. Shadow: the champion answers, both are logged, the comparison is paired")
    traffic(3000, seeds=[5])
    verdict()
    print("\n6. A/B test: each customer meets one of the two; the verdict may be computed at any time")
    challenger("ab", "0.5")
    commit("A/B test, half of the customers")
    title = tabloop("rollout", "promote" if until_decided() == "promote" else "withdraw")
    challenger("off")
    commit(title)


def withdraw_a_bad_challenger() -> None:
    """A challenger that never predicts the positive class."""
    print("\n7. A bad challenger: its threshold is too high for any positive prediction. It is withdrawn")
    bad = {"version": "bad0bad0bad0", "threshold": 1.0}
    card = roles.required("champion").model_copy(update=bad)
    roles.install("challenger", card, source=roles.MODELS / "champion")
    challenger("ab", "0.5")
    commit("a bad challenger")
    if until_decided() != "withdraw":
        raise UserError("the experiment did not find the bad challenger")
    title = tabloop("rollout", "withdraw")
    challenger("off")
    commit(title)


def roll_back() -> None:
    """The champion before the promotion, if there was one."""
    if promotion := run("git", "log", "-1", "--format=%H", "--grep", "Loop: Promote"):
        print("\n8. Roll back the promotion: git has the pin of the champion before it, DVC its files")
        run("git", "checkout", f"{promotion}^", "--", "models/champion.dvc", "MODEL_CARD.md")
        run("dvc", "checkout", "--force", "models/champion.dvc")
        commit("Roll back the promotion")
        with served():
            pass
