"""The main job, run for real: data to gated model, and every way in which it may have to stop."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import time_machine
from conftest import (
    ROOT,
    STAGES,
    Project,
    Run,
    edit,
    few_rows,
    free_port,
    know_types,
    lines_of_readme,
    ran,
    within,
)

TRAIN = ("python", "-m", "fraud_detection.train")
CURVES = ["calibration", "cost_per_row_by_threshold", "precision_and_recall", "roc"]
EVALUATE = ("python", "-m", "fraud_detection.evaluate")
SQL = "feature_repo/transaction_features.sql"
# Libraries that take tenths of a second to import, or bring ones that do, and the stages that may.
HEAVY = {
    "dask": "",
    "duckdb": "validate featurize",
    "evidently": "",
    "fastapi": "featurize register",  # Feast's and MLflow's
    "feast": "featurize",
    "ibis": "",
    "matplotlib": "evaluate",
    "mlflow": "register",
    "numpy": "ingest featurize train evaluate register",
    "onnx": "train register",
    "onnxruntime": "train evaluate register",
    "pandas": "ingest featurize train evaluate register",
    "pandera": "",
    "pyarrow": "ingest featurize train evaluate register",
    "scipy": "train register",
    "sklearn": "train",
    "sqlalchemy": "featurize register",
}


@pytest.fixture
def copy(project: Project, trained: Path) -> Path:
    """A project trained and committed."""
    return project(trained)


@pytest.fixture
def small(project: Project, quick: Path) -> Path:
    """The same on a few rows: for tests of the flow, not of the model."""
    return project(quick)


def test_a_second_repro_asks_for_the_champion_and_changes_nothing(run: Run, small: Path) -> None:
    assert ran(run(small, "dvc", "repro").stdout) == ["champion"]
    assert run(small, "git", "status", "--porcelain").stdout == ""


def test_the_model_passes_its_gate_and_is_champion(run: Run, copy: Path) -> None:
    metrics = json.loads((copy / "metrics/evaluation.json").read_text())
    assert metrics["gate"]["passed"]
    assert 0.85 <= metrics["auc_low"] <= metrics["auc"] <= metrics["auc_high"] < 0.995
    importance = {one["feature"]: one for one in metrics["importance"]}
    champion = json.loads((copy / "models/champion/model.json").read_text())
    assert importance.keys() == champion["example"].keys() and importance["amount"]["low"] > 0.01
    assert list(importance)[:3] == sorted(importance, key=lambda name: -importance[name]["value"])[:3]
    assert "importance" not in run(copy, "dvc", "metrics", "show").stdout  # a list, which would be no column
    for page in ("reports/evaluation.html", "MODEL_CARD.md"):
        assert "What moves the model" in (copy / page).read_text()
    assert "**What moves the model most**" in run(copy, "tabloop", "summary", "--markdown").stdout
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
answer = model.predict(model.input_example)
(data,) = run.inputs.dataset_inputs
files = [f.path for p in ("estimator", "plots", "report") for f in client.list_artifacts(run.info.run_id, p)]
facts = {{"run": run.info.run_name, "tags": run.data.tags, "files": files, "data": dict(data.dataset),
    "kind": client.get_experiment(run.info.experiment_id).tags["mlflow.experimentKind"]}}
print(json.dumps([version.tags, run.data.params, run.data.metrics, float(answer["probability"][0]), facts]))
"""
    said = run(copy, "python", "-c", script).stdout.splitlines()[-1]
    tags, params, logged, probability, facts = json.loads(said)
    at, data = tags["git_commit"], champion["data_hash"]
    assert facts["run"] == f"sklearn {champion['version']} data {data[:8]} at {at[:7]}"
    assert at == run(copy, "tabloop", "card", "champion", "git_commit").stdout.strip() and "dirty" not in tags
    assert facts["files"] == [
        "estimator/estimator.joblib",
        "estimator/model.json",
        *(f"plots/{name}.svg" for name in CURVES),
        "report/evaluation.html",
    ]
    assert facts["kind"] == "custom_model_development"
    assert (facts["data"]["name"], facts["data"]["digest"]) == ("fraud-detection train", data)
    assert json.loads(facts["data"]["source"]) == {"uri": "data/features/train.parquet"}
    assert logged["auc"] < logged["train_auc"] <= 1 and logged["train_brier"] < logged["brier"]
    assert tags["version"] == champion["version"] and tags["gate"] == "passed"
    assert tags["data_hash"] == champion["data_hash"]
    assert params["max_leaf_nodes"] == "15"
    assert logged["auc"] == pytest.approx(metrics["auc"])
    assert f"{probability:.4f}" in run(copy, "tabloop", "summary").stdout


def test_a_stage_imports_no_library_that_it_does_not_use(quick: Path) -> None:
    """Imports are half the time of a run. A stage that needs one more is added to HEAVY, when its cost is known."""
    processes = (quick.parent / "imports").read_text().split("imported package\n")[2:]  # the first is DVC's
    for stage, text in zip(STAGES, processes, strict=True):
        imported = HEAVY.keys() & re.findall(r"\| +(\w+)$", text, re.MULTILINE)
        assert {name for name in imported if stage not in HEAVY[name].split()} == set(), stage


def test_the_stages_import_what_setup_compiles(baked: Path, quick: Path) -> None:
    """Its output goes nowhere: a module of another name would not be noticed."""
    named = re.findall(r"^SLOW := import (.+)$", (baked / "Makefile").read_text(), re.MULTILINE)
    imported = re.findall(r"\| +(\S+)$", (quick.parent / "imports").read_text(), re.MULTILINE)
    assert named and set(named[0].split(", ")) - set(imported) == set()


def test_the_lines_in_the_readme_load_the_estimator_that_the_graph_is(run: Run, small: Path) -> None:
    script = f"""
{lines_of_readme(small, "estimator")}
import pandas as pd
from tabloop.evaluation import score_candidate
from tabloop.onnx_model import model_inputs
rows = pd.read_parquet("data/features/holdout.parquet")
card, probability = score_candidate(rows)
print(abs(estimator.predict_proba(model_inputs(rows, card.schema_))[:, 1] - probability).max() < 1e-5)
"""
    assert run(small, "python", "-c", script).stdout == "True\n"


def test_the_notebook_runs_from_its_own_folder(run: Run, small: Path) -> None:
    said = run(small, "python", "notebooks/explore.py").stdout
    elsewhere = run(small, "python", "-c", "import runpy; runpy.run_path('notebooks/explore.py')").stdout
    assert said == elsewhere
    holdout = json.loads((small / "metrics/evaluation.json").read_text())["segments"]
    for line in (
        "AUC 0.",
        "AUC gained by the idea: ",
        *(f"channel {level}: AUC " for level in holdout["channel"]),
    ):
        assert line in said, line
    assert run(small, "git", "status", "--porcelain", "notebooks", "feature_repo", "data").stdout == ""


def test_the_notebook_before_a_training_is_one_line(run: Run, baked: Path, tmp_path: Path) -> None:
    fresh = shutil.copytree(baked, tmp_path / "fresh")
    said = run(fresh, "python", "notebooks/explore.py", code=1).stderr
    assert said == "explore: data/features/train.parquet is missing: run `make train`\n"


def test_a_model_parameter_reruns_train_onward(run: Run, small: Path) -> None:
    edit(small, lambda p: p["train"].update(max_iter=60))
    done = run(small, "dvc", "repro")
    assert ran(done.stdout) == STAGES[3:]
    assert "is registered; `make challenge` makes it the challenger" in done.stdout
    difference = run(small, "dvc", "metrics", "diff", "--json").stdout
    assert json.loads(difference)["metrics/metrics.json"]["auc"]["diff"] != 0
    # And back: the cached model is compared with the champion of now, not with that of its first evaluation.
    run(small, "git", "checkout", "params.yaml")
    done = run(small, "dvc", "repro")
    assert "evaluate" in ran(done.stdout) and "train" not in ran(done.stdout)
    assert "the candidate is the champion" in done.stdout


def test_another_cost_is_another_model_to_release(run: Run, small: Path) -> None:
    before = json.loads((small / "models/candidate/model.json").read_text())
    graph = (small / "models/candidate/model.onnx").read_bytes()
    edit(small, lambda p: p["evaluate"].update(cost={"false_positive": 1, "false_negative": 2}))
    done = run(small, "dvc", "repro")
    assert ran(done.stdout) == STAGES[3:]
    assert re.search(
        r"train: threshold \S+ costs least on [\d,]+ rows of train \([\d,]+ positive\)", done.stdout
    )
    card = json.loads((small / "models/candidate/model.json").read_text())
    metrics = json.loads((small / "metrics/evaluation.json").read_text())
    assert (small / "models/candidate/model.onnx").read_bytes() == graph
    assert card["threshold"] == metrics["threshold"] > before["threshold"]
    assert card["version"] == metrics["version"] != before["version"]
    assert "is registered; `make challenge` makes it the challenger" in done.stdout
    run(small, "tabloop", "rollout", "challenge")
    assert json.loads((small / "models/challenger/model.json").read_text())["threshold"] == card["threshold"]
    run(small, "tabloop", "rollout", "promote")
    assert run(small, "tabloop", "card", "champion", "version").stdout.strip() == card["version"]


def test_the_gate_sees_a_new_champion(run: Run, small: Path) -> None:
    first = (small / "models/champion.dvc").read_text()
    edit(small, lambda p: p["train"].update(max_iter=60))
    run(small, "dvc", "repro")
    run(small, "tabloop", "rollout", "challenge")
    run(small, "tabloop", "rollout", "promote")
    edit(small, lambda p: p["train"].update(max_iter=40))
    assert "evaluate" in ran(run(small, "dvc", "repro").stdout)
    judged = json.loads((small / "metrics/evaluation.json").read_text())["champion"]["version"]
    assert judged == run(small, "tabloop", "card", "champion", "version").stdout.strip()
    (small / "models/champion.dvc").write_text(first)  # as `git pull` may do
    run(small, "dvc", "checkout", "models/champion.dvc")
    refused = run(small, "tabloop", "rollout", "challenge", code=1).stderr
    assert f"was judged against {judged}" in refused and "run `make train`" in refused
    assert ran(run(small, "dvc", "repro").stdout) == ["champion", "evaluate", "register"]
    assert json.loads((small / "metrics/evaluation.json").read_text())["champion"]["version"] != judged
    run(small, "tabloop", "rollout", "challenge")


def test_plots_and_report(run: Run, copy: Path) -> None:
    run(copy, "dvc", "plots", "show")
    page = (copy / "dvc_plots/index.html").read_text()
    assert all(title in page for title in ("ROC", "Precision and recall", "Calibration", "Cost by threshold"))
    report = (copy / "reports/evaluation.html").read_text()
    assert report.count("<svg") == 4 + 8  # the curves, and what each feature moves
    assert "Gate passed" in report
    for namespace in (
        "http://www.w3.org",
        "http://purl.org",
        "http://creativecommons.org",
        "https://matplotlib.org",
    ):
        report = report.replace(namespace, "")
    assert not any(part in report for part in ("http://", "https://", "<script", "<link"))


def test_a_failed_gate_is_one_line_and_registers_nothing(run: Run, small: Path) -> None:
    done = run(small, *EVALUATE, "--min-auc", "0.9999", code=1)
    assert len(done.stderr.strip().splitlines()) == 1
    assert "fails the bar: at least 0.9999" in done.stderr
    assert not json.loads((small / "metrics/evaluation.json").read_text())["gate"]["passed"]
    assert "Gate failed" in (small / "reports/evaluation.html").read_text()
    refused = run(small, "tabloop", "register", code=1)
    assert "failed the gate" in refused.stderr


def test_a_model_significantly_worse_than_the_champion_fails(run: Run, copy: Path) -> None:
    edit(copy, lambda p: p["train"].update(max_iter=1, max_leaf_nodes=2))
    edit(copy, lambda p: p["gates"][0].update(min=0.5))
    before = (copy / "models/champion.dvc").read_bytes()
    done = run(copy, "dvc", "repro", code=None)
    assert done.returncode != 0 and "The candidate is worse than the champion: AUC -0." in done.stderr
    assert "AUC, against the champion: -0." in done.stderr
    assert "register" not in ran(done.stdout)
    assert (copy / "models/champion.dvc").read_bytes() == before
    with sqlite3.connect(copy / "mlflow.db") as db:  # beside the champion's: what fails has a run, too
        assert db.execute("SELECT count(DISTINCT run_uuid) FROM metrics WHERE key = 'auc'").fetchone() == (2,)


def test_a_graph_that_is_not_the_model_is_refused_and_the_candidate_kept(run: Run, small: Path) -> None:
    """An owner's `to_onnx` may be wrong: here it exports a model of fewer trees."""
    model = small / "src/fraud_detection/model.py"
    wrong = """estimator = Pipeline(estimator.steps)
    trees = estimator[-1]._predictors
    estimator[-1]._predictors = trees[: len(trees) // 2]
    graph = classifier_to_onnx(estimator, schema)
    estimator[-1]._predictors = trees
    return graph"""
    text = model.read_text()
    assert text.count("return classifier_to_onnx(estimator, schema)") == 1
    model.write_text(text.replace("return classifier_to_onnx(estimator, schema)", wrong))
    before = contents(small / "models/candidate")
    done = run(small, *TRAIN, code=1)
    assert done.stderr.startswith("train: the ONNX graph differs from the fitted model by ")
    assert len(done.stderr.strip().splitlines()) == 1 and "row " in done.stderr
    assert contents(small / "models/candidate") == before
    assert not list((small / "models").glob("*.part"))


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of each file."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_corrupt_value_stops_at_validate(run: Run, small: Path) -> None:
    events = pd.read_parquet(small / "data/raw/events.parquet").head(3000)
    events = events.merge(pd.read_parquet(small / "data/raw/users.parquet"), on="user_id")
    events["amount"] = events.amount.astype(object)
    events.loc[7, "amount"], events.loc[8, "amount"] = -5, "abc"
    events.loc[9, "channel"], events.loc[10, "transaction_id"] = "fax", events.transaction_id[11]
    events.loc[12, "timestamp"] = pd.Timestamp("2200-01-01")
    events.loc[13, "user_id"] = None
    events.to_csv(small / "events.csv", index=False)
    edit(small, lambda p: p["data"].update(source="events.csv"))
    done = run(small, "dvc", "repro", code=None)
    assert done.returncode != 0 and ran(done.stdout) == ["ingest"]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ingest: ")]
    assert "'amount'" in line and "'abc'" in line and "row 9" in line
    events.assign(amount=events.amount.replace("abc", "1")).to_csv(small / "events.csv", index=False)
    done = run(small, "dvc", "repro", code=None)
    assert done.returncode != 0
    assert ran(done.stdout) == ["ingest", "validate"]
    assert "Traceback" not in done.stderr
    for column, shown in [
        ("amount", "row 8: -5"),
        ("channel", "row 10: fax"),
        ("transaction_id", "unique"),
        ("timestamp", "not in the future"),
        ("user_id", "not missing; 1 rows"),
    ]:
        lines = [line for line in done.stderr.splitlines() if f"events.{column}:" in line]
        assert len(lines) == 1 and shown in lines[0], (column, done.stderr)
    report = json.loads((small / "reports/validation.json").read_text())
    assert not report["passed"]


@pytest.mark.parametrize("part", ["train", "holdout"])
def test_a_part_of_one_class_is_one_line(run: Run, small: Path, part: str) -> None:
    """All fraud lies on the other side of the split. Nothing half-made is left."""
    before = contents(small / "data/features")
    path = small / "data/raw/events.parquet"
    events = pd.read_parquet(path)
    early = events.timestamp < events.timestamp.quantile(0.5)
    events.loc[early if part == "train" else ~early, "is_fraud"] = 0
    if part == "train":  # what lies between the middle and the split
        events = events[early | (events.timestamp > events.timestamp.quantile(0.9))]
        edit(small, lambda p: p["split"].update(holdout=0.1))
    events.to_parquet(path)
    done = run(small, "tabloop", "featurize", code=1)
    assert done.stderr.startswith(f"featurize: the {part} part has ") and "split.holdout" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert contents(small / "data/features") == before
    if part == "holdout":  # and where the split was made before, by hand or by an older version
        holdout = small / "data/features/holdout.parquet"
        pd.read_parquet(holdout).assign(is_fraud=0).to_parquet(holdout)
        done = run(small, *EVALUATE, code=1)
        assert "have the same class" in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_killed_repro_resumes(run: Run, project: Project, environment: Path) -> None:
    fresh = project()
    edit(fresh, lambda p: p["data"]["simulator"].update(transactions=5000, users=200))
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
    assert ran(run(fresh, "dvc", "repro").stdout) == STAGES[2:]


def test_data_travels_by_dvc_push_and_pull_and_goes_back_in_history(run: Run, small: Path) -> None:
    raw = small / "data/raw/events.parquet"
    first = raw.read_bytes()
    run(small, "dvc", "push")
    edit(small, lambda p: p["data"]["simulator"].update(transactions=4000))
    run(small, "dvc", "repro", "validate")
    run(small, "git", "commit", "--quiet", "--all", "--message", "Less data")
    assert raw.read_bytes() != first
    shutil.rmtree(small / ".dvc/cache")
    shutil.rmtree(small / "data/raw")
    run(small, "git", "checkout", "--quiet", "HEAD~1")
    run(small, "dvc", "pull")
    assert raw.read_bytes() == first
    assert (small / "models/champion/model.onnx").exists()


def test_a_reverted_feature_brings_its_online_store_back(run: Run, small: Path) -> None:
    """Also where DVC takes the stage from its cache and runs nothing."""
    store = small / "data/online/store.db"
    first = store.read_bytes()
    sql = small / SQL
    assert "AS avg_7d_spend" in sql.read_text()
    sql.write_text(f"SELECT * REPLACE (avg_7d_spend * 2 AS avg_7d_spend) FROM ({sql.read_text()})\n")
    run(small, "dvc", "repro", "featurize")
    assert store.read_bytes() != first
    run(small, "git", "checkout", SQL)
    assert ran(run(small, "dvc", "repro", "featurize").stdout) == []
    assert store.read_bytes() == first


def test_the_same_inputs_give_the_same_bytes_in_another_folder_and_year_with_other_threads(
    run: Run, project: Project, quick: Path, environment: Path, tmp_path: Path
) -> None:
    """And in another time zone, with another order of sets. `quick` was made here and now."""
    clock, packages = tmp_path / "clock", Path(time_machine.__file__).parents[1]
    clock.mkdir()
    for path in packages.glob("*time_machine*"):
        (clock / path.name).symlink_to(path)
    later = "travel(1935878340, tick=True).start()"  # 2031-05-06 23:59 UTC
    (clock / "sitecustomize.py").write_text(f"import time_machine\ntime_machine.{later}\n")
    other = project()
    few_rows(other)
    paths = f"{clock}{os.pathsep}{within(other, environment)['PYTHONPATH']}"
    variables = {"TZ": "JST-9", "PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    now = "import datetime; print(datetime.datetime.now())"
    assert run(other, "python", "-c", now, **variables).stdout.startswith("2031-05-07 08:59:")
    assert ran(run(other, "dvc", "repro", **variables).stdout) == STAGES

    def made(folder: Path) -> dict[str, bytes]:
        parts = ("data", "models", "metrics", "reports")
        found = {f"{part}/{name}": text for part in parts for name, text in contents(folder / part).items()}
        return found | {name: (folder / name).read_bytes() for name in ("MODEL_CARD.md", "dvc.lock")}

    first, second = made(quick), made(other)
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []
    assert {"data/online/store.db", "models/candidate/estimator.joblib", "reports/roc.json"} < first.keys()


def test_an_experiment_in_a_folder_of_its_own_runs_that_folders_source(
    run: Run, small: Path, project: Project, quick: Path, environment: Path
) -> None:
    """A queue of experiments, while the environment's installed source is another. Registered is what was applied."""
    installed = within(project(quick), environment)["PYTHONPATH"]
    model = small / "src/fraud_detection/model.py"
    model.write_text(model.read_text().replace('FRAMEWORK = "sklearn"', 'FRAMEWORK = "edited"'))
    for name, rate in (("slow", 0.02), ("fast", 0.2)):
        change = f"train.learning_rate={rate}"
        run(small, "dvc", "exp", "run", "--queue", "--name", name, "-S", change, PYTHONPATH=installed)
    # As `dvc queue start`, and it waits for them.
    done = run(small, "dvc", "exp", "run", "--run-all", PYTHONPATH=installed)
    assert done.stdout.count("fitting edited") == 2 and done.stdout.count("is not registered, as it is") == 2
    with sqlite3.connect(small / "mlflow.db") as db:
        (registered,) = db.execute("SELECT count(*) FROM model_versions").fetchone()
        rates = db.execute("SELECT value FROM params WHERE key = 'learning_rate'").fetchall()
    assert registered == 1 and {("0.02",), ("0.2",)} < {*rates}
    assert not run(small, "git", "status", "--short", "models").stdout
    shown = json.loads(run(small, "dvc", "exp", "show", "--json").stdout)
    assert {found["name"] for found in shown[1]["experiments"]} == {"slow", "fast"}
    run(small, "dvc", "exp", "apply", "fast")
    assert run(small, "tabloop", "card", "candidate", "framework").stdout.strip() == "edited"
    assert ran(run(small, "dvc", "repro").stdout) == ["champion", "register"]
    with sqlite3.connect(small / "mlflow.db") as db:
        assert db.execute("SELECT count(*) FROM model_versions").fetchone() == (registered + 1,)


def test_git_variables_of_another_repository_mislead_nothing(run: Run, small: Path, tmp_path: Path) -> None:
    """An editor or a git hook may set them."""
    other = tmp_path / "other"
    run(tmp_path, "git", "init", "--quiet", str(other))
    misleading = {"GIT_DIR": str(other / ".git"), "GIT_INDEX_FILE": str(other / ".git/index")}
    misleading["GIT_WORK_TREE"] = str(other)
    before = contents(other)
    edit(small, lambda p: p["train"].update(max_iter=60))
    run(small, "dvc", "repro", **misleading)
    head = run(small, "git", "rev-parse", "HEAD").stdout.strip()
    assert run(small, "tabloop", "card", "candidate", "git_commit").stdout.strip() == head
    run(small, "tabloop", "rollout", "challenge", **misleading)
    run(small, "tabloop", "release", "set", "staging", "MODEL_VERSION=another", **misleading)
    assert "Deploy another to staging" in run(small, "git", "log", "-1", "--format=%s").stdout
    run(small, "tabloop", "release", "rollback", "staging", **misleading)
    assert contents(other) == before


def test_a_moved_project_keeps_its_registry(run: Run, small: Path, tmp_path: Path) -> None:
    run(small, "tabloop", "register")  # which follows the first move: the fixture's copy
    moved = tmp_path / "elsewhere" / small.name
    moved.parent.mkdir()
    small.rename(moved)
    before = run(moved, "tabloop", "register").stdout
    script = """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
version = mlflow.MlflowClient().get_model_version_by_alias("fraud-detection", "champion")
print(version.version, mlflow.onnx.load_model("models:/fraud-detection@champion").ir_version > 0)
"""
    assert run(moved, "python", "-c", script).stdout.split() == ["1", "True"]
    assert "version 1 (" in before and "is champion" in before  # the entry of before, not a second one
    with contextlib.closing(sqlite3.connect(moved / "mlflow.db")) as db:
        assert str(small) not in "\n".join(db.iterdump())


def test_a_clone_without_a_remote_trains_after_the_command_that_the_message_names(
    run: Run, small: Path, tmp_path: Path
) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(small), "clone")
    clone = tmp_path / "clone"
    refused = run(clone, "dvc", "repro", code=None)
    assert (
        refused.returncode
        and "models/champion.dvc pins a model that models/champion does not hold" in refused.stderr
    )
    command = "tabloop rollout drop champion"
    assert f"`uv run {command}`" in refused.stderr and "Traceback" not in refused.stderr
    run(clone, *command.split())
    assert ran(run(clone, "dvc", "repro").stdout) == [
        "champion",
        "register",
    ]  # the candidate is the same bytes
    assert (clone / "models/champion/model.onnx").exists()


def test_an_mlflow_server_takes_the_place_of_the_file(
    run: Run, small: Path, environment: Path, tmp_path: Path
) -> None:
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    store = ["--backend-store-uri", "sqlite:///server.db", "--artifacts-destination", "artifacts"]
    command = ["mlflow", "server", "--port", port, "--workers", "1", *store]
    before = (small / "mlflow.db").read_bytes()
    # In a session of its own: its workers outlive a parent that is killed.
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=within(small, environment) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        for _ in range(60):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health"):
                break
            time.sleep(1)
        # The model was trained without the server: it learns of it as the model is registered.
        (small / "reports/registration.json").unlink()
        run(small, "dvc", "repro", MLFLOW_TRACKING_URI=url)
        path = "api/2.0/mlflow/registered-models/alias?name=fraud-detection&alias=champion"
        with urllib.request.urlopen(f"{url}/{path}") as answer:
            entry = json.load(answer)["model_version"]
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    tags = {tag["key"]: tag["value"] for tag in entry["tags"]}
    assert tags["version"] == json.loads((small / "models/candidate/model.json").read_text())["version"]
    assert list((tmp_path / "artifacts").rglob("model.onnx"))
    assert (small / "mlflow.db").read_bytes() == before


def test_parquet_of_ones_own_as_source(run: Run, project: Project, trained: Path) -> None:
    fresh = project()
    table = pd.read_parquet(trained / "data/raw/events.parquet").head(20_000)
    table.drop(columns="label_timestamp").to_parquet(fresh / "mine.parquet")
    for view in (fresh / "feature_repo").glob("*.sql"):
        view.unlink()

    def mine(params: Any) -> None:
        params["data"] = {"source": "mine.parquet"}
        params["schema"]["views"] = {}
        del params["schema"]["target"]["known_at"]
        params["evaluate"]["segments"] = ["channel"]
        params["gates"][0]["min"] = 0.5

    edit(fresh, mine)
    done = run(fresh, "dvc", "repro")
    assert ran(done.stdout) == STAGES
    assert "20,000 events from mine.parquet" in done.stdout


def test_the_projects_own_tests_and_types_pass(
    run: Run, small: Path, project: Project, environment: Path
) -> None:
    fresh = project()
    know_types(fresh, environment)
    for one in (fresh, small):
        assert " passed" in run(one, "pytest", "-q").stdout
    run(fresh, "mypy")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p["train"].update(max_iterr=5), "params.yaml: train: "),
        (lambda p: p["train"].update(learning_rate=-1), "params.yaml: train: "),
        (lambda p: p["schema"].update(entity=None), "params.yaml: schema: "),
        (
            lambda p: p["evaluate"].update(segments=["colour"]),
            "evaluate.segments: neither a feature nor a sensitive column: colour",
        ),
    ],
    ids=["unknown argument", "bad argument", "views without entity", "unknown segment"],
)
def test_a_mistake_in_params_is_one_line(
    run: Run, small: Path, change: Callable[[Any], None], says: str
) -> None:
    edit(small, change)
    done = run(small, *TRAIN, code=1)
    assert says in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_mistake_in_a_features_sql_is_named(run: Run, small: Path) -> None:
    (small / SQL).write_text("SELECT user_id, timestamp FROM events")
    done = run(small, "tabloop", "featurize", code=1)
    assert done.stderr.startswith("featurize: transaction_features.sql: ") and "avg_7d_spend" in done.stderr


def test_the_benchmark_of_large_tables_measures_each_stage(project: Project, run: Run) -> None:
    """benchmarks/scale.py, at a few rows: the stages of dvc.yaml run in copies, and the project stays as it was."""
    folder = project()
    before = (folder / "params.yaml").read_text()
    script = [
        ROOT / "benchmarks/scale.py",
        folder,
        "--rows",
        "1000",
        "2000",
        "--stages",
        "ingest",
        "validate",
    ]
    head, _, *lines = run(folder, "python", *map(str, script), fork=False).stdout.splitlines()
    assert head.startswith("| stage | 1,000: seconds | CPU | GB | 2,000:")
    assert [line.split(" | ")[0] for line in lines[:2]] == ["| ingest", "| validate"]
    assert all(float(cell) > 0.02 for line in lines[:2] for cell in line.strip("| ").split(" | ")[1:])
    assert (folder / "params.yaml").read_text() == before and not (folder / "data").exists()
