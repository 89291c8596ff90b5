"""The exported model: one ONNX graph whose inputs are the schema's columns and whose output is `probability`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tabloop.cli import explained
from tabloop.params import Schema

if TYPE_CHECKING:
    import pandas as pd

FILE = "model.onnx"
MAX = float(np.finfo(np.float32).max)  # greater numbers count as this one, wherever a model is asked
BATCH = 100_000  # rows scored at once: bounds the memory of a graph's intermediate values


def model_inputs(rows: "pd.DataFrame", schema: Schema) -> "pd.DataFrame":
    """The schema's columns, in order, as every model takes them: float32 with NaN, or str with "", for missing.

    Estimators are fitted on this, too, so that a split can't depend on digits that float32 does not have.
    """
    import pandas as pd

    inputs = dict[str, Any]()
    for name, column in schema.features.items():
        if column.numeric:
            numbers = pd.to_numeric(rows[name]).astype("Float64").to_numpy("float64", na_value=np.nan)
            inputs[name] = numbers.clip(-MAX, MAX).astype("float32")
        else:
            inputs[name] = rows[name].astype(object).where(rows[name].notna(), "").astype(str)
    return pd.DataFrame(inputs, index=rows.index)


class OnnxModel:
    """An ONNX graph, loaded to score tables.

    Raises:
        UserError: onnxruntime can't load the graph.
    """

    def __init__(self, graph: Path | bytes, schema: Schema) -> None:
        import onnxruntime

        self.schema = schema
        source = graph if isinstance(graph, bytes) else str(graph)
        with explained(f"{graph if isinstance(graph, Path) else 'the ONNX graph'} can't be loaded"):
            self.session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])

    def probability(self, rows: "pd.DataFrame") -> np.ndarray:
        """P(positive) of each row, (n,) float32."""
        parts = [self.score(self.inputs(rows.iloc[i : i + BATCH])) for i in range(0, len(rows), BATCH)]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)

    def inputs(self, rows: "pd.DataFrame") -> dict[str, np.ndarray]:
        """The graph's inputs, each (n, 1)."""
        columns = model_inputs(rows, self.schema)
        return {name: columns[name].to_numpy()[:, None] for name in self.schema.features}

    def score(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """P(positive), (n,) float32, for the graph's inputs of at most BATCH rows."""
        return self.session.run(["probability"], inputs)[0]
