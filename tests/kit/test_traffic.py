"""Traffic: what reaches a service, and what is said where none answers. The service here is a server that takes notes."""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tabloop import traffic
from tabloop.cli import UserError

from .monitored import params, served

Reply = Callable[[str, list[dict[str, Any]]], tuple[int, str]]


class Service(ThreadingHTTPServer):
    """Notes what is posted and answers as the prediction service does, or as `reply` says."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.posted: list[tuple[str, list[dict[str, Any]]]] = []
        self.reply: Reply = self.predict

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def predict(self, path: str, body: list[dict[str, Any]]) -> tuple[int, str]:
        if path == "/predict/batch":
            first = len(self.rows()) - len(body)
            return 200, json.dumps([{"prediction_id": f"p{first + i}"} for i in range(len(body))])
        return 202, json.dumps({"accepted": len(body)})

    def rows(self, path: str = "/predict/batch") -> list[dict[str, Any]]:
        return [row for to, body in self.posted if to == path for row in body]


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.posted.append((self.path, body))
        status, text = self.server.reply(self.path, body)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def holdout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    rows = served(300).rename(columns={"entity": "customer_id", "outcome": "returned"})
    rows["age"] = rows.age.astype("Int64")
    rows.loc[0, ["age", "country"]] = pd.NA
    rows.to_parquet(tmp_path / "holdout.parquet")
    monkeypatch.setattr(traffic, "HOLDOUT", tmp_path / "holdout.parquet")
    return rows


def run(
    service: Service, rows: int = 2500, drift: tuple[str, ...] = (), labels: float = 1.0, seed: int = 0
) -> int:
    return traffic.run(params(), service.url, rows, drift, labels, 0, seed)


def test_rows_and_labels_arrive_in_batches(holdout: pd.DataFrame, service: Service) -> None:
    assert run(service, labels=0.25) == 2500
    assert [(path, len(body)) for path, body in service.posted] == [
        ("/predict/batch", 1000),
        ("/predict/batch", 1000),
        ("/predict/batch", 500),
        ("/feedback/batch", 625),
    ]
    known = [
        json.dumps(row)
        for row in json.loads(
            holdout.drop(columns=["probability", "returned"]).to_json(orient="records", double_precision=15)
        )
    ]
    label = dict(zip(known, holdout.returned, strict=True))
    sent = service.rows()
    assert {json.dumps(row) for row in sent} == set(known)
    assert sent[0].keys() == {"customer_id", *params().schema_.features}
    outcomes = service.rows("/feedback/batch")
    assert all(o["label"] == label[json.dumps(sent[int(o["prediction_id"][1:])])] for o in outcomes)
    assert len({o["prediction_id"] for o in outcomes}) == 625


def test_a_seed_gives_the_same_rows_another_gives_others(holdout: pd.DataFrame, service: Service) -> None:
    draws = []
    for seed in (1, 1, 2):
        service.posted.clear()
        run(service, 50, seed=seed)
        draws.append(service.rows())
    assert draws[0] == draws[1] != draws[2]


def test_drift_multiplies_and_keeps_whole_numbers_and_gaps(holdout: pd.DataFrame, service: Service) -> None:
    run(service, 400)
    plain = service.rows()
    service.posted.clear()
    run(service, 400, ("amount=3", "age=1.5"))
    for before, after in zip(plain, service.rows(), strict=True):
        assert after["amount"] == pytest.approx(before["amount"] * 3)
        assert after["age"] is None if before["age"] is None else after["age"] == round(before["age"] * 1.5)
        assert after["country"] == before["country"]
    assert any(row["age"] is None for row in plain)


def test_without_labels_no_feedback_is_sent(holdout: pd.DataFrame, service: Service) -> None:
    run(service, 10, labels=0)
    assert [path for path, _ in service.posted] == ["/predict/batch"]


@pytest.mark.parametrize(
    "bad",
    ["amount", "amount=", "amount=much", "amount=nan", "amount=inf", "country=2", "express=2", "x=2", "="],
)
def test_a_bad_drift_is_one_clear_line(holdout: pd.DataFrame, service: Service, bad: str) -> None:
    with pytest.raises(UserError) as caught:
        run(service, drift=("age=2", bad))
    assert str(caught.value) == f"--drift {bad}: give COLUMN=FACTOR, a number and a column of: age, amount"
    assert not service.posted


@pytest.mark.parametrize(
    ("changes", "text"),
    [({"rows": 0}, "--rows 0"), ({"labels": 1.5}, "--labels 1.5"), ({"seed": -1}, "--seed -1")],
)
def test_numbers_out_of_range_are_named(
    holdout: pd.DataFrame, service: Service, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(UserError, match=f"{text}: give a number from"):
        run(service, **changes)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "127.0.0.1:8000", "http://[", "nowhere"])
def test_a_service_that_does_not_answer_is_named(holdout: pd.DataFrame, url: str) -> None:
    with pytest.raises(UserError) as caught:
        traffic.run(params(), url, 10, (), 1.0, 0, 0)
    text = str(caught.value)
    assert text.startswith(f"{url} does not answer (") and "run `make serve`" in text and "\n" not in text


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (422, '{"detail": "amount:\n too large"}', 'refuses with 422: {"detail": "amount: too large"}'),
        (404, "", "refuses with 404: "),
        (200, "<html>", "gives no predictions"),
        (200, '{"status": "ok"}', "gives no predictions"),
        (200, "[1]", "gives no predictions"),
    ],
)
def test_a_service_that_refuses_or_is_another_is_named(
    holdout: pd.DataFrame, service: Service, status: int, text: str, said: str
) -> None:
    service.reply = lambda path, body: (status, text)
    with pytest.raises(UserError) as caught:
        run(service, 10)
    assert str(caught.value).startswith(f"{service.url}/predict/batch {said}") and "\n" not in str(
        caught.value
    )


def test_a_holdout_of_another_schema_is_named(holdout: pd.DataFrame, service: Service) -> None:
    """The schema was changed, and not trained since; it was a KeyError of pandas'."""
    holdout.drop(columns="country").to_parquet(traffic.HOLDOUT)
    with pytest.raises(UserError, match=r"lacks country, which params\.yaml has: run `make train`$"):
        run(service)
    assert not service.posted


def test_without_a_holdout_training_is_named(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traffic, "HOLDOUT", tmp_path / "holdout.parquet")
    with pytest.raises(UserError, match=r"holdout\.parquet is missing: run `make train`"):
        run(service)
