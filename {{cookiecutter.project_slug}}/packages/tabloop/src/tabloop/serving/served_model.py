"""One loaded model: the champion or the challenger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from tabloop.card import ModelCard
from tabloop.cli import UserError, one_line
from tabloop.onnx_model import FILE


class ServedModel:
    """A model's graph and card, ready to answer.

    Raises:
        UserError: the folder lacks one of them, or the card is not complete, or the graph can't be loaded or can't
            score the card's example row.
    """

    def __init__(self, role: str, folder: Path) -> None:
        self.role = role
        try:
            self.card = ModelCard.read(folder)
        except UserError as error:
            raise UserError(f"{role}: {error}") from None
        if self.card.threshold is None:
            raise UserError(f"{role}: {folder} was not evaluated: its model.json has no threshold")
        graph = folder / FILE
        self.schema, self.version = self.card.schema_, self.card.version
        self.threshold: float = self.card.threshold
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # more threads make one row slower, not faster
        options.log_severity_level = 4  # an error is reported once, below
        try:
            self.session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
            self.score_example()
        except Exception as error:  # onnxruntime's exceptions have no common base
            raise UserError(f"{role}: {graph} can't be loaded: {one_line(error)}") from None

    def score(self, columns: Mapping[str, list[Any]]) -> list[float]:
        """P(positive) of each row, (n,).

        Args:
            columns: at least the schema's features, n values each; None is a missing value.
        """
        inputs = {
            name: np.array(columns[name], np.float32)[:, None]
            if column.numeric
            else np.array([value or "" for value in columns[name]], object)[:, None]
            for name, column in self.schema.features.items()
        }
        scores: list[float] = self.session.run(["probability"], inputs)[0].tolist()
        return scores

    def score_example(self) -> None:
        """Score the card's example row. It raises what the graph raises."""
        self.score({name: [self.card.example.get(name)] for name in self.schema.features})

    def answers(self, ids: list[str], scores: list[float]) -> list[bytes]:
        """The answers to rows with these prediction ids and scores, each as JSON."""
        no, yes = (
            f'"prediction":{prediction},"model_version":"{self.version}","variant":"{self.role}"}}'
            for prediction in (0, 1)
        )
        return [
            f'{{"prediction_id":"{id}","probability":{score!r},{yes if score >= self.threshold else no}'.encode()
            for id, score in zip(ids, scores, strict=True)
        ]
