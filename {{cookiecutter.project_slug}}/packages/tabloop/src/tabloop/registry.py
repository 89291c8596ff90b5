"""The contract with MLflow: connect, track a training run, register a model, let the aliases follow git."""

import logging
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabloop import tracking
from tabloop.card import ModelCard
from tabloop.cli import UserError, one_line
from tabloop.onnx_model import FILE
from tabloop.params import ROOT, Params

if TYPE_CHECKING:
    import onnx
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
# MLflow stores absolute paths: the table and column of each.
PATHS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}


def experiment() -> str | None:
    """The name of the DVC experiment that runs this stage (`dvc exp run`), if one does."""
    return os.environ.get("DVC_EXP_NAME")


def home() -> Path:
    """The project's folder; for an experiment that DVC runs in a folder of its own, the one that it was begun in."""
    begun_in = Path(os.environ.get("DVC_ROOT", ROOT))  # an experiment's own folder is removed at its end
    return begun_in if experiment() and (begun_in / "params.yaml").exists() else ROOT


def connect(params: Params) -> "MlflowClient":
    """MLflow's client, for the server at MLFLOW_TRACKING_URI or for mlflow.db and mlruns/ in the project.

    Raises:
        UserError: the server does not answer.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.chdir(home())  # MLflow puts the artefacts of an SQLite store below the working directory
    database = home() / DATABASE
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not uri or uri == f"sqlite:///{DATABASE}":
        uri = f"sqlite:///{database}"  # absolute: MLflow keeps a connection for each address
        if database.exists():
            follow_a_move(database)
    mlflow.set_tracking_uri(uri)
    try:
        mlflow.set_experiment(params.project)
    except MlflowException as error:
        raise UserError(f"MLflow at {uri} does not answer: {one_line(error)[:300]}; run this again") from None
    return mlflow.MlflowClient()


def follow_a_move(database: Path) -> None:
    """Correct the paths in mlflow.db if the project was moved or copied since they were written."""
    here = str(home() / "mlruns")
    with sqlite3.connect(database) as db:
        known = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in known:
            return
        rows = db.execute(
            "SELECT artifact_location FROM experiments WHERE artifact_location LIKE '/%/mlruns/%'"
        )
        old = {row[0].rpartition("/mlruns/")[0] + "/mlruns" for row in rows} - {here}
        for before in old:
            for table in PATHS.keys() & known:
                for column in PATHS[table]:
                    update = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {column} LIKE ?"
                    db.execute(update, (before, here, f"{before}/%"))


def track(params: Params, card: ModelCard, graph: "onnx.ModelProto", folder: Path) -> None:
    """Log the training run of the model in `folder`."""
    connect(params)
    tracking.log_training(params, card, graph, folder)


def run_of(client: "MlflowClient", params: Params, version: str) -> str | None:
    """The newest run that trained a model version; None where this MLflow has none."""
    experiment = client.get_experiment_by_name(params.project)
    asked, order = f"tags.version = '{version}'", ["attributes.start_time DESC"]
    places = [experiment.experiment_id] if experiment else []
    runs = client.search_runs(places, asked, order_by=order, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def register(params: Params, card: ModelCard, evaluation: dict[str, Any], folder: Path) -> int:
    """The registry's version of this model: the one that exists, or a new one.

    Args:
        evaluation: metrics/evaluation.json, whose numbers become the run's metrics.
        folder: models/candidate, logged in a new run if this MLflow knows none of this model.
    """
    import mlflow

    client = connect(params)
    if not (run_id := run_of(client, params, card.version)):  # trained elsewhere and fetched from DVC's cache
        import onnx

        track(params, card, onnx.load(str(folder / FILE)), folder)
        run_id = str(run_of(client, params, card.version))
    tracking.log_evaluation(client, run_id, evaluation)
    if known := entries_of(client, params, card.version):
        return max(int(entry.version) for entry in known)
    tags = tracking.tags_of(card) | {"gate": "passed", "verdict": evaluation["gate"]["reason"]}
    del tags["mlflow.note.content"]
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    source = f"runs:/{run_id}/model"
    entry = mlflow.register_model(source, params.project, tags=tags | {"auc": f"{evaluation['auc']:.4f}"})
    return int(entry.version)


def mirror(params: Params, versions: dict[str, str | None]) -> None:
    """Set the registry's alias of each role to the model that git pins, or remove it. Git wins.

    Args:
        versions: the model version of each role; None where there is none.
    """
    from mlflow.exceptions import MlflowException

    client = connect(params)
    for role, version in versions.items():
        entries = entries_of(client, params, version) if version else []
        if entries:
            newest = max(int(entry.version) for entry in entries)
            client.set_registered_model_alias(params.project, role, str(newest))
            continue
        try:
            client.delete_registered_model_alias(params.project, role)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # no such alias, or nothing is registered yet
                raise UserError(f"MLflow: {one_line(error)[:300]}; run this again") from None


def entries_of(client: "MlflowClient", params: Params, version: str) -> list[Any]:
    """The registry's entries of a model version."""
    name = params.project.replace("'", "")
    entries = client.search_model_versions(f"name = '{name}'")
    return [entry for entry in entries if entry.tags.get("version") == version]
