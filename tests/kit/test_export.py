"""From a fitted estimator to a graph whose bytes are its own and whose answers are the estimator's."""

from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from tabloop.cli import UserError
from tabloop.export import check_parity, classifier_to_onnx, flat_inputs, serialize
from tabloop.onnx_model import OnnxModel, model_inputs
from tabloop.params import Column, Schema, Target

# Names that skl2onnx gives its own results, or that other parts of the project use.
NAMES = ("label", "variable", "probabilities", "variant", "date")
SCHEMA = Schema(
    target=Target(name="y"),
    request={name: Column(type="number") for name in NAMES} | {"level": Column(type="category")},
)


def rows(n: int = 400) -> pd.DataFrame:
    random = np.random.default_rng(0)
    table = pd.DataFrame({name: random.normal(size=n) for name in NAMES})
    table.loc[::7, "label"] = None
    return table.assign(level=random.choice(np.array(["a", "b", None], object), n))


def fitted(table: pd.DataFrame) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    columns = ColumnTransformer([("level", encoder, ["level"])], remainder="passthrough")
    target = (table.variable + (table.level == "a") > 0.3).astype(int)
    model = HistGradientBoostingClassifier(max_iter=10, random_state=0)
    return make_pipeline(columns, model).fit(model_inputs(table, SCHEMA), target)


def test_the_graph_gives_the_estimators_probabilities_whatever_the_columns_are_called() -> None:
    table = rows()
    estimator = fitted(table)
    graph = serialize(classifier_to_onnx(estimator, SCHEMA))
    expected = estimator.predict_proba(model_inputs(table, SCHEMA))[:, 1]
    served, parity = check_parity(expected, graph, table, SCHEMA)
    assert parity.rows == 400 and parity.largest_difference < 1e-6
    assert [entry.name for entry in onnx.load_from_string(graph).graph.input] == list(SCHEMA.features)
    assert len(set(served.round(6))) > 10


def test_a_graph_that_is_not_the_model_is_refused_with_its_worst_rows() -> None:
    table = rows()
    graph = serialize(classifier_to_onnx(fitted(table), SCHEMA))
    expected = OnnxModel(graph, SCHEMA).probability(table).astype(float)
    expected[3] += 0.25
    with pytest.raises(UserError, match=r"by 0\.25 .* on 1 of 400 holdout rows: row 3: "):
        check_parity(expected, graph, table, SCHEMA)
    expected[3] = np.nan
    with pytest.raises(UserError, match="on 1 of 400"):
        check_parity(expected, graph, table, SCHEMA)


def test_a_graph_that_can_not_be_loaded_is_one_line() -> None:
    with pytest.raises(UserError, match="the ONNX graph can't be loaded"):
        OnnxModel(b"no graph", SCHEMA)


def test_mlflow_takes_a_tables_columns_as_they_are() -> None:
    table = rows(20)
    model = classifier_to_onnx(fitted(rows()), SCHEMA)
    flat = OnnxModel(flat_inputs(model).SerializeToString(), SCHEMA)
    inputs = {name: values.to_numpy() for name, values in model_inputs(table, SCHEMA).items()}
    (answer,) = flat.session.run(["probability"], inputs)
    assert answer == pytest.approx(OnnxModel(serialize(model), SCHEMA).probability(table))
