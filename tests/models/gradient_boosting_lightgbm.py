"""LightGBM, exported by onnxmltools. Needs the packages lightgbm and onnxmltools."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from tabloop.export import classifier_to_onnx
from tabloop.params import Schema

if TYPE_CHECKING:
    import onnx
    import pandas as pd

FRAMEWORK = "gradient_boosting_lightgbm"


def fit(features: "pd.DataFrame", target: np.ndarray, schema: Schema, params: dict[str, Any]) -> Pipeline:
    """Fit preprocessing and model as one estimator."""
    categories = [name for name, column in schema.features.items() if not column.numeric]
    numbers = [name for name, column in schema.features.items() if column.numeric]
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("numbers", "passthrough", numbers), ("categories", codes, categories)])
    model = LGBMClassifier(n_estimators=50, num_leaves=15, random_state=params["seed"], verbose=-1)
    return make_pipeline(columns, model).fit(features, target)


def to_onnx(estimator: Pipeline, schema: Schema) -> "onnx.ModelProto":
    """One graph: an input for each column, one output `probability`."""
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes

    options = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
    shapes = calculate_linear_classifier_output_shapes
    update_registered_converter(LGBMClassifier, "LGBMClassifier", shapes, convert_lightgbm, options=options)
    return classifier_to_onnx(estimator, schema)


def save(estimator: Pipeline, folder: Path) -> None:
    """Keep the fitted estimator for people."""
    joblib.dump(estimator, folder / "estimator.joblib")
