"""Prediction ids: 32 hex digits, of which the last 8 are a tag that only the holder of the secret can make.

So every replica knows the ids of all replicas, after a restart, too, and needs no list of them. The tag finds mistakes
and made-up ids. It is short, as more does not depend on it: an outcome counts only where the log has its prediction,
and nobody can guess the first 96 bits.
"""

import os
from hashlib import blake2b


class PredictionIds:
    """Makes ids and knows its own again. Replicas share the secret."""

    def __init__(self, secret: str) -> None:
        self.tag = blake2b(key=blake2b(os.fsencode(secret)).digest(), digest_size=4)

    def draw(self, n: int) -> list[str]:
        """New ids, n of them."""
        random = os.urandom(12 * n)
        return [self._tagged(random[at : at + 12]) for at in range(0, len(random), 12)]

    def given(self, id: str) -> bool:
        """Whether an id was made with this secret."""
        return self._tagged(bytes.fromhex(id[:24])) == id

    def _tagged(self, random: bytes) -> str:
        tag = self.tag.copy()
        tag.update(random)
        return random.hex() + tag.hexdigest()
