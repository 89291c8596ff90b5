"""The service as a process of its own, asked over HTTP: answers, refusals, variants, log, page.

The same without a process, on graphs made by hand, is in kit/test_serving.py.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
from conftest import Project, Run, Serve, lines_of_readme, wait_for
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, expect

KEY = {"user_id": "u000001", "amount": 12.5, "merchant_category": "fuel", "channel": "online"}


def challenge(project: Path, **changes: Any) -> Path:
    """Make the champion its own challenger, under another version, with changes to model.json."""
    challenger = shutil.copytree(project / "models/champion", project / "models/challenger")
    card = json.loads((challenger / "model.json").read_text())
    (challenger / "model.json").write_text(json.dumps(card | {"version": "c" * 12} | changes))
    return project


def example(project: Path) -> dict[str, Any]:
    card = json.loads((project / "models/champion/model.json").read_text())
    return dict(card["example"])


def test_a_row_is_answered_and_logged_and_so_is_its_outcome(serve: Serve, quick: Path) -> None:
    with serve(quick) as server:
        row = example(quick) | {"user_id": "u000007"}
        answer = server.client.post("/predict", json=row).raise_for_status().json()
        model = server.client.get("/model").json()["champion"]
        assert answer["model_version"] == model["version"] and answer["variant"] == "champion"
        assert answer["prediction"] == int(answer["probability"] >= model["threshold"])
        outcome = {"prediction_id": answer["prediction_id"], "label": 1}
        assert server.client.post("/feedback", json=outcome).status_code == 202
        assert server.client.get("/health/live").json() == {"status": "live"}
        assert server.metric("prediction_seconds_count") == 1 and server.metric("prediction_seconds_sum") > 0
        assert "Traceback" not in server.stop()
        (logged,) = server.logged().to_dict("records")
        assert {name: logged[f"feature_{name}"] for name in row if name != "user_id"} | {
            "user_id": logged["entity"]
        } == row
        assert logged["probability"] == answer["probability"] and logged["variant"] == "champion"
        (reported,) = server.logged("feedback").to_dict("records")
        assert reported["prediction_id"] == answer["prediction_id"] and reported["label"] == 1
        read = pd.read_parquet(server.log / "predictions")  # dated folders are a partition to pandas
        assert str(read.date[0]) == f"{logged['predicted_at']:%Y-%m-%d}"


def test_the_graph_answers_as_in_training(serve: Serve, quick: Path) -> None:
    reference = pd.read_parquet(quick / "models/champion/reference.parquet").head(500)
    rows = json.loads(reference.drop(columns=["is_fraud", "probability"]).to_json(orient="records"))
    with serve(quick) as server:
        batch = server.client.post("/predict/batch", json=rows).raise_for_status().json()
        assert [a["probability"] for a in batch] == pytest.approx(reference.probability.tolist(), abs=1e-6)
        single = [server.client.post("/predict", json=row).json()["probability"] for row in rows[:20]]
        assert single == [answer["probability"] for answer in batch[:20]]


def test_online_features_are_the_offline_ones_of_the_moment(
    serve: Serve, run: Run, project: Project, quick: Path
) -> None:
    """By key or with every feature given, the answer is the same; Feast's point-in-time join gives those."""
    script = """
import json, pandas as pd
from tabloop.feature_store import opened
from tabloop.params import ROOT, load
schema = load().schema_
users = [f"u{i:06d}" for i in range(60)] + ["nobody"]
events = pd.DataFrame({"user_id": users, "event_timestamp": pd.Timestamp.now("UTC")})
names = [f"{view}:{column}" for view, columns in schema.views.items() for column in columns]
with opened(ROOT) as store:
    rows = store.get_historical_features(entity_df=events, features=names).to_df()
print(rows.drop(columns="event_timestamp").to_json(orient="records"))
"""
    copy = project(quick)  # Feast writes to its registry
    offline = json.loads(run(copy, "python", "-c", script).stdout.splitlines()[-1])
    whole = ("age", "account_age_days", "max_1h_velocity")
    with serve(copy) as server:
        for row in offline:
            row |= {name: int(row[name]) for name in whole if row[name] is not None}
            by_key = server.client.post("/predict", json=KEY | {"user_id": row["user_id"]}).json()
            given = server.client.post("/predict", json=KEY | row).json()
            assert by_key["probability"] == given["probability"]
        assert server.metric("missing_online_features_total") == 1  # of the unknown user
        server.stop()
        logged = server.logged().sort_values("predicted_at", ignore_index=True)
        read, sent = logged[::2], logged[1::2]
        columns = ["entity", *(f"feature_{name}" for name in [*offline[0], *KEY] if name != "user_id")]
        pd.testing.assert_frame_equal(
            read[columns].reset_index(drop=True), sent[columns].reset_index(drop=True), rtol=1e-12
        )
        assert read.feature_country.notna().sum() == 60


def test_by_one_setting_there_is_no_online_store_and_features_are_missing(serve: Serve, quick: Path) -> None:
    with serve(quick, ONLINE_STORE="none") as server:
        assert server.client.post("/predict", json=KEY).status_code == 200
        assert server.metric("missing_online_features_total") == 1


BAD: dict[str, tuple[Any, str]] = {
    "unknown field": ({"colour": "red"}, "colour"),
    "below the bound": ({"age": 3}, "age"),
    "of another type": ({"amount": "much"}, "amount"),
    "null where there can be none": ({"channel": None}, "channel"),
    "too large an integer": ({"max_1h_velocity": 10**30}, "max_1h_velocity"),
    "a list": ({"country": ["DE"]}, "country"),
    "a long text": ({"country": "D" * 2000}, "country"),
}
RAW: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"amount=3",
    "half of it": b'{"amount": 3',
    "NaN": b'{"amount": NaN, "channel": "online", "user_id": "u"}',
    "Infinity": b'{"amount": -Infinity, "channel": "online", "user_id": "u"}',
    "an overflow": b'{"amount": 1e999, "channel": "online", "user_id": "u"}',
    "endless digits": b'{"amount": ' + b"9" * 5000 + b', "channel": "online", "user_id": "u"}',
    "no UTF-8": '{"amount": 3, "channel": "caf\u00e9", "user_id": "u"}'.encode("latin-1"),
    "UTF-16": '{"amount": 3, "channel": "online", "user_id": "u"}'.encode("utf-16"),
    "half a character": b'{"amount": 3, "channel": "\\ud800", "user_id": "u"}',
    "a list": b"[1, 2]",
    "deep nesting": b'{"amount": ' + b"[" * 20000 + b"]" * 20000 + b"}",
    "neither features nor key": b'{"amount": 3, "channel": "online"}',
}


def test_invalid_requests_are_refused_with_the_reason(serve: Serve, quick: Path) -> None:
    with serve(quick) as server:
        row = example(quick)
        for name, (change, field) in BAD.items():
            answer = server.client.post("/predict", json=row | change)
            assert answer.status_code == 422 and field in answer.json()["detail"][0]["loc"], name
        for name, body in RAW.items():
            for path in ("/predict", "/predict/batch", "/feedback", "/feedback/batch"):
                answer = server.client.post(path, content=body)
                assert 400 <= answer.status_code < 500 and answer.json()["detail"], (name, path)
        for field in set(row) - {"age", "account_age_days", "country", "avg_7d_spend", "max_1h_velocity"}:
            answer = server.client.post("/predict", json={n: v for n, v in row.items() if n != field})
            assert (answer.status_code == 422) == (field in ("amount", "channel")), field
        unseen = server.client.post("/predict", json=row | {"country": "XX"})
        assert unseen.status_code == 200 and server.metric("unseen_categories_total") == 1
        assert server.client.post("/predict", content=b" " * 70_000).status_code == 413
        many = server.client.post("/predict/batch", json=[row] * 10_001)
        assert many.status_code == 413 and "10,000" in many.json()["detail"]
        assert len(server.client.post("/predict/batch", json=[row] * 10_000).json()) == 10_000
        second = server.client.post("/predict/batch", json=[row, row | {"age": 3}]).json()["detail"]
        assert second[0]["loc"] == ["body", 1, "age"]
        keyless = server.client.post("/predict/batch", json=[row, {"amount": 3, "channel": "online"}])
        assert keyless.json()["detail"][0]["loc"] == ["body", 1, "user_id"]
        assert server.client.get("/predict").status_code == 405
        assert "Traceback" not in server.stop()


def test_a_request_that_never_ends_is_ended(serve: Serve, quick: Path) -> None:
    half_a_body = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    with serve(quick) as server, contextlib.ExitStack() as stack:
        host, port = server.url.removeprefix("http://").split(":")
        address = (host, int(port))
        lines = [stack.enter_context(socket.create_connection(address)) for _ in range(3)]
        for line, sent in zip(lines, (half_a_body, half_a_body[:40], b""), strict=True):
            line.settimeout(25)
            line.sendall(sent)
        answers = [b"".join(iter(partial(line.recv, 1000), b"")) for line in lines]  # all are closed
        assert [answer[:12] for answer in answers] == [b"HTTP/1.1 408", b"HTTP/1.1 408", b""]
        assert json.loads(answers[0].partition(b"\r\n\r\n")[2])["detail"]
        counted = server.client.get("/metrics").text
        assert 'responses_total{status="408"} 2.0' in counted  # who never asked was not refused
        with socket.create_connection(address) as line:  # goes away half-way
            line.sendall(half_a_body)
        assert server.client.post("/predict", json=KEY).status_code == 200
        assert "Traceback" not in server.stop()


def test_with_api_keys_a_request_needs_one(serve: Serve, quick: Path) -> None:
    with serve(quick, API_KEYS="first, second") as server:
        assert server.client.post("/predict", json=KEY).status_code == 401
        assert server.client.post("/feedback", headers={"X-API-Key": "third"}, json={}).status_code == 401
        for key in ("first", "second"):
            assert server.client.post("/predict", headers={"X-API-Key": key}, json=KEY).status_code == 200
        assert server.client.get("/health/ready").status_code == 200


def test_a_b_assignment_is_sticky_and_of_the_share(serve: Serve, project: Project, quick: Path) -> None:
    copy = challenge(project(quick))
    rows = [KEY | {"user_id": f"customer {i}"} for i in range(10_000)]
    seen = []
    for _ in range(2):  # a restart changes nothing
        with serve(copy, CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.1") as server:
            batch = server.client.post("/predict/batch", json=rows).json()
            single = [server.client.post("/predict", json=row).json() for row in rows[:50]]
            seen.append([answer["variant"] for answer in batch])
            assert [answer["variant"] for answer in single] == seen[-1][:50]
            assert {(a["variant"], a["model_version"]) for a in batch} >= {("challenger", "c" * 12)}
            server.stop()
            logged = server.logged().drop_duplicates("entity").set_index("entity").variant
            assert logged.loc[[f"customer {i}" for i in range(10_000)]].tolist() == seen[-1]
    assert seen[0] == seen[1]
    assert seen[0].count("challenger") / len(rows) == pytest.approx(0.1, abs=0.012)  # 4 standard errors


def test_in_shadow_both_are_logged_and_the_champion_answers(
    serve: Serve, project: Project, quick: Path
) -> None:
    with serve(challenge(project(quick)), CHALLENGER_MODE="shadow") as server:
        ids = {server.client.post("/predict", json=KEY).json()["prediction_id"] for _ in range(20)}
        assert server.client.get("/model").json()["challenger_mode"] == "shadow"
        server.stop()
        pairs = server.logged().groupby("prediction_id").variant.agg(set)
        assert set(pairs.index) == ids and all(pair == {"champion", "challenger"} for pair in pairs)


@pytest.mark.parametrize("broken", ["model.onnx", "model.json"])
def test_a_broken_challenger_never_takes_the_champion_down(
    serve: Serve, project: Project, quick: Path, broken: str
) -> None:
    copy = challenge(project(quick))
    (copy / "models/challenger" / broken).write_bytes(b"no such thing")
    with serve(copy, CHALLENGER_MODE="ab", CHALLENGER_SHARE="1") as server:
        assert server.client.post("/predict", json=KEY).json()["variant"] == "champion"
        assert "challenger" in server.client.get("/model").json()["challenger_error"]
        assert server.metric("challenger_errors_total") == 1
        assert "the champion answers alone" in server.stop()


def test_a_champion_that_does_not_load_is_one_clear_line(run: Run, project: Project, quick: Path) -> None:
    copy = project(quick)
    (copy / "models/champion/model.onnx").write_bytes(b"no such thing")
    for variables in ({}, {"MODELS": "/nowhere"}, {"CHALLENGER_SHARE": "2"}, {"PORT": "many"}):
        done = run(copy, "python", "-m", "fraud_detection.app", code=1, **variables)
        assert done.stderr.startswith("serve: ") and done.stderr.count("\n") == 1, done.stderr


async def load(url: str, seconds: float, workers: int = 32) -> list[str]:
    """Ask until the service goes away; the ids of what was answered."""
    ids: list[str] = []
    until = time.monotonic() + seconds

    async def work(client: httpx.AsyncClient, number: int) -> None:
        with contextlib.suppress(httpx.TransportError):
            while time.monotonic() < until:
                answer = await client.post("/predict", json=KEY | {"user_id": f"u{number:06d}"})
                assert answer.status_code == 200, answer.text
                ids.append(answer.json()["prediction_id"])

    async with httpx.AsyncClient(base_url=url) as client:
        await asyncio.gather(*(work(client, number) for number in range(workers)))
    return ids


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_or_killed_under_load_it_has_logged_all_answers(
    serve: Serve, quick: Path, end: signal.Signals
) -> None:
    """`kill -9` of the service included: the log's process has what was answered, and writes it."""
    with serve(quick, PREDICTION_LOG_SECONDS="60") as server:

        async def scene() -> list[str]:
            asking = asyncio.create_task(load(server.url, 20))
            await asyncio.sleep(2)
            given = server.client.post("/predict", json=KEY).json()["prediction_id"]
            server.client.post("/feedback", json={"prediction_id": given, "label": 1}).raise_for_status()
            server.process.send_signal(end)
            return [*await asking, given]

        ids = asyncio.run(scene())
        assert len(ids) > 100
        server.process.wait(timeout=30)
        wait_for(lambda: list(server.log.glob("feedback/date=*/*.parquet")))  # the last to be written
        logged = set(server.logged().prediction_id)
        assert set(ids) <= logged
        if end is signal.SIGTERM:
            assert len(logged) - len(ids) <= 32  # answered, while the client had gone


def test_killed_with_its_log_it_loses_one_flush_interval_at_most(serve: Serve, quick: Path) -> None:
    with serve(quick, PREDICTION_LOG_SECONDS="1") as server:
        early = [server.client.post("/predict", json=KEY).json()["prediction_id"] for _ in range(50)]
        time.sleep(1.5)
        server.client.post("/predict", json=KEY)
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        for pid in [server.process.pid, *map(int, children)]:
            os.kill(pid, signal.SIGKILL)
        assert set(early) <= set(server.logged().prediction_id)


def test_a_log_that_can_not_be_written_fails_no_request_and_is_counted(
    serve: Serve, quick: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_text("a file where the folder should be")
    with serve(quick, PREDICTION_LOG=str(target), PREDICTION_LOG_SECONDS="0.3") as server:
        for _ in range(20):
            assert server.client.post("/predict", json=KEY).status_code == 200
        wait_for(lambda: server.metric("prediction_log_errors_total") >= 2)
        assert server.client.get("/model").json()["log"]["error"]
        assert server.metric("prediction_log_rows_total") == 0
        target.unlink()  # it can be written again: so are the rows that waited
        wait_for(lambda: server.metric("prediction_log_rows_total") == 20)
        assert server.client.get("/model").json()["log"]["error"] is None
        assert len(pd.read_parquet(target / "predictions")) == 20


def test_the_log_is_started_again_when_its_process_dies(serve: Serve, quick: Path) -> None:
    with serve(quick) as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
        wait_for(lambda: server.metric("prediction_log_errors_total") == 1)
        wait_for(lambda: children.read_text().split())
        answer = server.client.post("/predict", json=KEY).json()
        server.stop()
        assert answer["prediction_id"] in set(server.logged().prediction_id)


def test_the_log_may_be_off(serve: Serve, quick: Path) -> None:
    with serve(quick, PREDICTION_LOG="") as server:
        answer = server.client.post("/predict", json=KEY).json()
        refused = server.client.post("/feedback", json={"prediction_id": answer["prediction_id"], "label": 0})
        assert refused.status_code == 503 and "PREDICTION_LOG" in refused.json()["detail"]


def test_the_openapi_document_is_true(serve: Serve, quick: Path) -> None:
    with serve(quick) as server:
        document = server.client.get("/openapi.json").json()
        row = document["components"]["schemas"]["Row"]
        assert row["additionalProperties"] is False and set(row["required"]) == {"amount", "channel"}
        assert row["examples"] == [example(quick)]
        age = row["properties"]["age"]["anyOf"][0]
        assert (age["type"], age["minimum"], age["maximum"]) == ("integer", 18, 120)
        assert "DE, FR" in row["properties"]["country"]["description"]
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"]
        options = ["--max-examples", "30", "--seed", "7", "--no-color"]
        checks = ["--checks", "not_a_server_error,status_code_conformance,response_schema_conformance"]
        done = subprocess.run([*command, *options, *checks], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Traceback" not in server.stop()


def test_the_page_works_without_a_network(serve: Serve, project: Project, quick: Path, page: Page) -> None:
    copy = challenge(project(quick), metrics=None)  # the page needs no metrics, nor a range of every column
    path = copy / "models/champion/model.json"
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"ranges": card["ranges"] | {"account_age_days": [None, None]}}))
    with serve(copy, CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.25") as server:
        with pytest.raises(PlaywrightError, match="ERR_NAME_NOT_RESOLVED"):
            # The same service by its name: the network is cut. In a tab of its own, which shows an error page then.
            page.context.new_page().goto(server.url.replace("127.0.0.1", "localhost"))
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.goto(server.url)
        expect(page).to_have_title("fraud-detection")
        expect(page.locator("#served")).to_contain_text("25 % of user_ids are answered by the challenger")
        version = server.client.get("/model").json()["champion"]["version"]
        expect(page.locator("#served")).to_contain_text(version)
        assert page.input_value("select[name=country]") == example(quick)["country"]
        page.fill("input[name=user_id]", "u000001")
        page.click("#predict")
        expect(page.locator("#probability")).to_have_text(re.compile(r"probability 0\.\d{4}"))
        row = example(quick) | {"user_id": "u000001"}
        answer = server.client.post("/predict", json=row).json()
        expect(page.locator("#probability")).to_have_text(f"probability {answer['probability']:.4f}")
        expect(page.locator("#variant")).to_contain_text(answer["variant"])
        expect(page.locator("#latency")).to_contain_text("p50")
        explained = server.client.post(f"/explain/{answer['variant']}", json=row).json()
        assert explained["variant"] == answer["variant"]
        expect(page.locator("#why")).to_contain_text("a typical row, the one with which each row is compared")
        assert page.locator("#why div").count() == 0  # the example row is the typical one: nothing moves it
        page.click("#answer button >> nth=0")
        expect(page.locator("#answer")).to_contain_text("Outcome recorded")
        page.select_option("select[name=country]", "")  # read from the online store then
        for name in ("age", "account_age_days", "avg_7d_spend", "max_1h_velocity"):
            page.fill(f"input[name={name}]", "")
        page.fill("input[name=amount]", "900")
        page.click("#predict")
        row = {"user_id": "u000001", "amount": 900} | {
            n: example(quick)[n] for n in ("merchant_category", "channel")
        }
        explained = server.client.post(f"/explain/{answer['variant']}", json=row).json()
        moved = [part for part in explained["contributions"] if part["contribution"]]
        expect(page.locator("#why")).to_contain_text("amount 900")
        expect(page.locator("#why")).to_contain_text(f"makes it {explained['probability']:.4f}")
        figures = page.locator("#why b").all_text_contents()
        assert [float(figure.replace("\N{MINUS SIGN}", "-")) for figure in figures][
            : len(moved)
        ] == pytest.approx([part["contribution"] for part in moved], abs=1e-4)
        expect(page.locator("#why")).to_contain_text("looked up")
        for width in (340, 1200):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.fill("input[name=user_id]", "nobody")
        page.select_option("select[name=channel]", label="another value…")
        page.keyboard.type("telephone")  # the new field has the focus
        page.fill("input[name=amount]", "1e7")
        page.keyboard.press("Enter")
        for fact in (
            "no features of this user_id",
            "channel telephone is a level",
            "amount 10000000 is outside",
        ):
            expect(page.locator("#why")).to_contain_text(f"{fact}")
        assert page.get_attribute("input[name=age]", "inputmode") == "numeric"
        page.fill("input[name=age]", "3")
        page.click("#predict")
        expect(page.locator("label:has([name=age]) .bad")).to_have_text(
            "Input should be a whole number from 18 to 120"
        )
        expect(page.locator("[name=age]")).to_be_focused()
        expect(page.locator("#answer")).to_be_hidden()
        assert not wrong, wrong
        server.stop()
        assert len(server.logged("feedback")) == 1


def test_the_page_asks_for_the_key_and_keeps_it_in_memory_only(serve: Serve, quick: Path, page: Page) -> None:
    with serve(quick, API_KEYS="a-key-of-the-tests-0123456789") as server:
        page.goto(server.url)
        assert page.input_value("input[name=amount]") == ""  # the example is for who has a key
        page.fill("input[name=amount]", "10")
        page.click("#predict")
        expect(page.locator("label:has(#key) .bad")).to_contain_text("must be one of the service's API_KEYS")
        page.fill("#key", "a-key-of-the-tests-0123456789")
        page.keyboard.press("Tab")
        expect(page.locator("input[name=amount]")).to_have_value(str(example(quick)["amount"]))
        page.click("#predict")
        expect(page.locator("#probability")).to_contain_text("probability 0.")
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        page.reload()
        expect(page.locator("#key")).to_have_value("")


def test_the_api_page_works_without_a_network(serve: Serve, quick: Path, page: Page) -> None:
    with serve(quick) as server:
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("requestfailed", lambda request: wrong.append(request.url))
        page.goto(f"{server.url}/docs")
        for route in (
            "predict_predict",
            "predict_batch_predict_batch",
            "explain_explain",
            "feedback_batch_feedback_batch",
        ):
            expect(page.locator(f"#operations-predict-{route}_post")).to_be_visible()
        operation = page.locator("#operations-predict-predict_predict_post")
        operation.click()
        operation.get_by_role("button", name="Execute").click()
        expect(operation.locator(".live-responses-table")).to_contain_text('"variant": "champion"')
        assert server.metric("predictions_total") == 1
        assert not wrong, wrong


def test_the_readme_s_lines_send_arrow_and_get_arrow(serve: Serve, quick: Path) -> None:
    lines = lines_of_readme(quick, "arrow, body")
    with serve(quick) as server:
        expected = server.client.post("/predict/batch", json=[KEY, KEY | {"amount": 900.0}]).json()
        known = dict[str, Any]()
        exec(lines.replace("http://localhost:8000", server.url), known)
        found = known["predictions"]
        assert (
            found.probability[0] == expected[0]["probability"] and found.variant.tolist() == ["champion"] * 2
        )
        assert "Traceback" not in server.stop()
        assert len(server.logged()) == 4


def test_two_processes_in_one_container_end_together(serve: Serve, quick: Path) -> None:
    with serve(quick, WEB_CONCURRENCY="2") as server:
        asked = [httpx.post(f"{server.url}/predict", json=KEY).json()["prediction_id"] for _ in range(20)]
        assert server.metric("predictions_total") == 20
        assert "Traceback" not in server.stop() and server.process.returncode == 0
        assert sorted(server.logged().prediction_id) == sorted(asked)
