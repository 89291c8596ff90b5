"""Feast's SQLite online store, read without Feast, which would add seconds to the start and 350 MB to the image."""

import sqlite3
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabloop.columns import quote
from tabloop.params import Column

STRING = 2  # feast.ValueType.STRING: an entity's key is always text here


def entity_key(name: str, value: str) -> bytes:
    """The key of an entity's rows: Feast's serialization, version 3, of one join key."""
    texts = name.encode(), value.encode()
    return struct.pack("<I", 1) + b"".join(struct.pack("<II", STRING, len(text)) + text for text in texts)


def decode(value: bytes) -> Any:
    """A serialized `feast.types.Value`: text, integer, float, boolean, or None.

    Source: feast/types/Value.proto, a protobuf message of one field. Its first byte is the field's number and wire type.
    """
    if not value:
        return None
    field, data = value[0] >> 3, value[1:]
    if field in (5, 6):  # double_val, float_val
        return struct.unpack("<d" if field == 5 else "<f", data)[0]
    number, at = 0, 0
    while True:  # a varint: the value, or the length of the text
        number |= (data[at] & 0x7F) << (7 * at)
        at += 1
        if data[at - 1] < 0x80:
            break
    if field == 2:  # string_val
        return data[at:].decode()
    if field == 7:  # bool_val
        return bool(number)
    return number - (1 << 64) if number >> 63 else number  # int32_val, int64_val


class OnlineStore:
    """The newest features of each entity.

    What the store does not have, or has in another type, is None and no error: it may not be written yet.

    Args:
        path: the SQLite file. It need not exist.
        project: Feast's project, with which the names of its tables begin.
        entity: the name of the entity's column.
        views: the columns of each feature view.
    """

    def __init__(
        self, path: Path, project: str, entity: str | None, views: Mapping[str, Mapping[str, Column]]
    ) -> None:
        self.path, self.entity, self.views = path, entity, views
        self.queries = {
            view: f"SELECT feature_name, value FROM {quote(f'{project}_{view}')} WHERE entity_key = ?"
            for view in views
        }
        self.connection: sqlite3.Connection | None = None

    def read(self, key: str) -> dict[str, Any]:
        """The value of each column of each view for the entity with this key."""
        found: dict[str, Any] = {}
        serialized = entity_key(self.entity or "", key)
        for view, query in self.queries.items():
            try:
                if self.connection is None:
                    self.connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=0.05)
                stored = dict(self.connection.execute(query, (serialized,)).fetchall())
            except sqlite3.Error:
                self.connection, stored = None, {}
            for name, column in self.views[view].items():
                value = decode(stored.get(name, b""))
                found[name] = value if type(value) is column.kind.python else None
        return found
