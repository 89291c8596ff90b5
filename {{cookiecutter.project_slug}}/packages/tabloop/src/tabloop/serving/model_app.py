"""The application: FastAPI, and a short path for its direct routes, which take and give JSON; batches also Arrow.

    direct route, no middleware:  ModelApp -> Guard -> endpoint
    otherwise:                    ModelApp -> your middleware -> Guard -> endpoint, or FastAPI's routing

FastAPI's routing, injection and response objects take several times what the model takes. A direct route is declared
once, as any route of FastAPI; Guard, the innermost middleware, validates its body, calls its endpoint and sends the
bytes that it returns.

Single rows go first. Of small batches one is worked on at a time, and of large ones one beside it; of other requests,
one begins whenever a batch gives way.
"""

import asyncio
import hmac
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.types import ASGIApp, Receive, Scope, Send

from tabloop.serving import direct_route
from tabloop.serving.direct_route import DirectRoute, Endpoint, Refused
from tabloop.serving.trace import REQUEST

T = TypeVar("T")
JSON, ARROW = b"application/json", b"application/vnd.apache.arrow.stream"
WHOLE = "tabloop.json"  # an ASGI extension of protocol.py: a message that is a whole answer in JSON
ROOM_BYTES = 64 << 20  # of all batches that arrive or wait, and of their answers
SMALL_BYTES = 512 << 10  # of a batch that does not wait for larger ones: some two thousand rows
PART_BYTES = 64 << 10  # of an answer, sent at once
CLIENT = ContextVar("CLIENT", default=b"")  # the API key of the request; empty where the service has no keys
OPEN = frozenset(("GET", "HEAD", "OPTIONS"))  # methods that need no key and have no body


class ModelApp(FastAPI):
    """FastAPI with direct routes. If there are `keys`, requests must carry one, but for the methods in OPEN."""

    def __init__(self, keys: Sequence[str] = (), **options: Any) -> None:
        super().__init__(max_body_size=direct_route.MAX_BYTES, **options)
        self.keys, self.direct_routes = keys, dict[str, DirectRoute]()
        # Added first, it is inside all middleware that is added later.
        self.add_middleware(Guard, routes=self.direct_routes, keys=keys)

    def direct(
        self, path: str, made: Callable[..., DirectRoute], **options: Any
    ) -> Callable[[Endpoint], Endpoint]:
        """Declare a POST route whose endpoint has one parameter, the body, and returns the answer's JSON as bytes.

        Args:
            made: makes the DirectRoute of a validator, an endpoint and a status: a partial with its limits.
            options: further arguments of FastAPI's `add_api_route`, for example `response_model`.
        """

        def declare(endpoint: Endpoint) -> Endpoint:
            (body,) = inspect.signature(endpoint).parameters.values()
            validator: Any = TypeAdapter(body.annotation).validator
            status = options.get("status_code", 200)
            self.direct_routes[path] = made(validator, endpoint, status=status)
            self.add_api_route(path, endpoint, methods=["POST"], **options)
            return endpoint

        return declare

    def entry(self) -> ASGIApp:
        """What the server is to call. Without any middleware but Guard, direct routes need nothing of FastAPI."""
        whole = len(self.user_middleware) == 1
        return Guard(self, self.direct_routes, self.keys, whole=whole) if whole else self


class Room:
    """Memory for batches and their answers. When it is full, who has waited longest for its client must leave."""

    def __init__(self) -> None:
        self.free = ROOM_BYTES
        # Two batches at a time, as what a body becomes takes many times its bytes.
        self.small, self.large = asyncio.Lock(), asyncio.Lock()
        self.waiting: dict[asyncio.Timeout, None] = {}

    async def wait(self, client: Awaitable[T]) -> T:
        """What the client sends or takes. Raises: TimeoutError: others need the room."""
        async with asyncio.timeout(None) as waiting:
            self.waiting[waiting] = None
            try:
                return await client
            finally:
                self.waiting.pop(waiting, None)

    def take(self, size: int) -> None:
        """Take so many bytes."""
        self.free -= size
        if self.free < 0 and self.waiting:
            longest = next(iter(self.waiting))
            del self.waiting[longest]
            longest.reschedule(0)


class Guard:
    """ASGI middleware: checks API keys and answers direct routes. It passes all other requests to `app`."""

    def __init__(
        self, app: ASGIApp, routes: Mapping[str, DirectRoute], keys: Sequence[str], whole: bool = False
    ) -> None:
        self.app, self.routes, self.whole = app, routes, whole
        self.keys = encoded(keys)
        self.room, self.turn = Room(), asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on one request."""
        if scope["type"] != "http" or "guarded" in scope:
            await self.app(scope, receive, send)
            return
        if scope["method"] in OPEN:
            await self.pass_on(scope, receive, send)
            return
        path, route = scope["path"], None
        if scope["method"] == "POST":
            route = self.routes.get(path) or self.routes.get(path.removeprefix(scope.get("root_path", "")))
        try:
            if self.keys:
                if not (key := known_key(self.keys, scope)):
                    raise Refused(401, "the header X-API-Key must be one of the service's API_KEYS")
                CLIENT.set(key)
            REQUEST.set(scope)  # type: ignore[arg-type]
            if route and route.rows == 1:
                made = await route.answer(await direct_route.read_body(receive, route.max_bytes))
                if self.whole and WHOLE in scope.get("extensions", ()):
                    await send({"type": WHOLE, "status": route.status, "body": made})
                else:
                    await respond(send, route.status, made)
            elif route:
                await self.answer_batch(route, scope, receive, send)
        except (ValidationError, Refused) as error:
            answer = refusal(error)
            encoding = dict(scope["headers"]).get(b"content-encoding", b"identity")
            if answer[0] == 422 and encoding != b"identity":  # asked last, as few requests have it
                answer = refusal(Refused(415, "a body with Content-Encoding is not taken: send it as it is"))
        except ConnectionResetError:
            return  # the client has closed the connection
        else:
            if not route:
                await self.pass_on(scope, receive, send)
            return
        # Not above: the error has all that was read of the request, which must not stay until the client has read this.
        await respond(send, *answer)

    async def answer_batch(self, route: DirectRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, answer, send. What is held in memory is counted in the room."""
        room, size = self.room, 0

        def take(more: int) -> None:
            nonlocal size
            size += more
            room.take(more)

        try:
            body = await room.wait(direct_route.read_body(receive, route.max_bytes, take))
            headers = dict(scope["headers"])
            given = headers.get(b"content-type", b"").partition(b";")[0].strip().lower() == ARROW
            wanted = given and ARROW in headers.get(b"accept", b"").lower()
            async with room.small if size <= SMALL_BYTES else room.large:
                answer = await (route.answer_arrow(body, wanted) if given else route.answer(body))
            del body
            take(len(answer))
            with suppress(TimeoutError):
                await room.wait(respond(send, route.status, answer, kind=ARROW if wanted else JSON))
        except TimeoutError:
            raise Refused(503, "too many batches arrive at a time: try it again", retry_after=1) from None
        finally:
            room.free += size

    async def pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let `app` answer."""
        if scope["path"].endswith("\n"):  # the `$` of Starlette's patterns matches before it, too
            await respond(send, 404, b'{"detail":"Not Found"}')
            return
        if "/health/" not in scope["path"]:
            async with self.turn:
                await direct_route.give_way()
        # The server leaves the body of a HEAD's answer out.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self.app({**scope, "method": method, "guarded": True}, receive, send)


def encoded(keys: Sequence[str]) -> list[bytes]:
    """The keys as they come in headers."""
    return [key.encode() for key in keys]


def known_key(keys: Sequence[bytes], scope: Scope) -> bytes:
    """The one of the keys that the request carries; empty if it carries none of them."""
    given: bytes = dict(scope["headers"]).get(b"x-api-key", b"")
    # Every key is compared as a whole, so that the time it takes does not depend on the key given.
    return given if sum(hmac.compare_digest(given, key) for key in keys) else b""


def refusal(error: ValidationError | Refused) -> tuple[int, bytes, Sequence[tuple[bytes, bytes]]]:
    """Status, body and headers of the answer to a request that is refused."""
    refused = error if isinstance(error, Refused) else direct_route.invalid(error)
    return refused.status, to_json({"detail": refused.reason}), refused.headers


async def respond(
    send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = (), kind: bytes = JSON
) -> None:
    """Send an answer whose body is of this content type: in parts, each as soon as the client reads."""
    own = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*own, *headers]})
    for at in range(0, len(body), PART_BYTES):
        more = at + PART_BYTES < len(body)
        await send({"type": "http.response.body", "body": body[at : at + PART_BYTES], "more_body": more})
