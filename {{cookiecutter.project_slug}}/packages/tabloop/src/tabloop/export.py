"""scikit-learn to ONNX with the schema's columns as inputs, whatever they are called; and the proof that it is right."""

from typing import Any

import numpy as np
import pandas as pd
from onnx import ModelProto, TensorProto, compose, helper

from tabloop.card import Parity
from tabloop.cli import UserError
from tabloop.onnx_model import OnnxModel
from tabloop.params import Schema

OPSET: Any = {"": 18, "ai.onnx.ml": 3}
TOLERANCE = 1e-5  # the largest difference in probability between estimator and graph


def classifier_to_onnx(estimator: Any, schema: Schema) -> ModelProto:
    """A fitted scikit-learn classifier as one graph.

    Its inputs are of shape (n, 1), one for each column; its output is `probability`, (n,) float32, of class 1.
    """
    model = convert(estimator, schema, options={"zipmap": False})
    graph = model.graph
    both = graph.output[1].name  # (n, 2): a column for each class
    graph.initializer.append(helper.make_tensor("model/class", TensorProto.INT64, [], [1]))
    graph.node.append(helper.make_node("Gather", [both, "model/class"], ["probability"], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"]))
    return model


def convert(estimator: Any, schema: Schema, **options: Any) -> ModelProto:
    """Any fitted scikit-learn estimator as a graph: an input of shape (n, 1) for each column, skl2onnx's outputs."""
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    number, text = FloatTensorType([None, 1]), StringTensorType([None, 1])
    inputs = [(name, number if column.numeric else text) for name, column in schema.features.items()]
    round_thresholds(estimator)
    converted = to_onnx(estimator, initial_types=inputs, target_opset=OPSET, **options)
    # skl2onnx renames an input called like one of its own results ("label"). A prefix that no column can have
    # separates the names, and the inputs then get theirs back.
    model = compose.add_prefix(converted, "model/")
    names = {entry.name: name for entry, name in zip(model.graph.input, schema.features, strict=True)}
    for entry in model.graph.input:
        entry.name = names[entry.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


def round_thresholds(estimator: Any) -> None:
    """Round the thresholds of scikit-learn's boosted trees down to float32, which is all that the graph has.

    A float32 is at most the one if it is at most the other, so the estimator stays what it was. skl2onnx rounds to the
    nearest: a value as good as at a threshold then goes the other way.

    How many threads this machine has is no part of the model, either, and would stand in the saved estimator.
    """
    for _, step in getattr(estimator, "steps", [("", estimator)]):
        if hasattr(step, "_bin_mapper") and step._bin_mapper is not None:
            step._bin_mapper.n_threads = 1
        for tree in (tree for trees in getattr(step, "_predictors", ()) for tree in trees):
            exact = tree.nodes["num_threshold"]
            with np.errstate(over="ignore"):
                near = exact.astype(np.float32)
            below = np.nextafter(near, np.float32(-np.inf))
            tree.nodes["num_threshold"] = np.where(near > exact, below, near)


def serialize(model: ModelProto) -> bytes:
    """The graph's bytes: the same for the same model, in any process.

    Converters list the operator sets in the order of a set, which Python's hash seed decides; here they are sorted.
    """
    opsets = sorted(model.opset_import, key=lambda entry: str(entry.domain))
    del model.opset_import[:]
    model.opset_import.extend(opsets)
    return model.SerializeToString(deterministic=True)


def check_parity(
    fitted: np.ndarray, graph: bytes, rows: pd.DataFrame, schema: Schema
) -> tuple[np.ndarray, Parity]:
    """Compare the estimator's P(positive) of the rows, (n,), with the graph's; the graph's, (n,), and how close.

    Raises:
        UserError: they differ by TOLERANCE or more; the text shows the rows of the largest differences.
    """
    served = OnnxModel(graph, schema).probability(rows)
    difference = np.abs(np.asarray(fitted, np.float64) - served)
    worst = float(difference.max(initial=0.0))
    if not worst < TOLERANCE:
        at = difference.argsort()[::-1][:3]
        shown = "; ".join(
            f"row {i}: {fitted[i]:.6f} != {served[i]:.6f} for {rows[list(schema.features)].iloc[i].to_dict()}"
            for i in at
        )
        raise UserError(
            f"the ONNX graph differs from the fitted model by {worst:.2g} (allowed: {TOLERANCE:g}) "
            f"on {int((~(difference < TOLERANCE)).sum()):,} of {len(rows):,} holdout rows: {shown}"
        )
    return served, Parity(rows=len(rows), largest_difference=worst)


def flat_inputs(model: ModelProto) -> ModelProto:
    """The same graph with inputs of shape (n,): MLflow feeds a table's columns to it as they are."""
    inputs = [(entry.name, entry.type.tensor_type.elem_type) for entry in model.graph.input]
    graph = helper.make_graph(
        [helper.make_node("Reshape", [name, "mlflow/shape"], [f"mlflow/{name}"]) for name, _ in inputs],
        "columns",
        [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in inputs],
        [helper.make_tensor_value_info(f"mlflow/{name}", kind, ["n", 1]) for name, kind in inputs],
        [helper.make_tensor("mlflow/shape", TensorProto.INT64, [2], [-1, 1])],
    )
    columns = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    inner = compose.add_prefix(model, "mlflow/", rename_outputs=False)
    return compose.merge_models(columns, inner, io_map=[(e.name, e.name) for e in graph.output])
