"""`make loop`, played through with real parts."""

import json
from pathlib import Path

import pandas as pd
from conftest import UV, Project, Run
from test_monitoring import aliases


def test_the_loop_is_closed(run: Run, project: Project, trained: Path) -> None:
    """Drift, retrain, shadow, A/B test, promotion, a bad challenger withdrawn, rollback: in git, log and answers."""
    folder = project(trained)

    def git(*arguments: str, code: int = 0) -> str:
        return run(folder, "git", *arguments, code=code).stdout.strip()

    before = int(git("rev-list", "--count", "HEAD"))
    said = run(folder, "make", f"UV={UV}", "loop").stdout
    titles = [
        title.removeprefix("Loop: ") for title in git("log", "--format=%s", "--reverse").splitlines()[before:]
    ]
    first, challenger = titles[3].split()[-1], titles[1].split()[1]
    assert titles == [
        "first champion",
        f"Make {challenger} the challenger, in shadow",
        "A/B test, half of the customers",
        f"Promote {challenger} to champion, after {first}",
        "a bad challenger",
        "Withdraw the challenger bad0bad0bad0",
        "Roll back the promotion",
    ]
    assert git("status", "--porcelain") == ""

    promotion, start = (git("log", "-1", "--format=%H", "--grep", f"Loop: {w}") for w in ("Promote", "first"))
    pins = [git("show", f"{commit}:models/champion.dvc") for commit in (start, promotion, "HEAD")]
    assert pins[0] == pins[2] != pins[1]
    git("cat-file", "-e", "HEAD:models/challenger.dvc", code=128)
    assert json.loads((folder / "models/champion/model.json").read_text())["version"] == first

    log = pd.read_parquet(folder / "data/log/predictions")
    assert set(log.variant) == {"champion", "challenger"}
    assert set(log.model_version) == {first, challenger, "bad0bad0bad0"}
    challenged = log[log.variant == "challenger"].prediction_id
    assert log[log.variant == "champion"].prediction_id.isin(challenged).sum() == 3000  # the shadow's
    assert aliases(run, folder)["champion"] == challenger  # MLflow follows git at the next registration
    for line in (
        "No drift in 5,000",
        "⚠️ **Drift** in 25,000",
        "The candidate is better than the champion: AUC",
        "**Promote**",
        "**Withdraw**",
    ):
        assert line in said, line
    assert said.count("serving champion") >= 6
    assert said.strip().endswith("reports/drift.html and reports/experiment.png.")
