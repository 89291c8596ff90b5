"""What bytes become is bounded: values, errors, batches at a time. And manners: HEAD, headers, middleware of the owner."""

import asyncio
import contextlib
import functools
import gc
import gzip
import json
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from fastapi.middleware.cors import CORSMiddleware
from fastapi.testclient import TestClient
from pydantic_core import ValidationError, from_json, to_json
from tabloop.serving import create_app, direct_route, model_app
from tabloop.serving.direct_route import MAX_ERRORS, ROW_BYTES, Refused, read_body
from tabloop.serving.model_app import Guard, ModelApp

from .conftest import calls_of
from .test_serving import ROW, Models, models, settings  # noqa: F401

ORIGIN = {"Origin": "https://example.com"}


@pytest.fixture
def app(models: Models) -> ModelApp:  # noqa: F811
    """The service."""
    return create_app("kit", settings(models("champion")))


@pytest.fixture
def client(app: ModelApp) -> Iterator[TestClient]:
    """A client of the service."""
    with TestClient(app.entry()) as made:
        yield made


def test_few_of_many_errors_are_reported(client: TestClient) -> None:
    many = {f"x{i}": 1 for i in range(1000)}
    for path, body in (
        ("/predict", many),
        ("/predict/batch", [many]),
        ("/predict/batch", [{"label": "x"}] * 500),
        ("/feedback/batch", [{"prediction_id": 1}] * 500),
        ("/feedback", many),
        ("/explain", many),
        # A client that does not read the answer would leave such names in memory, in one body 6 MB of them.
        ("/predict", {f"{i}{'x' * 2000}": 1 for i in range(25)}),
        ("/predict/batch", [{f"{i}{'x' * 100_000}": 1 for i in range(25)}]),
        ("/feedback", {f"{i}{'x' * 2000}": 1 for i in range(25)}),
    ):
        answer = client.post(path, json=body)
        assert answer.status_code == 422 and len(answer.json()["detail"]) == MAX_ERRORS, path
        assert len(answer.content) < 10_000, path
        assert all(e["loc"][0] == "body" and "body" not in e["loc"][1:] for e in answer.json()["detail"])


def test_an_error_names_its_row_in_whichever_part(client: TestClient) -> None:
    for place in (0, 499, 500, 1203):
        rows: list[Any] = [ROW] * 1300
        for wrong, where in (
            (ROW | {"label": "x"}, [place, "label"]),
            (ROW | {"more": 1}, [place, "more"]),
            (7, [place]),
            (ROW | {f"more{i}": i for i in range(30)}, [place, "more0"]),
        ):
            answer = client.post("/predict/batch", json=[*rows[:place], wrong, *rows[place + 1 :]])
            assert answer.status_code == 422 and answer.json()["detail"][0]["loc"] == ["body", *where]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/explain", "/feedback", "/feedback/batch"])
def test_no_body_takes_long_or_much(app: ModelApp, path: str) -> None:
    """A wrong body takes the same few calls however long it is, and the time of reading its JSON."""
    guard, limit = app.entry(), app.direct_routes[path].max_bytes
    assert limit < (2 << 20 if "feedback" in path else 16 << 20) and isinstance(guard, Guard)
    size = min(limit, 2 << 20)  # what grows with the body has grown by then
    names = b",".join(b'"%x":1' % i for i in range(size // 40))
    bodies = [b"[{%s}]" % names if "batch" in path else b"{%s}" % names]
    for piece in (b"{},", b"[],", b"1,", b'{"a":1},', b'"",', b"null,", b'"a":1,'):
        inner = piece * (size // len(piece) - 2) + piece[:-1]
        bodies += [(b"[" + inner + b"]")[:size], (b"[{" + inner + b"}]")[:size]]

    def answered(body: bytes, sent: list[Any]) -> None:
        sent += asyncio.run(ask(guard, path, [body]))

    ours = reading = 0.0
    for body in bodies:
        sent = list[Any]()
        began = time.process_time()
        calls = calls_of(functools.partial(answered, body, sent))
        ours += time.process_time() - began
        assert sent[0]["status"] in (413, 422) and calls < 3000
        began = time.process_time()
        with contextlib.suppress(ValueError):
            json.loads(body)
        reading += time.process_time() - began
    assert ours < 30 * (reading + 0.01)  # some four times
    assert asyncio.run(ask(guard, path, [b" " * (limit + 1)]))[0]["status"] == 413


def test_a_batch_of_long_names_and_texts_is_within_the_limit(client: TestClient, app: ModelApp) -> None:
    """As clients write it: indented, with every number in full."""
    rows = [ROW | {"customer": f"customer-{i:09d}", "label": i / 3e5} for i in range(10_000)]
    body = json.dumps(rows, indent=1).encode()
    assert len(body) < app.direct_routes["/predict/batch"].max_bytes
    assert len(client.post("/predict/batch", content=body).raise_for_status().json()) == 10_000


def test_of_a_refused_body_nothing_stays_until_the_garbage_is_collected(app: ModelApp) -> None:
    """An error that something of its own traceback refers to keeps the body: batches of who resets took 0.5 GB."""
    guard = app.entry()
    assert isinstance(guard, Guard)
    gc.collect()
    gc.disable()
    try:
        for path, body in (("/predict", b"1"), ("/predict/batch", b"[1]"), ("/feedback/batch", b"{")):
            assert asyncio.run(ask(guard, path, [body]))[0]["status"] == 422
        assert not [kept for kept in gc.get_objects() if isinstance(kept, Refused | ValidationError)]
    finally:
        gc.enable()


def test_no_json_is_no_json(client: TestClient) -> None:
    for body in (b"", b"[1", b"{", b"[{]", b'["\xff"]', b'[{"label": 1e}]', b"[" * 10_000):
        answer = client.post("/predict/batch", content=body)
        assert answer.status_code == 422 and answer.json()["detail"][0]["type"] == "json_invalid"
        assert answer.json()["detail"][0]["loc"] == ["body"]


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/feedback"])
def test_a_compressed_body_is_said_to_be_one(client: TestClient, path: str) -> None:
    body = gzip.compress(b'{"country": "FR"}')
    answer = client.post(path, content=body, headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415 and "Content-Encoding" in answer.json()["detail"]
    assert "415" in client.get("/openapi.json").json()["paths"][path]["post"]["responses"]
    assert client.post(path, content=body).status_code == 422
    assert client.post(path, content=b"{", headers={"Content-Encoding": "identity"}).status_code == 422


async def ask(
    guard: Guard, path: str, parts: list[bytes], *, method: str = "POST", stall: bool = False
) -> list[Any]:
    """What the guard sends for a request whose body comes in these parts; `stall`: the last one never comes."""
    sent, left = list[Any](), list(parts)

    async def receive() -> Any:
        await asyncio.sleep(0)
        if stall and len(left) == 1:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [],
        "query_string": b"",
        "root_path": "",
    }
    await guard(scope, receive, send)
    return sent


def test_who_stalls_leaves_when_others_need_the_room(app: ModelApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_app, "ROOM_BYTES", 100_000)
    body = to_json([ROW] * 200)
    assert 30_000 < len(body) < 60_000

    async def scene() -> None:
        guard = app.entry()
        assert isinstance(guard, Guard)
        stalled = [
            asyncio.create_task(ask(guard, "/predict/batch", [body, b" "], stall=True)) for _ in range(20)
        ]
        await asyncio.sleep(0.05)
        assert guard.room.free >= -len(body)
        for _ in range(3):
            good = await asyncio.gather(
                *(ask(guard, "/predict/batch", [body[:9], body[9:]]) for _ in range(2))
            )
            assert [sent[0]["status"] for sent in good] == [200, 200]
        answers = await asyncio.gather(
            *(asyncio.wait_for(task, 0.1) for task in stalled), return_exceptions=True
        )
        assert {sent[0]["status"] for sent in answers if isinstance(sent, list)} == {503}
        assert sum(isinstance(sent, list) for sent in answers) >= 18
        assert guard.room.free == 100_000 and not guard.room.waiting

    asyncio.run(scene())


def test_rows_go_before_batches_and_before_gets(app: ModelApp) -> None:
    async def scene() -> None:
        guard: Any = app.entry()
        batches = [
            asyncio.create_task(ask(guard, "/predict/batch", [to_json([ROW] * 2000)])) for _ in range(8)
        ]
        await asyncio.sleep(0)
        rows = await asyncio.gather(*(ask(guard, "/predict", [to_json(ROW)]) for _ in range(50)))
        assert {sent[0]["status"] for sent in rows} == {200}
        assert sum(task.done() for task in batches) <= 2
        gets = [asyncio.create_task(ask(guard, "/metrics", [b""], method="GET")) for _ in range(50)]
        assert (await ask(guard, "/predict", [to_json(ROW)]))[0]["status"] == 200
        assert sum(task.done() for task in gets) < 25
        assert {sent[0]["status"] for sent in await asyncio.gather(*gets)} == {200}
        assert {sent[0]["status"] for sent in await asyncio.gather(*batches)} == {200}

    asyncio.run(scene())


def test_a_batch_waits_neither_for_a_larger_one_nor_for_all_pages(app: ModelApp) -> None:
    async def scene() -> None:
        guard: Any = app.entry()
        batch = "/predict/batch", to_json([ROW] * 1000)
        answers = from_json((await ask(guard, batch[0], [batch[1]]))[1]["body"], allow_partial=True)
        outcomes = [{"prediction_id": answer["prediction_id"], "label": 1} for answer in answers[:100]]
        small = batch, ("/feedback/batch", to_json(outcomes))
        rows = to_json([ROW] * 10_000)
        assert len(rows) > model_app.SMALL_BYTES > len(small[0][1])
        large = [asyncio.create_task(ask(guard, "/predict/batch", [rows])) for _ in range(3)]
        gets = [asyncio.create_task(ask(guard, "/metrics", [b""], method="GET")) for _ in range(100)]
        await asyncio.sleep(0)
        for path, body in small:
            assert (await ask(guard, path, [body]))[0]["status"] in (200, 202)
        assert not any(task.done() for task in large)
        assert sum(task.done() for task in gets) < 50
        assert {sent[0]["status"] for sent in await asyncio.gather(*large, *gets)} == {200}

    asyncio.run(scene())


def test_a_body_that_breaks_off_or_is_too_long() -> None:
    async def receive() -> Any:
        return messages.pop(0)

    part = {"type": "http.request", "body": b"x" * ROW_BYTES, "more_body": True}
    messages: list[Any] = [part, {"type": "http.disconnect"}]
    with pytest.raises(ConnectionResetError):
        asyncio.run(read_body(receive, ROW_BYTES))
    messages = [part, part, part]
    with pytest.raises(Refused):
        asyncio.run(read_body(receive, ROW_BYTES))
    assert len(messages) == 1


def test_head_and_odd_paths(client: TestClient) -> None:
    for path in ("/health/live", "/health/ready", "/model", "/metrics", "/docs", "/"):
        assert client.head(path).status_code == client.get(path).status_code == 200
        assert client.get(f"{path}%0a").status_code == 404
    assert client.post("/predict%0a", json=ROW).status_code == 404
    assert client.head("/predict").status_code == 405


def test_the_pages_say_what_may_run_and_that_none_may_frame_them(client: TestClient) -> None:
    for path in ("/", "/docs"):
        answer = client.get(path)
        policy = answer.headers["content-security-policy"]
        assert answer.headers["x-frame-options"] == "DENY" and "frame-ancestors 'none'" in policy
        scripts = policy.partition("script-src ")[2].partition(";")[0]
        assert "unsafe" not in scripts and "'sha256-" in scripts and "http" not in policy
        assert "http" not in answer.text.replace("http-equiv", "") or path == "/docs"
    assert client.get("/swagger/swagger-ui-bundle.js").headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("keys", ["", "secret"])
def test_middleware_of_the_owner_reaches_answers_and_refusals(models: Models, keys: str) -> None:  # noqa: F811
    app = create_app("kit", settings(models("champion"), api_keys=keys))
    options: dict[str, Any] = {"allow_methods": ["*"], "allow_headers": ["*"], "expose_headers": ["x-y"]}
    app.add_middleware(CORSMiddleware, allow_origins=[ORIGIN["Origin"]], **options)
    given = ORIGIN | ({"X-API-Key": keys} if keys else {})
    with TestClient(app.entry()) as client:
        asked = [
            (200, client.post("/predict", json=ROW, headers=given)),
            (200, client.post("/predict/batch", json=[ROW], headers=given)),
            (422, client.post("/predict", json={"x": 1}, headers=given)),
            (422, client.post("/predict/batch", json=[], headers=given)),
            (413, client.post("/predict", content=b" " * 70_000, headers=given)),
            (404, client.post("/nowhere", headers=given)),
            (404, client.get("/model%0a", headers=given)),
            (405, client.get("/predict", headers=given)),
            (401 if keys else 200, client.post("/predict", json=ROW, headers=ORIGIN)),
            (200, client.options("/predict", headers=ORIGIN | {"Access-Control-Request-Method": "POST"})),
        ]
    for status, answer in asked:
        assert answer.status_code == status, answer.text
        assert answer.headers["access-control-allow-origin"] == ORIGIN["Origin"], (status, answer.url)


def test_with_keys_a_stranger_s_body_is_not_read(models: Models) -> None:  # noqa: F811
    guard: Any = create_app("kit", settings(models("champion"), api_keys="secret")).entry()
    for path in ("/predict", "/predict/batch", "/feedback", "/nowhere"):
        sent = asyncio.run(asyncio.wait_for(ask(guard, path, [b"x"], stall=True), 1))
        assert sent[0]["status"] == 401


def test_a_list_parsed_in_parts_is_what_json_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with brackets in texts, and damaged: then the error is that of the whole body."""
    random = Random(1)
    texts = ["a", "}", '"},{', "\\", "},", "é", "]", '\\"}', 1, None]
    for _ in range(3000):
        monkeypatch.setattr(direct_route, "PART_BYTES", random.choice([5, 9, 20, 40, 200]))
        objects = [{random.choice("ab"): random.choice(texts)} for _ in range(random.randint(0, 6))]
        rows = [row if random.random() < 0.9 else random.choice([1, "x}", [], {}, [{}]]) for row in objects]
        body = json.dumps(rows, indent=random.choice([None, 1]), ensure_ascii=random.random() < 0.5).encode()
        if random.random() < 0.5:
            at = random.randrange(len(body))
            body = (
                body[:at]
                + random.choice([b"", b",", b"}", b"]", b'"', b" ", b"{"])
                + body[at + random.randint(0, 1) :]
            )
        try:
            expected = from_json(body)
        except ValueError as error:
            with pytest.raises(Refused) as refused:
                list(direct_route.parsed(body))
            assert refused.value.reason[0]["msg"] == f"Invalid JSON: {error}"
        else:
            parts = list(direct_route.parsed(body))
            joined = [row for part in parts for row in part] if len(parts) > 1 else parts[0]
            assert joined == expected
