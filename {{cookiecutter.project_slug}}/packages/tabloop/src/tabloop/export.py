"""scikit-learn to ONNX, with the schema's columns as inputs whatever they are called."""

from typing import TYPE_CHECKING, Any

from ..params import Schema

if TYPE_CHECKING:
    import onnx


def convert(estimator: Any, schema: Schema, **options: Any) -> "onnx.ModelProto":
    """The estimator's graph: an input of shape (n, 1) for each column, float32 or string; outputs as skl2onnx has them."""
    from onnx import compose
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    inputs = [
        (name, (FloatTensorType if column.numeric else StringTensorType)([None, 1]))
        for name, column in schema.features.items()
    ]
    # skl2onnx renames an input called like one of its own results ("label"). Under a prefix that no column
    # can have, its names are out of the way, and the inputs get theirs back.
    model = compose.add_prefix(to_onnx(estimator, initial_types=inputs, target_opset=18, **options), "model/")
    names = {entry.name: name for entry, name in zip(model.graph.input, schema.features, strict=True)}
    for entry in model.graph.input:
        entry.name = names[entry.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


def flat_inputs(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The same graph with inputs of shape (n,): MLflow feeds a table's columns to it as they are."""
    from onnx import TensorProto, compose, helper

    graph = helper.make_graph(
        [
            helper.make_node("Reshape", [e.name, "mlflow/shape"], [f"mlflow/{e.name}"])
            for e in model.graph.input
        ],
        "columns",
        [
            helper.make_tensor_value_info(e.name, e.type.tensor_type.elem_type, ["n"])
            for e in model.graph.input
        ],
        [
            helper.make_tensor_value_info(f"mlflow/{e.name}", e.type.tensor_type.elem_type, ["n", 1])
            for e in model.graph.input
        ],
        [helper.make_tensor("mlflow/shape", TensorProto.INT64, [2], [-1, 1])],
    )
    columns = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    inner = compose.add_prefix(model, "mlflow/", rename_outputs=False)
    return compose.merge_models(columns, inner, io_map=[(e.name, e.name) for e in graph.output])
