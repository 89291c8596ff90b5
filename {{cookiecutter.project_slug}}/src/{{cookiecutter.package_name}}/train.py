"""data/features to models/candidate: fit, track in MLflow, export one ONNX graph, prove that it is the model."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..params import ROOT, Params, UserError, load, stage

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import pandas as pd
    from mlflow import MlflowClient

FEATURES = ROOT / "data/features"
CANDIDATE = ROOT / "models/candidate"
PARITY = 1e-5  # largest difference in probability between estimator and graph
REFERENCE_ROWS = 10_000


def git_commit() -> str | None:
    """The commit checked out, or None where there is none."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def check_parity(fitted: "np.ndarray", served: "np.ndarray", rows: "pd.DataFrame") -> dict[str, float]:
    """Hold the graph's probabilities against the estimator's, both (n,).

    Raises:
        UserError: they differ by PARITY or more; shows the rows where they do so most.
    """
    difference = abs(fitted - served)
    if (worst := difference.max()) >= PARITY:
        at = difference.argsort()[::-1][:3]
        shown = "; ".join(
            f"row {i}: {fitted[i]:.6f} != {served[i]:.6f} for {rows.iloc[i].to_dict()}" for i in at
        )
        raise UserError(
            f"the ONNX graph differs from the fitted model by {worst:.2g} (bar {PARITY:g}) "
            f"on {(difference >= PARITY).sum():,} of {len(rows):,} holdout rows: {shown}"
        )
    return {"rows": len(rows), "largest_difference": float(worst)}


def example(rows: "pd.DataFrame") -> dict[str, Any]:
    """A real row to try the model with, of those with the fewest missing values."""
    return dict(json.loads(rows.loc[[rows.isna().sum(axis=1).idxmin()]].to_json(orient="records"))[0])


def connect(params: Params) -> "MlflowClient":
    """MLflow's client: at MLFLOW_TRACKING_URI, or with mlflow.db and mlruns/ in the project."""
    import mlflow

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.chdir(ROOT)  # MLflow puts artefacts of an SQLite store below the working directory
    mlflow.set_tracking_uri(os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"))
    mlflow.set_experiment(params.project)
    return mlflow.MlflowClient()


def track(params: Params, card: dict[str, Any], graph: "onnx.ModelProto") -> str:
    """Log parameters, what model.json says, and the graph with its signature; the id of the run."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, TensorSpec
    from mlflow.types import Schema as Columns

    from ..model.export import flat_inputs

    connect(params)
    columns: list[ColSpec | TensorSpec] = [
        ColSpec("float" if c.numeric else "string", n) for n, c in params.schema_.features.items()
    ]
    signature = ModelSignature(Columns(columns), Columns([ColSpec("float", "probability")]))
    with mlflow.start_run() as run:
        mlflow.log_params(params.train)
        mlflow.log_metrics({"train_rows": card["rows"], "parity": card["parity"]["largest_difference"]})
        mlflow.set_tags({key: card[key] for key in ("version", "git_commit", "data_hash", "framework")})
        # Requirements given, not inferred: that would load the model in another process.
        flat = flat_inputs(graph)
        mlflow.onnx.log_model(flat, name="model", signature=signature, pip_requirements=["onnxruntime"])
        return str(run.info.run_id)


def train(params: Params) -> str:
    """Write models/candidate: `model.onnx`, `model.json`, `reference.parquet`; says what was made."""
    import pandas as pd

    from ..model.estimator import FRAMEWORK, fit, to_onnx
    from ..model.graph import Graph, frame

    schema = params.schema_
    rows, held = (pd.read_parquet(FEATURES / f"{part}.parquet") for part in ("train", "holdout"))
    print(
        f"train: fitting {FRAMEWORK} on {len(rows):,} rows x {len(schema.features)} features ...", flush=True
    )
    features, target = frame(rows, schema), rows[schema.target.name].to_numpy()
    try:
        estimator = fit(features, target, schema, params.train)
    except (TypeError, ValueError) as error:  # what estimators raise for arguments they don't take
        raise UserError(f"params.yaml: train: {' '.join(str(error).split())}") from error
    onnx_model = to_onnx(estimator, schema)

    content = onnx_model.SerializeToString()
    version = hashlib.sha256(content).hexdigest()[:12]
    shutil.rmtree(CANDIDATE, ignore_errors=True)
    CANDIDATE.mkdir(parents=True)
    (CANDIDATE / "model.onnx").write_bytes(content)
    served = Graph(CANDIDATE / "model.onnx", schema).probability(held)
    parity = check_parity(estimator.predict_proba(frame(held, schema))[:, 1], served, held)

    reference = held[[*schema.features, schema.target.name]].assign(probability=served)
    reference = reference.sample(min(REFERENCE_ROWS, len(reference)), random_state=0).sort_index()
    reference.to_parquet(CANDIDATE / "reference.parquet", index=False)
    numbers = [n for n, c in schema.features.items() if c.numeric]
    card = {
        "version": version,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "data_hash": hashlib.sha256((FEATURES / "train.parquet").read_bytes()).hexdigest()[:12],
        "framework": FRAMEWORK,
        "rows": len(rows),
        "schema": schema.model_dump(mode="json", exclude_defaults=True),
        "categories": {n: sorted(rows[n].dropna().unique()) for n in schema.features if n not in numbers},
        "ranges": {n: [float(features[n].min()), float(features[n].max())] for n in numbers},
        "example": example(held[list(schema.features)]),
        "parity": parity,
    }
    card["run_id"] = track(params, card, onnx_model)
    (CANDIDATE / "model.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")
    return (
        f"version {version} on {len(rows):,} rows, parity {parity['largest_difference']:.1e} on {len(held):,}"
    )


if __name__ == "__main__":
    with stage("train"):
        print(f"train: {train(load())} -> models/candidate")
