"""The way in: limits and keys for every request that has a body, and the shortest path to a prediction.

FastAPI's routing, injection and response objects take several times what the model takes. So `/predict`
and `/predict/batch` are answered here, by a plain ASGI function: validate the body, have it scored together with the
rows that arrived meanwhile, write the answer. FastAPI has all the rest, and the page that documents both.
"""

import asyncio
import hmac
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Annotated, Any

from prometheus_client import REGISTRY
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .service import REFUSED, Service

ROW_BYTES = 64 << 10
BATCH_ROWS = 10_000
PART_ROWS = 500  # of a batch, scored at once: what other requests may have to wait for
BATCH_BYTES = 32 << 20
BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, float("inf"))  # seconds


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
                LATENCY.observe(time.perf_counter() - began)
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
        return await self.service.answer(self.service.complete(self.validate(body)))

    async def predict_batch(self, body: bytes) -> bytes:
        """The answers to a list of rows, in their order, both as JSON."""
        rows = [self.service.complete(row) for row in self.validate_batch(body)]
        answers: list[bytes] = []
        for at in range(0, len(rows), PART_ROWS):
            answers += self.service.predict(rows[at : at + PART_ROWS])
            await asyncio.sleep(0)  # others may go between
        return b"[%s]" % b",".join(answers)

    async def read(self, receive: Receive, limit: int) -> bytes:
        """The whole body.

        Raises:
            Refused: it is longer than `limit` bytes.
            ConnectionResetError: the client went away first, or wire.py gave it up.
        """
        message = await receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body") and len(body) <= limit:
            message = await receive()
            body += message.get("body", b"")
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        if len(body) > limit:
            raise Refused(413, f"the body is longer than {limit:,} bytes")
        return body

    def check_key(self, scope: Scope) -> None:
        """Raises: Refused: the request carries none of the keys."""
        given = dict(scope["headers"]).get(b"x-api-key", b"")
        # Each is compared, whole: how long it takes tells nothing.
        if not sum(hmac.compare_digest(given, key) for key in self.keys):
            raise Refused(401, "the header X-API-Key must be one of the service's API_KEYS")


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


class Latency(Collector):
    """Seconds: a histogram for Prometheus, and the latest thousand for /model.

    Made when it is scraped: prometheus_client's own takes two locks for each request, half of what validation costs.
    """

    def __init__(self) -> None:
        self.counts = [0] * len(BOUNDS)
        self.sum = 0.0
        self.latest: deque[float] = deque(maxlen=1000)
        REGISTRY.register(self)

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds
        self.latest.append(seconds)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        buckets = list(zip(map(floatToGoString, BOUNDS), accumulate(self.counts), strict=True))
        about = "From a whole body to its answer"
        yield HistogramMetricFamily("prediction_seconds", about, buckets, self.sum)


LATENCY = Latency()
