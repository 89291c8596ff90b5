"""models/candidate to the MLflow registry: champion when there is none yet, challenger otherwise."""

import json
import shutil
from pathlib import Path
from typing import Any

from ..params import ROOT, Params, UserError, load, stage

MODELS = ROOT / "models"


def install(role: str, model: dict[str, Any], evaluation: dict[str, Any]) -> None:
    """Make the candidate `models/<role>`, with threshold and metrics in its model.json, and pin it by DVC."""
    from dvc.repo import Repo

    folder = MODELS / role
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(MODELS / "candidate", folder)
    metrics = {
        name: evaluation[name] for name in ("auc", "auc_low", "auc_high", "average_precision", "brier")
    }
    model = model | {"threshold": evaluation["threshold"], "metrics": metrics}
    (folder / "model.json").write_text(json.dumps(model, indent=1, ensure_ascii=False) + "\n")
    Repo(str(ROOT)).add(str(folder))


def passed_candidate() -> tuple[dict[str, Any], dict[str, Any]]:
    """The candidate's model.json and its evaluation.

    Raises:
        UserError: the gate did not pass this candidate.
    """
    evaluation = json.loads((ROOT / "metrics/evaluation.json").read_text())
    model = json.loads((MODELS / "candidate/model.json").read_text())
    if not evaluation["gate"]["passed"] or evaluation["version"] != model["version"]:
        raise UserError("the gate did not pass this candidate: `dvc repro evaluate` says why")
    return model, evaluation


def register(params: Params, out: Path) -> str:
    """Create the registry's version, set its alias, and write what was done to `out`; says so.

    Raises:
        UserError: the gate did not pass this candidate.
    """
    model, evaluation = passed_candidate()
    if not (MODELS / "champion/model.json").exists():
        if (MODELS / "champion.dvc").exists():
            raise UserError(
                "models/champion.dvc pins a champion that is not here: run `dvc pull models/champion.dvc`"
            )
        role = "champion"
    else:
        champion = json.loads((MODELS / "champion/model.json").read_text())
        role = "champion" if champion["version"] == model["version"] else "challenger"

    import mlflow
    from mlflow.exceptions import MlflowException

    from . import card
    from .train import connect, track

    client = connect(params)
    try:
        client.get_run(model["run_id"])
    except (
        MlflowException
    ):  # trained elsewhere and pulled from DVC's cache: this registry doesn't know the run
        import onnx

        model["run_id"] = track(params, model, onnx.load(str(MODELS / "candidate/model.onnx")))
    for name, value in evaluation.items():
        if isinstance(value, int | float):
            client.log_metric(model["run_id"], name, value)
    tags = {key: str(model[key]) for key in ("version", "git_commit", "data_hash", "framework")}
    tags |= {"auc": f"{evaluation['auc']:.4f}", "gate": "passed", "verdict": evaluation["gate"]["reason"]}
    entry = mlflow.register_model(f"runs:/{model['run_id']}/model", params.project, tags=tags)
    client.set_registered_model_alias(params.project, role, entry.version)
    if not (MODELS / role).exists() and role == "champion":
        install(role, model, evaluation)

    card.write(params, model, evaluation, entry.version, role, ROOT / "MODEL_CARD.md")
    out.parent.mkdir(exist_ok=True)
    made = {
        "name": params.project,
        "registry_version": int(entry.version),
        "alias": role,
        "version": model["version"],
    }
    out.write_text(json.dumps(made, indent=1) + "\n")
    return f"{params.project} version {entry.version} ({model['version']}) is {role}"


if __name__ == "__main__":
    with stage("register"):
        print(f"register: {register(load(), ROOT / 'reports/registration.json')}")
