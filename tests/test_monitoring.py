"""What was served is watched: drift, performance, the A/B verdict; candidates become challengers and champions."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import UV, Project, Run, Serve, Server, wait_for


def traffic(run: Run, project: Path, server: Server, rows: int, *options: str) -> None:
    """Rows of the holdout to the service, and wait until they are logged."""
    before = server.metric("prediction_log_rows_total")
    command = [
        "python",
        "-m",
        "fraud_detection.monitoring.simulate",
        "--url",
        server.url,
        "--rows",
        str(rows),
    ]
    run(project, *command, *options)
    wait_for(lambda: server.metric("prediction_log_rows_total") >= before + rows)
    time.sleep(1.2)  # two intervals of the log: the last labels


def module(run: Run, project: Path, name: str, log: Path, *options: str, code: int = 0) -> str:
    command = ["python", "-m", f"fraud_detection.monitoring.{name}", *options]
    done = run(project, *command, code=code, PREDICTION_LOG=str(log), GITHUB_OUTPUT=str(project / "outputs"))
    return done.stdout + done.stderr


def outputs(project: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (project / "outputs").read_text().splitlines())


def install(run: Run, project: Path, role: str, **changes: Any) -> None:
    """Make the candidate that role's model whatever the gate says of it, with changes to its evaluation."""
    script = f"""
import json
from fraud_detection.params import ROOT
from fraud_detection.pipeline.register import install
model = json.loads((ROOT / "models/candidate/model.json").read_text())
install({role!r}, model, json.loads((ROOT / "metrics/evaluation.json").read_text()) | {changes!r})
"""
    run(project, "python", "-c", script)


def retrain(run: Run, project: Path, old: str, new: str, code: int = 0) -> None:
    params = project / "params.yaml"
    assert old in params.read_text()
    params.write_text(params.read_text().replace(old, new))
    run(project, "dvc", "repro", code=code)


@pytest.fixture(scope="module")
def candidate(trained: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose candidate is another model than its champion; don't write into it."""
    folder = shutil.copytree(trained, tmp_path_factory.mktemp("candidate") / trained.name, symlinks=True)
    retrain(run, folder, "max_iter: 100", "max_iter: 120")
    return folder


def test_drift_is_found_where_there_is_some(run: Run, serve: Serve, project: Project, trained: Path) -> None:
    copy = project(trained)
    with serve(copy) as server:
        assert "there is no prediction log" in module(run, copy, "drift", server.log)
        traffic(run, copy, server, 1000)
        assert "2,000 predictions of" in module(run, copy, "drift", server.log)
        traffic(run, copy, server, 4000)
        assert "No drift in 5,000 predictions" in module(run, copy, "drift", server.log)
        assert outputs(copy)["drift"] == "false"
        page = (copy / "reports/drift.html").read_text()
        assert "<script src=" not in page and "Wasserstein" in page
        traffic(run, copy, server, 6000, "--drift", "amount=4")
        assert "⚠️ **Drift** in 11,000 predictions" in module(run, copy, "drift", server.log, code=3)
        assert outputs(copy)["drift"] == "true"
        found = json.loads((copy / "reports/drift.json").read_text())
        assert found["columns"]["amount"]["drift"] and not found["columns"]["country"]["drift"]
        run(copy, "make", f"UV={UV}", "drift", PREDICTION_LOG=str(server.log))  # what is found is no failure


def test_drift_names_what_it_can_not_compare(run: Run, serve: Serve, project: Project, trained: Path) -> None:
    copy = project(trained)
    with serve(copy) as server:
        traffic(run, copy, server, 2000)
        script = """
import json, pandas as pd
from fraud_detection.params import MODELS
path = MODELS / "champion/reference.parquet"
rows = pd.read_parquet(path).drop(columns="age").assign(channel=None, max_1h_velocity=1.0)
rows.to_parquet(path)
"""
        run(
            copy,
            "python",
            "-c",
            script.replace("from fraud_detection.params", "from fraud_detection.pipeline.register"),
        )
        said = module(run, copy, "drift", server.log)
        for note in (
            "age: not in the reference",
            "channel: always missing",
            "max_1h_velocity: was the same value",
        ):
            assert note in said
    (copy / "models/champion/reference.parquet").unlink()
    assert "reference.parquet is missing" in module(run, copy, "drift", server.log, code=1)


def test_performance_by_week_and_variant_and_the_alarm(
    run: Run, serve: Serve, project: Project, trained: Path
) -> None:
    copy = project(trained)
    with serve(copy) as server:
        traffic(run, copy, server, 5000, "--labels", "0.8")
        said = module(run, copy, "performance", server.log)
        found = json.loads((copy / "reports/performance.json").read_text())
        assert found["window"]["unlabelled"] == pytest.approx(0.2) and "| champion | 5,000 | 20% |" in said
        assert found["window"]["auc_low"] < found["window"]["auc"] < found["window"]["auc_high"]
        assert found["window"]["auc"] > 0.9 and outputs(copy)["worse"] == "false"
        params = copy / "params.yaml"
        params.write_text(params.read_text().replace("min_auc: 0.85", "min_auc: 0.995"))
        assert "⚠️ **Worse" in module(run, copy, "performance", server.log, code=3)
        assert outputs(copy)["worse"] == "true"


def test_a_challenger_that_costs_more_is_withdrawn_one_that_saves_is_promoted(
    run: Run, serve: Serve, project: Project, candidate: Path
) -> None:
    """The same two models; what differs is whose threshold lets all fraud pass."""
    for bad, verdict in (("challenger", "withdraw"), ("champion", "promote")):
        copy = project(candidate)
        if bad == "challenger":
            install(run, copy, "challenger", threshold=0.99)
        else:
            run(copy, "python", "-m", "fraud_detection.rollout", "challenge")
            card = copy / "models/champion/model.json"
            card.write_text(json.dumps(json.loads(card.read_text()) | {"threshold": 0.99}))
        release = copy / "deploy/staging/release.env"
        release.write_text(
            release.read_text().replace("MODE=off", "MODE=ab").replace("SHARE=0\n", "SHARE=0.5\n")
        )
        with serve(copy, CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.5") as server:
            traffic(run, copy, server, 500)
            early = module(run, copy, "experiment", server.log, "staging")
            assert "**Keep going**" in early and "are needed" in early
            traffic(run, copy, server, 12_000, "--seed", "1")
            said = module(run, copy, "experiment", server.log, "staging")
            assert f"**{verdict.capitalize()}**" in said and outputs(copy)["verdict"] == verdict
            assert (copy / "reports/experiment.png").stat().st_size > 1000
            release.write_text(release.read_text().replace("SHARE=0.5", "SHARE=0.2"))
            assert "sample ratio mismatch" in module(run, copy, "experiment", server.log, "staging")


def test_in_shadow_the_comparison_is_paired(
    run: Run, serve: Serve, project: Project, candidate: Path
) -> None:
    copy = project(candidate)
    install(run, copy, "challenger", threshold=0.99)
    with serve(copy, CHALLENGER_MODE="shadow") as server:
        traffic(run, copy, server, 4000)
        said = module(run, copy, "experiment", server.log, "staging")
        assert "**Withdraw**" in said and "paired, in shadow" in said


def test_candidate_challenger_champion_and_back_are_commits(
    run: Run, project: Project, candidate: Path
) -> None:
    copy = project(candidate)

    def step(name: str) -> str:
        done = run(copy, "make", f"UV={UV}", name).stdout.splitlines()[0]
        run(copy, "git", "add", "--all", "models", "dvc.lock")
        run(copy, "git", "commit", "--quiet", "--message", done)
        return done

    def version(role: str) -> str:
        return str(json.loads((copy / "models" / role / "model.json").read_text())["version"])

    def aliases() -> dict[str, str]:
        script = (
            "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); c = mlflow.MlflowClient();"
            "m = c.get_registered_model('fraud-detection');"
            "print({a: c.get_model_version(m.name, v).tags['version'] for a, v in m.aliases.items()})"
        )
        return dict(eval(run(copy, "python", "-c", script).stdout.splitlines()[-1]))

    first, second = version("champion"), version("candidate")
    assert step("challenge") == f"Make {second} the challenger"
    assert (version("champion"), version("challenger")) == (first, second)
    assert aliases() == {"champion": first, "challenger": second}
    assert step("promote") == f"Promote {second} to champion, after {first}"
    assert version("champion") == second and not (copy / "models/challenger").exists()
    assert not (copy / "models/challenger.dvc").exists() and aliases() == {"champion": second}
    assert (
        "is the champion already"
        in run(copy, "python", "-m", "fraud_detection.rollout", "challenge", code=1).stderr
    )
    run(copy, "git", "revert", "--no-edit", "HEAD")
    run(copy, "dvc", "checkout", "models/champion.dvc", "models/challenger.dvc")
    assert (version("champion"), version("challenger")) == (first, second)
    assert step("withdraw") == f"Withdraw the challenger {second}"
    assert "there is none" in run(copy, "python", "-m", "fraud_detection.rollout", "promote", code=1).stderr


def test_the_model_card_says_what_was_registered_and_keeps_what_people_wrote(
    run: Run, project: Project, trained: Path
) -> None:
    copy = project(trained)
    card, model = copy / "MODEL_CARD.md", json.loads((copy / "models/champion/model.json").read_text())
    for part in (
        model["version"],
        model["data_hash"],
        model["run_id"],
        "2026-01-01 to 2026-0",
        "| channel | online |",
    ):
        assert part in card.read_text()
    card.write_text(card.read_text().replace("Fill in.", "Our own words."))
    retrain(run, copy, "max_iter: 100", "max_iter: 90")
    again = json.loads((copy / "models/candidate/model.json").read_text())
    assert again["version"] in card.read_text() and "Our own words." in card.read_text()
    assert "It is the challenger" in card.read_text() and card.read_text().count("## Intended use") == 1
