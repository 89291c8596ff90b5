"""The core of batch scoring: a function of a block of rows, Arrow in, Arrow out."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa

from tabloop.params import Column
from tabloop.reading.typed import misfit
from tabloop.roles import MODELS
from tabloop.serving.predictor import UNSCORABLE
from tabloop.serving.rows import Checked, Refusal, RowChecker
from tabloop.serving.served_model import ServedModel

NO_TIME = "Input should be a time"


class Scorer:
    """A model that scores blocks of rows.

    Args:
        keys: the columns that name a row. They are in the output, too; without one, the row's number is.
        looked_up: the features that the views have and the input lacks. They are taken as they are, as the service does.
    """

    def __init__(self, model: ServedModel, keys: list[str], looked_up: Mapping[str, Column]) -> None:
        self.model, self.keys, self.looked_up = model, keys, dict(looked_up)
        self.checker = RowChecker(model.card, model.schema.features, looked_up.keys())
        stored = {name: Column(type=column.type) for name, column in looked_up.items()}
        self.stored = RowChecker(model.card, stored, frozenset())

    def __reduce__(self) -> tuple[Any, ...]:
        """The model's files go with it, as a worker on another machine has none of them."""
        files = {
            path.name: path.read_bytes() for path in (MODELS / self.model.role).iterdir() if path.is_file()
        }
        return restored, (self.model.role, files, self.keys, self.looked_up)

    def __call__(self, block: pa.RecordBatch, first: int) -> tuple[pa.Table, pa.Table]:
        """The rows with probability, prediction and model_version; and the refused ones, with the reasons.

        Args:
            block: the columns of `keys`, the entity and the features, as far as they are there, and those of `misfit`.
            first: the number of the block's first row.
        """
        inputs, checked = self._inputs(block)
        scores, refused, refusals = np.full(block.num_rows, np.nan), checked.refused, checked.refusals
        if not refused.all():
            some = {name: values[~refused] for name, values in inputs.items()} if refused.any() else inputs
            scores[~refused] = self.model.joined(self.model.score_parts(some))
        good = ~np.isnan(scores)
        if (unscored := ~good & ~refused).any():
            refusals.append(Refusal(unscored, "", UNSCORABLE, ""))
        numbers = pa.array(np.arange(first, first + len(scores)))
        keys = pa.table({name: block[name] for name in self.keys} or {"row": numbers})
        scored, values = keys if good.all() else keys.filter(pa.array(good)), scores[good]
        predicted = values >= self.model.threshold
        for name, column in {
            "probability": pa.array(values),
            "prediction": pa.array(predicted.astype(np.int8)),
            "model_version": pa.repeat(self.model.version, len(values)),
        }.items():
            scored = scored.append_column(name, column)
        left = pa.table({"row": numbers} | {name: block[name] for name in self.keys}).filter(pa.array(~good))
        why = ["; ".join(_reason(r) for r in refusals if r.rows[at]) for at in np.flatnonzero(~good)]
        return scored, left.append_column("reasons", pa.array(why, pa.string()))

    def _inputs(self, block: pa.RecordBatch) -> tuple[dict[str, np.ndarray], Checked]:
        """The graph's inputs, and what the service would refuse."""
        names, schema = block.schema.names, self.model.schema
        stored = [name for name in names if name in self.stored.columns]
        given = [name for name in names if name in self.checker.types and name not in stored]
        checked = self.checker.check(block.select(given))
        inputs = checked.inputs | self.stored.check(block.select(stored)).inputs
        for name in schema.features.keys() - inputs.keys():  # one that may be null
            kind: Any = np.float32 if schema.features[name].numeric else object
            inputs[name] = np.full((block.num_rows, 1), np.nan if kind is np.float32 else "", kind)
        for name in (schema.timestamp or "", *self.checker.columns):
            column = self.checker.columns.get(name)
            if misfit(name) in names and (column is None or column.nullable):
                wrong = block[misfit(name)].to_numpy(zero_copy_only=False)
                error = self.checker.error(name, [object()]) if column else (NO_TIME, "")
                if wrong.any():
                    checked.refusals.append(Refusal(wrong, name, *error))
        return inputs, checked


def restored(role: str, files: dict[str, bytes], keys: list[str], looked_up: dict[str, Column]) -> Scorer:
    """A scorer that came from another process."""
    with TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        return Scorer(ServedModel(role, Path(folder)), keys, looked_up)


def _reason(refusal: Refusal) -> str:
    return f"{refusal.column}: {refusal.message}" if refusal.column else refusal.message
