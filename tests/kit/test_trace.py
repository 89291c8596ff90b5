"""W3C Trace Context, the access log, what the champion does not know, the log's lag and the last drift check."""

import sqlite3
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from conftest import wait_for
from fastapi.testclient import TestClient
from tabloop.serving import access_log, create_app
from tabloop.serving.trace import begin

from .test_arrow import SENT, stream
from .test_predictor import counted
from .test_serving import LOOKED_UP, ROW, Models, models, settings, store  # noqa: F401

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{ID}-{SPAN}-01"


@pytest.mark.parametrize(
    "given, flags", [(GIVEN, "01"), (f"cc-{ID}-{SPAN}-ff-more", "03"), (f" {GIVEN}\t", "01")]
)
def test_a_valid_trace_goes_on(given: str, flags: str) -> None:
    version, trace, span, own = begin([(b"traceparent", given.encode())]).decode().split("-")
    assert (version, trace, own) == ("00", ID, flags)
    assert span != SPAN and len(span) == 16


@pytest.mark.parametrize(
    "given",
    [
        [],
        [GIVEN, GIVEN],
        *([g] for g in ("", GIVEN.upper(), GIVEN + "-more", "ff" + GIVEN[2:], GIVEN[:-1], f"cc{GIVEN[2:]}x")),
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{ID}-{'0' * 16}-01"],
    ],
)
def test_without_a_valid_one_a_trace_begins(given: list[str]) -> None:
    made = {begin([(b"traceparent", value.encode()) for value in given]) for _ in range(3)}
    assert len(made) == 3 and not any(ID.encode() in trace for trace in made)
    assert all(
        len(begin([(b"traceparent", trace)])) == 55 and trace[3:35] in begin([(b"traceparent", trace)])
        for trace in made
    )


def test_a_full_access_log_drops_lines_and_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "MAX_WAITING", 0)
    log, before = access_log.AccessLog(), counted("access_log_dropped_total")
    log.add({"trace": GIVEN.encode()}, 200)
    assert counted("access_log_dropped_total") == before + 1 and log.lines.empty()


def test_values_outside_the_range_of_training_are_counted(models: Models) -> None:  # noqa: F811
    """In JSON and in Arrow alike. What is missing is not outside; where training knew no value, each one is."""
    folder = models(
        "champion",
        ranges={"label": (0.1, 1.0), "date": (None, None), "self": (-3.4028234663852886e38, 1e300)},
    )
    values: list[tuple[float, float | None]] = [
        (0.1, None),
        (1.0, 0.5),
        (1.0001, None),
        (-3.0, 1e300),
        (0.5, None),
    ]
    given: list[dict[str, Any]] = [
        ROW | {"customer": "c", "label": label, "date": date} for label, date in values
    ]
    batch = [
        sum(not 0.1 <= label <= 1 for label, _ in values),
        sum(date is not None for _, date in values),
        0,
    ]
    single = [[int(not 0.1 <= label <= 1), int(date is not None), 0] for label, date in values]
    many = [wanted * 9 for wanted in batch]

    def outside() -> list[float]:
        return [counted("values_outside_range_total", column=name) for name in ("label", "date", "self")]

    with TestClient(create_app("kit", settings(folder)).entry()) as client:
        requests: list[tuple[str, dict[str, Any], list[int]]] = [
            ("/predict/batch", {"json": given}, batch),
            ("/predict/batch", {"json": given * 9}, many),  # numpy compares them
            ("/predict/batch", {"content": stream(pa.Table.from_pylist(given)), "headers": SENT}, batch),
            ("/predict/batch", {"content": stream(pa.Table.from_pylist(given * 9)), "headers": SENT}, many),
            *(("/predict", {"json": row}, wanted) for row, wanted in zip(given, single, strict=True)),
        ]
        for path, body, wanted in requests:
            before = outside()
            client.post(path, **body).raise_for_status()
            assert [now - was for now, was in zip(outside(), before, strict=True)] == wanted


def test_what_fails_beside_a_ready_service_is_told(models: Models) -> None:  # noqa: F811
    """The log's place is no folder, and the store can't be read any more: it answers, and is degraded."""
    folder = models("champion", schema_=LOOKED_UP)
    (folder / "file").touch()
    path, key = (
        store(folder / "store.db"),
        {n: v for n, v in ROW.items() if n != "label"} | {"customer": "c1"},
    )
    chosen = settings(folder, prediction_log=str(folder / "file/log"))
    with TestClient(create_app("kit", chosen).entry()) as client:
        assert client.get("/health/ready").json() == {"status": "ready"}
        client.post("/predict", json=ROW | {"customer": "c1"}).raise_for_status()
        wait_for(lambda: client.get("/health/ready").json() == {"status": "ready", "degraded": ["log"]})
        with closing(sqlite3.connect(path)) as writer:
            writer.execute("BEGIN EXCLUSIVE")
            client.post("/predict", json=key)
        found = client.get("/health/ready")
        assert found.status_code == 200
        assert found.json() == {"status": "ready", "degraded": ["log", "store"]}
        assert counted("service_ready") == 1
