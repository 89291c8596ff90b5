"""uvicorn's protocol, with limits: of what a client sends, of what it does not read, and of the time that it takes.

Each connection is independent: nothing here loops over several of them but the choice of which to close.
"""

import asyncio
import logging
from heapq import nsmallest
from operator import attrgetter
from typing import Any, ClassVar

import httptools
from pydantic_core import to_json
from uvicorn.protocols.http import httptools_impl
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from tabloop.serving import trace
from tabloop.serving.access_log import AccessLog
from tabloop.serving.model_app import WHOLE
from tabloop.serving.telemetry import responses

REQUEST_SECONDS = 10.0  # after which an incomplete request is ended; after twice as long at the latest
LEAVING_SECONDS = 0.5  # after SIGTERM, a connection that is idle for so long is closed
HEAD_BYTES, HEADERS = 64 << 10, 100  # the longest head of a request, and its most lines
# Parsed at once, so that few requests of one connection can wait; of heads and parts of bodies, in one turn; and parsed at
# once where these are many in few bytes, or may be.
PART_BYTES, EVENTS, SMALL_BYTES = 4 << 10, 64, 512
CONNECTIONS = 500  # open at a time; for a newer one, a tenth is closed: those that are silent for longest
EXTENSIONS: Any = {WHOLE: {}}

# A client must not be able to fill the log. What is refused is counted.
logging.getLogger("uvicorn.error").addFilter(lambda record: record.levelno != logging.WARNING)


class Cycle(RequestResponseCycle):
    """One request and its answer, which is counted."""

    # The headers of all answers, which change each second, and their bytes.
    known: ClassVar[tuple[Any, bytes]] = None, b""
    access: ClassVar[AccessLog | None] = None

    async def send(self, message: Any) -> None:
        """Send a part of the answer, as soon as the client has read those before."""
        if self.flow.write_paused:
            await self.flow.drain()
        if self.transport.is_closing():  # uvicorn sees this later, and only of the newest request
            self.disconnected = True
        elif message["type"] == WHOLE:
            self._send_whole(message["status"], message["body"])
            return
        elif message["type"] == "http.response.start":
            count(self.scope, message["status"])
            own = (b"traceparent", self.scope["trace"])  # type: ignore[typeddict-item]
            message = message | {"headers": [*message.get("headers", ()), own]}
        await super().send(message)

    def _send_whole(self, status: int, body: bytes) -> None:
        """Send an answer in JSON at once: a third of the work, as nothing of it needs to be looked at."""
        count(self.scope, status)
        if self.default_headers is not self.known[0]:
            lines = b"".join(b"%s: %s\r\n" % header for header in self.default_headers)
            Cycle.known = self.default_headers, lines + b"content-type: application/json\r\ntraceparent: "
        end = b"\r\n\r\n" if self.keep_alive else b"\r\nconnection: close\r\n\r\n"
        own: bytes = self.scope["trace"]  # type: ignore[typeddict-item]
        size = b"\r\ncontent-length: %d" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], self.known[1], own, size, end, body)))
        self.response_started = self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def count(scope: Any, status: int) -> None:
    """Count an answer that begins, and tell the access log."""
    responses(status).inc()
    if Cycle.access:
        Cycle.access.add(scope, status)


httptools_impl.RequestResponseCycle = Cycle  # type: ignore[misc]  # uvicorn has no other way to choose it


class Protocol(HttpToolsProtocol):
    """HTTP on one connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.headers = []
        self.unread = b""  # what came behind requests that wait; meanwhile reading is paused
        # Bytes since the last whole head or part of a body; and of answers that the client had not read at the last check.
        self.quiet = self.unsent = 0
        self.leaving = self.ended = False
        self.seen: Any = self
        self.began = self.loop.time()  # when the last whole head came
        # One for each request would cost more.
        self.timer = self.loop.call_later(REQUEST_SECONDS, self._check)
        if len(self.connections) > CONNECTIONS:
            silent: Any = (other for other in self.connections if not other.busy)  # type: ignore[union-attr]
            for other in nsmallest(CONNECTIONS // 10, silent, key=attrgetter("began")):
                other.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        super().connection_lost(exc)
        # It and its requests refer to each other: what they have of bodies would stay until the garbage is collected.
        for cycle in filter(None, (self.cycle, *(waiting for waiting, _ in self.pipeline))):
            cycle.body.clear()
        self.unread = b""

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: answer what is whole, and close. True: the connection stays open until then."""
        if self.busy:
            self.cycle.keep_alive = False
        return self.busy

    @property
    def busy(self) -> bool:
        """Whether the service owes an answer that the client would take."""
        cycle = self.cycle
        return bool(cycle and not (cycle.response_complete or cycle.more_body or self.flow.write_paused))

    @property
    def too_long(self) -> bool:
        """Whether a head is, or what should be one."""
        return self.quiet > HEAD_BYTES or len(self.headers) > HEADERS

    def _should_upgrade(self) -> bool:
        """Whether uvicorn leaves a request alone that would like another protocol: it comes again, see `_parse`."""
        return bool(self.parser.get_method() != b"CONNECT")

    def data_received(self, data: bytes) -> None:
        self.events, at, step = 0, 0, SMALL_BYTES
        while at < len(data) and not (self.ended or self.transport.is_closing()):
            if self.pipeline or self.events > EVENTS:
                self.unread = data[at:]
                self.transport.pause_reading()
                self.flow.read_paused = False  # so that uvicorn does not resume it
                if not self.pipeline:
                    self.loop.call_soon(self._go_on)
                return
            part, before = data[at : at + step], self.events
            at += step
            self.quiet += len(part)
            self._parse(part)
            step = PART_BYTES if self.events - before < EVENTS // 8 else SMALL_BYTES
            if self.quiet and self.too_long and not self.ended:
                self.send_400_response("")

    def _parse(self, data: bytes) -> None:
        """Parse a part. A request that would like another protocol, as Java's client asks for h2c, is parsed without the wish.

        A server may go on in HTTP/1.1 (RFC 9110, section 7.8); the parser would take the body for that protocol's.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as wish:
            if not self._should_upgrade():
                return
            version = self.parser.get_http_version().encode()
            line = b"%s %s HTTP/%s\r\n" % (self.parser.get_method(), self.url, version)
            kept = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade")
            # After `Connection: close` the old one takes no more.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            self._parse(line + kept + b"\r\n" + data[wish.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _go_on(self) -> None:
        """Parse what was left, and read on, once the application has taken what came before."""
        if not self.unread or self.pipeline or self.transport.is_closing():
            return
        if len(self.cycle.body) > HIGH_WATER_LIMIT and not self.cycle.response_complete:
            self.loop.call_later(0.01, self._go_on)
        else:
            unread, self.unread = self.unread, b""
            self.transport.resume_reading()
            self.data_received(unread)

    def on_headers_complete(self) -> None:
        if len(self.headers) > HEADERS:
            raise ValueError  # httptools makes it a parser's error
        if self.parser.should_upgrade() and self._should_upgrade():
            return
        self.quiet = 0
        self.events += 1
        self.began = self.loop.time()
        own: Any = {"extensions": EXTENSIONS, "began": self.began, "trace": trace.begin(self.headers)}
        self.scope |= own
        super().on_headers_complete()
        if self.leaving:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self.quiet = 0
        self.events += 1
        super().on_body(body)

    def on_response_complete(self) -> None:
        """As uvicorn's, but for a timer that it starts each time: `_check` ends idle connections, too."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        if self.unread:
            self._go_on()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser does not take."""
        long = f"the head is longer than {HEAD_BYTES:,} bytes or {HEADERS} lines"
        self._refuse(*((431, long) if self.too_long else (400, msg)))

    def _refuse(self, status: int, reason: str) -> None:
        """Answer what is no whole request, and end the connection; requests before it are answered first."""
        self.ended, cycle = True, self.cycle
        if cycle and not cycle.response_complete:
            if not cycle.more_body:
                cycle.keep_alive = False
                return
            # Within the body of one that waits, or has its answer.
            if self.pipeline or cycle.response_started:
                self.transport.close()
                return
            cycle.disconnected = True
            cycle.message_event.set()
        scope = {"trace": trace.begin(self.headers)} | (self.scope or {})
        count(scope, status)
        body = to_json({"detail": reason})
        head = b"connection: close\r\ncontent-type: application/json\r\ntraceparent: %s\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % (scope["trace"], len(body)) + body)
        self.transport.close()

    def _check(self) -> None:
        """End the connection if it is idle, its request incomplete, or its answer unread, as it was at the last check."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and unsent == self.unsent:
            self.transport.abort()
            return
        self.unsent = unsent
        self.timer = self.loop.call_later(REQUEST_SECONDS, self._check)
        if self.transport.is_closing() or self.ended or self.pipeline:
            return
        # None: its head is not complete.
        cycle = self.cycle if self.cycle and self.cycle.scope is self.scope else None
        answering = cycle and not (cycle.more_body or cycle.response_complete)
        if answering or self.seen is not self.scope:
            self.seen = self.scope
        elif self.scope and not (cycle and cycle.response_complete):
            self._refuse(408, f"the request did not arrive within {REQUEST_SECONDS:g} s")
        else:
            self.transport.close()

    def shutdown(self) -> None:
        """After SIGTERM: answer with `Connection: close` what still comes, then close."""
        if self.leaving:
            super().shutdown()
            return
        self.leaving = True
        self.loop.call_later(LEAVING_SECONDS, self.shutdown)
        if self.cycle:
            self.cycle.keep_alive = False
