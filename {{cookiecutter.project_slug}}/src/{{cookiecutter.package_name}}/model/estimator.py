"""The model: gradient-boosted trees that take missing values and categories as they come."""

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from ..params import Schema

if TYPE_CHECKING:
    import onnx
    import pandas as pd

FRAMEWORK = "sklearn"


def fit(features: "pd.DataFrame", target: np.ndarray, schema: Schema, params: dict[str, Any]) -> Pipeline:
    """Fit preprocessing and model in one.

    Args:
        features: (n, columns of the schema), as `graph.inputs` makes them: float32, or str with "" for missing.
        target: (n,) of 0 and 1.
        params: `train` of params.yaml, the classifier's own arguments.
    """
    # Codes, not `categorical_features=`: with that, skl2onnx writes a graph that is wrong without a word.
    # No scaling: trees don't need it, and float32 in the graph would move rows across splits.
    categories = [name for name, column in schema.features.items() if not column.numeric]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("categories", encoder, categories)], remainder="passthrough")
    arguments = {k: v for k, v in params.items() if k != "seed"}
    model = HistGradientBoostingClassifier(random_state=params.get("seed"), **arguments)
    return make_pipeline(columns, model).fit(features, target)


def to_onnx(estimator: Pipeline, schema: Schema) -> "onnx.ModelProto":
    """One graph: an input of shape (n, 1) for each column, one output `probability` (n,), float32, of class 1."""
    from onnx import TensorProto, helper
    from skl2onnx import to_onnx as convert
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    inputs = [
        (name, (FloatTensorType if column.numeric else StringTensorType)([None, 1]))
        for name, column in schema.features.items()
    ]
    model = convert(estimator, initial_types=inputs, options={"zipmap": False}, target_opset=18)
    graph = model.graph
    both = graph.output[1].name  # (n, 2): a column for each class
    graph.initializer.append(helper.make_tensor("class_1", TensorProto.INT64, [], [1]))
    graph.node.append(helper.make_node("Gather", [both, "class_1"], ["probability"], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["n"]))
    return model
