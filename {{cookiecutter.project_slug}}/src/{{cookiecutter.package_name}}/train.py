"""Fit the model, export it as one ONNX graph, prove that the graph is the model, choose its threshold: models/candidate."""

from tabloop import candidate
from tabloop.cli import command
from tabloop.export import check_parity, serialize
from tabloop.onnx_model import model_inputs
from tabloop.params import Params, load
from tabloop.provenance import origin
from tabloop.threshold import choose_threshold

from .model import FRAMEWORK, fit, save, to_onnx


def train(params: Params) -> str:
    """Write models/candidate; a line that says what it is."""
    schema = params.schema_
    rows, holdout = (candidate.read_features(part, schema) for part in ("train", "holdout"))
    rows = candidate.in_order(rows, schema)
    print(f"train: fitting {FRAMEWORK}: {len(rows):,} rows, {len(schema.features)} features", flush=True)
    target = rows[schema.target.name].to_numpy()
    estimator = candidate.fit_or_explain(fit, model_inputs(rows, schema), target, params)

    graph = serialize(to_onnx(estimator, schema))
    fitted = estimator.predict_proba(model_inputs(holdout, schema))[:, 1]
    served, parity = check_parity(fitted, graph, holdout, schema)

    threshold = choose_threshold(fit, rows, params)
    card = candidate.describe(graph, FRAMEWORK, threshold, parity, rows, params)
    with candidate.written(card, graph, candidate.reference(holdout, served, schema)) as folder:
        save(estimator, folder)
    parity_line = f"parity {parity.largest_difference:.1e} on {parity.rows:,} holdout rows"
    return f"version {card.version}, {parity_line}, trained from {origin(card.inputs)}"


if __name__ == "__main__":
    with command("train"):
        print(f"train: {train(load())} -> models/candidate")
