"""Batches, in JSON or as Arrow IPC streams: checked, scored and logged by column, without an object for each row."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from arro3.core import Array, DataType, RecordBatch

from tabloop.onnx_model import MAX
from tabloop.params import Column
from tabloop.serving import arrow, explanation, prediction_log, request, settings, trace
from tabloop.serving.batch_answers import PART_ROWS, as_json, as_stream
from tabloop.serving.direct_route import MAX_ERRORS, PART_SECONDS, Refused, give_way, problem
from tabloop.serving.predictor import UNSCORABLE, Predictor
from tabloop.serving.rows import Checked, Part, RowChecker
from tabloop.serving.served_model import Columns, Row, ServedModel

NICE = 5  # of these threads: the event loop's, which answers single rows, goes first
ABSENT: Any = object()  # the value of a column that a row leaves out and that is looked up


@dataclass
class Batch:
    """Completed rows.

    Attributes:
        ids: (n,).
        keys: the entities, (n,).
        inputs: of each column (n, 1) of float32 or str, as graphs take it.
        logged: of each column the values as the log has them.
    """

    ids: Array
    keys: Array
    inputs: dict[str, np.ndarray]
    logged: dict[str, Array]

    def add(self, name: str, column: Column, values: list[Any]) -> None:
        """Add a column of validated values."""
        self.inputs[name] = _input(values, column.numeric)
        self.logged[name] = Array(values, getattr(DataType, column.kind.arrow)())

    def take(self, places: np.ndarray) -> "Batch":
        """The rows at these places."""
        at = Array.from_numpy(places.astype(np.uint32))
        return Batch(
            self.ids.take(at),
            self.keys.take(at),
            {name: values[places] for name, values in self.inputs.items()},
            {name: column.take(at) for name, column in self.logged.items()},
        )


class Batches:
    """Answers batches of up to `most` rows."""

    def __init__(self, predictor: Predictor, most: int) -> None:
        self.predictor, self.most = predictor, most
        # As many threads as cores, of which each process has its share.
        threads = max(1, settings.cores() // predictor.settings.web_concurrency)
        self.pool = ThreadPoolExecutor(threads, "batch", explanation.step_back, (NICE,))
        self.checker = RowChecker(predictor.champion.card, predictor.columns, predictor.looked_up)

    async def answer_rows(self, valid: Sequence[Part | Row]) -> bytes:
        """The answers to validated rows, of which each Part has some, in their order, as one JSON list.

        Raises:
            ValidationError: a row leaves out columns that are looked up, and the entity.
            Refused: no row could be scored. If some could, the others have `detail` in place of an answer.
        """
        predictor, columns, values = self.predictor, dict[str, list[Any]](), list[Any]()
        for name in predictor.blank:
            left_out = ABSENT if name in predictor.looked_up else None
            columns[name] = values = []
            for own in valid:
                if isinstance(own, Part):
                    values += own.get(name) or [left_out] * len(next(iter(own.values())))
                else:
                    values.append(own.get(name, left_out))
            await give_way(PART_SECONDS)
        n = len(values)
        keys: list[Any] = columns[predictor.entity] if predictor.entity else [None] * n
        absent = [name for name in predictor.looked_up if any(name not in own for own in valid)]
        await self._look_up(sorted(absent), columns, keys)
        batch = Batch(predictor.ids.draw_together(n), Array(keys, DataType.utf8()), {}, {})
        for name, column in predictor.columns.items():
            batch.add(name, column, columns[name])
            await give_way(PART_SECONDS)
        return await self._answer(batch, wanted=False)

    async def _look_up(self, names: list[str], columns: Columns, keys: list[Any]) -> None:
        """Put in what the online store has of the values of these columns that are ABSENT."""
        rows = zip(*(columns[name] for name in names), strict=True)
        absent = [at for at, values in enumerate(rows) if ABSENT in values]
        for at in absent:
            if keys[at] is None:
                lacking = [name for name in names if columns[name][at] is ABSENT]
                raise request.missing_entity(self.predictor.entity or "", lacking, (at,))
        stored = await self.predictor.online.read([keys[at] for at in absent]) if absent else []
        for name in names:
            values = columns[name]
            for at, found in zip(absent, stored, strict=True):
                if values[at] is ABSENT:
                    values[at] = found[name]

    async def answer_arrow(self, body: bytes, wanted: bool) -> bytes:
        """The answers to the rows of a stream, as a stream if that is `wanted`, else as one JSON list.

        Raises:
            Refused: it is no such stream; a row breaks the schema; no row could be scored.
        """
        rows = arrow.decode(body, self.most, self.predictor.blank.keys())
        trace.REQUEST.get()["rows"] = rows.num_rows
        await give_way(PART_SECONDS)
        checked = self.checker.check(rows)
        if found := checked.refusals:  # the first row of each column and rule is named
            places = [(int(refusal.rows.argmax()), refusal) for refusal in found[:MAX_ERRORS]]
            raise Refused(422, [problem((row, r.column), r.message, r.kind) for row, r in places])
        await give_way(PART_SECONDS)
        return await self._answer(await self._complete(rows, checked), wanted)

    async def _complete(self, rows: RecordBatch, checked: Checked) -> Batch:
        """Look up the columns that the rows do not have; what is not known is missing."""
        predictor, n = self.predictor, rows.num_rows
        given = {name: rows.column(at) for at, name in enumerate(rows.column_names)}
        entity, absent = predictor.entity, predictor.looked_up - given.keys()
        keys = self.checker.keys(given[entity]) if entity in given else Array([None] * n, DataType.utf8())
        stored = await predictor.online.read(list(keys.to_pylist())) if absent else []
        batch = Batch(predictor.ids.draw_together(n), keys, dict(checked.inputs), {})
        for name, column in predictor.columns.items():
            kind = getattr(DataType, column.kind.arrow)()
            if name not in given:
                batch.add(name, column, [own[name] for own in stored] if name in absent else [None] * n)
            elif column.numeric or DataType.is_string(given[name].type):
                batch.logged[name] = given[name].cast(kind)
            else:  # numbers as texts
                batch.logged[name] = Array([value or None for value in batch.inputs[name][:, 0]], kind)
        return batch

    async def _answer(self, batch: Batch, wanted: bool) -> bytes:
        """Score, log, and answer as a stream if that is `wanted`, else in JSON."""
        await give_way(PART_SECONDS)
        predictor, (scores, challenged) = self.predictor, await self._score(batch)
        if np.isnan(scores).all():
            raise Refused(500, UNSCORABLE)
        await give_way(PART_SECONDS)
        models = [predictor.champion, predictor.challenger or predictor.champion]
        if wanted:
            return as_stream(models, batch.ids, scores, challenged)
        return await as_json(models, list(batch.ids.to_pylist()), scores, challenged)

    async def _score(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """The scores of rows, (n,), NaN where there is none, and which of them are the challenger's."""
        predictor, n = self.predictor, len(batch.ids)
        scores, challenged = np.full(n, np.nan), np.zeros(n, bool)
        challenger = predictor.challenger
        if challenger and predictor.mode == "ab" and not challenger.breaker.resting:
            share = list[bool]()
            for at in range(0, n, PART_ROWS):
                keys, ids = (
                    column.slice(at, min(PART_ROWS, n - at)).to_pylist() for column in (batch.keys, batch.ids)
                )
                share += [predictor.challenged(key or id) for key, id in zip(keys, ids, strict=True)]
                await give_way(PART_SECONDS)
            await self._score_by(challenger, batch, np.array(share).nonzero()[0], scores)
            challenged = ~np.isnan(scores)
        await self._score_by(predictor.champion, batch, np.isnan(scores).nonzero()[0], scores)
        self._keep(batch, scores, challenged)
        if predictor.shadow:
            columns: dict[str, Any] = {name: column.to_pylist() for name, column in batch.logged.items()}
            columns |= {predictor.entity: list(batch.keys.to_pylist())} if predictor.entity else {}
            columns[prediction_log.TRACE] = [trace.trace_id(trace.REQUEST.get())] * n
            predictor.shadow.add(list(batch.ids.to_pylist()), columns)
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


def _input(values: list[Any], numeric: bool) -> np.ndarray:
    """A column as graphs take it, (n, 1)."""
    if numeric:
        numbers = np.array(values, np.float64)
        return np.maximum(np.minimum(numbers, MAX), -MAX).astype(np.float32)[:, None]
    return np.array([value or "" for value in values], object)[:, None]
