"""The steps of the loop, in the clone that `apart` makes. Every step that changes what runs is a commit of the clone."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

from tabloop import apart, drift, experiment, files, owner, release, report, roles
from tabloop.cli import FOUND, UserError, command, finished
from tabloop.params import ROOT, Cost, Params, load

ENVIRONMENT = "staging"
COMMITS: list[str] = []
STORY: list[dict[str, Any]] = []  # for each start of the service: what it serves, and what was found then


def run(*arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a command in the project; its standard output.

    Raises:
        UserError: its exit code is not one of `codes`.
    """
    done = finished(*arguments, why="the loop runs it", cwd=ROOT, stdin=subprocess.DEVNULL)
    if done.returncode not in codes:
        raise UserError(f"{' '.join(arguments)}: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout.strip()


def tabloop(*arguments: str, codes: tuple[int, ...] = (0,)) -> str:
    """Run a tabloop command; its standard output."""
    return run(sys.executable, "-m", "tabloop", *arguments, codes=codes)


def commit(message: str) -> None:
    """Commit everything."""
    run("git", "add", "--all")
    run("git", "commit", "--quiet", "--allow-empty", "--no-verify", "--message", f"Loop: {message}")
    COMMITS.append(message)
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
    env = os.environ | {"PORT": port, "PREDICTION_LOG_SECONDS": "1"}
    env |= {n: v for n, v in release.read(ENVIRONMENT).items() if n.startswith("CHALLENGER_")}
    app, quiet = [sys.executable, "-m", f"{owner.package()}.app"], subprocess.DEVNULL
    process = subprocess.Popen(app, cwd=ROOT, env=env, stdin=quiet, stderr=quiet)
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
    other, mode = model["challenger"], model["challenger_mode"]
    share = {"ab": float(release.read(ENVIRONMENT)["CHALLENGER_SHARE"])}.get(mode, 0)
    found = {"champion": model["champion"]["version"], "challenger": other and other["version"]}
    STORY.append(found | {"mode": mode, "share": share, "rows": 0, "commits": len(COMMITS)})
    also = f", challenger {other['version']} ({mode})" if other else ""
    return f"champion {model['champion']['version']}{also}"


def traffic(rows: int, *options: str, seeds: Iterable[int] = (0,)) -> None:
    """Serve, and for each seed send rows and then their labels. All of them are in the log afterwards."""
    with served() as url:
        for seed in seeds:
            print("  " + tabloop("traffic", "--url", url, "--rows", str(rows), "--seed", str(seed), *options))
            STORY[-1]["rows"] += rows


def verdict() -> str:
    """The verdict on the challenger as it stands."""
    print("  " + tabloop("experiment", ENVIRONMENT).replace("\n", "\n  "))
    result = json.loads(experiment.REPORT.read_text("utf-8"))
    STORY[-1] |= {name: result["days"][-1][name] for name in ("saving", "low", "high") if result["days"]}
    return str(STORY[-1].setdefault("verdict", result["verdict"]))


def drifted(column: str, *codes: int) -> None:
    """What the log says of drift, and how far the column is from its reference."""
    print("  " + tabloop("drift", codes=codes).splitlines()[0])
    found = json.loads(drift.REPORT.with_suffix(".json").read_text("utf-8"))["columns"][column]
    STORY[-1] |= {"distance": found["distance"], "bar": found["distance_bar"]}


def until_decided(rounds: int = 8) -> str:
    """Traffic and the verdict in turns, until it is another than to keep going."""
    for seed in range(rounds):
        traffic(6000, seeds=[seed + 10])
        if (decided := verdict()) != "keep going":
            break
    return decided


def play() -> None:
    """Play the loop and write its page; all of it ends with the process that started it, whose pipe is the input.

    Raises:
        UserError: a step fails, or the bad challenger is not withdrawn.
    """

    def end_together() -> None:
        sys.stdin.read()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=end_together, daemon=True).start()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    params = load()
    column = drifting(params)
    train_and_drift(column)
    retrain_and_promote()
    withdraw_a_bad_challenger()
    roll_back()
    page = report.render("loop.html", project=params.project, column=column, story=STORY, commits=COMMITS)
    files.write(ROOT / apart.PAGE, page)


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
    drifted(column, 0)
    print(f"\n3. The data changes: {column} arrives in another unit, a hundred times as large: drift")
    traffic(5000, "--drift", f"{column}=100", seeds=range(1, 5))
    drifted(column, FOUND)
    print("  " + tabloop("performance", codes=(0, FOUND)).splitlines()[0])


def retrain_and_promote() -> None:
    """A candidate trained on the labelled predictions, tried in shadow and in an A/B test."""
    print("\n4. Retrain with the labels: the candidate passes the gate and becomes the challenger")
    params = ROOT / "params.yaml"
    params.write_text(with_labels(params.read_text("utf-8")), "utf-8")
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


def with_labels(text: str) -> str:
    """The text of params.yaml with the log's labels in train and holdout."""
    # Of the newest rows only some are held out, those of the last round: train has the others, whose labels came before.
    for name, value in {"feedback": "data/log", "feedback_in_holdout": "true", "holdout": "0.04"}.items():
        text = re.sub(rf"(?m)^  {name}:.*$", f"  {name}: {value}", text, count=1)
    return text


def withdraw_a_bad_challenger() -> None:
    """A challenger that predicts one class for every row."""
    print("\n7. A bad challenger: it predicts the same class for every row. It is withdrawn")
    found = json.loads(roles.EVALUATION.read_text("utf-8"))
    bad = {"version": "bad0bad0bad0", "threshold": float(none_is_dear(found, load().evaluate.cost))}
    card = roles.required("champion").model_copy(update=bad)
    roles.install("challenger", card, source=roles.MODELS / "champion")
    challenger("ab", "0.5")
    commit("a bad challenger")
    if until_decided() != "withdraw":
        raise UserError("the experiment did not find the bad challenger")
    title = tabloop("rollout", "withdraw")
    challenger("off")
    commit(title)


def none_is_dear(found: dict[str, Any], cost: Cost) -> bool:
    """Whether decisions by which no row is positive cost twice what the candidate's do, or more than if each row is."""
    share = found["positives"] / found["rows"]
    return share * cost.false_negative >= min(2 * found["cost_per_row"], (1 - share) * cost.false_positive)


def roll_back() -> None:
    """The champion before the promotion, if there was one."""
    if promotion := run("git", "log", "-1", "--format=%H", "--grep", "Loop: Promote"):
        print("\n8. Roll back the promotion: git has the pin of the champion before it, DVC its files")
        run("git", "checkout", f"{promotion}^", "--", "models/champion.dvc", "MODEL_CARD.md")
        run("dvc", "checkout", "--force", "models/champion.dvc")
        commit("Roll back the promotion")
        with served():
            pass


if __name__ == "__main__":
    with command("loop"):
        play()
