"""W3C Trace Context: the header `traceparent` of a request, taken over, and that of its answer.

Source: https://www.w3.org/TR/trace-context/#traceparent-header
"""

import re
from collections.abc import Iterable
from contextvars import ContextVar
from random import getrandbits
from typing import Any

# Version ff is none; version 00 ends after the flags, a later one may go on. Ids of zeros are none.
_VALID = re.compile(
    rb"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})(?:-.*)?"
)
_KNOWN = 3  # of the flags: sampled, random; the others must be 0
_NONE: dict[str, Any] = {}
REQUEST = ContextVar("REQUEST", default=_NONE)  # its scope, on a direct route


def begin(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The answer's `traceparent`: the request's trace, or a new one where it has none, an invalid one, or two."""
    given = [value for name, value in headers if name == b"traceparent"]
    if len(given) == 1 and (found := _VALID.fullmatch(given[0].strip(b" \t"))):
        return b"00-%b-%016x-%02x" % (found[1], getrandbits(64) or 1, int(found[2], 16) & _KNOWN)
    return b"00-%032x-%016x-00" % (getrandbits(128) or 1, getrandbits(64) or 1)


def trace_id(scope: dict[str, Any]) -> str | None:
    """The trace of a request; None: another server than `serve` runs the application."""
    return trace[3:35].decode() if (trace := scope.get("trace")) else None
