"""One loaded model: champion or challenger."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from ..params import Schema, UserError


class Variant:
    """`model.onnx` and what model.json says of it.

    Raises:
        UserError: the folder lacks one of them, or it can't be loaded, or does not answer its own example.
    """

    def __init__(self, role: str, folder: Path) -> None:
        self.role = role
        try:
            self.card: dict[str, Any] = json.loads((folder / "model.json").read_text())
            self.schema = Schema.model_validate(self.card["schema"])
            self.version: str = self.card["version"]
            self.threshold: float = self.card["threshold"]
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1  # more serve one request slower, not sooner
            options.log_severity_level = 4  # what is wrong is said once, below
            path = str(folder / "model.onnx")
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            self.answer_example()
        except FileNotFoundError as error:
            raise UserError(f"{role}: {error.filename} is missing") from None
        except Exception as error:  # whatever a broken file makes the libraries raise
            reason = " ".join(str(error).split())
            raise UserError(f"{role}: {folder} can't be loaded: {reason}") from None

    def score(self, columns: Mapping[str, list[Any]]) -> list[float]:
        """P(positive) of each row of these columns, the schema's among them; None is a missing value."""
        inputs = {
            name: np.array(columns[name], np.float32)[:, None]
            if column.numeric
            else np.array([value or "" for value in columns[name]], object)[:, None]
            for name, column in self.schema.features.items()
        }
        scores: list[float] = self.session.run(["probability"], inputs)[0].tolist()
        return scores

    def answer_example(self) -> None:
        """Score the row that model.json has as its example. Raises: whatever a graph may."""
        example = self.card["example"]
        self.score({name: [example.get(name)] for name in self.schema.features})

    def answers(self, ids: list[str], scores: list[float]) -> list[bytes]:
        """The answers to rows of these scores, as JSON."""
        pattern = (
            '{"prediction_id":"%s","probability":%r,"prediction":%d,'
            f'"model_version":"{self.version}","variant":"{self.role}"}}'
        )
        return [
            (pattern % (id, score, score >= self.threshold)).encode()
            for id, score in zip(ids, scores, strict=True)
        ]
