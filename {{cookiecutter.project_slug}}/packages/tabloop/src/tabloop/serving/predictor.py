"""From rows to answers: complete them, choose the variant, score, log, count."""

import asyncio
import hashlib
import os
import sys
from functools import cached_property
from typing import Any

from prometheus_client import Counter
from pydantic import BaseModel
from pydantic_core import PydanticCustomError, ValidationError

from ..params import UserError
from .log import PredictionLog
from .online import OnlineStore
from .rows import row_model
from .settings import Settings
from .variant import Variant

PREDICTIONS = Counter("predictions", "Rows answered", ["variant", "model_version"])
SHADOWED = Counter("shadow_predictions", "Rows that the challenger scored for the log only")
CHALLENGER_ERRORS = Counter("challenger_errors", "Times the challenger failed, when loaded or asked")
UNSEEN = Counter("unseen_categories", "Values that the champion never saw in training", ["column"])
MISSING = Counter("missing_online_features", "Rows whose entity the online store does not know")
REFUSED = Counter("refused", "Requests that were not answered for a fault of their own", ["status"])

TURNS = 5  # of the event loop that a row waits for company: microseconds, if none comes


class Service:
    """Champion and challenger, with what they need to answer.

    Raises:
        UserError: there is no champion that works. A challenger that does not is logged, counted, shown at /model.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.champion = Variant("champion", settings.models / "champion")
        self.challenger: Variant | None = None
        self.challenger_error: str | None = None
        if settings.challenger_mode != "off":
            try:
                self.challenger = Variant("challenger", settings.models / "challenger")
            except UserError as error:
                self.lose_challenger(str(error))
        schema = self.schema = self.champion.schema
        self.columns = dict(schema.features)
        views = {view: dict(columns) for view, columns in schema.views.items()}
        if self.challenger:  # what only the challenger knows is missing for it, unless it is sent or stored
            extra = {n: c for n, c in self.challenger.schema.features.items() if n not in self.columns}
            self.columns |= {n: c.model_copy(update={"nullable": True}) for n, c in extra.items()}
            for view, columns in self.challenger.schema.views.items():
                views.setdefault(view, {}).update({n: c for n, c in columns.items() if n in extra})
        self.looked_up = {name for names in views.values() for name in names}
        self.row = row_model(schema, self.columns, self.looked_up, self.champion.card)
        self.online = OnlineStore(settings.online_store, __package__.split(".")[0], schema.entity, views)
        levels = self.champion.card["categories"]
        self.levels = [(name, frozenset(values), UNSEEN.labels(name)) for name, values in levels.items()]
        self.logged = [*([schema.entity] if schema.entity else []), *self.columns]
        self.answered = {
            v.role: PREDICTIONS.labels(v.role, v.version) for v in (self.champion, self.challenger) if v
        }
        salt = f"{self.challenger.version if self.challenger else ''}:".encode()
        self.salted = hashlib.blake2b(salt, digest_size=8)
        self.bar = int(settings.challenger_share * 2**64)
        self.waiting: list[tuple[dict[str, Any], asyncio.Future[bytes]]] = []
        self.log = PredictionLog(
            settings.prediction_log, settings.prediction_log_seconds, schema.entity, self.columns
        )

    def lose_challenger(self, reason: str) -> None:
        """Say, count and keep why the challenger can't be asked."""
        print(f"serve: {reason}; the champion answers alone", file=sys.stderr, flush=True)
        CHALLENGER_ERRORS.inc()
        self.challenger_error = reason

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The running loop, kept: asking for it costs a system call each time."""
        return asyncio.get_running_loop()

    def complete(self, row: BaseModel) -> dict[str, Any]:
        """The row's values, those left out read from the online store; counts what the champion never saw.

        Raises:
            ValidationError: values are left out, and the entity with them.
        """
        values = row.__dict__
        if not self.looked_up <= row.model_fields_set:
            absent = self.looked_up - row.model_fields_set
            key = values.get(self.schema.entity or "")
            if key is None:
                about = f"give it, or all of: {', '.join(sorted(absent))}"
                problem = PydanticCustomError("missing", "Field required: {about}", {"about": about})
                raise ValidationError.from_exception_data(
                    "Row", [{"type": problem, "loc": (self.schema.entity or "",), "input": None}]
                )
            stored = self.online.read(key)
            if not any(value is not None for value in stored.values()):
                MISSING.inc()
            values |= {name: stored[name] for name in absent}
        for name, levels, unseen in self.levels:
            if (value := values[name]) is not None and value not in levels:
                unseen.inc()
        return values

    def challenged(self, key: str) -> bool:
        """Whether the challenger answers this entity: always the same as long as the challenger is.

        A hash of the entity, salted by the challenger's version so that every experiment shuffles anew.
        """
        hashed = self.salted.copy()
        hashed.update(key.encode())
        return int.from_bytes(hashed.digest(), "big") < self.bar

    def answer(self, values: dict[str, Any]) -> "asyncio.Future[bytes]":
        """Score it with whatever else arrives within TURNS: far fewer calls, and no delay to speak of."""
        future: asyncio.Future[bytes] = self.loop.create_future()
        if not self.waiting:
            self.loop.call_soon(self.answer_waiting)
        self.waiting.append((values, future))
        return future

    def answer_waiting(self, turns: int = TURNS) -> None:
        if turns > 1:
            self.loop.call_soon(self.answer_waiting, turns - 1)
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
            if not future.done():  # its client has gone
                future.set_result(answer)

    def predict(self, rows: list[dict[str, Any]]) -> list[bytes]:
        """The answers to completed rows, in their order."""
        random = os.urandom(16 * len(rows)).hex()
        ids = [random[at : at + 32] for at in range(0, len(random), 32)]
        entity = self.schema.entity or ""
        if not self.challenger or self.settings.challenger_mode == "off":
            return self.score(self.champion, ids, rows)
        if self.settings.challenger_mode == "shadow":
            served = self.score(self.champion, ids, rows)
            self.ask_challenger(ids, rows)
            SHADOWED.inc(len(rows))
            return served
        sides: tuple[list[int], list[int]] = ([], [])  # the rows of the champion, of the challenger
        for at, row in enumerate(rows):
            sides[self.challenged(row.get(entity) or ids[at])].append(at)
        answers: dict[int, bytes] = {}
        for side, places in enumerate(sides):
            if places:
                part = [ids[at] for at in places], [rows[at] for at in places]
                found = (side and self.ask_challenger(*part)) or self.score(self.champion, *part)
                answers.update(zip(places, found, strict=True))
        return [answers[at] for at in range(len(rows))]

    def ask_challenger(self, ids: list[str], rows: list[dict[str, Any]]) -> list[bytes] | None:
        """Its answers, or None where it failed: no request of the champion's may suffer from it."""
        assert self.challenger
        try:
            return self.score(self.challenger, ids, rows)
        except Exception as error:  # whatever a graph may raise
            self.lose_challenger(f"challenger: {' '.join(str(error).split())}")
            return None

    def score(self, variant: Variant, ids: list[str], rows: list[dict[str, Any]]) -> list[bytes]:
        """One variant's answers to rows, as JSON, counted and logged."""
        columns = {name: [row[name] for row in rows] for name in self.logged}
        scores = variant.score(columns)
        self.answered[variant.role].inc(len(rows))
        self.log.predictions(variant, ids, columns, scores)
        return variant.answers(ids, scores)
