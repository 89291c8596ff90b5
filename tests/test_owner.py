"""What an owner changes most, each in the one place that is meant for it, run for real on a few rows."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import ROOT, STAGES, UV, Project, Run, Serve, clean, edit, locked, ran, within

MODELS, RECIPES = ROOT / "tests/models", ROOT / "docs/recipes"
RECIPE = (RECIPES / "README.md").read_text()
# What each recipe needs besides scikit-learn, as its page says it.
PACKAGES = {
    name: re.findall("`(.+?)`", names) for name, names in re.findall(r"\[(\w+)\.py\]\S+ \| (.+?) \|", RECIPE)
}
KEY = {"user_id": "u000001", "amount": 12.5, "merchant_category": "fuel", "channel": "online"}


@pytest.fixture
def small(project: Project, quick: Path) -> Path:
    """A project trained and committed, on a few rows."""
    return project(quick)


@pytest.fixture(scope="session")
def boosters() -> Path:
    """A folder with the recipes' packages and Optuna alone, kept between runs of the tests."""
    assert UV
    folder = ROOT / ".cache/boosters"
    folder.parent.mkdir(exist_ok=True)
    names = sorted({name for packages in PACKAGES.values() for name in packages} | {"optuna", "colorlog"})
    command = [UV, "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *names]
    with locked(folder.with_suffix(".lock")):
        if not all(list(folder.glob(f"{name.replace('-', '_')}-*.dist-info")) for name in names):
            subprocess.run(command, check=True, env=clean())
    return folder


def replace(path: Path, old: str, new: str) -> None:
    """Change the one place of a file that has `old`."""
    text = path.read_text()
    assert text.count(old) == 1, f"{path}: {text.count(old)} times: {old}"
    path.write_text(text.replace(old, new))


def judged(run: Run, project: Path, name: str, **variables: str) -> None:
    """Train and evaluate with another model.py; ONNX Runtime alone then answers."""
    assert ran(run(project, "dvc", "repro", "evaluate", **variables).stdout) == [
        "train",
        "champion",
        "evaluate",
    ]
    card = json.loads((project / "models/candidate/model.json").read_text())
    assert card["framework"] == name and card["parity"]["largest_difference"] < 1e-5
    assert json.loads((project / "metrics/evaluation.json").read_text())["auc"] > 0.85
    assert "\nprediction  is_fraud = " in run(project, "tabloop", "summary").stdout


@pytest.mark.parametrize("name", ["logistic_regression", "random_forest"])
def test_another_estimator_is_one_file(run: Run, small: Path, name: str) -> None:
    shutil.copy(MODELS / f"{name}.py", small / "src/fraud_detection/model.py")
    judged(run, small, name)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_recipe_is_one_file_and_what_its_page_says(
    run: Run, small: Path, environment: Path, boosters: Path, name: str
) -> None:
    assert {*PACKAGES} == {path.stem for path in RECIPES.glob("*.py")} == {"lightgbm", "xgboost"}
    shutil.copy(RECIPES / f"{name}.py", small / "src/fraud_detection/model.py")
    block = re.search(rf"^## {name}\n+```yaml\n(.+?)```", RECIPE, re.DOTALL | re.MULTILINE | re.IGNORECASE)
    assert block
    edit(small, lambda params: params.update(yaml.safe_load(block[1])))
    # They resolve beside the pins of all else.
    run(small, UV, "add", "--quiet", "--no-sync", "--group", "pipeline", *PACKAGES[name], UV_NO_SYNC="1")
    paths = within(small, environment)["PYTHONPATH"] + os.pathsep + str(boosters)
    judged(run, small, name, PYTHONPATH=paths)
    done = run(small, "tabloop", "tune", "--trials", "2", "--no-write", PYTHONPATH=paths).stdout
    assert "failed" not in done and "tune: of 2 trials" in done and "-> reports/tune.html" in done
    changed = run(small, "git", "status", "--short", "--untracked-files=all").stdout
    assert "tune" not in changed  # data/tune.db and reports/tune.html are ignored


def test_a_search_without_optuna_says_how_to_install_it(run: Run, small: Path) -> None:
    done = run(small, "tabloop", "tune", code=1)
    line = "tune: Optuna is not installed: run `make tune`, or `uv sync --group tune` first\n"
    assert done.stderr == line


def test_an_estimator_that_its_converter_exports_wrongly_is_refused(run: Run, small: Path) -> None:
    shutil.copy(MODELS / "random_forest_wrong.py", small / "src/fraud_detection/model.py")
    done = run(small, "python", "-m", "fraud_detection.train", code=1)
    assert done.stderr.startswith("train: the ONNX graph differs from the fitted model by ")
    assert "of 926 holdout rows" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_endpoint_and_a_middleware_are_lines_in_app(serve: Serve, small: Path) -> None:
    app = small / "src/fraud_detection/app.py"
    replace(
        app,
        "from fastapi import FastAPI\n",
        "from fastapi import FastAPI\nfrom fastapi.middleware.cors import CORSMiddleware\n",
    )
    added = """
    @app.get("/hello")
    async def hello() -> dict[str, str]:
        return {"hello": "world"}

    app.add_middleware(CORSMiddleware, allow_origins=["https://example.com"], allow_methods=["*"])
    return app
"""
    replace(app, "\n    return app\n", added)
    with serve(small) as server:
        assert server.client.get("/hello").json() == {"hello": "world"}
        assert "/hello" in server.client.get("/openapi.json").json()["paths"]
        origin = {"Origin": "https://example.com"}
        answer = server.client.post("/predict", json=KEY, headers=origin)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://example.com"
        asked = origin | {"Access-Control-Request-Method": "POST"}
        assert server.client.options("/predict", headers=asked).status_code == 200
        other = server.client.post("/predict", json=KEY, headers={"Origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in other.headers
        assert "Traceback" not in server.stop()


def test_a_feature_and_a_request_column_are_a_line_in_the_schema(
    run: Run, serve: Serve, project: Project
) -> None:
    """With the SQL that computes the feature, and the data that hold the column."""
    fresh = project()

    def declare(params: Any) -> None:
        params["data"]["simulator"].update(transactions=5000, users=200)
        params["schema"]["views"]["transaction_features"]["n_7d"] = {"type": "integer", "min": 0}
        params["schema"]["request"]["weekend"] = {"type": "boolean", "nullable": False}

    edit(fresh, declare)
    sql, week = fresh / "feature_repo/transaction_features.sql", "RANGE INTERVAL 7 DAY PRECEDING"
    average = f"avg(amount) OVER (PARTITION BY user_id ORDER BY timestamp {week}) AS avg_7d_spend"
    count = f"count(*) OVER (PARTITION BY user_id ORDER BY timestamp {week}) AS n_7d"
    replace(sql, average, f"{average},\n    {count}")
    replace(sql, "\n  avg_7d_spend,\n", "\n  avg_7d_spend,\n  n_7d,\n")
    replace(
        fresh / "src/fraud_detection/simulator.py",
        '    events["is_fraud"] = events.is_fraud.astype("Int64")\n',
        '    events["is_fraud"] = events.is_fraud.astype("Int64")\n'
        '    events["weekend"] = events.timestamp.dt.dayofweek >= 5\n',
    )
    assert ran(run(fresh, "dvc", "repro").stdout) == STAGES
    holdout = pd.read_parquet(fresh / "data/features/holdout.parquet")
    assert holdout.weekend.astype(bool).equals(holdout.timestamp.dt.dayofweek >= 5)
    view = pd.read_parquet(fresh / "data/features/transaction_features.parquet")
    newest = view[view.user_id == KEY["user_id"]].sort_values("event_timestamp").n_7d.iloc[-1]
    with serve(fresh) as server:
        row = server.client.get("/openapi.json").json()["components"]["schemas"]["Row"]
        assert {"n_7d", "weekend"} <= row["properties"].keys() and "weekend" in row["required"]
        assert server.client.post("/predict", json=KEY).status_code == 422
        server.client.post("/predict", json=KEY | {"weekend": True}).raise_for_status()
        server.stop()
        (logged,) = server.logged().to_dict("records")
    assert logged["feature_n_7d"] == newest > 0 and logged["feature_weekend"] is True
    assert " passed" in run(fresh, "pytest", "-q").stdout


def test_a_metric_is_a_line_in_evaluate(run: Run, small: Path) -> None:
    replace(
        small / "src/fraud_detection/evaluate.py",
        '        "threshold": threshold,\n',
        '        "threshold": threshold,\n'
        '        "fraud_in_top_100": float(target[np.argsort(-probability)[:100]].mean()),\n',
    )
    edit(small, lambda p: p["gates"].append({"metric": "fraud_in_top_100", "min": 0.01}))
    assert ran(run(small, "dvc", "repro").stdout) == ["champion", "evaluate", "register"]
    value = json.loads((small / "metrics/evaluation.json").read_text())["fraud_in_top_100"]
    assert 0 < value <= 1
    gate = json.loads((small / "metrics/evaluation.json").read_text())["gate"]["checks"][-1]
    assert gate["metric"] == "fraud_in_top_100" and gate["low"] < gate["value"] == value and gate["passed"]
    difference = json.loads(run(small, "dvc", "metrics", "diff", "--json").stdout)
    assert difference["metrics/metrics.json"]["fraud_in_top_100"]["new"] == value
    with sqlite3.connect(small / "mlflow.db") as db:
        logged = db.execute("SELECT value FROM metrics WHERE key = 'fraud_in_top_100'").fetchall()
    assert logged == [(value,)]
    done = run(small, "tabloop", "summary", "--markdown").stdout
    assert f"| fraud in top 100 | {value:.4f} [" in done and "| at least 0.01 | passed |" in done
    judged = '    result["gate"] = evaluation.judge(holdout, champion["verdict"], min_auc)\n'
    rule = """    if max(result["precision"] or 0, result["recall"] or 0) < 1.1:
        result["gate"] |= {"passed": False, "reason": "a rule of our own"}
"""
    replace(small / "src/fraud_detection/evaluate.py", judged, judged + rule)
    failed = run(small, "python", "-m", "fraud_detection.evaluate", code=1)
    assert failed.stderr.startswith(
        "evaluate: gate failed: a rule of our own, on 926 rows. The candidate is "
    )
    assert len(failed.stderr.splitlines()) == 1
