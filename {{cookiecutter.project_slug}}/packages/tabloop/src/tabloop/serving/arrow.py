"""A batch as an Arrow IPC stream, decoded by hand.

The libraries trust the lengths and places in a stream: one that lies ends the process, or makes it read what is not its own.
So everything is read with bounds here, and a library gets arrays that were checked.

Source: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc and the
tables in https://github.com/apache/arrow/tree/main/format: Message.fbs, Schema.fbs.
"""

import io
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import nanoarrow as na
import numpy as np
from arro3.core import Array, RecordBatch, Table
from arro3.io import write_ipc_stream
from flatbuffers import number_types as types
from flatbuffers.table import Table as Flat

from tabloop.serving.direct_route import Refused, problem

MESSAGES = 200  # of a stream; each takes time, also if it has no row
SCHEMA, DICTIONARY, RECORDS = 1, 2, 3  # kinds of messages
NULL, INTEGER, FLOAT, TEXT, BOOLEAN, LARGE_TEXT = 1, 2, 3, 5, 6, 20  # kinds of columns that are taken
FLOATS: dict[int, np.dtype] = {1: np.dtype("<f4"), 2: np.dtype("<f8")}


class Wrong(ValueError):
    """The stream is not as the format says."""


BROKEN = (ValueError, TypeError, LookupError, OverflowError, StopIteration, struct.error)


@dataclass(frozen=True)
class Kind:
    """The type of a column. `format`: how numpy reads its values, or a text's offsets; `dictionary`: the id, and the indices'."""

    kind: int
    format: np.dtype | None = None
    dictionary: tuple[int, np.dtype] | None = None


@dataclass
class Stream:
    """What was decoded so far."""

    names: Collection[str]
    most: int
    kinds: dict[str, Kind] = field(default_factory=dict)
    # Of each dictionary the values, and their lengths in bytes.
    levels: dict[int, tuple[Array, np.ndarray]] = field(default_factory=dict)
    batches: list[RecordBatch] = field(default_factory=list)
    limit: int = 0  # of `texts`
    texts: int = 0  # bytes, after those of dictionaries were put in their places


def decode(body: bytes, most: int, names: Collection[str]) -> RecordBatch:
    """The rows of a stream.

    Args:
        most: the most rows.
        names: of the columns that there may be.

    Raises:
        Refused: it is no such stream, is compressed, or has too many rows, other columns, or columns of types not taken.
    """
    stream = Stream(names, most, limit=len(body))
    try:
        for kind, header, buffers in _messages(body):
            if kind == SCHEMA:
                stream.kinds = {name: _kind(flat, name) for name, flat in _fields(header, stream)}
            elif kind in (DICTIONARY, RECORDS):
                _add(stream, kind, header, buffers)
    except BROKEN as error:
        raise _broken(error) from None
    if not stream.batches:
        raise Refused(422, [problem((), "The stream has no rows", "too_short")])
    (whole,) = Table.from_batches(stream.batches).combine_chunks().to_batches()
    return whole


def _broken(error: Exception, *column: str) -> Refused:
    """The refusal of what is no stream."""
    told = isinstance(error, Wrong | UnicodeDecodeError)
    reason = str(error) if told else "a length or a place in it is wrong"
    return Refused(422, [problem(column, f"Not an Arrow IPC stream: {reason}", "arrow_invalid")])


def encode(columns: dict[str, Array]) -> bytes:
    """A stream of these columns."""
    content = io.BytesIO()
    # By default it compresses, which takes six times as long.
    write_ipc_stream(Table.from_pydict(columns), content, compression=None)  # type: ignore[arg-type]
    return content.getvalue()


def texts(data: bytes, width: int) -> Array:
    """Texts of so many bytes each, which stand one after the other."""
    ends = np.arange(0, len(data) + 1, width, dtype="<i4")
    return _made(na.string(), len(ends) - 1, None, ends, data)


def _messages(body: bytes) -> Iterator[tuple[int, Flat, memoryview]]:
    """Of each message its kind, its header and the bytes of its buffers."""
    at = 0
    for _ in range(MESSAGES):
        mark, size = struct.unpack_from("<II", body, at) if at < len(body) else (0xFFFFFFFF, 0)
        if mark != 0xFFFFFFFF:
            raise Wrong("a message does not begin as it should")
        if not size:
            if len(body) > at + 8:
                raise Wrong("more bytes follow its end")
            return
        head, at = memoryview(body)[at + 8 : at + 8 + size], at + 8 + size
        message = Flat(bytes(head), struct.unpack_from("<I", head)[0])
        length = _number(message, 3, types.Int64Flags)
        if not 0 <= length <= len(body) - at:
            raise Wrong("it is cut off")
        yield _number(message, 1, types.Uint8Flags), _inner(message, 2), memoryview(body)[at : at + length]
        at += length
    raise Refused(413, f"more than {MESSAGES:,} messages: send larger record batches")


def _number(table: Flat, slot: int, flags: Any, default: int = 0) -> int:
    at = table.Offset(4 + 2 * slot)
    return table.Get(flags, table.Pos + at) if at else default


def _inner(table: Flat, slot: int) -> Flat:
    if not (at := table.Offset(4 + 2 * slot)):
        raise Wrong("a table is missing")
    return Flat(table.Bytes, table.Indirect(table.Pos + at))


def _vector(table: Flat, slot: int) -> tuple[int, int]:
    """Where a vector begins, and how many elements it has."""
    at = table.Offset(4 + 2 * slot)
    return (table.Vector(at), table.VectorLen(at)) if at else (0, 0)


def _fields(schema: Flat, stream: Stream) -> Iterator[tuple[str, Flat]]:
    """The name and the table of each column."""
    if _number(schema, 0, types.Int16Flags):
        raise Wrong("it is big-endian")
    begin, count = _vector(schema, 1)
    seen = set[str]()
    for at in range(begin, begin + 4 * min(count, len(stream.names) + 1), 4):
        flat = Flat(schema.Bytes, schema.Indirect(at))
        where = flat.Offset(4)
        name = flat.String(flat.Pos + where).decode() if where else ""
        if name not in stream.names or name in seen:
            again = "The column is there twice" if name in seen else "Extra inputs are not permitted"
            raise Refused(422, [problem((name,), again, "extra_forbidden")])
        seen.add(name)
        yield name, flat


def _kind(flat: Flat, name: str) -> Kind:
    """The type of a column. Raises: Refused: it is not taken."""
    kind, dictionary = _number(flat, 2, types.Uint8Flags), None
    if flat.Offset(4 + 2 * 4):
        encoding = _inner(flat, 4)
        signed = np.dtype("<i4") if not encoding.Offset(4 + 2) else _integer(_inner(encoding, 1))
        dictionary = _number(encoding, 0, types.Int64Flags), signed
    if kind == INTEGER and not dictionary:
        return Kind(kind, _integer(_inner(flat, 3)))
    form = FLOATS.get(_number(_inner(flat, 3), 0, types.Int16Flags)) if kind == FLOAT else None
    if form and not dictionary:
        return Kind(kind, form)
    if kind == NULL or (kind == BOOLEAN and not dictionary):
        return Kind(kind, None, dictionary)
    if kind in (TEXT, LARGE_TEXT):
        return Kind(kind, np.dtype("<i4" if kind == TEXT else "<i8"), dictionary)
    taken = "Input should be numbers, booleans or texts (utf8, large_utf8), or a dictionary of texts"
    raise Refused(422, [problem((name,), taken, "arrow_type")])


def _integer(flat: Flat) -> np.dtype:
    """Raises: TypeError: numpy has no such integer."""
    bits, signed = _number(flat, 0, types.Int32Flags), _number(flat, 1, types.BoolFlags)
    return np.dtype(f"<{'i' if signed else 'u'}{bits // 8}")


def _add(stream: Stream, kind: int, header: Flat, body: memoryview) -> None:
    """Decode a dictionary or a record batch."""
    batch = _inner(header, 1) if kind == DICTIONARY else header
    rows = _number(batch, 0, types.Int64Flags)
    if batch.Offset(4 + 2 * 3):
        reason = "Compressed buffers are not taken: write the stream without compression"
        raise Refused(422, [problem((), reason, "arrow_compressed")])
    if not 0 <= rows <= stream.most - (0 if kind == DICTIONARY else sum(b.num_rows for b in stream.batches)):
        raise Refused(413, f"more than {stream.most:,} rows: send them in parts")
    begin, count = _vector(batch, 2)
    ends = np.frombuffer(batch.Bytes, "<i8", 2 * min(count, 3 * len(stream.names)), begin)
    places = ends.reshape(-1, 2).tolist()
    if any(start < 0 or length < 0 or start + length > len(body) for start, length in places):
        raise Wrong("a buffer is outside of its message")
    if sum(length for _, length in places) > len(body):
        raise Wrong("buffers overlap")
    buffers = iter([bytes(body[start : start + length]) for start, length in places])
    if kind == DICTIONARY:
        id = _number(header, 0, types.Int64Flags)
        (own, *_) = (own for own in stream.kinds.values() if own.dictionary and own.dictionary[0] == id)
        if _number(header, 2, types.BoolFlags):
            raise Wrong("deltas of dictionaries are not taken")
        levels = _array(own, rows, buffers, stream)
        lengths = [len(level.encode()) if level else 0 for level in levels.to_pylist()]
        stream.levels[id] = levels, np.array(lengths, int)
    elif rows and stream.kinds:
        columns = dict[str, Array]()
        for name, own in stream.kinds.items():
            try:
                columns[name] = (_looked_up if own.dictionary else _array)(own, rows, buffers, stream)
            except BROKEN as error:
                raise _broken(error, name) from None
        stream.batches.append(RecordBatch.from_pydict(columns))  # type: ignore[arg-type]


def _array(own: Kind, rows: int, buffers: Iterator[bytes], _: Stream) -> Array:
    """The values of a column, or of a dictionary."""
    if own.kind == NULL:
        return _made(na.null(), rows)
    valid = _bits(next(buffers), rows, optional=True)
    if own.format is None:
        return _made(na.bool_(), rows, valid, _bits(next(buffers), rows))
    if own.kind not in (TEXT, LARGE_TEXT):
        values = np.frombuffer(next(buffers), own.format, rows)
        return _made(getattr(na, own.format.name)(), rows, valid, values)
    offsets, data = next(buffers), next(buffers)
    ends = np.frombuffer(offsets, own.format, rows + 1) if rows else np.zeros(1, own.format)
    if (ends < 0).any() or (ends > len(data)).any() or (ends[1:] < ends[:-1]).any():
        raise Wrong("a text is outside of its buffer")
    data[ends[0] : ends[-1]].decode()
    if (np.frombuffer(data, "u1")[ends[ends < len(data)]] & 0xC0 == 0x80).any():
        raise Wrong("a text begins within a character")
    return _made(na.string(), rows, valid, ends.astype("<i4"), data)


def _looked_up(own: Kind, rows: int, buffers: Iterator[bytes], stream: Stream) -> Array:
    """The values of a column that has the places of its values in a dictionary."""
    id, form = own.dictionary or (0, np.dtype("<i4"))
    valid, places = _bits(next(buffers), rows, optional=True), np.frombuffer(next(buffers), form, rows)
    levels, lengths = stream.levels[id]
    if own.kind == NULL or not len(levels):
        kind = na.null() if own.kind == NULL else na.string()
        return _made(kind, rows, bytes(-(-rows // 8)), bytes(4 * rows + 4), b"")
    if valid:
        places = np.where(np.unpackbits(np.frombuffer(valid, "u1"), count=rows, bitorder="little"), places, 0)
    if (places < 0).any() or (places >= len(levels)).any():
        raise Wrong("a place is outside of its dictionary")
    stream.texts += int(lengths[places].sum())
    if stream.texts > stream.limit:
        raise Refused(413, "texts of dictionaries that are longer than the stream: send the rows in parts")
    return levels.take(_made(na.uint32(), rows, valid, places.astype("<u4")))


def _bits(buffer: bytes, rows: int, optional: bool = False) -> bytes | None:
    """A buffer with a bit for each row; None: it may be left out, and is."""
    if optional and not buffer:
        return None
    if 8 * len(buffer) < rows:
        raise Wrong("a buffer is too short")
    return buffer


def _made(kind: Any, rows: int, *buffers: Any) -> Array:
    return Array.from_arrow(na.c_array_from_buffers(kind, rows, buffers if kind != na.null() else ()))
