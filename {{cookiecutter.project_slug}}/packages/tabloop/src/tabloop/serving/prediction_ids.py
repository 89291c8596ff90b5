"""Prediction ids: 32 hex digits, of which the last 8 are a tag that only the holder of the secret can make.

So every replica knows the ids of all replicas, after a restart, too, and needs no list of them. The tag finds mistakes
and made-up ids. It is short, as more does not depend on it: an outcome counts only where the log has its prediction,
and nobody can guess an id: it begins with 64 random bits and a number. Rows of one request have the same random bits and
numbers in a row, so that BLOCK of them share a hash; another client's ids never do.
"""

import os
from binascii import hexlify
from hashlib import blake2b

import numpy as np
from arro3.core import Array

from tabloop.serving import arrow

BLOCK = 16  # numbers whose tags are parts of one hash


class PredictionIds:
    """Makes ids and knows its own again. Replicas share the secret."""

    def __init__(self, secret: str) -> None:
        self.hash = blake2b(key=blake2b(os.fsencode(secret)).digest())

    def draw(self, n: int) -> list[str]:
        """New ids, n of them, for rows of different clients."""
        drawn = os.urandom(12 * n).hex()
        return [self._tagged(drawn[at : at + 24]) for at in range(0, 24 * n, 24)]

    def draw_together(self, n: int) -> Array:
        """New ids, n of them, for rows of one request."""
        random = os.urandom(8)
        tags = b"".join(self._tags(random.hex(), block) for block in range(0, n, BLOCK))
        # All in one array: n formatted texts would take three times as long.
        ids = np.empty((n, 4), ">u4")
        ids[:, :2], ids[:, 2] = np.frombuffer(random, ">u4"), np.arange(n)
        ids[:, 3] = np.frombuffer(tags, ">u4")[:n]
        return arrow.texts(hexlify(ids.tobytes()), 32)

    def given(self, id: str) -> bool:
        """Whether an id was made with this secret."""
        return self._tagged(id[:24]) == id

    def _tagged(self, drawn: str) -> str:
        number = int(drawn[16:], 16)
        at = 4 * (number % BLOCK)
        return drawn + self._tags(drawn[:16], number - number % BLOCK)[at : at + 4].hex()

    def _tags(self, random: str, block: int) -> bytes:
        hashed = self.hash.copy()
        hashed.update(b"%s%x" % (random.encode(), block))
        return hashed.digest()
