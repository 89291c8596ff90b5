"""The contract with MLflow: connect, log a training run, register a model, let the aliases follow git."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabloop import tracking
from tabloop.card import ModelCard
from tabloop.cli import UserError, one_line
from tabloop.params import ROOT, Params

if TYPE_CHECKING:
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


def in_file() -> bool:
    """Whether the registry is mlflow.db at `home`: MLFLOW_TRACKING_URI names no other."""
    return os.environ.get("MLFLOW_TRACKING_URI") in (None, "", f"sqlite:///{DATABASE}")


@contextmanager
def answering(*, asked: bool = True) -> Iterator[None]:
    """Raises: UserError: MLflow does not answer, or refuses; in one line, without a password.

    Args:
        asked: whether it answered before.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("psycopg", "psycopg2"):
            raise
        raise UserError("MLflow on PostgreSQL: run `uv add --group pipeline 'psycopg[binary]'`") from None
    except (MlflowException, SQLAlchemyError, OSError) as error:
        where = re.sub(r"(://)[^/]*@", r"\1", os.environ.get("MLFLOW_TRACKING_URI") or DATABASE)
        failed = "failed" if asked else "does not answer"
        raise UserError(f"MLflow at {where} {failed}: {one_line(error)[:300]}; run this again") from None


def connect(params: Params) -> "MlflowClient":
    """MLflow's client, for the server at MLFLOW_TRACKING_URI or for mlflow.db and mlruns/ in the project.

    Raises:
        UserError: the server does not answer.
    """
    import mlflow

    logging.getLogger("alembic").setLevel(logging.ERROR)
    # It logs a traceback of each try; the last error is raised.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    os.chdir(home())  # MLflow puts the artefacts of an SQLite store below the working directory
    database = home() / DATABASE
    if in_file() and database.exists():
        follow_a_move(database)
    # Absolute: MLflow keeps a connection for each address.
    mlflow.set_tracking_uri(f"sqlite:///{database}" if in_file() else os.environ["MLFLOW_TRACKING_URI"])
    with answering(asked=False):
        mlflow.set_experiment(params.project)
    return mlflow.MlflowClient()


def follow_a_move(database: Path) -> None:
    """Correct the paths in mlflow.db if the project was moved or copied since they were written."""
    here = str(home() / "mlruns")
    with sqlite3.connect(database) as db:
        known = {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "experiments" not in known:
            return
        query = "SELECT artifact_location FROM experiments WHERE artifact_location LIKE '/%/mlruns/%'"
        old = {row[0].rpartition("/mlruns/")[0] + "/mlruns" for row in db.execute(query)} - {here}
        for before in old:
            for table in PATHS.keys() & known:
                for column in PATHS[table]:
                    update = f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE {column} LIKE ?"
                    db.execute(update, (before, here, f"{before}/%"))


def run_of(client: "MlflowClient", params: Params, version: str) -> str | None:
    """The newest run that trained a model version, and ended; None where this MLflow has none."""
    experiment = client.get_experiment_by_name(params.project)
    asked = f"tags.version = '{version}' AND attributes.status = 'FINISHED'"
    order = ["attributes.start_time DESC"]
    places = [experiment.experiment_id] if experiment else []
    runs = client.search_runs(places, asked, order_by=order, max_results=1)
    return str(runs[0].info.run_id) if runs else None


def log(params: Params, card: ModelCard, evaluation: dict[str, Any], folder: Path) -> str:
    """The run of this model, the one that this MLflow has or a new one; it gets the evaluation.

    Args:
        evaluation: metrics/evaluation.json, whose numbers become the run's metrics.
        folder: models/candidate, logged in a new run.
    """
    client = connect(params)
    with answering():
        run_id = run_of(client, params, card.version)
        if not run_id:
            tracking.log_training(params, card, folder)
            run_id = str(run_of(client, params, card.version))
        tracking.log_evaluation(client, run_id, evaluation)
        return run_id


def register(params: Params, card: ModelCard, evaluation: dict[str, Any], folder: Path) -> int:
    """The registry's version of this model: the one that exists, or a new one; of the run that `log` gives it."""
    import mlflow

    run_id = log(params, card, evaluation, folder)
    client = mlflow.MlflowClient()  # of the MLflow to which `log` has connected
    with answering():
        return entry_of(client, params, card.version) or _new_entry(client, params, card, evaluation, run_id)


def _new_entry(
    client: "MlflowClient", params: Params, card: ModelCard, evaluation: dict[str, Any], run_id: str
) -> int:
    """A new version of the registry's, unless somebody else made one meanwhile: the first one counts."""
    import mlflow

    tags = tracking.tags_of(card) | {"gate": "passed", "verdict": evaluation["gate"]["reason"]}
    del tags["mlflow.note.content"]
    source = f"runs:/{run_id}/model"
    made = mlflow.register_model(source, params.project, tags=tags | {"auc": f"{evaluation['auc']:.4f}"})
    first = entry_of(client, params, card.version)
    if first != int(made.version):
        client.delete_model_version(params.project, str(made.version))
    return int(first or made.version)


def mirror(params: Params, versions: dict[str, str | None]) -> None:
    """Set the registry's alias of each role to the model that git pins, or remove it. Git wins.

    Args:
        versions: the model version of each role; None where there is none.
    """
    from mlflow.exceptions import MlflowException

    client = connect(params)
    with answering():
        for role, version in versions.items():
            if version and (entry := entry_of(client, params, version)):
                client.set_registered_model_alias(params.project, role, str(entry))
                continue
            try:
                client.delete_registered_model_alias(params.project, role)
            except MlflowException as error:
                # That there is no such alias, or nothing registered yet, is fine.
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise


def behind(params: Params, pinned: dict[str, str]) -> bool:
    """Whether mlflow.db, if that is the registry here, has other aliases than `mirror` would set. MLflow is not imported.

    Args:
        pinned: the model version of each role.
    """
    database = home() / DATABASE
    if not in_file() or not database.exists():
        return False
    tables = "model_version_tags LEFT JOIN registered_model_aliases USING (name, version)"
    query = f"SELECT value, alias FROM {tables} WHERE key = 'version' AND name = ?"
    entries = []  # also where there is no table yet
    with closing(sqlite3.connect(database)) as db, suppress(sqlite3.OperationalError):
        entries = db.execute(query, (params.project,)).fetchall()
    known = {version for version, _ in entries}
    mirrored = {(role, version) for role, version in pinned.items() if version in known}
    return mirrored != {(role, version) for version, role in entries if role in ("champion", "challenger")}


def entry_of(client: "MlflowClient", params: Params, version: str) -> int | None:
    """The registry's version of a model version: the first, where there are several; None where there is none."""
    name = params.project.replace("'", "")
    entries = client.search_model_versions(f"name = '{name}' AND tags.version = '{version}'")
    return min((int(entry.version) for entry in entries), default=None)
