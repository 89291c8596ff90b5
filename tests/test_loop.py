"""`make loop`, played through with real parts."""

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
from conftest import UV, Run, clean


def git(project: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=project, env=clean(), capture_output=True, text=True)
    return done.stdout.strip()


def test_the_loop_is_closed(run: Run, baked: Path, tmp_path: Path) -> None:
    """Drift, retrain, shadow, A/B, promotion, a bad challenger withdrawn, roll-back: in git, registry, log, answers."""
    project = shutil.copytree(baked, tmp_path / baked.name, symlinks=True)
    said = run(project, "make", f"UV={UV}", "loop").stdout
    titles = [
        title.removeprefix("Loop: ")
        for title in git(project, "log", "--format=%s", "--reverse").splitlines()[1:]
    ]
    first, challenger = titles[3].split()[-1], titles[1].split()[1]
    assert titles == [
        "first champion",
        f"Make {challenger} the challenger, in the shadow",
        "A/B, half of the customers",
        f"Promote {challenger} to champion, after {first}",
        "a bad challenger",
        "Withdraw the challenger bad0bad0bad0",
        "Roll back the promotion",
    ]
    assert git(project, "status", "--porcelain") == ""

    def pin(commit: str, role: str) -> str:
        return git(project, "show", f"{commit}:models/{role}.dvc")

    promotion, start = (
        git(project, "log", "-1", "--format=%H", "--grep", f"Loop: {w}") for w in ("Promote", "first")
    )
    assert pin(promotion, "champion") != pin(start, "champion") == pin("HEAD", "champion")
    assert pin("HEAD", "challenger") == ""
    assert json.loads((project / "models/champion/model.json").read_text())["version"] == first

    log = pd.read_parquet(project / "data/log/predictions")
    assert set(log.variant) == {"champion", "challenger"}
    assert set(log.model_version) == {first, challenger, "bad0bad0bad0"}
    both = log[
        (log.variant == "champion") & log.prediction_id.isin(log[log.variant == "challenger"].prediction_id)
    ]
    assert len(both) == 3000  # the shadow's
    script = (
        "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); c = mlflow.MlflowClient();"
        "m = c.get_registered_model('fraud-detection');"
        "print({a: c.get_model_version(m.name, v).tags['version'] for a, v in m.aliases.items()})"
    )
    assert challenger in run(project, "python", "-c", script).stdout
    for line in (
        "No drift in 5,000",
        "⚠️ **Drift** in 20,000",
        "champion: better",
        "**Promote**",
        "**Withdraw**",
    ):
        assert line in said, line
    assert said.count("served: champion") >= 6 and said.strip().endswith("experiment.png show it.")
