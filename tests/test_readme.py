"""The commands of the project's README, run in its own words."""

import re
from pathlib import Path

from conftest import ROOT, UV, Project, Run

# Run by another file of the tests, as they need a server, Docker, a bucket or another bake.
ELSEWHERE = {
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
    "make smoke": "test_workflows.py",
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
    "uv run tabloop release set": "kit/test_release.py",
    "uv run tabloop --help": "test_docs.py",
    "uv run python notebooks/explore.py": "test_pipeline.py",
    "git checkout": "test_pipeline.py",
    "git push": "test_workflows.py",
    "git add": "test_workflows.py",
    "git log": "test_workflows.py",
    "git switch": "programs/test_commits.py",
    "uv run dvc remote": "test_object_store.py",
    "uv run tabloop compact": "programs/test_compaction.py",
    "kubectl apply": "test_kubernetes.py",
    "gh attestation": "test_supply_chain.py",
}


def shown(readme: str) -> list[str]:
    """Every command in the README: lines of blocks without a language, and what stands between backticks."""
    blocks = re.findall(r"^```\n(.*?)^```$", readme, re.S | re.M)
    lines = [line.split("   #")[0].split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", readme, flags=re.S | re.M))
    starts = ("make ", "uv run ", "uv sync", "git ", "kubectl ", "gh ", "curl ", "docker ")
    return sorted({text for text in lines + inline if text.startswith(starts)})


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
        for text in shown((copy / "README.md").read_text())
        if text not in here
        and not text.startswith("curl ")  # by the tests of the service, from the README
        and not any(re.match(rf"{re.escape(known)}\b", text) for known in ELSEWHERE)
    ]
    assert all((ROOT / "tests" / file).exists() for file in ELSEWHERE.values())
    assert not unknown, f"say in ELSEWHERE which test runs these, or run them here: {unknown}"
    for text, code in here.items():
        words = text.replace("make ", f"make UV={UV} ").removeprefix("uv run ").split()
        said = run(copy, *words, code=code)
        assert "Traceback" not in said.stdout + said.stderr, text
    assert (copy / "scores.parquet").exists()
