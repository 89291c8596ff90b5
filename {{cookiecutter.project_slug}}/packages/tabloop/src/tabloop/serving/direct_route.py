"""A route that takes and gives JSON only: the limits of its body, and how the body is validated."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from pydantic import ValidationError
from pydantic_core import SchemaValidator, from_json, to_json
from starlette.types import Receive

from tabloop.serving.trace import REQUEST

MAX_BYTES = 16 << 20  # the longest body of any request
ROW_BYTES = 64 << 10  # the longest body of a single row
VALUE_BYTES = 40  # of JSON for each value of a batch, on average at most, its name not counted
CHECKED_ROWS = 200  # of a batch, validated one by one at once: others wait for no more
PART_BYTES = 32 << 10  # of it, parsed at once, and validated by column
PART_SECONDS = 0.0005  # of work, after which others come first
TURNS = 8  # of the event loop, microseconds in all: rows that arrive within them are scored together
SPACE = b" \t\r\n"  # in JSON
MAX_ERRORS, NAME = 20, 200  # reported of one request, and characters of a name in them

Endpoint = Callable[[Any], Awaitable[bytes]]


class Refused(Exception):
    """A request that is not answered: the HTTP status, the reason, and if it may be tried again, after how many seconds."""

    def __init__(self, status: int, reason: Any, retry_after: int | None = None) -> None:
        self.status, self.reason = status, reason
        self.headers = [] if retry_after is None else [(b"retry-after", b"%d" % retry_after)]


@dataclass(frozen=True)
class DirectRoute:
    """How a POST is answered: `endpoint` takes the validated body and returns JSON.

    Args:
        fields: the names that a row may have.
        rows: the most in a body; 1: the body is one row and no list.
        observe: is called with the seconds from the whole body to its answer.
        arrow: takes a body that is an Arrow IPC stream, and whether the answer is to be one.
        by_column: what the endpoint gets for some rows of a batch; None: these rows, validated one by one.
    """

    validator: SchemaValidator
    endpoint: Endpoint
    fields: Collection[str]
    rows: int = 1
    status: int = 200
    observe: Callable[[float], None] | None = None
    arrow: Callable[[bytes, bool], Awaitable[bytes]] | None = None
    by_column: Callable[[list[Any]], Any] | None = None

    @cached_property
    def max_bytes(self) -> int:
        """The longest body."""
        row = sum(len(to_json(name)) + VALUE_BYTES for name in self.fields)
        return ROW_BYTES if self.rows == 1 else min(self.rows * row, MAX_BYTES)

    async def answer(self, body: bytes) -> bytes:
        """Raises: Refused, ValidationError: the body is not what the route takes."""
        began = time.perf_counter()
        # There are as many values as commas. They take more memory than bytes do, and their errors still more.
        most = self.max_bytes // VALUE_BYTES
        if len(body) > most and np.count_nonzero(np.frombuffer(body, np.uint8) == ord(",")) > most:
            raise Refused(413, f"more than {most:,} values: send them in parts")
        REQUEST.get()["rows"] = 1
        valid = self.validator.validate_json(body) if self.rows == 1 else await self.validate_rows(body)
        return await self._timed(began, self.endpoint(valid))

    async def answer_arrow(self, body: bytes, wanted: bool) -> bytes:
        """The answer to an Arrow IPC stream, which is one, too, if that is `wanted`, else JSON. Raises: Refused."""
        if not self.arrow:
            raise Refused(415, "this route takes JSON only")
        return await self._timed(time.perf_counter(), self.arrow(body, wanted))

    async def _timed(self, began: float, answer: Awaitable[bytes]) -> bytes:
        made = await answer
        if self.observe:
            self.observe(time.perf_counter() - began)
        return made

    async def validate_rows(self, body: bytes) -> list[Any]:
        """The rows of a batch. After a part with errors, the others are not looked at."""
        valid, count = list[Any](), 0
        for rows in parsed(body):
            if not isinstance(rows, list) or not (rows or count):
                self.validator.validate_python(rows)  # raises
            if count + len(rows) > self.rows:
                raise Refused(413, f"more than {self.rows:,} rows: send them in parts")
            columns = self.by_column(rows) if self.by_column else None
            valid += [] if columns is None else [columns]
            for at in range(0, len(rows), CHECKED_ROWS) if columns is None else ():
                valid += self.validate_part(rows[at : at + CHECKED_ROWS], count + at)
                await give_way(PART_SECONDS)
            count += len(rows)
            await give_way(PART_SECONDS)
        REQUEST.get()["rows"] = count
        return valid

    def validate_part(self, rows: list[Any], at: int) -> list[Any]:
        """Some rows of a batch, of which the first has the place `at`."""
        for place, row in enumerate(rows, at):
            if isinstance(row, dict) and len(row) > len(self.fields):  # pydantic would report each name
                unknown = islice((name for name in row if name not in self.fields), MAX_ERRORS)
                about = "Extra inputs are not permitted", "extra_forbidden"
                raise Refused(422, [problem((place, name), *about) for name in unknown])
        try:
            return list(self.validator.validate_python(rows))
        except ValidationError as error:
            raise invalid(error, at) from None


def parsed(body: bytes) -> Iterator[Any]:
    """The value of a body; a list in parts, each of which ends with a row.

    A `}` may be within a text. Then what should be a part is no JSON, and the whole rest of the body is parsed at once.

    Raises:
        Refused: it is no JSON.
    """
    at = first = body.find(b"[") + 1
    while body[:first].strip(SPACE) == b"[" and at + PART_BYTES < len(body):
        end = body.rfind(b"}", at, at + PART_BYTES) + 1
        comma = body.find(b",", end)
        if not 0 < end <= comma or body[end:comma].strip(SPACE):
            break
        try:
            part = from_json(b"[%s]" % body[at:end], cache_strings="keys")
        except ValueError:
            break
        yield part
        at = comma + 1
    rest = None
    if at > first:
        with suppress(ValueError):  # said below, with its place in the whole body
            rest = from_json(b"[%s" % body[at:], cache_strings="keys")
    try:
        yield rest or from_json(body, cache_strings="keys")
    except ValueError as error:
        raise Refused(422, [problem((), f"Invalid JSON: {error}", "json_invalid")]) from None


class GivingWay:
    """`await give_way()`: let other requests be answered, rows that wait to be scored together, too."""

    last = 0.0

    async def __call__(self, every: float = 0) -> None:
        """Do that, unless it was done within so many seconds: each turn of the event loop is a system call."""
        if time.perf_counter() < self.last + every:
            return
        for _ in range(TURNS + 1):
            await asyncio.sleep(0)
        self.last = time.perf_counter()


give_way = GivingWay()


async def read_body(receive: Receive, limit: int, take: Callable[[int], None] | None = None) -> bytes:
    """The whole body. `take` is called with the size of each part.

    Raises:
        Refused: it is longer than `limit` bytes.
        ConnectionResetError: the connection was closed before the body was complete.
    """
    parts, size = list[bytes](), 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionResetError
        part = message.get("body", b"")
        size += len(part)
        if take:
            take(len(part))
        if size > limit:
            raise Refused(413, f"the body is longer than {limit:,} bytes")
        if not message.get("more_body"):
            return b"".join([*parts, part]) if parts else part
        parts.append(part)


def problem(place: Sequence[Any], message: str, kind: str) -> dict[str, Any]:
    """An error of a body as FastAPI reports it, but without the value, and with no more than the beginning of a name."""
    names = [name[:NAME] if isinstance(name, str) else name for name in place]
    return {"loc": ["body", *names], "msg": message, "type": kind}


def invalid(error: ValidationError, at: int = 0) -> Refused:
    """The refusal of a body, with its first errors. `at`: the place in its batch of the first row that was validated."""
    found = []
    for e in error.errors(include_url=False, include_input=False)[:MAX_ERRORS]:
        place = (e["loc"][0] + at, *e["loc"][1:]) if at else e["loc"]  # type: ignore[operator]
        found.append(problem(place, e["msg"], e["type"]))
    return Refused(422, found)
