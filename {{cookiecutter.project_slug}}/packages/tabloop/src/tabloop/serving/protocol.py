"""uvicorn's protocol, with two changes: head and body of an answer in one write, and a timeout for requests."""

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tabloop.serving.telemetry import REFUSED

REQUEST_SECONDS = 10.0  # after which an incomplete request is ended; after twice as long at the latest
LATE = b'{"detail":"the request did not arrive within %g s"}' % REQUEST_SECONDS
TIMEOUT = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: application/json\r\n"


class Joined:
    """A transport that writes all of one turn of the event loop at its end, at once."""

    due: ClassVar[list["Joined"]] = []  # those with something to write in this turn

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.transport, self.loop = transport, loop
        self.is_closing = transport.is_closing
        self.parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def write(self, data: bytes) -> None:
        if not self.parts:
            if not self.due:
                self.loop.call_soon(self._flush_due)
            self.due.append(self)
        self.parts.append(data)

    @classmethod
    def _flush_due(cls) -> None:
        due, cls.due = cls.due, []
        for joined in due:
            joined._flush()

    def _flush(self) -> None:
        parts, self.parts = self.parts, []
        if parts:
            self.transport.write(b"".join(parts))

    def close(self) -> None:
        self._flush()
        self.transport.close()


class Protocol(HttpToolsProtocol):
    """HTTP on one connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joined(transport, self.loop))  # type: ignore[arg-type]
        self.seen: Any = self
        self.timer = self.loop.call_later(
            REQUEST_SECONDS, self._check
        )  # one for each request would cost more

    def connection_lost(self, exc: Exception | None) -> None:
        self.timer.cancel()
        super().connection_lost(exc)

    def _check(self) -> None:
        """End the connection if its request is the same incomplete one as at the last check."""
        if self.transport.is_closing():
            return
        # None: its head is not complete.
        cycle = self.cycle if self.cycle and self.cycle.scope is self.scope else None
        if (cycle and not cycle.more_body) or self.seen is not self.scope:
            self.seen = self.scope
            self.timer = self.loop.call_later(REQUEST_SECONDS, self._check)
            return
        if self.scope and not (cycle and cycle.response_complete):
            REFUSED.labels(408).inc()
            self.transport.write(TIMEOUT + b"content-length: %d\r\n\r\n%s" % (len(LATE), LATE))
        self.transport.close()
