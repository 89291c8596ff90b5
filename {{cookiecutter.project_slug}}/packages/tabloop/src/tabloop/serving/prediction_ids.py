"""Prediction ids: 32 hex digits, of which the last 8 are a tag that only the holder of the secret can make.

So every replica knows the ids of all replicas, after a restart, too, and needs no list of them. The tag finds mistakes
and made-up ids. It is short, as more does not depend on it: an outcome counts only where the log has its prediction,
and nobody can guess an id: it begins with 64 random bits and a number. Rows of one request have the same random bits and
numbers in a row, so that BLOCK of them share a hash; another client's ids never do.
"""

import os
from hashlib import blake2b

BLOCK = 16  # numbers whose tags are parts of one hash


class PredictionIds:
    """Makes ids and knows its own again. Replicas share the secret."""

    def __init__(self, secret: str) -> None:
        self.hash = blake2b(key=blake2b(os.fsencode(secret)).digest())

    def draw(self, n: int) -> list[str]:
        """New ids, n of them, for rows of different clients."""
        drawn = os.urandom(12 * n).hex()
        return [self._tagged(drawn[at : at + 24]) for at in range(0, 24 * n, 24)]

    def draw_together(self, n: int) -> list[str]:
        """New ids, n of them, for the rows of one request."""
        random, ids = os.urandom(8).hex(), list[str]()
        for block in range(0, n, BLOCK):
            tags = self._tags(random, block)
            ids += [f"{random}{block + i:08x}{tags[8 * i : 8 * i + 8]}" for i in range(min(BLOCK, n - block))]
        return ids

    def given(self, id: str) -> bool:
        """Whether an id was made with this secret."""
        return self._tagged(id[:24]) == id

    def _tagged(self, drawn: str) -> str:
        number = int(drawn[16:], 16)
        at = 8 * (number % BLOCK)
        return drawn + self._tags(drawn[:16], number - number % BLOCK)[at : at + 8]

    def _tags(self, random: str, block: int) -> str:
        hashed = self.hash.copy()
        hashed.update(b"%s%x" % (random.encode(), block))
        return hashed.hexdigest()
