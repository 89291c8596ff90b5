"""One loaded model: the champion or the challenger."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from pydantic_core import to_json

from tabloop.card import ModelCard
from tabloop.cli import UserError, explained, one_line
from tabloop.onnx_model import FILE, MAX
from tabloop.serving.breaker import Breaker
from tabloop.serving.telemetry import CHALLENGER_ERRORS, UNSCORED

ROUNDING = 1e-5  # of float32: a sum of a forest's votes may be a little more than 1
FAILURES = 5  # of the challenger in a row, after which it rests
REST = 30.0  # seconds until it is tried again
# Seconds of CPU that a call of the challenger may take while others wait, and beyond it in all; then it rests for so long.
SLOW, SLOW_LIMIT, SLOW_REST = 0.02, 0.1, 3600.0

Row = dict[str, Any]
Columns = dict[str, list[Any]]  # of n rows, n values each
Scored = tuple[list[str], Columns, np.ndarray | Exception]  # ids, columns, scores


class ServedModel:
    """A model's graph and card, ready to answer.

    Raises:
        UserError: the folder lacks one of them, or the card is not valid, or the graph can't be loaded or can't
            score the card's example row.
    """

    def __init__(self, role: str, folder: Path) -> None:
        self.role = role
        with explained(role, UserError):
            self.card = ModelCard.read(folder)
        graph = folder / FILE
        self.schema, self.version = self.card.schema_, self.card.version
        self.threshold = self.card.threshold
        self.numbers = [name for name, column in self.schema.features.items() if column.numeric]
        self.texts = [name for name in self.schema.features if name not in self.numbers]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # more threads make one row slower, not faster
        options.log_severity_level = 4  # an error is reported once, below
        providers = ["CPUExecutionProvider"]
        with explained(f"{role}: {graph} can't be served"):
            self.session = onnxruntime.InferenceSession(str(graph), options, providers=providers)
            self.answer_example()
        # What keeps failing is not asked for a while. There is nothing else to ask than the champion.
        limit, self.failures = (0, UNSCORED) if role == "champion" else (FAILURES, CHALLENGER_ERRORS)
        self.breaker = Breaker(REST, limit)
        self.slow = 0.0  # seconds beyond SLOW

    def inputs(self, columns: Mapping[str, list[Any]]) -> dict[str, np.ndarray]:
        """The graph's inputs, each (n, 1) of float32 or str.

        Args:
            columns: at least the schema's features, n values each; None is a missing value.
        """
        rows = len(next(iter(columns.values())))
        # All in one array: many small ones would take longer.
        numbers = np.array([columns[name] for name in self.numbers], np.float64).reshape(-1, rows, 1)
        numbers = np.maximum(np.minimum(numbers, MAX), -MAX).astype(np.float32)  # faster than clip
        inputs = dict(zip(self.numbers, numbers, strict=True))
        for name in self.texts:
            inputs[name] = np.array([value or "" for value in columns[name]], object)[:, None]
        return inputs

    def probability(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """P(positive) of each row, (n,).

        Raises:
            ValueError: a score is no probability. Else what the graph raises.
        """
        rows = len(next(iter(inputs.values())))
        scores = self.session.run(["probability"], inputs)[0]
        # Both are NaN if one score is.
        low, high = np.minimum.reduce(scores, axis=None), np.maximum.reduce(scores, axis=None)
        if scores.shape != (rows,) or not (low >= -ROUNDING and high <= 1 + ROUNDING):
            raise ValueError(f"the graph's output is no probability: {scores}")
        return scores if low >= 0 and high <= 1 else scores.clip(0, 1)

    def score_apart(self, ids: list[str], columns: Columns) -> list[Scored]:
        """Rows with their scores: all at once, or where that fails in parts, so that a bad row fails alone."""
        scored, at = list[Scored](), 0
        for scores in self.score_parts(self.inputs(columns)):
            part = slice(at, at := at + (1 if isinstance(scores, Exception) else len(scores)))
            scored.append((ids[part], {name: values[part] for name, values in columns.items()}, scores))
        return scored

    def score_parts(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray | Exception]:
        """P(positive) of rows, in parts: (k,), or of one row the error. `inputs`: the graph's, (n, 1) each."""
        try:
            return [self.probability(dict(inputs))]
        except Exception as error:  # onnxruntime's exceptions have no common base
            if (rows := len(next(iter(inputs.values())))) == 1:
                return [error]
        step = -(-rows // 16)
        parts = ({n: own[at : at + step] for n, own in inputs.items()} for at in range(0, rows, step))
        return [scored for part in parts for scored in self.score_parts(part)]

    @staticmethod
    def joined(parts: list[np.ndarray | Exception]) -> np.ndarray:
        """The scores of all parts that `score_parts` gave, (n,), NaN where there is an error."""
        return np.concatenate([np.full(1, np.nan) if isinstance(p, Exception) else p for p in parts])

    def failed(self, error: Exception) -> None:
        """Count a row that could not be scored. The first time a line says so."""
        self.failures.inc()
        self.breaker.failed(f"{self.role}: a row can't be scored: {one_line(error)[:300]}")

    def took(self, seconds: float) -> None:
        """Note the CPU time of a call for which the event loop waited, so that a slow model rests: its time stays as it is."""
        self.slow = max(0.0, self.slow + seconds - SLOW)
        if self.slow > SLOW_LIMIT:
            self.slow = 0.0
            self.failures.inc()
            reason = f"too slow for an A/B test: {seconds:.2f} s of CPU for a call"
            self.breaker.failed(f"{self.role}: {reason}; it rests for an hour", SLOW_REST)

    def answer_example(self) -> bytes:
        """The answer to the card's example row. It raises what `probability` raises."""
        example = {name: [self.card.example.get(name)] for name in self.schema.features}
        return self.answers(["0" * 32], self.probability(self.inputs(example)).tolist())[0]

    def answers(self, ids: list[str], scores: list[float]) -> list[bytes]:
        """The answers to rows with these prediction ids and scores, each as JSON."""
        no, yes = (
            f'"prediction":{prediction},"model_version":"{self.version}","variant":"{self.role}"}}'
            for prediction in (0, 1)
        )
        texts = to_json(scores).decode()[1:-1].split(",")  # a quarter of the time of repr()
        return [
            f'{{"prediction_id":"{id}","probability":{text},{yes if score >= self.threshold else no}'.encode()
            for id, text, score in zip(ids, texts, scores, strict=True)
        ]
