"""The application: FastAPI, and a short path for its direct routes, which take and give JSON only.

    direct route, no middleware:  ModelApp -> Guard -> endpoint
    otherwise:                    ModelApp -> your middleware -> Guard -> endpoint, or FastAPI's routing

FastAPI's routing, injection and response objects take several times what the model takes. A direct route is declared
once, as any route of FastAPI; Guard, the innermost middleware, validates its body, calls its endpoint and sends the
bytes that it returns.
"""

import hmac
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.types import ASGIApp, Receive, Scope, Send

from tabloop.serving.telemetry import REFUSED, observe

MAX_BYTES = 32 << 20  # the largest body of any request
OPEN = frozenset(("GET", "HEAD", "OPTIONS"))  # methods that need no key and have no body

Endpoint = Callable[[Any], Awaitable[bytes]]


class Refused(Exception):
    """A request that is not answered: the HTTP status and the reason."""

    def __init__(self, status: int, reason: Any) -> None:
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class DirectRoute:
    """How a POST is answered: `endpoint` takes the validated body and returns JSON."""

    validate: Callable[[bytes], Any]
    endpoint: Endpoint
    max_bytes: int
    status: int
    timed: bool


class ModelApp(FastAPI):
    """FastAPI with direct routes. If there are `keys`, requests must carry one, but for the methods in OPEN."""

    def __init__(self, keys: Sequence[str] = (), **options: Any) -> None:
        super().__init__(max_body_size=MAX_BYTES, **options)
        self.keys, self.direct_routes = keys, dict[str, DirectRoute]()
        # Added first, it is inside all middleware that is added later.
        self.add_middleware(Guard, routes=self.direct_routes, keys=keys)

    def direct(
        self, path: str, *, max_bytes: int, status_code: int = 200, timed: bool = False, **options: Any
    ) -> Callable[[Endpoint], Endpoint]:
        """Declare a POST route whose endpoint has one parameter, the body, and returns the answer's JSON as bytes.

        Args:
            max_bytes: the longest body that is accepted.
            timed: whether the route's latency is recorded as a prediction's.
            options: further arguments of FastAPI's `add_api_route`, for example `response_model`.
        """

        def declare(endpoint: Endpoint) -> Endpoint:
            (body,) = inspect.signature(endpoint).parameters.values()
            validate = TypeAdapter(body.annotation).validator.validate_json
            self.direct_routes[path] = DirectRoute(validate, endpoint, max_bytes, status_code, timed)
            self.add_api_route(path, endpoint, methods=["POST"], status_code=status_code, **options)
            return endpoint

        return declare

    def entry(self) -> ASGIApp:
        """What the server is to call. Without any middleware but Guard, direct routes need nothing of FastAPI."""
        return Guard(self, self.direct_routes, self.keys) if len(self.user_middleware) == 1 else self


class Guard:
    """ASGI middleware: checks API keys and answers direct routes. It passes all other requests to `app`."""

    def __init__(self, app: ASGIApp, routes: Mapping[str, DirectRoute], keys: Sequence[str]) -> None:
        self.app, self.routes = app, routes
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http" or scope["method"] in OPEN:
            await self.app(scope, receive, send)
            return
        path, route = scope["path"], None
        if scope["method"] == "POST":
            route = self.routes.get(path) or self.routes.get(path.removeprefix(scope.get("root_path", "")))
        try:
            if self.keys:
                self.check_key(scope)
            if route:
                body = await read_body(receive, route.max_bytes)
                began = time.perf_counter()
                answer = await route.endpoint(route.validate(body))
                if route.timed:
                    observe(time.perf_counter() - began)
        except (ValidationError, Refused) as error:
            refused = error if isinstance(error, Refused) else invalid(error)
            REFUSED.labels(refused.status).inc()
            await respond(send, refused.status, to_json({"detail": refused.reason}))
        except ConnectionResetError:
            pass  # the client has closed the connection
        else:
            if route:
                await respond(send, route.status, answer)
            else:
                await self.app(scope, receive, send)

    def check_key(self, scope: Scope) -> None:
        """Raises: Refused: the request carries none of the keys."""
        given = dict(scope["headers"]).get(b"x-api-key", b"")
        # Every key is compared as a whole, so that the time it takes does not depend on the key given.
        if not sum(hmac.compare_digest(given, key) for key in self.keys):
            raise Refused(401, "the header X-API-Key must be one of the service's API_KEYS")


async def read_body(receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises:
        Refused: it is longer than `limit` bytes.
        ConnectionResetError: the connection was closed before the body was complete.
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


def invalid(error: ValidationError) -> Refused:
    """The refusal of a body: each wrong field as FastAPI reports it, but without the value."""
    errors = error.errors(include_url=False, include_input=False)
    if errors[0]["type"] == "too_long":
        return Refused(413, f"more than {errors[0]['ctx']['max_length']:,} rows: send them in parts")
    return Refused(422, [{"loc": ["body", *e["loc"]], "msg": e["msg"], "type": e["type"]} for e in errors])


async def respond(send: Send, status: int, body: bytes) -> None:
    """Send an answer whose body is JSON."""
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
