"""The commands of the project's README, run in its own words."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, UV, Project, Run, free_port

# Run by another file of the tests, as they need a server, Docker, a bucket or another bake.
ELSEWHERE = {
    "make demo": "test_make.py",
    "uvx cookiecutter": "conftest.py",  # by the environment's own cookiecutter
    "make setup": "test_make.py",  # `make demo` calls it
    "make test": "test_workflows.py",
    "make serve": "test_serving.py",
    "make train": "test_make.py",
    "make adopt": "test_make.py",
    "make tune": "programs/test_tune.py",
    "make mlflow": "programs/test_registry.py",
    "make challenge": "test_monitoring.py",
    "make promote": "test_monitoring.py",
    "make withdraw": "test_monitoring.py",
    "make image": "test_container.py",
    "make smoke": "test_container.py",
    "make reconcile": "test_reconcile.py",
    "make traffic": "test_monitoring.py",
    "make drift": "test_monitoring.py",
    "make monitor": "test_alerts.py",
    "make performance": "test_monitoring.py",
    "make experiment": "test_monitoring.py",
    "make loop": "test_loop.py",
    "make lint": "test_make.py",
    "make format": "test_make.py",
    "make audit": "test_supply_chain.py",
    "make pin": "test_supply_chain.py",
    "make update": "test_update.py",
    "make rollback": "test_workflows.py",
    "uv run dvc push": "test_object_store.py",
    "uv run dvc pull": "test_object_store.py",
    "uv run dvc repro": "test_pipeline.py",
    "uv sync": "conftest.py",  # the environment of all tests
    "uv run pytest": "test_pipeline.py",
    "uv run python -m fraud_detection.app": "test_serving.py",
    "uv run tabloop rollout": "test_monitoring.py",
    "uv run tabloop forget": "programs/test_forget.py",
    "uv run tabloop release set": "programs/test_release.py",
    "uv run tabloop --help": "test_docs.py",
    "uv run python notebooks/explore.py": "test_pipeline.py",
    "git checkout": "test_pipeline.py",
    "git push": "test_workflows.py",
    "git add": "test_workflows.py",
    "git log": "test_workflows.py",
    "git switch": "test_workflows.py",
    "uv run dvc remote": "test_object_store.py",
    "uv run tabloop compact": "programs/test_compaction.py",
    "kubectl apply": "test_kubernetes.py",
    "gh attestation": "test_supply_chain.py",
}


def shown(readme: str) -> list[str]:
    """Every command in the README: lines of blocks without a language, and what stands between backticks."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", readme, re.S | re.M)
    blocks = [block for language, block in fenced if not language]
    lines = [line.split("   #")[0].split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", readme, flags=re.S | re.M))
    starts = ("make ", "uv run ", "uvx ", "uv sync", "git ", "kubectl ", "gh ", "curl ", "docker ")
    return sorted({text for text in lines + inline if text.startswith(starts)})


@pytest.mark.parametrize(("shown", "file"), ELSEWHERE.items(), ids=ELSEWHERE)
def test_the_named_file_has_the_command(shown: str, file: str) -> None:
    """Its last word, as a test gives it to a process, or in a line of a shell."""
    last = shown.split()[-1].rpartition("/")[2].removeprefix("fraud_detection.")
    assert re.search(rf"(?<![\w-]){re.escape(last)}(?![\w-])", (ROOT / "tests" / file).read_text())


def test_a_block_of_another_language_hides_no_command() -> None:
    text = "```mermaid\nmake no\n```\n\n```\nmake this   # comment\n```\n\n`make that`\n\n```python\nmake = 1\n```\n"
    assert shown(text) == ["make that", "make this"]


def test_each_command_of_the_readme_runs_here_or_in_a_named_file(
    run: Run, project: Project, quick: Path, tmp_path: Path
) -> None:
    copy = project(quick).rename(tmp_path / "Größe & Umsatz 2026")
    holdout = copy / "data/features/holdout.parquet"
    assert holdout.exists()
    (copy / "transactions.parquet").write_bytes(holdout.read_bytes())
    here = {
        "make summary": 0,
        "make report": 0,
        "make materialize": 0,
        "uv run dvc metrics diff": 0,
        "uv run dvc plots diff": 0,
        "uv run python -m fraud_detection.evaluate --min-auc 0.9": None,  # few rows may not reach the bar
        "uv run tabloop card champion git_commit": 0,
        "uv run tabloop release show production": 0,
        "uv run tabloop summary": 0,
        "uv run tabloop batch transactions.parquet scores.parquet": 0,
    }
    unknown = [
        text
        for readme in (copy / "README.md", ROOT / "README.md")
        for text in shown(readme.read_text())
        if text not in here
        and not text.startswith("curl ")  # by the tests of the service, from the README
        and not any(re.match(rf"{re.escape(known)}\b", text) for known in ELSEWHERE)
    ]
    assert not unknown, f"say in ELSEWHERE which test runs these, or run them here: {unknown}"
    for text, code in here.items():
        words = text.replace("make ", f"make UV={UV} ").removeprefix("uv run ").split()
        said = run(copy, *words, code=code)
        assert "Traceback" not in said.stdout + said.stderr, text
    assert (copy / "scores.parquet").exists()


# Each incident of the table "What if", and the test that makes it happen: here, or in a named file.
WHAT_IF = {
    "a bad model is live": "a_bad_model",
    "a release does not become healthy, or fails under traffic": "test_reconcile.py::test_a_new_release_that_fails_on_live_traffic_is_bad_and_the_last_good_one_runs",
    "drift is reported": "test_monitoring.py::test_drift_and_performance_of_the_served_champion",
    "the gate fails": "a_failing_gate",
    "the log is not written": "test_serving.py::test_a_log_that_can_not_be_written_fails_no_request_and_is_counted",
    "the online store is missing or locked": "a_lost_store",
    "MLflow's server is down while a model is registered": "programs/test_rollout.py::test_a_step_is_finished_once_mlflow_answers_again",
    "the service does not start": "a_lost_champion",
    "the service is not ready": "programs/test_online_store.py::test_it_is_ready_once_every_view_has_a_row",
    "the champion's files are not here": "a_lost_champion",
    "a training or a batch was killed": "programs/test_killed.py::test_a_run_that_is_killed_again_and_again_goes_on_after_its_last_part",
    "a person asks to be forgotten": "programs/test_forget.py::test_a_person_is_removed_and_nobody_else",
}


def a_bad_model(folder: Path, run: Run) -> None:
    for version in ("good", "bad"):
        run(folder, "tabloop", "release", "set", "production", f"MODEL_VERSION={version}")
    done = run(folder, "make", f"UV={UV}", "rollback", "ENV=production")
    assert done.stdout.endswith("Roll back production to good\n") and done.stderr.endswith(
        "git push --set-upstream origin HEAD\n"
    )
    assert run(folder, "tabloop", "release", "show", "production", "MODEL_VERSION").stdout == "good\n"


def a_failing_gate(folder: Path, run: Run) -> None:
    why = run(folder, "python", "-m", "fraud_detection.evaluate", "--min-auc", "0.9999", code=1).stderr
    assert why.count("\n") == 1 and "AUC: 0." in why and "fails the bar: at least 0.9999" in why
    wrong = run(folder, "python", "-m", "fraud_detection.evaluate", "--min-auc", "x", code=2).stderr
    assert wrong == "evaluate: error: argument --min-auc: invalid float value: 'x'\n"
    said = run(folder, "make", f"UV={UV}", "summary").stdout
    assert re.search(r"gate +FAILED: AUC: 0\.\d{4} \[0\.\d{4}, 0\.\d{4}\] fails", said)
    after = said[said.index("Next") :]
    assert "params.yaml" in after and "git commit" not in after and "make serve" not in after


def a_lost_store(folder: Path, run: Run) -> None:
    (folder / "data/online/store.db").unlink()
    run(folder, "make", f"UV={UV}", "materialize")
    assert (folder / "data/online/store.db").exists()


def a_lost_champion(folder: Path, run: Run) -> None:
    shutil.rmtree(folder / "models/champion")
    serve = run(folder, "make", f"UV={UV}", "serve", code=2, PORT=str(free_port()))
    said = serve.stderr.splitlines()[0]
    assert said.startswith("serve: champion: ") and "`uv run dvc pull`" in said
    run(folder, "dvc", "checkout", "models/champion.dvc")  # what `dvc pull` does with what is in the cache
    shutil.rmtree(folder / "models/champion")
    said = run(folder, "tabloop", "rollout", "drop", "champion").stdout
    assert "the next candidate that passes the gate becomes champion. Next: git add " in said
    assert not (folder / "models/champion.dvc").exists()


def test_each_row_of_what_if_happens_here_or_in_a_named_test(run: Run, project: Project, quick: Path) -> None:
    copy = project(quick)
    table = (copy / "README.md").read_text().split("## What if\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| ([^|]+) \|", table, re.M)[1:] == list(WHAT_IF)
    for played in dict.fromkeys(WHAT_IF.values()):
        file, _, test = played.partition("::")
        if test:
            assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), played
        else:
            globals()[played](copy, run)
