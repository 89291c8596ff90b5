"""From rows to answers: complete each row, choose the model, score, log, count."""

import asyncio
import hashlib
import os
import sys
from collections.abc import Set
from typing import Any

from tabloop.cli import UserError, one_line
from tabloop.serving.online_store import open_store
from tabloop.serving.prediction_ids import PredictionIds
from tabloop.serving.prediction_log import PredictionLog
from tabloop.serving.request import missing_entity, request_columns, row_type
from tabloop.serving.served_model import ServedModel
from tabloop.serving.settings import Settings
from tabloop.serving.telemetry import CHALLENGER_ERRORS, MISSING, PREDICTIONS, SHADOWED, UNSEEN

TURNS = 5  # of the event loop, microseconds in all: rows that arrive within them are scored together
PART_ROWS = 500  # of a batch, scored at once: other requests wait for no more


class Predictor:
    """Champion and challenger, with all that they need to answer. `project` is Feast's.

    Raises:
        UserError: the champion can't be loaded. A challenger that can't be is reported, counted and shown at /model.
    """

    def __init__(self, settings: Settings, project: str) -> None:
        self.settings = settings
        self.champion = ServedModel("champion", settings.models / "champion")
        self.challenger: ServedModel | None = None
        self.challenger_error: str | None = None
        if settings.challenger_mode != "off":
            try:
                self.challenger = ServedModel("challenger", settings.models / "challenger")
            except UserError as error:
                self._challenger_failed(str(error))
        self.entity = self.champion.schema.entity
        other = self.challenger.schema if self.challenger else None
        columns, views = request_columns(self.champion.schema, other)
        self.looked_up = frozenset(name for columns in views.values() for name in columns)
        self.row = row_type(self.champion.card, columns, self.looked_up)
        self.blank = dict.fromkeys([*([self.entity] if self.entity else []), *columns])
        self.online = open_store(settings, project, self.entity, views)
        categories = self.champion.card.categories
        self.levels = [(name, {None, *levels}, UNSEEN.labels(name)) for name, levels in categories.items()]
        models = filter(None, (self.champion, self.challenger))
        self.answered = {model.role: PREDICTIONS.labels(model.role, model.version) for model in models}
        salt = f"{self.challenger.version if self.challenger else ''}:".encode()
        self.salted = hashlib.blake2b(salt, digest_size=8)
        self.bar = int(settings.challenger_share * 2**64)
        self.waiting: list[tuple[dict[str, Any], asyncio.Future[bytes]]] = []
        self.ids = PredictionIds(settings.feedback_key or project)
        target, seconds = settings.prediction_log, settings.prediction_log_seconds
        self.log = PredictionLog(target, seconds, self.entity, columns)

    def _challenger_failed(self, reason: str) -> None:
        """Report, count and keep the reason."""
        print(f"serve: {reason}; the champion answers alone", file=sys.stderr, flush=True)
        CHALLENGER_ERRORS.inc()
        self.challenger_error = reason

    def describe(self) -> dict[str, Any]:
        """Models, routing and log as JSON's types."""
        settings, challenger = self.settings, self.challenger
        mode = settings.challenger_mode if challenger else "off"
        return {
            "champion": self.champion.card.as_dict(),
            "challenger": challenger.card.as_dict() if challenger else None,
            "challenger_error": self.challenger_error,
            "challenger_mode": mode,
            "challenger_share": settings.challenger_share if mode == "ab" else 0,
            "online_store": {"source": self.online.where, "error": self.online.error or None},
            "log": self.log.describe(),
            "api_keys": bool(settings.keys),
        }

    async def complete(self, rows: list[dict[str, Any]], *, batch: bool = True) -> list[dict[str, Any]]:
        """The rows with a value for each column: what they leave out is read from the online store, or is None.

        Args:
            batch: whether errors name the row.

        Raises:
            ValidationError: a row leaves out columns that are looked up, and the entity.
        """
        entity, absent = self.entity or "", dict[int, Set[str]]()  # what to look up, by the row's place
        for at, row in enumerate(rows):
            if len(row) < len(self.blank) and not self.looked_up <= row.keys():
                absent[at] = self.looked_up - row.keys()
                if row.get(entity) is None:
                    raise missing_entity(entity, sorted(absent[at]), (at,) if batch else ())
        completed = [row if len(row) == len(self.blank) else self.blank | row for row in rows]
        stored = await self.online.read([rows[at][entity] for at in absent]) if absent else []
        for (at, names), found in zip(absent.items(), stored, strict=True):
            if not any(value is not None for value in found.values()):
                MISSING.inc()
            completed[at] |= {name: found[name] for name in names}
        return completed

    def answer(self, values: dict[str, Any]) -> "asyncio.Future[bytes]":
        """The answer to a completed row, as JSON. Rows that arrive within TURNS are scored in one call."""
        if not self.waiting:  # asked for once in each group, as it costs a system call
            self.loop = asyncio.get_running_loop()
            self.loop.call_soon(self._answer_waiting)
        future: asyncio.Future[bytes] = self.loop.create_future()
        self.waiting.append((values, future))
        return future

    def _answer_waiting(self, turns: int = TURNS) -> None:
        if turns > 1:
            self.loop.call_soon(self._answer_waiting, turns - 1)
            return
        waiting, self.waiting = self.waiting, []
        try:
            answers = self.predict([values for values, _ in waiting])
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(waiting, answers, strict=True):
            if not future.done():  # done: its client has closed the connection
                future.set_result(answer)

    async def answer_batch(self, rows: list[dict[str, Any]]) -> bytes:
        """The answers to rows that are not completed yet, in their order, as one JSON list."""
        completed = await self.complete(rows)
        answers: list[bytes] = []
        for at in range(0, len(completed), PART_ROWS):
            answers += self.predict(completed[at : at + PART_ROWS])
            await asyncio.sleep(0)  # other requests may be answered in between
        return b"[%s]" % b",".join(answers)

    def predict(self, rows: list[dict[str, Any]]) -> list[bytes]:
        """The answers to completed rows, in their order."""
        ids = self.ids.draw(len(rows))
        for name, levels, unseen in self.levels:
            if not levels.issuperset(values := [row[name] for row in rows]):
                unseen.inc(sum(value not in levels for value in values))
        if not self.challenger or self.settings.challenger_mode == "off":
            return self._score(self.champion, ids, rows)
        if self.settings.challenger_mode == "shadow":
            served = self._score(self.champion, ids, rows)
            self._ask_challenger(ids, rows)
            SHADOWED.inc(len(rows))
            return served
        places: dict[bool, list[int]] = {False: [], True: []}  # of the champion's rows, of the challenger's
        for at, row in enumerate(rows):
            places[self._challenged(row.get(self.entity or "") or ids[at])].append(at)
        answers = [b""] * len(rows)
        for challenged, own in places.items():
            if own:
                part = [ids[at] for at in own], [rows[at] for at in own]
                found = (challenged and self._ask_challenger(*part)) or self._score(self.champion, *part)
                for at, answer in zip(own, found, strict=True):
                    answers[at] = answer
        return answers

    def _challenged(self, key: str) -> bool:
        """Whether the challenger answers this entity, the same for as long as the challenger is.

        A hash decides. The challenger's version is its salt, so that each experiment draws other entities.
        """
        hashed = self.salted.copy()
        hashed.update(key.encode())
        return int.from_bytes(hashed.digest(), "big") < self.bar

    def _ask_challenger(self, ids: list[str], rows: list[dict[str, Any]]) -> list[bytes] | None:
        """The challenger's answers; None if it failed, since the champion must answer all the same."""
        assert self.challenger
        try:
            return self._score(self.challenger, ids, rows)
        except Exception as error:  # onnxruntime's exceptions have no common base
            self._challenger_failed(f"challenger: {one_line(error)}")
            return None

    def _score(self, model: ServedModel, ids: list[str], rows: list[dict[str, Any]]) -> list[bytes]:
        """One model's answers to rows, as JSON. They are counted and logged."""
        columns = {name: [row[name] for row in rows] for name in self.blank}
        scores = model.score(columns)
        self.answered[model.role].inc(len(rows))
        self.log.add_predictions(model, ids, columns, scores)
        return model.answers(ids, scores)
