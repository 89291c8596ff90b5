"""Feast's SQLite online store, read as it lies: Feast itself would add seconds and hundreds of megabytes."""

import sqlite3
import struct
from pathlib import Path
from typing import Any

from ..params import Column

PYTHON = {"number": float, "integer": int, "boolean": bool, "category": str}
STRING = 2  # feast.ValueType.STRING: entities are always text here


def entity_key(name: str, value: str) -> bytes:
    """The key of an entity's rows: Feast's serialization, version 3, of one join key."""
    parts = struct.pack("<I", 1), packed(name), packed(value)
    return b"".join(parts)


def packed(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<II", STRING, len(data)) + data


def decoded(value: bytes) -> Any:
    """A serialized `feast.types.Value`: text, integer, float, boolean, or None.

    Source: feast/types/Value.proto; a protobuf message of one field whose tag says number and wire type.
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
    """The newest features of an entity.

    A view, entity or column that the store lacks, or has of another type, is None, never an error: `make materialize` may not have run yet.
    """

    def __init__(
        self, path: Path, project: str, entity: str | None, views: dict[str, dict[str, Column]]
    ) -> None:
        self.path, self.entity, self.views = path, entity, views
        # The very names that Feast gives its tables; from the schema, never from a request.
        self.queries = {
            view: f'SELECT feature_name, value FROM "{project}_{view}" WHERE entity_key = ?' for view in views
        }
        self.connection: sqlite3.Connection | None = None

    def read(self, value: str) -> dict[str, Any]:
        """Each column of each view for this entity."""
        found: dict[str, Any] = {}
        key = entity_key(self.entity or "", value)
        for view, query in self.queries.items():
            try:
                if self.connection is None:
                    self.connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=0.05)
                rows = self.connection.execute(query, (key,)).fetchall()
            except sqlite3.Error:
                self.connection = None
                rows = []
            stored = dict(rows)
            for name, column in self.views[view].items():
                value = decoded(stored.get(name, b""))
                found[name] = value if isinstance(value, PYTHON[column.type]) else None
        return found
