"""The model: gradient-boosted trees of XGBoost, which take missing values as they are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OrdinalEncoder
from tabloop.export import classifier_to_onnx
from tabloop.params import Schema
from xgboost import XGBClassifier

if TYPE_CHECKING:
    import onnx
    import pandas as pd

FRAMEWORK = "xgboost"


def fit(features: "pd.DataFrame", target: np.ndarray, schema: Schema, params: dict[str, Any]) -> Pipeline:
    """Fit preprocessing and model as one estimator.

    Args:
        features: (n, columns of the schema): float32 with NaN, or str with "", for missing.
        target: (n,) of 0 and 1.
        params: `train` of params.yaml: the arguments of XGBClassifier, and a seed.
    """
    # Codes, as the converter knows no categories of XGBoost's own. A level that training did not see, or a missing one, is a code, too.
    categories = [name for name, column in schema.features.items() if not column.numeric]
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("categories", codes, categories)], remainder="passthrough")
    arguments = {name: value for name, value in params.items() if name != "seed"}
    model = XGBClassifier(random_state=params.get("seed"), **arguments)
    return make_pipeline(columns, model).fit(features, target)


def to_onnx(estimator: Pipeline, schema: Schema) -> "onnx.ModelProto":
    """One graph: an input of shape (n, 1) for each column, one output `probability` (n,), float32, of class 1."""
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost as converter
    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import calculate_linear_classifier_output_shapes as shapes

    options = {"zipmap": [True, False, "columns"], "nocl": [True, False]}
    update_registered_converter(XGBClassifier, "XGBClassifier", shapes, converter, options=options)
    return classifier_to_onnx(estimator, schema)


def save(estimator: Pipeline, folder: Path) -> None:
    """Keep the fitted estimator for people, for example to explain it. The service never reads it."""
    joblib.dump(estimator, folder / "estimator.joblib")
