"""The main job, run for real: data to gated model, and every way it may be asked to stop."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import Project, Run, free_port, within

STAGES = ["ingest", "validate", "featurize", "train", "evaluate", "register"]


@pytest.fixture
def fresh(project: Project) -> Path:
    """A project just baked."""
    return project()


@pytest.fixture
def copy(project: Project, trained: Path) -> Path:
    """A project trained and committed."""
    return project(trained)


def edit(folder: Path, change: Callable[[Any], None]) -> None:
    """Change params.yaml in place."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    change(params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


def small(folder: Path) -> None:
    """Fewer transactions: for tests of the flow, not of the model."""
    edit(folder, lambda p: p["data"]["simulator"].update(transactions=5000, users=200))


def ran(output: str) -> list[str]:
    """The stages that a `dvc repro` ran."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def test_a_second_repro_does_nothing(run: Run, copy: Path) -> None:
    done = run(copy, "dvc", "repro")
    assert ran(done.stdout) == []
    assert run(copy, "git", "status", "--porcelain").stdout == ""


def test_the_model_passes_its_gate_and_is_champion(run: Run, copy: Path) -> None:
    metrics = json.loads((copy / "metrics/evaluation.json").read_text())
    assert (
        metrics["gate"]["passed"]
        and 0.85 <= metrics["auc_low"] <= metrics["auc"] <= metrics["auc_high"] < 0.995
    )
    champion = json.loads((copy / "models/champion/model.json").read_text())
    assert champion["version"] == metrics["version"]
    assert champion["threshold"] == metrics["threshold"]
    assert champion["parity"]["largest_difference"] < 1e-5
    assert champion["parity"]["rows"] == metrics["rows"]
    script = f"""
import json, mlflow
mlflow.set_tracking_uri("sqlite:///{copy}/mlflow.db")
client = mlflow.MlflowClient()
version = client.get_model_version_by_alias("fraud-detection", "champion")
run = client.get_run(version.run_id)
model = mlflow.pyfunc.load_model("models:/fraud-detection@champion")
import pandas as pd
row = json.load(open("models/champion/model.json"))["example"]
types = {{c.name: "float32" for c in model.metadata.get_input_schema() if c.type.name == "float"}}
answer = model.predict(pd.DataFrame([row]).astype(types))
print(json.dumps([version.tags, run.data.params, run.data.metrics, float(answer["probability"][0])]))
"""
    tags, params, logged, probability = json.loads(run(copy, "python", "-c", script).stdout.splitlines()[-1])
    assert (
        tags["version"] == champion["version"]
        and tags["gate"] == "passed"
        and tags["data_hash"] == champion["data_hash"]
    )
    assert params["max_leaf_nodes"] == "15"
    assert logged["auc"] == pytest.approx(metrics["auc"])
    assert f"{probability:.4f}" in run(copy, "python", "-m", "fraud_detection.summary").stdout


def test_a_model_parameter_reruns_train_onward(run: Run, copy: Path) -> None:
    edit(copy, lambda p: p["train"].update(max_iter=60))
    done = run(copy, "dvc", "repro")
    assert ran(done.stdout) == STAGES[3:]
    assert "is challenger" in done.stdout
    difference = run(copy, "dvc", "metrics", "diff", "--json").stdout
    assert json.loads(difference)["metrics/evaluation.json"]["auc"]["diff"] != 0
    # And back: a cached model is judged against the champion again, not remembered from before there was one.
    run(copy, "git", "checkout", "params.yaml")
    done = run(copy, "dvc", "repro")
    assert "evaluate" in ran(done.stdout)
    assert "the candidate is the champion" in done.stdout


def test_plots_and_report(run: Run, copy: Path) -> None:
    run(copy, "dvc", "plots", "show")
    page = (copy / "dvc_plots/index.html").read_text()
    assert all(title in page for title in ("ROC", "Precision and recall", "Calibration", "Cost by threshold"))
    report = (copy / "reports/evaluation.html").read_text()
    assert report.count("<svg") == 4 and "Gate passed" in report
    assert "http://" not in report.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "<script" not in report and "<link" not in report


def test_a_failed_gate_is_one_line_and_registers_nothing(run: Run, copy: Path) -> None:
    done = run(copy, "python", "-m", "fraud_detection.pipeline.evaluate", "--min-auc", "0.999", code=None)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "0.999" in done.stderr and "below the bar" in done.stderr
    assert not json.loads((copy / "metrics/evaluation.json").read_text())["gate"]["passed"]
    assert "Gate failed" in (copy / "reports/evaluation.html").read_text()
    refused = run(copy, "python", "-m", "fraud_detection.pipeline.register", code=None)
    assert refused.returncode == 1 and "gate did not pass" in refused.stderr


def test_a_model_significantly_worse_than_the_champion_fails(run: Run, copy: Path) -> None:
    edit(copy, lambda p: p["train"].update(max_iter=1, max_leaf_nodes=2))
    edit(copy, lambda p: p["gates"].update(min_auc=0.5))
    before = (copy / "models/champion.dvc").read_bytes()
    done = run(copy, "dvc", "repro", code=None)
    assert done.returncode != 0 and "significantly below champion" in done.stderr
    assert "register" not in ran(done.stdout)
    assert (copy / "models/champion.dvc").read_bytes() == before


def test_a_corrupt_value_stops_at_validate(run: Run, copy: Path) -> None:
    events = pd.read_parquet(copy / "data/raw/events.parquet").head(3000)
    events = events.merge(pd.read_parquet(copy / "data/raw/users.parquet"), on="user_id")
    events["amount"] = events.amount.astype(object)
    events.loc[7, "amount"], events.loc[8, "amount"] = -5, "abc"
    events.loc[9, "channel"], events.loc[10, "transaction_id"] = "fax", events.transaction_id[11]
    events.loc[12, "timestamp"] = pd.Timestamp("2200-01-01")
    events.loc[13, "user_id"] = None
    events.to_csv(copy / "events.csv", index=False)
    edit(copy, lambda p: p["data"].update(source="events.csv"))
    done = run(copy, "dvc", "repro", code=None)
    assert done.returncode != 0
    assert ran(done.stdout) == ["ingest", "validate"]
    assert "Traceback" not in done.stderr
    for column, shown in [
        ("amount", "row 8: abc"),
        ("channel", "row 9: fax"),
        ("transaction_id", "unique"),
        ("timestamp", "not in the future"),
        ("user_id", "not missing; 1 rows"),
    ]:
        lines = [line for line in done.stderr.splitlines() if f"events.{column}:" in line]
        assert len(lines) == 1 and shown in lines[0], (column, done.stderr)
    report = json.loads((copy / "reports/validation.json").read_text())
    assert not report["passed"]


def test_a_killed_repro_resumes(run: Run, fresh: Path, environment: Path) -> None:
    small(fresh)
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=fresh,
        env=within(fresh, environment),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    for line in process.stdout:
        if "Running stage 'featurize'" in line:
            break
    time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = run(fresh, "dvc", "repro")
    assert ran(done.stdout) == STAGES[2:]


def test_data_travels_by_dvc_push_and_pull_and_goes_back_in_history(run: Run, copy: Path) -> None:
    raw = copy / "data/raw/events.parquet"
    first = raw.read_bytes()
    run(copy, "dvc", "push")
    small(copy)
    run(copy, "dvc", "repro", "validate")
    run(copy, "git", "commit", "--quiet", "--all", "--message", "Less data")
    assert raw.read_bytes() != first
    shutil.rmtree(copy / ".dvc/cache")
    shutil.rmtree(copy / "data/raw")
    run(copy, "git", "checkout", "--quiet", "HEAD~1")
    run(copy, "dvc", "pull")
    assert raw.read_bytes() == first
    assert (copy / "models/champion/model.onnx").exists()


def test_an_mlflow_server_takes_the_place_of_the_file(
    run: Run, copy: Path, environment: Path, tmp_path: Path
) -> None:
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "artifacts"]
    command = ["mlflow", "server", "--port", port, "--workers", "1", *store]
    before = (copy / "mlflow.db").read_bytes()
    # In a session of its own: its workers outlive a parent that is killed.
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=within(copy, environment),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        for _ in range(60):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
                break
            time.sleep(1)
        # The model was trained without the server: it learns of it as it is registered.
        (copy / "reports/registration.json").unlink()
        run(copy, "dvc", "repro", MLFLOW_TRACKING_URI=url)
        path = "api/2.0/mlflow/registered-models/alias?name=fraud-detection&alias=champion"
        with urllib.request.urlopen(f"{url}/{path}") as answer:
            entry = json.load(answer)["model_version"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    tags = {tag["key"]: tag["value"] for tag in entry["tags"]}
    assert tags["version"] == json.loads((copy / "models/candidate/model.json").read_text())["version"]
    assert list((tmp_path / "artifacts").rglob("model.onnx"))
    assert (copy / "mlflow.db").read_bytes() == before


def test_parquet_of_ones_own_as_source(run: Run, fresh: Path, copy: Path) -> None:
    table = pd.read_parquet(copy / "data/raw/events.parquet").head(20_000)
    table.drop(columns="label_timestamp").to_parquet(fresh / "mine.parquet")
    shutil.copy(copy / "data/raw/users.parquet", fresh / "users.parquet")
    for view in (fresh / "feature_repo").glob("*.sql"):
        view.unlink()

    def mine(params: Any) -> None:
        params["data"] = {"source": "mine.parquet"}
        params["schema"]["views"] = {}
        params["evaluate"]["segments"] = ["channel"]
        params["gates"]["min_auc"] = 0.5

    edit(fresh, mine)
    done = run(fresh, "dvc", "repro")
    assert ran(done.stdout) == STAGES
    assert "20,000 events from mine.parquet" in done.stdout


def test_the_projects_own_tests_and_lint_pass(run: Run, copy: Path, fresh: Path) -> None:
    for one in (fresh, copy):
        assert " passed" in run(one, "pytest", "-q").stdout
    run(fresh, "mypy")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p["train"].update(max_iterr=5), "params.yaml: train: "),
        (lambda p: p["train"].update(learning_rate=-1), "params.yaml: train: "),
        (lambda p: p["schema"].update(entity=None), "params.yaml: schema: "),
        (lambda p: p["evaluate"].update(segments=["colour"]), "evaluate.segments: not a feature: colour"),
    ],
    ids=["unknown argument", "bad argument", "views without entity", "unknown segment"],
)
def test_a_mistake_in_params_is_one_line(
    run: Run, copy: Path, change: Callable[[Any], None], says: str
) -> None:
    edit(copy, change)
    done = run(copy, "python", "-m", "fraud_detection.pipeline.train", code=1)
    assert says in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_mistake_in_a_features_sql_is_named(run: Run, copy: Path) -> None:
    (copy / "feature_repo/transaction_features.sql").write_text("SELECT user_id, timestamp FROM events")
    done = run(copy, "python", "-m", "fraud_detection.pipeline.featurize", code=1)
    assert done.stderr.startswith("featurize: transaction_features.sql: ") and "avg_7d_spend" in done.stderr
