"""Batches as Arrow IPC streams: the same answers, log and refusals as in JSON, and no stream ends the process."""

import functools
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient
from tabloop.serving import arrow, create_app
from tabloop.serving.direct_route import Refused

from .conftest import calls_of
from .test_serving import LOOKED_UP, ROW, Models, models, settings, store  # noqa: F401

TYPE = "application/vnd.apache.arrow.stream"
SENT, WANTED = {"Content-Type": TYPE}, {"Content-Type": TYPE, "Accept": TYPE}


def stream(table: pa.Table, rows: int = 10_000, **options: Any) -> bytes:
    """The table as an IPC stream, with so many rows in a record batch."""
    content, chosen = io.BytesIO(), pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(content, table.schema, options=chosen) as writer:
        writer.write_table(table, max_chunksize=rows)
    return content.getvalue()


def read(content: bytes) -> list[dict[str, Any]]:
    return list(pa.ipc.open_stream(content).read_all().to_pylist())


def batch(number: int) -> list[dict[str, Any]]:
    """Rows of different probability, of 90 entities."""
    return [ROW | {"customer": f"c{i % 90}", "label": i / number - 0.5} for i in range(number)]


@pytest.mark.parametrize("mode", ["off", "shadow", "ab"])
def test_a_stream_is_answered_and_logged_as_json_is(models: Models, mode: str) -> None:  # noqa: F811
    """A row that the graph can't score has `detail` alone."""
    folder = models("champion", "challenger", made={"number_in": "variant"})
    rows, bad = batch(2500), {0, 7, 2100}
    for at in bad:
        rows[at] |= {"variant": "no number"}
    chosen = settings(folder, challenger_mode=mode, challenger_share=0.4)
    with TestClient(create_app("kit", chosen).entry()) as client:
        expected = client.post("/predict/batch", json=rows).json()
        content = stream(pa.Table.from_pylist(rows), rows=700)
        answer = client.post("/predict/batch", content=content, headers=WANTED)
        assert answer.status_code == 200 and answer.headers["content-type"] == TYPE
        found = read(answer.content)
        also = client.post("/predict/batch", content=content, headers=SENT)
        assert also.headers["content-type"] == "application/json"
    assert len(found) == len(expected) == 2500
    for at, (row, other, own) in enumerate(zip(expected, also.json(), found, strict=True)):
        if at in bad:
            assert (
                row == other == {"detail": own["detail"]}
                and own["prediction_id"] is own["probability"] is None
            )
        else:
            own.pop("detail")
            ids = {each.pop("prediction_id") for each in (row, other, own)}
            assert row == other == own and len(ids) == 3
    assert {row.get("variant") for row in expected} >= (
        {"champion", "challenger"} if mode == "ab" else {"champion"}
    )
    logged = duckdb.read_parquet(f"{folder}/log/predictions/*/*.parquet").project(
        "* EXCLUDE (prediction_id, predicted_at)"
    )
    served = 3 * (2500 - len(bad))
    assert len(logged) == served * (2 if mode == "shadow" else 1)
    counts = logged.aggregate("count(*) AS n, *").project("n").fetchall()
    assert all(count % 3 == 0 for (count,) in counts)  # each row three times, in the same words


def test_columns_that_are_not_there_are_looked_up(models: Models, tmp_path: Path) -> None:  # noqa: F811
    folder = models("champion", schema_=LOOKED_UP)
    chosen = settings(folder, online_store=store(folder / "store.db"))
    rows = [{k: v for k, v in ROW.items() if k != "label"} | {"customer": f"c{i % 12}"} for i in range(300)]
    with TestClient(create_app("kit", chosen).entry()) as client:
        expected = [
            a["probability"] for a in client.post("/predict/batch", json=rows).json() if "probability" in a
        ]
        content = stream(pa.Table.from_pylist(rows))
        found = read(client.post("/predict/batch", content=content, headers=WANTED).content)
        assert [a["probability"] for a in found if a["detail"] is None] == expected and len(set(expected)) > 5
        keyless = stream(pa.Table.from_pylist(rows).drop_columns(["customer"]))
        refused = client.post("/predict/batch", content=keyless, headers=SENT)
        assert refused.status_code == 422 and refused.json()["detail"][0]["loc"] == ["body", 0, "customer"]


def test_rows_of_a_batch_are_completed_as_single_ones_are(models: Models, tmp_path: Path) -> None:  # noqa: F811
    """Rows that leave out what is looked up, have it, or have it as null, in a part of their own or mixed."""
    folder = models("champion", schema_=LOOKED_UP)
    chosen = settings(folder, online_store=store(folder / "store.db"))
    bare = {name: value for name, value in ROW.items() if name != "label"}
    kinds: list[dict[str, Any]] = [
        bare | {"customer": "c3"},
        bare | {"customer": "c4", "label": None},
        {"customer": "c5"} | ROW,
        bare | {"customer": "unknown"},
        bare | {"customer": 17},
        {"customer": " c6"} | bare,
        ROW,
    ]
    rows = [*([kinds[0]] * 300), *([kinds[2]] * 300), *(kinds * 60), *([kinds[1]] * 200)]
    with TestClient(create_app("kit", chosen).entry()) as client:
        alone = {to_text(row): client.post("/predict", json=row).json() for row in kinds}
        found = client.post("/predict/batch", json=rows).json()
        for row, answer in zip(rows, found, strict=True):
            assert answer.get("probability") == alone[to_text(row)].get("probability"), row
        assert len({answer.get("probability") for answer in found}) == 5  # None is one
        refused = client.post("/predict/batch", json=[*rows, bare, bare]).json()["detail"]
        assert [error["loc"] for error in refused] == [["body", len(rows), "customer"]]
        assert refused[0]["msg"] == client.post("/predict", json=bare).json()["detail"][0]["msg"]


def to_text(row: dict[str, Any]) -> str:
    return repr(sorted(row.items()))


TABLE = pa.table(
    {
        "number": np.arange(40) / 3,
        "single": pa.array(np.arange(40) / 4, pa.float32()),
        "small": pa.array([1, None] * 20, pa.int16()),
        "truth": [True, None, False, True] * 10,
        "text": [f"é{i}" for i in range(40)],
        "large": pa.array(["x", None, "", "zz"] * 10, pa.large_string()),
        "level": pa.array(["x", "y", None, "ü"] * 10).dictionary_encode(),
        "none": pa.nulls(40),
        "no_level": pa.array([None] * 40, pa.string()).dictionary_encode(),
    }
)


def decode(body: bytes, most: int = 100) -> Any:
    return arrow.decode(body, most, TABLE.column_names)


@pytest.mark.parametrize("rows", [40, 7, 1])
def test_a_stream_is_decoded_as_pyarrow_does(rows: int) -> None:
    found = pa.table(decode(stream(TABLE.slice(3), rows=rows)))
    assert found.to_pylist() == TABLE.slice(3).to_pylist()


def lies() -> Iterator[tuple[str, bytes]]:
    """Streams that have something damaged."""
    random, whole = Random(3), [stream(TABLE, rows=20), stream(TABLE.select(["level", "text"]))]
    numbers = [0, 1, 1 << 31, (1 << 31) - 1, 1 << 40, 1 << 62, (1 << 64) - 1]
    for _ in range(1500):
        body = bytearray(random.choice(whole))
        for _ in range(random.choice([1, 1, 2])):
            at = random.randrange(len(body) - 8)
            kind = random.randrange(4)
            if kind == 0:
                body[at] = random.randrange(256)
            elif kind == 1:
                body[at & ~3 : (at & ~3) + 4] = struct.pack("<I", random.choice(numbers) & 0xFFFFFFFF)
            elif kind == 2:
                body[at & ~7 : (at & ~7) + 8] = struct.pack("<Q", random.choice(numbers))
            else:
                del body[at : at + random.choice([1, 8, 64])]
        yield "random", bytes(body)


def test_no_stream_is_trusted() -> None:
    """arro3 and nanoarrow end the process on such streams. Each is refused in one line, or is one of other values."""
    refused = 0
    for _, body in lies():
        try:
            for column in decode(body).columns:
                column.to_pylist()
        except Refused as error:
            refused += 1
            assert error.status in (413, 422) and "\n" not in str(error.reason)
    assert refused > 500


def many() -> bytes:
    """A stream of very many record batches without rows."""
    return stream(pa.concat_tables([TABLE.slice(0, 1)] * 1200), rows=1)


WIDE = pa.array(["w" * 900] * 2 + ["v"] * 50).dictionary_encode()
NO: dict[str, tuple[bytes, int, str, list[str]]] = {
    "nothing": (b"", 422, "no rows", []),
    "no stream": (b"[1, 2]" * 9, 422, "does not begin as it should", []),
    "cut off": (stream(TABLE)[:-300], 422, "cut off", []),
    "two": (stream(TABLE) * 2, 422, "more bytes follow its end", []),
    "no rows": (stream(TABLE.slice(0, 0)), 422, "no rows", []),
    "too many rows": (stream(pa.concat_tables([TABLE] * 3), rows=30), 413, "more than 100 rows", []),
    "many messages": (many(), 413, "more than", []),
    "compressed": (stream(TABLE, compression="zstd"), 422, "without compression", []),
    "another column": (stream(TABLE.append_column("x", pa.nulls(40))), 422, "Extra inputs", ["x"]),
    "a column twice": (stream(TABLE.append_column("text", pa.nulls(40))), 422, "twice", ["text"]),
    "nested": (stream(pa.table({"text": [["a"]]})), 422, "numbers, booleans or texts", ["text"]),
    "struct": (stream(pa.table({"text": [{"a": 1}]})), 422, "numbers, booleans or texts", ["text"]),
    "half": (stream(pa.table({"number": pa.array([1], pa.float16())})), 422, "numbers", ["number"]),
    "views": (stream(pa.table({"text": pa.array(["a"], pa.string_view())})), 422, "utf8", ["text"]),
    "no UTF-8": (stream(TABLE).replace("é17".encode(), b"\xff\xff17"), 422, "utf-8", ["text"]),
    "a text of many rows": (
        stream(pa.table({"level": WIDE.take(pa.array([0] * 99))})),
        413,
        "dictionaries",
        [],
    ),
}


def test_a_dictionary_of_many_record_batches_is_looked_at_once() -> None:
    """A request of 0.7 MB took 15 seconds, in which nobody was answered."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 10), pa.array([f"{i}" for i in range(10_000)]))
    batch = pa.record_batch(dict.fromkeys(("level", "text", "large", "none"), column))
    calls = []
    for batches in (1, 190):
        content = io.BytesIO()
        with pa.ipc.new_stream(content, batch.schema) as writer:
            for _ in range(batches):
                writer.write_batch(batch)
        body = content.getvalue()
        assert decode(body, 10_000).num_rows == 10 * batches
        calls.append(calls_of(functools.partial(decode, body, 10_000)))
    assert calls[1] < 4 * calls[0]  # 190 times, if each batch looked


@pytest.mark.parametrize("name", NO)
def test_what_is_no_batch_is_refused_in_one_line(name: str) -> None:
    body, status, reason, column = NO[name]
    with pytest.raises(Refused) as refused:
        decode(body)
    assert refused.value.status == status and reason in str(refused.value.reason), refused.value.reason
    if status == 422:
        (problem,) = refused.value.reason
        assert problem["loc"] == ["body", *column]


def test_over_http_it_has_the_limits_of_json_and_the_errors_name_row_and_column(models: Models) -> None:  # noqa: F811
    app = create_app("kit", settings(models("champion")))
    rows = pa.Table.from_pylist(batch(20))
    limit = app.direct_routes["/predict/batch"].max_bytes
    with TestClient(app.entry()) as client:

        def ask(content: bytes, path: str = "/predict/batch") -> tuple[int, Any]:
            answer = client.post(path, content=content, headers=WANTED)
            assert answer.headers["content-type"] == "application/json"
            return answer.status_code, answer.json()["detail"]

        assert ask(b"\xff" * (limit + 1))[0] == 413
        assert ask(stream(pa.concat_tables([rows] * 501)))[0] == 413
        texts = rows.set_column(rows.column_names.index("label"), "label", pa.array(["much"] * 20))
        status, detail = ask(stream(texts))
        assert status == 422 and detail[0]["loc"] == ["body", 0, "label"]
        bad = pa.table({"variant": ["x" * 2000 if i == 13 else "1" for i in range(20)]})
        status, detail = ask(
            stream(rows.set_column(rows.column_names.index("variant"), "variant", bad["variant"]))
        )
        assert status == 422 and detail[0]["loc"] == ["body", 13, "variant"]
        assert ask(stream(rows), "/feedback/batch")[0] == 415
        documented = client.get("/openapi.json").json()["paths"]["/predict/batch"]["post"]
        assert (
            TYPE in documented["requestBody"]["content"] and TYPE in documented["responses"]["200"]["content"]
        )
        assert "application/json" in documented["requestBody"]["content"]
