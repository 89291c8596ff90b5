"""Logistic regression: medians for missing numbers, scaled; one column for each level of a category."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tabloop.export import classifier_to_onnx
from tabloop.params import Schema

if TYPE_CHECKING:
    import onnx
    import pandas as pd

FRAMEWORK = "logistic_regression"


def fit(features: "pd.DataFrame", target: np.ndarray, schema: Schema, params: dict[str, Any]) -> Pipeline:
    """Fit preprocessing and model as one estimator."""
    categories = [name for name, column in schema.features.items() if not column.numeric]
    numbers = [name for name, column in schema.features.items() if column.numeric]
    scaled = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    levels = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    columns = ColumnTransformer([("numbers", scaled, numbers), ("categories", levels, categories)])
    model = LogisticRegression(max_iter=1000)
    return make_pipeline(columns, model).fit(features, target)


def to_onnx(estimator: Pipeline, schema: Schema) -> "onnx.ModelProto":
    """One graph: an input for each column, one output `probability`."""
    return classifier_to_onnx(estimator, schema)


def save(estimator: Pipeline, folder: Path) -> None:
    """Keep the fitted estimator for people."""
    joblib.dump(estimator, folder / "estimator.joblib")
