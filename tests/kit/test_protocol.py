"""The protocol on real sockets, with an application of a few lines: limits, flow control, independence, counting."""

import asyncio
import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from prometheus_client import REGISTRY
from tabloop.serving import protocol

GET = b"GET /%s HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET /5 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


def post(body: bytes, length: int | None = None) -> bytes:
    """A request to /echo. `length`: what it promises, instead of the length of its body."""
    return b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (length or len(body)) + body


class App:
    """What it does is in the path: `echo` the body, be `slow`, `fail`, or the length of the answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"][1:]
        self.asked.append(path)
        if path == "fail":
            raise RuntimeError("this is wanted")
        if path == "slow":
            await asyncio.sleep(0.3)
        body, more = b"x" * (int(path) if path.isdecimal() else path == "slow"), path == "echo"
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Service:
    """The application, served in a thread."""

    def __init__(self) -> None:
        self.app, self.socket = App(), socket.create_server(("127.0.0.1", 0))
        options: dict[str, Any] = {
            "http": protocol.Protocol,
            "loop": "uvloop",
            "lifespan": "off",
            "ws": "none",
        }
        self.server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, access_log=False, **options))
        self.thread = threading.Thread(target=self.server.run, args=[[self.socket]])
        self.address = self.socket.getsockname()
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)

    def connect(self, data: bytes = b"") -> socket.socket:
        """A connection on which `data` was sent."""
        line = socket.create_connection(self.address, timeout=5)
        line.sendall(data)
        return line

    def ask(self, data: bytes) -> bytes:
        """All that is answered until the service ends the connection, or is silent for a while."""
        with self.connect(data) as line:
            return answer(line, 5 if data.endswith(LAST) else 0.15)


def answer(line: socket.socket, seconds: float = 0.15, until: bytes | None = None) -> bytes:
    """What is received until it ends so, the connection ends, or nothing came for so long."""
    got = b""
    line.settimeout(seconds)
    try:
        while part := line.recv(1 << 16):
            got += part
            if until and got.endswith(until):
                return got
    except TimeoutError:
        return got
    except ConnectionResetError:
        pass
    return got + b"<end>"


def running_of(service: Service) -> list[protocol.Protocol]:
    """The connections of a service."""
    return list(service.server.server_state.connections)  # type: ignore[arg-type]


def counted(status: int) -> float:
    """The responses with this status so far."""
    return REGISTRY.get_sample_value("responses_total", {"status": str(status)}) or 0


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    """A running service."""
    made = Service()
    yield made
    made.server.should_exit = True
    made.thread.join(10)
    assert not made.thread.is_alive()


@pytest.fixture
def service(running: Service) -> Service:
    """The running service. It was not asked yet."""
    running.app.asked.clear()
    return running


@pytest.mark.parametrize(
    "name, first, status",
    [
        ("a long line", b"GET / HTTP/1.1\r\nx: " + b"a" * 100_000, 431),
        ("a long address", b"GET /" + b"a" * 100_000, 431),
        ("many lines", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 120, 431),
        ("a whole head of many lines", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 120 + b"\r\n", 431),
        ("a trailer", CHUNKED + b"0\r\nx: " + b"a" * 100_000, 431),
        ("an extension of a chunk", CHUNKED + b"1;" + b"a" * 100_000, 431),
        ("lines before a request", b"\r\n" * 50_000, 431),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        ("much that is no HTTP", b"\x16\x03" * 10_000, 400),
        ("no length", post(b"{}").replace(b": 2", b": two"), 400),
        ("no chunk", CHUNKED + b"much\r\n", 400),
    ],
)
def test_what_is_no_request_is_refused_and_counted(
    service: Service, name: str, first: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    before = counted(status)
    with service.connect(first) as line:
        got = answer(line, 2)
    head, _, body = got.removesuffix(b"<end>").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status) and b"connection: close" in head, name
    assert got.endswith(b"<end>") and json.loads(body)["detail"]
    assert re.search(rb"\r\ntraceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-00\r\n", head)
    assert counted(status) - before == 1
    assert not caplog.records  # a client can't fill the log
    assert b"200 OK" in service.ask(LAST)


def test_every_response_is_counted(service: Service) -> None:
    before = counted(200), counted(500)
    for path in (b"1", b"fail", b"70000", b"fail"):
        service.ask(GET % path)
    assert (counted(200) - before[0], counted(500) - before[1]) == (2, 2)


def test_a_request_before_a_broken_one_is_answered(service: Service) -> None:
    with service.connect(GET % b"slow" + b"no HTTP\r\n\r\n") as line:
        got = answer(line, 2)
    assert got.startswith(b"HTTP/1.1 200 OK") and b"connection: close" in got and got.endswith(b"<end>")
    assert b"HTTP/1.1 400" not in got


def test_requests_at_once_are_answered_in_their_order(service: Service) -> None:
    lengths = [i % 50 + 1 for i in range(600)]
    got = service.ask(b"".join(GET % b"%d" % length for length in lengths) + LAST)
    assert [int(n) for n in re.findall(rb"content-length: (\d+)", got)] == [*lengths, 5]
    bodies = [bytes([65 + i % 26]) * (i * 997 % 30_000 + 1) for i in range(60)]
    with service.connect() as line:  # more than is read at once
        sender = threading.Thread(target=line.sendall, args=[b"".join(map(post, bodies)) + LAST])
        sender.start()
        got = answer(line, 5)
        sender.join(5)
    assert [part.partition(b"HTTP/1.1")[0] for part in got.split(b"\r\n\r\n")[1:-1]] == bodies


@pytest.mark.parametrize("size", [1, 7, 5000, 300_000])
def test_a_body_arrives_whole_however_it_is_cut(service: Service, size: int) -> None:
    body = bytes(range(256)) * (1200 if size > 1 else 20)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    sent = CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    got = service.ask(sent + LAST)
    assert got.count(b"HTTP/1.1 200 OK") == 2 and b"\r\n\r\n" + body + b"HTTP/1.1" in got


@pytest.mark.parametrize("wish", [b"h2c", b"websocket", b"TLS/1.0"])
@pytest.mark.parametrize("cut", [1, 60, 10_000])
def test_a_wish_for_another_protocol_is_not_heard(service: Service, wish: bytes, cut: int) -> None:
    """As Java's HTTP client, curl --http2 and proxies ask; the request and those behind it are answered as HTTP/1.1."""
    asking = b"connection: Upgrade, HTTP2-Settings\r\nhttp2-settings: AAMAAABk\r\nupgrade: %s\r\n\r\n" % wish
    body = b"GET /7 HTTP/1.1\r\n\r\n" * 20  # smuggles nothing
    first, chunked = (part.replace(b"\r\n\r\n", b"\r\n" + asking, 1) for part in (post(body), CHUNKED))
    sent = first + GET % b"slow" + chunked + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    sent += (GET % b"3").replace(b"\r\n\r\n", b"\r\n" + asking) + LAST
    with service.connect() as line:
        for at in range(0, len(sent), cut):
            line.sendall(sent[at : at + cut])
        got = answer(line, 5)
    assert service.app.asked == ["echo", "slow", "echo", "3", "5"]
    assert (
        got.count(b"HTTP/1.1 200 OK") == 5
        and got.count(b"\r\n\r\n" + body) == 2
        and got.endswith(b"xxxxx<end>")
    )


def test_with_a_wish_the_connection_ends_where_it_should(service: Service) -> None:
    asking = b"connection: close, Upgrade\r\nupgrade: h2c\r\n\r\n"
    with service.connect(post(b"{}").replace(b"\r\n\r\n", b"\r\n" + asking) + GET % b"3") as line:
        got = answer(line, 5)
    assert got.count(b"HTTP/1.1 200 OK") == 1 and got.endswith(b"{}<end>") and b"connection: close" in got


def test_connect_is_no_tunnel(service: Service) -> None:
    got = service.ask(b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n\x16\x03\x01")
    assert got.count(b"HTTP/1.1") == 1


def test_who_closes_his_half_of_the_connection_gets_his_answers(service: Service) -> None:
    """As `nc -N` does. After them the service closes; what was not whole is not answered."""
    for sent, bodies in (
        (GET % b"slow", 1),
        (GET % b"3" + GET % b"slow", 2),
        (GET % b"3" + post(b"x", 9), 1),
        (b"", 0),
    ):
        with service.connect(sent) as line:
            line.shutdown(socket.SHUT_WR)
            got = answer(line, 2)
        assert got.endswith(b"<end>") and got.count(b"200 OK") == bodies, sent
    assert b"200 OK" in service.ask(LAST)


def test_what_the_application_does_not_take_is_not_read(service: Service) -> None:
    most, chunks = 0, b"10\r\n0123456789abcdef\r\n" * 1000
    with service.connect(CHUNKED.replace(b"echo", b"slow")) as line:
        line.settimeout(0.02)
        until = time.monotonic() + 0.25
        while time.monotonic() < until:
            with contextlib.suppress(TimeoutError):
                line.send(chunks)
            bodies = [len(each.cycle.body) for each in running_of(service) if each.cycle]
            most = max(most, *bodies, 0)
        assert answer(line, 5, b"x").startswith(b"HTTP/1.1 200 OK")
    assert 60_000 < most < 200_000


def test_small_chunks_take_no_more_of_a_turn_than_large_ones(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """60 connections with chunks of one byte made others wait for seconds on a busy machine."""
    events, received = list[int](), protocol.Protocol.data_received

    def counted(self: protocol.Protocol, data: bytes) -> None:
        received(self, data)
        events.append(self.events)

    monkeypatch.setattr(protocol.Protocol, "data_received", counted)
    for chunk, number in ((b"1\r\n \r\n", 20_000), (b"1000\r\n" + b" " * 4096 + b"\r\n", 100)):
        events.clear()
        got = service.ask(CHUNKED + chunk * number + b"0\r\n\r\n" + LAST)
        assert got.count(b"HTTP/1.1 200 OK") == 2 and sum(events) > number
        assert max(events) < 3 * protocol.EVENTS


def test_a_connection_that_is_gone_is_not_looked_at_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, go_on = list[float](), protocol.Protocol._go_on

    def counted(self: protocol.Protocol) -> None:
        looked.append(time.monotonic())
        go_on(self)

    monkeypatch.setattr(protocol.Protocol, "_go_on", counted)
    with service.connect(
        CHUNKED.replace(b"echo", b"slow") + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 300
    ) as line:
        time.sleep(0.1)
        # Those of the test before have gone soon.
        while len(running := running_of(service)) > 1:
            time.sleep(0.01)
        (gone,) = running
        assert gone.cycle.body and gone.unread
        line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert looked
    time.sleep(0.4)  # the application has ended
    assert not (gone.cycle.body or gone.unread)  # what it has stays until the garbage is collected
    looked.clear()
    time.sleep(0.1)
    assert not looked


def test_who_does_not_read_is_not_asked_for(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only as many requests are begun as fit in the buffers, and the connection is ended."""
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.3)
    with service.connect() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(0.2)
        sent = 0
        with pytest.raises((TimeoutError, ConnectionError)):
            for _ in range(10_000):
                sent += line.send((GET % b"100000") * 1000)
        begun = len(service.app.asked)
        assert begun < 200
        time.sleep(0.8)
        assert len(service.app.asked) == begun
        assert answer(line).endswith(b"<end>") and not caplog.records
    assert b"200 OK" in service.ask(LAST)


def test_a_reset_harms_no_other_connection(service: Service) -> None:
    others = [service.connect() for _ in range(20)]
    for turn in range(20):
        gone = [service.connect((GET % b"1") * 3 + post(b"x")) for _ in range(5)]
        for line in others:
            line.sendall(GET % b"1")
        for line in gone:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if turn % 2:
                line.recv(1)
            line.close()
        for line in others:
            got = b""
            while not got.endswith(b"x"):
                part = line.recv(1000)
                assert part
                got += part
    for line in others:
        line.close()


def test_a_full_service_closes_who_is_silent(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "CONNECTIONS", 20)
    with service.connect(GET % b"slow") as busy, service.connect(GET % b"1") as idle:
        assert answer(idle, 5, b"x").endswith(b"x")
        silent = [service.connect(data) for data in [b"", b"GET / HTTP", post(b"x", 9)] * 10]
        assert b"200 OK" in service.ask(LAST)
        assert answer(busy, 5, b"x").endswith(b"x")
    closed = 0
    for line in silent:
        line.settimeout(0.01)
        try:
            closed += line.recv(1) == b""
        except ConnectionError:
            closed += 1
        except TimeoutError:
            pass
        line.close()
    assert closed >= 10


def test_an_incomplete_request_is_ended(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "REQUEST_SECONDS", 0.1)
    before = counted(408)
    sent = [
        b"",
        b"GET / HT",
        post(b"x", 9),
        CHUNKED + b"1\r\nx\r\n",
        GET % b"slow",
        (GET % b"1") * 2 + post(b"", 9),
    ]
    lines = [service.connect(data) for data in sent]
    got = [answer(line, 5) for line in lines]
    assert [part[9:12] for part in got] == [b"", b"408", b"408", b"408", b"200", b"200"]
    assert all(part.endswith(b"<end>") for part in got)  # the one that was answered, as it is idle
    assert got[0] == b"<end>" and got[5].count(b"HTTP/1.1 408") == 1
    assert counted(408) - before == 4


def test_at_its_end_it_answers_what_still_comes_and_says_so() -> None:
    service = Service()
    lines = [service.connect(GET % b"1") for _ in range(3)]
    for line in lines:
        assert b"connection: close" not in answer(line, 5, b"x")
    lines[1].sendall(GET % b"slow")
    time.sleep(0.05)
    service.server.should_exit = True
    time.sleep(0.2)
    lines[0].sendall(GET % b"2")
    for line, body in zip(lines, (b"xx<end>", b"x<end>", b"<end>"), strict=True):
        got = answer(line, 2)
        assert got.endswith(body) and (b"connection: close" in got or line is lines[2])
    service.thread.join(10)
    assert not service.thread.is_alive()
