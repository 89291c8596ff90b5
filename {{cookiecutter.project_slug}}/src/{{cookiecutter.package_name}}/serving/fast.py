"""The way in: limits and keys for every request that has a body, and the shortest path to a prediction.

FastAPI's routing, injection and response objects take several times what the model takes. So `/predict`
and `/predict/batch` are answered here, by a plain ASGI function: validate the body, have it scored together with the
rows that arrived meanwhile, write the answer. FastAPI has all the rest, and the page that documents both.
"""

import asyncio
import hmac
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .service import REFUSED, Answer, Service

ROW_BYTES = 64 << 10
BATCH_ROWS = 10_000
PART_ROWS = 500  # of a batch, scored at once: what other requests may have to wait for
BATCH_BYTES = 32 << 20
BODY_SECONDS = 10.0  # for a body to arrive whole


class Refused(Exception):
    """An HTTP status, and why."""

    def __init__(self, status: int, reason: Any) -> None:
        self.status, self.reason = status, reason


class Fast:
    """ASGI: answers the two below, hands the rest to `app`, with bodies read and within limits."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self.answers = {"/predict": self.predict, "/predict/batch": self.predict_batch}
        self.validate = TypeAdapter(service.row).validator.validate_json
        rows = Annotated[list[service.row], Field(min_length=1, max_length=BATCH_ROWS)]  # type: ignore[name-defined]
        self.validate_batch = TypeAdapter(rows).validator.validate_json
        self.reading: dict[asyncio.Task[Any] | None, float] = {}  # since when each waits for its body
        self.watching = False
        self.keys = [key.strip().encode() for key in service.settings.api_keys.split(",") if key.strip()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        try:
            if self.keys:
                self.check_key(scope)
            path = scope["path"]
            body = await self.read(receive, ROW_BYTES if path == "/predict" else BATCH_BYTES)
            if path in self.answers:
                began = time.perf_counter()
                answer = await self.answers[path](body)
                self.service.took(time.perf_counter() - began)
                await respond(send, 200, answer)
            else:
                await self.app(scope, replay(body, receive), send)
        except ValidationError as error:
            errors = error.errors(include_url=False, include_input=False)
            if errors[0]["type"] == "too_long":
                await refuse(send, Refused(413, f"more than {BATCH_ROWS:,} rows: send them in parts"))
            else:
                await refuse(send, Refused(422, reasons(errors)))
        except Refused as refused:
            await refuse(send, refused)
        except ConnectionResetError:
            pass  # the client has gone: there is nobody to answer

    async def predict(self, body: bytes) -> bytes:
        """The answer to one row, both as JSON."""
        return as_json(await self.service.answer(self.service.complete(self.validate(body))))

    async def predict_batch(self, body: bytes) -> bytes:
        """The answers to a list of rows, in their order, both as JSON."""
        rows = [self.service.complete(row) for row in self.validate_batch(body)]
        answers: list[bytes] = []
        for at in range(0, len(rows), PART_ROWS):
            answers += map(as_json, self.service.predict(rows[at : at + PART_ROWS]))
            await asyncio.sleep(0)  # others may go between
        return b"[%s]" % b",".join(answers)

    async def read(self, receive: Receive, limit: int) -> bytes:
        """The whole body.

        Raises:
            Refused: it is longer than `limit` bytes, or takes longer than BODY_SECONDS to arrive.
            ConnectionResetError: the client went away first.
        """
        loop = self.service.loop
        task = asyncio.current_task(loop)
        if not self.watching:
            self.watching = True
            loop.call_later(1, self.give_up)
        self.reading[task] = loop.time()
        try:
            message = await receive()
            body: bytes = message.get("body", b"")
            while message.get("more_body") and len(body) <= limit:
                message = await receive()
                body += message.get("body", b"")
        except asyncio.CancelledError:
            raise Refused(408, f"the body did not arrive within {BODY_SECONDS:g} s") from None
        finally:
            del self.reading[task]
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        if len(body) > limit:
            raise Refused(413, f"the body is longer than {limit:,} bytes")
        return body

    def give_up(self) -> None:
        """Cancel whoever has waited too long for a body: one timer for all, as one each costs more than the model."""
        late = self.service.loop.time() - BODY_SECONDS
        for task, since in self.reading.items():
            if since < late and task:
                task.cancel()
        self.service.loop.call_later(1, self.give_up)

    def check_key(self, scope: Scope) -> None:
        """Raises: Refused: the request carries none of the keys."""
        given = dict(scope["headers"]).get(b"x-api-key", b"")
        # Each is compared, whole: how long it takes tells nothing.
        if not sum(hmac.compare_digest(given, key) for key in self.keys):
            raise Refused(401, "the header X-API-Key must be one of the service's API_KEYS")


def as_json(answer: Answer) -> bytes:
    id, probability, prediction, version, variant = answer
    text = '{"prediction_id":"%s","probability":%r,"prediction":%d,"model_version":"%s","variant":"%s"}'
    return (text % (id, probability, prediction, version, variant)).encode()


def reasons(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is wrong with each field, as FastAPI says it, without repeating the input."""
    return [{"loc": ["body", *e["loc"]], "msg": e["msg"], "type": e["type"]} for e in errors]


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body once more, then what the real one does."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return whole.pop() if whole else await receive()

    return again


async def refuse(send: Send, refused: Refused) -> None:
    REFUSED.labels(refused.status).inc()
    await respond(send, refused.status, to_json({"detail": refused.reason}))


async def respond(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
