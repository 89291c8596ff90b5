"""Batches as Arrow IPC streams: checked, scored and logged by column, without an object for each row."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import nanoarrow as na
import numpy as np
from arro3.core import Array, DataType, RecordBatch
from pydantic_core import to_json

from tabloop.onnx_model import MAX
from tabloop.serving.arrow import decode, encode
from tabloop.serving.direct_route import MAX_ERRORS, Refused, give_way, problem
from tabloop.serving.prediction_log import TRACE
from tabloop.serving.predictor import UNSCORABLE, Predictor
from tabloop.serving.rows import Checked, RowChecker
from tabloop.serving.served_model import ServedModel
from tabloop.serving.settings import cores
from tabloop.serving.trace import REQUEST, trace_id

PART_ROWS = 2000  # scored at once, in threads: ONNX Runtime lets others work meanwhile


@dataclass
class Batch:
    """Completed rows.

    Attributes:
        keys: the entities, (n,) of str or None.
        inputs: of each column (n, 1) of float32 or str, as graphs take it.
        logged: of each column the values as the log has them.
    """

    ids: list[str]
    keys: list[str | None]
    inputs: dict[str, np.ndarray]
    logged: dict[str, Array]

    def take(self, places: np.ndarray) -> "Batch":
        """The rows at these places."""
        at = Array.from_numpy(places.astype(np.uint32))
        return Batch(
            [self.ids[place] for place in places],
            [self.keys[place] for place in places],
            {name: values[places] for name, values in self.inputs.items()},
            {name: column.take(at) for name, column in self.logged.items()},
        )


class ArrowBatches:
    """Answers batches of up to `most` rows."""

    def __init__(self, predictor: Predictor, most: int) -> None:
        self.predictor, self.most = predictor, most
        # As many threads as cores, of which each process has its share.
        self.pool = ThreadPoolExecutor(max(1, cores() // predictor.settings.web_concurrency), "batch")
        self.checker = RowChecker(predictor.champion.card, predictor.columns, predictor.looked_up)

    async def answer(self, body: bytes, wanted: bool) -> bytes:
        """The answers to the rows of a stream, as a stream if that is `wanted`, else as one JSON list.

        Raises:
            Refused: it is no such stream; a row breaks the schema; no row could be scored.
        """
        rows = decode(body, self.most, self.predictor.blank.keys())
        REQUEST.get()["rows"] = rows.num_rows
        await give_way()
        checked = self.checker.check(rows)
        if found := checked.refusals:  # the first row of each column and rule is named
            places = [(int(refusal.rows.argmax()), refusal) for refusal in found[:MAX_ERRORS]]
            raise Refused(422, [problem((row, r.column), r.message, r.kind) for row, r in places])
        await give_way()
        batch = await self._complete(rows, checked)
        await give_way()
        scores, challenged = await self._score(batch)
        if np.isnan(scores).all():
            raise Refused(500, UNSCORABLE)
        await give_way()
        return (self._stream if wanted else self._json)(batch.ids, scores, challenged)

    async def _complete(self, rows: RecordBatch, checked: Checked) -> Batch:
        """Look up the columns that the rows do not have; what is not known is missing."""
        predictor, n = self.predictor, rows.num_rows
        given = {name: rows.column(at) for at, name in enumerate(rows.column_names)}
        entity, absent = predictor.entity, predictor.looked_up - given.keys()
        keys: list[Any] = self.checker.keys(given[entity]).tolist() if entity in given else [None] * n
        stored = await predictor.online.read(keys) if absent else []
        batch = Batch(predictor.ids.draw_together(n), keys, dict(checked.inputs), {})
        for name, column in predictor.columns.items():
            kind = getattr(DataType, column.kind.arrow)()
            if name not in given:
                values = [own[name] for own in stored] if name in absent else [None] * n
                batch.inputs[name], batch.logged[name] = _input(values, column.numeric), Array(values, kind)
            elif column.numeric or DataType.is_string(given[name].type):
                batch.logged[name] = given[name].cast(kind)
            else:  # numbers as texts
                batch.logged[name] = Array([value or None for value in batch.inputs[name][:, 0]], kind)
        return batch

    async def _score(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The scores of rows, (n,), NaN where there is none, and which of them are the challenger's."""
        predictor, n = self.predictor, len(batch.ids)
        scores, challenged = np.full(n, np.nan), np.zeros(n, bool)
        challenger = predictor.challenger
        if challenger and predictor.mode == "ab" and not challenger.breaker.resting:
            pairs = zip(batch.keys, batch.ids, strict=True)
            share = np.array([predictor.challenged(key or id) for key, id in pairs])
            await self._score_by(challenger, batch, share.nonzero()[0], scores)
            challenged = ~np.isnan(scores)
        await self._score_by(predictor.champion, batch, np.isnan(scores).nonzero()[0], scores)
        self._keep(batch, scores, challenged)
        if predictor.shadow:
            columns: dict[str, Any] = {name: column.to_pylist() for name, column in batch.logged.items()}
            columns |= {predictor.entity: batch.keys} if predictor.entity else {}
            columns[TRACE] = [trace_id(REQUEST.get())] * n
            predictor.shadow.add(batch.ids, columns)
        return scores, challenged

    async def _score_by(
        self, model: ServedModel, batch: Batch, places: np.ndarray, scores: np.ndarray
    ) -> None:
        """Let a model score the rows at these places."""
        if not len(places):
            return
        inputs = {name: batch.inputs[name] for name in model.schema.features}
        if len(places) < len(scores):
            inputs = {name: values[places] for name, values in inputs.items()}
        loop, n = asyncio.get_running_loop(), len(places)
        parts = [{k: v[at : at + PART_ROWS] for k, v in inputs.items()} for at in range(0, n, PART_ROWS)]
        scored = (loop.run_in_executor(self.pool, model.score_parts, part) for part in parts)
        found = [each for part in await asyncio.gather(*scored) for each in part]
        scores[places] = model.joined(found)
        for error in found:
            if isinstance(error, Exception):
                model.failed(error)

    def _keep(self, batch: Batch, scores: np.ndarray, challenged: np.ndarray) -> None:
        """Count and log the rows that a model could score."""
        kept, predictor = (~np.isnan(scores)).nonzero()[0], self.predictor
        if not len(kept):
            return
        if len(kept) < len(scores):
            batch, scores, challenged = batch.take(kept), scores[kept], challenged[kept]
        known: dict[str, Any] = {name: batch.inputs[name][:, 0].tolist() for name, *_ in predictor.levels}
        known |= {name: batch.inputs[name][:, 0] for name in predictor.ranges}
        share = int(challenged.sum())
        if predictor.challenger and share:
            predictor.count(predictor.challenger, share)
        if share < len(scores):
            predictor.count(predictor.champion, len(scores) - share)
        predictor.count_unknown(known)
        models = [predictor.champion, *([predictor.challenger] if share and predictor.challenger else [])]
        predictor.log.add_columns(models, challenged, batch.ids, batch.keys, batch.logged, scores)

    def _json(self, ids: list[str], scores: np.ndarray, challenged: np.ndarray) -> bytes:
        answers = [to_json({"detail": UNSCORABLE})] * len(ids)
        for model, own in ((self.predictor.challenger, challenged), (self.predictor.champion, ~challenged)):
            places = (own & ~np.isnan(scores)).nonzero()[0].tolist()
            if model and places:
                made = model.answers([ids[at] for at in places], scores[places].tolist())
                for at, answer in zip(places, made, strict=True):
                    answers[at] = answer
        return b"[%s]" % b",".join(answers)

    def _stream(self, ids: list[str], scores: np.ndarray, challenged: np.ndarray) -> bytes:
        """The fields of a JSON answer as columns; those of a row that could not be scored are null, but for `detail`."""
        failed, text = np.isnan(scores), DataType.utf8()
        models = [self.predictor.champion, self.predictor.challenger or self.predictor.champion]
        thresholds = np.array([model.threshold for model in models])[challenged.astype(int)]
        which, own = _places(challenged, failed), _places(np.arange(len(ids)), failed)
        columns = {
            "prediction_id": Array(ids, text),
            "probability": Array.from_numpy(scores),
            "prediction": Array.from_numpy((scores >= thresholds).astype(np.int8)),
        }
        if failed.any():
            columns = {name: values.take(own) for name, values in columns.items()}
        return encode(
            columns
            | {
                "model_version": Array([model.version for model in models], text).take(which),
                "variant": Array([model.role for model in models], text).take(which),
                "detail": Array([UNSCORABLE], text).take(_places(np.zeros(len(ids)), ~failed)),
            }
        )


def _places(places: np.ndarray, null: np.ndarray) -> Array:
    """Places for Arrow's `take`, (n,), which gives null where one is null."""
    valid = np.packbits(~null, bitorder="little")
    return Array.from_arrow(na.c_array_from_buffers(na.uint32(), len(places), [valid, places.astype("<u4")]))


def _input(values: list[Any], numeric: bool) -> np.ndarray:
    """A column as graphs take it, (n, 1)."""
    if numeric:
        numbers = np.array(values, np.float64)
        return np.maximum(np.minimum(numbers, MAX), -MAX).astype(np.float32)[:, None]
    return np.array([value or "" for value in values], object)[:, None]
