"""The contract with MLflow: connect, track a training run, register a model, let the aliases follow git."""

import logging
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabloop.card import ModelCard
from tabloop.cli import UserError, one_line
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


def connect(params: Params) -> "MlflowClient":
    """MLflow's client, for the server at MLFLOW_TRACKING_URI or for mlflow.db and mlruns/ in the project.

    Raises:
        UserError: the server does not answer.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.chdir(ROOT)  # MLflow puts the artefacts of an SQLite store below the working directory
    database = ROOT / DATABASE
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
    here = str(ROOT / "mlruns")
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


def track(params: Params, card: ModelCard, graph: "onnx.ModelProto") -> str:
    """Log parameters, what the card says, the graph with its signature and an input example; the id of the run."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, TensorSpec
    from mlflow.types import Schema as Columns

    from tabloop.export import flat_inputs

    connect(params)
    columns: list[ColSpec | TensorSpec] = [
        ColSpec("float" if c.numeric else "string", n) for n, c in card.schema_.features.items()
    ]
    signature = ModelSignature(Columns(columns), Columns([ColSpec("float", "probability")]))
    with mlflow.start_run() as run:
        mlflow.log_params(params.train)
        mlflow.log_metrics({"train_rows": card.rows, "parity": card.parity.largest_difference})
        mlflow.set_tags(tags_of(card))
        mlflow.log_dict(card.example, "input_example.json")
        # Requirements are given: MLflow would infer them by loading the model in another process.
        flat = flat_inputs(graph)
        mlflow.onnx.log_model(flat, name="model", signature=signature, pip_requirements=["onnxruntime"])
        return str(run.info.run_id)


def tags_of(card: ModelCard) -> dict[str, str]:
    """What identifies a model in MLflow."""
    return {name: str(getattr(card, name)) for name in ("version", "git_commit", "data_hash", "framework")}


def register(params: Params, card: ModelCard, evaluation: dict[str, Any], graph: Path) -> int:
    """The registry's version of this model: the one that exists, or a new one.

    Args:
        evaluation: metrics/evaluation.json, whose numbers become the run's metrics.
        graph: model.onnx, logged in a new run if this MLflow does not know the card's run.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    client = connect(params)
    run_id = card.run_id or ""
    try:
        client.get_run(run_id)
    except MlflowException:  # trained elsewhere and fetched from DVC's cache
        import onnx

        entries = entries_of(client, params, card.version)
        run_id = entries[0].run_id if entries else track(params, card, onnx.load(str(graph)))
    for name, value in evaluation.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            client.log_metric(run_id, name, value)
    tags = tags_of(card) | {"auc": f"{evaluation['auc']:.4f}", "verdict": evaluation["gate"]["reason"]}
    known = [entry for entry in entries_of(client, params, card.version) if entry.run_id == run_id]
    if known:
        return max(int(entry.version) for entry in known)
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    entry = mlflow.register_model(f"runs:/{run_id}/model", params.project, tags=tags | {"gate": "passed"})
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
