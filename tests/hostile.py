"""Hostile clients: `python hostile.py HOST PORT ATTACK` opens connections, sends all that is taken, and reads nothing."""

import contextlib
import io
import socket
import struct
import sys
import time

import pyarrow as pa

SECONDS = 0.7  # that an attack lasts


def post(path: str, body: bytes, length: int | None = None, kind: str = "application/json") -> bytes:
    """A request. `length`: what it promises, instead of the length of its body."""
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: {kind}\r\ncontent-length: {size}\r\n\r\n"
    return head.encode() + body


def get(path: str) -> bytes:
    """A request."""
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def unknown(fields: int) -> bytes:
    """A batch of one row with so many fields that no model has."""
    return b"[{" + b",".join(b'"%x":1' % i for i in range(fields)) + b"}]"


def arrow(texts: pa.Array, rows: int = 10_000) -> bytes:
    """A batch as an Arrow IPC stream, with so many rows in each record batch."""
    columns = {"user_id": texts, "merchant_category": texts, "channel": texts, "amount": [1.5] * len(texts)}
    table, content = pa.table(columns), io.BytesIO()
    with pa.ipc.new_stream(content, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)
    return post("/predict/batch", content.getvalue(), kind="application/vnd.apache.arrow.stream")


def lying(stream: bytes, every: int) -> bytes:
    """The same, with every so manieth byte behind the head of the request changed, so that lengths and places lie."""
    at = stream.index(b"\r\n\r\n") + 5
    return stream[:at] + bytes(255 - b if i % every == 0 else b for i, b in enumerate(stream[at:], 1))


ROW = b'{"user_id":"u000001","amount":12.5,"merchant_category":"fuel","channel":"online"}'
BATCH = b"[" + b",".join([ROW] * 10_000) + b"]"
EMPTY = b"[" + b"{}," * (32 * 1024 * 1024 // 3) + b"{}]"
CHUNKED = b"POST /predict/batch HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
Attack = tuple[int, bytes, bytes]
# Of each kind: how many connections, what each sends first, and then on and on.
ATTACKS: dict[str, list[Attack]] = {
    "bodies that become much in memory": [
        (4, b"", post("/predict/batch", unknown(420_000))),
        (4, b"", post("/predict/batch", unknown(100_000))),  # within the limit
        (4, post("/feedback", EMPTY), b""),
        (4, post("/feedback/batch", EMPTY), b""),
        (4, b"", post("/predict/batch", EMPTY[: 1 << 20])),
        (8, b"", post("/feedback/batch", b"[" + b"1," * 20_000 + b"1]")),
        (8, b"", post("/predict", b"[" * 60_000)),
        (8, b"", post("/predict/batch", b'[{"a":' * 100_000)),
        (12, b"", post("/predict/batch", b'[{"%s":1}]' % (b"k" * 3_000_000))),
        (8, b"", post("/predict", ROW.replace(b"u000001", b"a" * 999 + "😀".encode()))),
    ],
    "Arrow streams that lie, or become much": [
        (4, b"", arrow(pa.array(["u1"] * 10_000))),
        (4, b"", arrow(pa.array(["w" * 1000] * 10_000).dictionary_encode())),
        (4, b"", arrow(pa.array([f"{i:09d}" for i in range(100_000)]).dictionary_encode().slice(0, 10_000))),
        (4, b"", arrow(pa.array(["u1"] * 2000), rows=1)),
        (4, b"", arrow(pa.array([f"{i:09d}" for i in range(10_000)]).dictionary_encode(), rows=60)),
        *(
            (4, b"", lying(arrow(pa.array(["u1"] * 100).dictionary_encode()), every))
            for every in (53, 211, 499)
        ),
    ],
    "answers that nobody reads": [
        (50, b"", get("/model") * 1000),
        (50, b"", get("/metrics") * 1000),
        (50, b"", get("/openapi.json") * 1000),
        (50, b"", get("/swagger/swagger-ui-bundle.js") * 1000),
        (40, b"", post("/predict/batch", BATCH)),
        (40, b"", post("/explain", ROW) * 1000),
    ],
    "heads without end": [
        (50, b"GET / HTTP/1.1\r\nx: ", b"a" * 65536),
        (50, b"GET / HTTP/1.1\r\n", b"a:\r\n" * 10_000),
        (50, b"GET /", b"a" * 65536),
        (50, CHUNKED + b"0\r\nx: ", b"a" * 65536),
        (20, b"", b"\r\n" * 10_000),
        (20, b"\x16\x03\x01\x02\x00\x01\x00", b""),
    ],
    "chunks without end": [
        (20, CHUNKED, b"1000\r\n" + b" " * 4096 + b"\r\n"),
        (20, CHUNKED, b"1\r\n \r\n" * 1000),
        (20, CHUNKED + b"1;", b"a" * 65536),
    ],
    "requests that never become whole": [
        (60, post("/predict/batch", BATCH, len(BATCH) + 1), b""),
        (300, post("/predict", b" " * 60_000, 60_001), b""),
        (100, b"POST /predict HTTP/1.1\r\n", b"a"),
    ],
    "connections that say nothing": [(1000, b"", b"")],
}


def attack(address: tuple[str, int], attacks: list[Attack]) -> None:
    """On each connection: send what is first, then the rest again and again while it is taken."""
    with contextlib.ExitStack() as stack:
        left: dict[socket.socket, tuple[memoryview, bytes]] = {}
        for connections, first, more in attacks:
            for _ in range(connections):
                line = stack.enter_context(socket.create_connection(address))
                line.setblocking(False)
                left[line] = memoryview(first), more
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            for line, (data, more) in list(left.items()):
                data = data or memoryview(more)
                with contextlib.suppress(BlockingIOError):
                    try:
                        left[line] = data[line.send(data) :], more
                    except (ConnectionError, TimeoutError):
                        del left[line]  # the service has closed it
            time.sleep(0.005)


def reset(address: tuple[str, int], connections: int = 16) -> None:
    """Ask on many connections and reset each, again and again, before its answer or while it comes."""
    until, turn = time.monotonic() + SECONDS, 0
    while time.monotonic() < until:
        lines = [socket.create_connection(address) for _ in range(connections)]
        for line in lines:
            line.sendall(post("/predict", ROW) * 2)
        time.sleep(0.004 * (turn := (turn + 1) % 4))
        for line in lines:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.close()


if __name__ == "__main__":
    host, port, name = sys.argv[1:]
    if name == "resets":
        reset((host, int(port)))
    else:
        attack((host, int(port)), ATTACKS[name])
