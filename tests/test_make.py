"""The commands that people type."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, UV, Bake, Project, Run, clean, edit, environment_of, lines_of_readme, within


def test_make_demo_from_nothing_to_a_prediction(tmp_path: Path) -> None:
    out = shutil.ignore_patterns(".git", ".venv", ".uv", ".cache", "demo", "__pycache__", "uv.lock")
    template = shutil.copytree(ROOT, tmp_path / "template", ignore=out)
    done = subprocess.run(["make", "demo"], cwd=template, env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for line in ("AUC  ", "gate        passed: ", "report      file://", "prediction  is_fraud = "):
        assert f"\n{line}" in done.stdout


def test_torch_from_data_to_a_prediction(
    bake: Bake, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wheel in Path(os.environ.get("UV_FIND_LINKS") or "nowhere").glob("torch-*.whl"):
        # It is at hand: a folder with its address stands in for PyTorch's index, which may be out of reach.
        index = ROOT / ".cache/torch-index"
        (index / "torch").mkdir(parents=True, exist_ok=True)
        (index / "torch/index.html").write_text(f'<a href="{wheel.as_uri()}">{wheel.name}</a>')
        monkeypatch.setenv("UV_INDEX", f"pytorch={index.as_uri()}")
    copy = project(bake(framework="torch"))
    edit(copy, lambda p: p["data"]["simulator"].update(transactions=10_000, users=200))
    variables = within(copy, environment_of(copy, "environment-torch"))
    for command in (["dvc", "repro"], ["mypy"], ["pytest", "-q"], ["tabloop", "summary"]):
        done = subprocess.run(command, cwd=copy, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "(torch, " in done.stdout and "\nprediction  is_fraud = " in done.stdout
    code = (
        "from fastapi.testclient import TestClient; from fraud_detection.app import make_app; "
        "row = {'user_id': 'u000001', 'amount': 900, 'merchant_category': 'fuel', 'channel': 'online'}; "
        "print(TestClient(make_app()).post('/explain', json=row).text)"
    )
    done = subprocess.run(["python", "-c", code], cwd=copy, env=variables, capture_output=True, text=True)
    found = json.loads(done.stdout)
    moved = [part["contribution"] for part in found["contributions"]]
    assert found["method"] == "exact" and sum(map(bool, moved)) > 2
    assert found["base_value"] + sum(moved) == pytest.approx(found["probability"], abs=1e-9)
    # The estimator that people load is the one that was exported; a second training gives the same bytes.
    imports = "from tabloop.evaluation import score_candidate; from tabloop.onnx_model import model_inputs"
    rows = "import pandas as pd; rows = pd.read_parquet('data/features/holdout.parquet')"
    same = "abs(estimator.predict_proba(model_inputs(rows, card.schema_))[:, 1] - score).max() < 1e-5"
    script = f"{lines_of_readme(copy, 'estimator')}{imports}; {rows}; card, score = score_candidate(rows); print({same})"
    before = {path: path.read_bytes() for path in (copy / "models/candidate").iterdir()}
    for command in (["python", "-c", script], ["python", "-m", "fraud_detection.train"]):
        chosen = variables | {"PYTHONHASHSEED": "5"}
        done = subprocess.run(command, cwd=copy, env=chosen, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith(("True", "train: "))
    assert "network.pt" in {path.name for path in before}
    assert [path.name for path, text in before.items() if path.read_bytes() != text] == []


def test_make_train_ends_with_the_summary(run: Run, project: Project, quick: Path) -> None:
    copy = project(quick)
    said = run(copy, "make", f"UV={UV}", "train").stdout
    for line in ("AUC ", "gate        passed: ", "prediction  is_fraud = "):
        assert f"\n{line}" in said
    report = said.split("report      file://")[1].splitlines()[0]
    assert Path(report) == copy / "reports/evaluation.html"
    assert Path(report).exists()


def test_before_training_the_summary_names_the_command(run: Run, project: Project) -> None:
    done = run(project(), "make", f"UV={UV}", "summary", code=2)
    assert done.stderr.splitlines()[0] == "summary: nothing is trained yet: run `make train`"


def test_make_lint_passes_and_format_has_nothing_to_do(run: Run, project: Project, quick: Path) -> None:
    copy = project(quick)
    run(copy, "make", f"UV={UV}", "lint")
    run(copy, "make", f"UV={UV}", "format")
    assert run(copy, "git", "status", "--porcelain").stdout == ""


def test_make_adopt_takes_names_with_spaces(run: Run, project: Project, tmp_path: Path) -> None:
    copy = project()
    rows = "\n".join(f"{i % 7},{i % 3},{'yes' if i % 7 + i % 3 > 5 else 'no'}" for i in range(300))
    (tmp_path / "my table.csv").write_text(f"Visits,Sites,Bought it\n{rows}\n")
    run(copy, "make", f"UV={UV}", "adopt", f"DATA={tmp_path}/my table.csv", "TARGET=Bought it")
    assert "bought_it" in (copy / "params.yaml").read_text()
