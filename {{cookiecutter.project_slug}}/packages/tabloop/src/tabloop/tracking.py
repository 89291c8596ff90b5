"""What MLflow gets of a training run and of its evaluation. `registry` says to which MLflow."""

import re
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabloop import provenance
from tabloop.card import ModelCard
from tabloop.params import ROOT, Params

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

KIND = "custom_model_development"  # of an experiment; else MLflow guesses one
# MLflow opens an experiment on language models, unless the address says otherwise.
ABOUT = (
    "A run for each training: [all runs](#/experiments/{}/runs?workflowType=machine_learning). "
    "The registered model's alias `champion` is the one that git pins."
)
TRAIN = "data/features/train.parquet"
SAMPLE = 20_000  # training rows on which metrics are computed


def log_training(params: Params, card: ModelCard, folder: Path) -> None:
    """Log a training run: parameters, the training rows and the metrics on them, the graph, the fitted estimator.

    What has a date or an owner is in this run, and not in the files of the model.

    Args:
        folder: models/candidate; of its files, those without rows of the data are logged.
    """
    import mlflow

    from tabloop.onnx_model import FILE

    tags = tags_of(card)
    changes = " with changes" if "dirty" in tags else ""
    name = f"{card.framework} {card.version} data {card.data_hash[:8]} at {tags['git_commit'][:7]}{changes}"
    with mlflow.start_run(run_name=name) as run:
        about = ABOUT.format(run.info.experiment_id)
        mlflow.set_experiment_tags({"mlflow.experimentKind": KIND, "mlflow.note.content": about})
        mlflow.log_params(params.train)
        mlflow.log_metrics({"train_rows": card.rows, "parity": card.parity.largest_difference})
        mlflow.set_tags(tags)
        log_rows(params, card, folder)
        for path in sorted(folder.iterdir()):
            if path.name not in (FILE, "reference.parquet"):
                mlflow.log_artifact(str(path), "estimator")
        log_graph(card, folder)


def tags_of(card: ModelCard) -> dict[str, str]:
    """What identifies a model in MLflow, and what it was trained from."""
    origin = provenance.origin(card.inputs)
    tags = {name: str(getattr(card, name)) for name in ("version", "data_hash", "framework")}
    tags |= {"git_commit": str(origin.commit)} | ({"dirty": ", ".join(origin.dirty)} if origin.dirty else {})
    return tags | {"mlflow.note.content": f"Model `{card.version}`, trained from {origin}."}


def log_rows(params: Params, card: ModelCard, folder: Path) -> None:
    """Log a sample of the rows that the model was trained on, and the metrics on it, if they are here."""
    import mlflow

    from tabloop.candidate import sample_rows
    from tabloop.metrics import auc
    from tabloop.onnx_model import FILE, OnnxModel

    if not (path := ROOT / TRAIN).exists():
        return
    target = card.schema_.target.name
    rows = sample_rows(path, [*card.schema_.features, target], SAMPLE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that integers may be missing in production: the graph takes them
        name = f"{params.project} train"
        dataset = mlflow.data.from_pandas(rows, TRAIN, targets=target, name=name, digest=card.data_hash)  # type: ignore[attr-defined]
        dataset.schema = mlflow.data.from_pandas(few(rows)).schema  # type: ignore[attr-defined] # it looks at each value
        mlflow.log_input(dataset, context="training")
    label, score = rows[target].to_numpy(), OnnxModel(folder / FILE, card.schema_).probability(rows)
    mlflow.log_metrics({"train_auc": auc(label, score), "train_brier": float(((score - label) ** 2).mean())})


def few(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Rows that have the types of all: of each column the first value and the first missing one."""
    missing = rows.isna().to_numpy()
    return rows.iloc[sorted({*missing.argmax(axis=0), *(~missing).argmax(axis=0)})]


def log_graph(card: ModelCard, folder: Path) -> None:
    """Log the graph with signature and input example: `mlflow.pyfunc.load_model(...).predict(example)` works."""
    import importlib_metadata
    import mlflow
    import onnx
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, TensorSpec
    from mlflow.types import Schema as Columns

    from tabloop.export import flat_inputs
    from tabloop.onnx_model import FILE, model_inputs

    columns: list[ColSpec | TensorSpec] = [
        ColSpec("float" if c.numeric else "string", n) for n, c in card.schema_.features.items()
    ]
    packages = importlib_metadata.packages_distributions
    # MLflow would read the file lists of all packages, to warn of other versions than these, which nobody asks for.
    importlib_metadata.packages_distributions = dict
    try:
        mlflow.onnx.log_model(
            flat_inputs(onnx.load(str(folder / FILE))),
            name="model",
            signature=ModelSignature(Columns(columns), Columns([ColSpec("float", "probability")])),
            input_example=model_inputs(pd.DataFrame([card.example]), card.schema_),
            pip_requirements=["onnxruntime"],  # else MLflow loads the model in another process to see them
        )
    finally:
        importlib_metadata.packages_distributions = packages


def log_evaluation(client: "MlflowClient", run_id: str, evaluation: dict[str, Any]) -> None:
    """Log the metrics on the holdout, the report page and its curves."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    numbers = {n: v for n, v in evaluation.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    client.log_batch(run_id, [Metric(name, value, now, 0) for name, value in numbers.items()])
    if (page := ROOT / "reports/evaluation.html").exists():
        client.log_artifact(run_id, str(page), "report")
        curve = r"<svg.*?<title>(.*?)</title>.*?</svg>"
        for svg in re.finditer(curve, page.read_text(encoding="utf-8"), re.DOTALL):
            client.log_text(run_id, svg[0], f"plots/{svg[1].lower().replace(' ', '_')}.svg")
