"""From rows to answers: complete each row, choose the model, score, log, count."""

import asyncio
import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import inf
from typing import Any

import numpy as np

from tabloop.cli import UserError
from tabloop.serving.direct_route import TURNS, Refused
from tabloop.serving.online_store import open_store
from tabloop.serving.prediction_ids import PredictionIds
from tabloop.serving.prediction_log import TRACE, PredictionLog
from tabloop.serving.request import missing_entity, request_columns, row_type
from tabloop.serving.served_model import Columns, Row, Scored, ServedModel
from tabloop.serving.settings import Settings
from tabloop.serving.shadow import Shadow
from tabloop.serving.telemetry import CHALLENGER_ERRORS, NEWEST_ROW, OUTSIDE, PREDICTIONS, UNSEEN
from tabloop.serving.trace import REQUEST, trace_id

# What strangers do not see of the service and of a model, if there are API keys.
PRIVATE = {"inputs", "data_hash", "example", "online_store", "log", "challenger_error"}
UNSCORABLE = "the model can't score this row"


class Predictor:
    """Champion and challenger, with all that they need to answer. `project` is Feast's.

    Raises:
        UserError: the champion can't be loaded. A challenger that can't be is reported, counted and shown at /model.
    """

    def __init__(self, settings: Settings, project: str) -> None:
        self.settings = settings
        self.champion = ServedModel("champion", settings.models / "champion")
        self.challenger: ServedModel | None = None
        self.not_loaded: str | None = None  # why there is no challenger
        if settings.challenger_mode != "off":
            try:
                self.challenger = ServedModel("challenger", settings.models / "challenger")
            except UserError as error:
                print(f"serve: {error}; the champion answers alone", file=sys.stderr, flush=True)
                CHALLENGER_ERRORS.inc()
                self.not_loaded = str(error)
        self.mode = settings.challenger_mode if self.challenger else "off"
        other = self.challenger
        self.shadow = Shadow(other, self._keep) if other and self.mode == "shadow" else None
        self.entity = self.champion.schema.entity
        self.columns, views = request_columns(self.champion.schema, other.schema if other else None)
        self.looked_up = frozenset(name for columns in views.values() for name in columns)
        self.row = row_type(self.champion.card, self.columns, self.looked_up)
        self.blank = dict.fromkeys([*([self.entity] if self.entity else []), *self.columns])
        self.online = open_store(settings, project, self.entity, views)
        categories = self.champion.card.categories
        known = {name: {None, "", *levels} for name, levels in categories.items()}
        self.levels = [(name, levels, UNSEEN.labels(name)) for name, levels in known.items()]
        ranges = self.champion.card.ranges
        # In training none was seen: all are outside. Wider by a float32's rounding, which inputs may have.
        bounds = [(inf, -inf) if None in own else own for own in ranges.values()]
        with np.errstate(over="ignore"):
            limits = np.array(bounds, np.float32).reshape(-1, 2, 1)
            self.low, self.high = np.nextafter(limits, np.array([[-inf], [inf]], np.float32)).swapaxes(0, 1)
        self.ranges = {name: OUTSIDE.labels(name) for name in ranges}
        models = [self.champion, *([self.challenger] if self.challenger else [])]
        self.answered = {model.role: PREDICTIONS.labels(model.role, model.version) for model in models}
        for model in models:
            if model.card.days:
                end = datetime.fromisoformat(model.card.days[1]).replace(tzinfo=UTC)
                NEWEST_ROW.labels(model.role).set(end.timestamp())
        salt = f"{self.challenger.version if self.challenger else ''}:".encode()
        self.salted = hashlib.blake2b(salt, digest_size=8)
        below = int(settings.challenger_share * 2**64)
        self.bar = below.to_bytes(8, "big") if below < 2**64 else b"\xff" * 9  # all hashes are below that
        self.waiting: list[tuple[Row, asyncio.Future[bytes]]] = []
        self.ids = PredictionIds(settings.feedback_key or project)
        target = settings.prediction_log, settings.prediction_log_seconds
        share = settings.challenger_share if self.mode == "ab" else None
        roles: dict[str, Any] = {model.role: model.version for model in models}
        self.log = PredictionLog(*target, self.entity, self.columns, mode=self.mode, share=share, **roles)

    def describe(self, known: bool = True) -> dict[str, Any]:
        """Models, routing, store and log as JSON's types. Without what is PRIVATE if the client is not `known`."""
        settings, challenger, shadow = self.settings, self.challenger, self.shadow
        errors = (self.not_loaded, challenger and challenger.breaker.error, shadow and shadow.lag.error)
        facts: dict[str, Any] = {
            "champion": self.champion.card.as_dict(),
            "challenger": challenger.card.as_dict() if challenger else None,
            "challenger_error": next(filter(None, errors), None),
            "challenger_mode": self.mode,
            "challenger_share": settings.challenger_share if self.mode == "ab" else 0,
            "online_store": {"source": self.online.where, "error": self.online.breaker.error},
            "log": self.log.describe(),
            "api_keys": bool(settings.keys),
        }
        for part in () if known else (facts, facts["champion"], facts["challenger"] or {}):
            for name in PRIVATE & part.keys():
                del part[name]
        return facts

    async def complete(self, row: Row) -> Row:
        """The row with a value for each column: what it leaves out is read from the online store, or is None.

        Raises:
            ValidationError: it leaves out columns that are looked up, and the entity.
        """
        if len(row) == len(self.blank):
            return row
        completed, entity = self.blank | row, self.entity or ""
        if absent := self.looked_up - row.keys():
            if row.get(entity) is None:
                raise missing_entity(entity, sorted(absent), ())
            (found,) = await self.online.read([row[entity]])
            completed |= {name: found[name] for name in absent}
        return completed

    def answer(self, values: dict[str, Any]) -> "asyncio.Future[bytes]":
        """The answer to a completed row, as JSON. Rows that arrive within TURNS are scored in one call."""
        if not self.waiting:  # asked for once in each group, as it costs a system call
            self.loop = asyncio.get_running_loop()
            self.loop.call_soon(self._answer_waiting)
        future: asyncio.Future[bytes] = self.loop.create_future()
        values[TRACE] = trace_id(REQUEST.get())
        self.waiting.append((values, future))
        return future

    def _answer_waiting(self, turns: int = TURNS) -> None:
        if turns > 1:
            self.loop.call_soon(self._answer_waiting, turns - 1)
            return
        ids, waiting, self.waiting = self.ids.draw(len(self.waiting)), self.waiting, []
        try:
            answers: Sequence[bytes | Exception | None] = self.predict(ids, [row for row, _ in waiting])
        except Exception as error:  # a defect; else all of them would wait for ever
            answers = [error] * len(waiting)
        for (_, future), answer in zip(waiting, answers, strict=True):
            if future.done():  # its client has closed the connection
                continue
            if isinstance(answer, bytes):
                future.set_result(answer)
            else:
                future.set_exception(answer or Refused(500, UNSCORABLE))

    def predict(self, ids: list[str], rows: list[Row]) -> list[bytes | None]:
        """The answers to completed rows with these ids, in their order; None where a row can't be scored."""
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        self.count_unknown(columns)
        if self.challenger and self.mode == "ab" and not self.challenger.breaker.resting:
            return self._predict_ab(self.challenger, ids, columns)
        answers = self._keep(self.champion, self.champion.score_apart(ids, columns))
        if self.shadow:
            self.shadow.add(ids, columns)
        return answers

    def _predict_ab(self, challenger: ServedModel, ids: list[str], columns: Columns) -> list[bytes | None]:
        """The challenger's answers for its share, and the champion's for the rest and where the challenger fails."""
        answers: list[bytes | None] = [None] * len(ids)
        keys = columns[self.entity] if self.entity else ids
        share = [at for at, (key, id) in enumerate(zip(keys, ids, strict=True)) if self.challenged(key or id)]
        for model in (challenger, self.champion):
            places = share if model is challenger else [at for at, a in enumerate(answers) if a is None]
            if places:
                own = {name: [values[at] for at in places] for name, values in columns.items()}
                began = time.thread_time()
                scored = model.score_apart([ids[at] for at in places], own)
                if model is challenger and len(scored) == 1:  # else rows that it can't score took the time
                    challenger.took(time.thread_time() - began)
                for at, answer in zip(places, self._keep(model, scored), strict=True):
                    answers[at] = answer
        return answers

    def model_of(self, row: Row, role: str | None) -> ServedModel:
        """The model with this role; without one, that which would answer the row's entity; the champion if it has none."""
        if role is None and self.mode == "ab" and self.challenger and not self.challenger.breaker.resting:
            entity = row.get(self.entity or "")
            role = "challenger" if entity and self.challenged(entity) else None
        return self.challenger if role == "challenger" and self.challenger else self.champion

    def challenged(self, key: str) -> bool:
        """Whether the challenger answers this entity, the same for as long as the challenger is.

        A hash decides. The challenger's version is its salt, so that each experiment draws other entities.
        """
        hashed = self.salted.copy()
        hashed.update(key.encode())
        return hashed.digest() < self.bar

    def _keep(self, model: ServedModel, scored: list[Scored]) -> list[bytes | None]:
        """Count and log what a model scored. Its answers as JSON, None for a row that it can't score."""
        answers: list[bytes | None] = []
        for ids, columns, scores in scored:
            if isinstance(scores, Exception):
                model.failed(scores)
                answers.append(None)
            else:
                self.count(model, len(ids))
                self.log.add_predictions(model, ids, columns, values := scores.tolist())
                answers += model.answers(ids, values)
        return answers

    def count(self, model: ServedModel, rows: int) -> None:
        """Count rows that a model scored."""
        model.breaker.failures = 0
        self.answered[model.role].inc(rows)

    def count_unknown(self, columns: Mapping[str, Any]) -> None:
        """Count the levels that the champion never saw in training, and the numbers outside the range of those it saw."""
        if self.ranges:
            numbers = np.array([columns[name] for name in self.ranges], np.float64)
            beyond = (numbers < self.low) | (numbers > self.high)
            if beyond.any():
                for outside, rows in zip(self.ranges.values(), beyond.sum(axis=1).tolist(), strict=True):
                    outside.inc(rows)
        for name, levels, unseen in self.levels:
            if not levels.issuperset(columns[name]):
                unseen.inc(sum(value not in levels for value in columns[name]))

    async def stop(self) -> None:
        """Let the challenger and the log finish, within some seconds."""
        if self.shadow:
            await self.shadow.stop()
        await self.log.stop()
