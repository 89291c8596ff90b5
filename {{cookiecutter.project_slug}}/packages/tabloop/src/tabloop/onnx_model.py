"""The exported model: one ONNX graph whose inputs are the schema's columns."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from ..params import Schema

if TYPE_CHECKING:
    import pandas as pd

BATCH = 100_000  # rows scored at once: bounds the memory that a graph's intermediate values take


def frame(rows: "pd.DataFrame", schema: Schema) -> "pd.DataFrame":
    """The schema's columns, in order, as every model takes them: float32 with NaN, or str with "", for missing.

    Estimators are fitted on this, too: what float32 rounds away is gone before a split can depend on it.
    """
    import pandas as pd

    return pd.DataFrame(
        {
            name: pd.to_numeric(rows[name]).astype("Float64").to_numpy("float32", na_value=np.nan)
            if column.numeric
            else rows[name].astype(object).where(rows[name].notna(), "").astype(str)
            for name, column in schema.features.items()
        },
        index=rows.index,
    )


class Graph:
    """`model.onnx`, loaded to score tables."""

    def __init__(self, path: Path, schema: Schema) -> None:
        self.schema = schema
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def probability(self, rows: "pd.DataFrame") -> np.ndarray:
        """P(positive) of each row, (n,) float32."""
        inputs = {name: values.to_numpy()[:, None] for name, values in frame(rows, self.schema).items()}
        parts = [
            self.session.run(["probability"], {n: v[i : i + BATCH] for n, v in inputs.items()})[0]
            for i in range(0, len(rows), BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty(0, np.float32)
