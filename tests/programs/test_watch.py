"""Drift and performance in one: both said, red where it is not known, green where nothing was ever deployed."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from kit import monitored
from kit.monitored import install, log, params, released, served
from kit.test_drift import LEVELS, check, drifted
from tabloop import evidently_pages
from tabloop.cli import UserError
from tabloop.watch import watch


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose staging runs the champion."""
    monitored.enter(tmp_path, monkeypatch)
    install(tmp_path, "champion", params(), served(1500))
    released(tmp_path, "off")
    return tmp_path


def test_both_are_said_and_found(folder: Path) -> None:
    log(folder, params(), served(1200, seed=4))
    assert watch(params(), folder / "result.md") == {"drift": False, "worse": False}
    assert not list((folder / "reports").glob("evidently_*"))
    rows = served(9000, seed=3)
    log(folder, params(), rows.assign(probability=1 - rows.probability))
    assert watch(params(), folder / "result.md") == {"drift": True, "worse": True}
    assert (folder / "reports/evidently_drift.html").exists()
    text = (folder / "result.md").read_text()
    assert len(set(re.findall(r" since ([\dT:+-]+)", text))) == 1 and text.count(" since ") == 2
    assert (
        "⚠️ **Drift** in 10,200" in text and "| amount |" in text and "**Worse than the gate allows.**" in text
    )


@pytest.mark.parametrize("wild", [1e308, -1e308])
def test_a_number_that_no_client_should_send_hides_no_drift(folder: Path, wild: float) -> None:
    rows = served(1200, seed=4)
    rows.loc[:20, "amount"] = wild  # the service takes it, as the largest float32
    log(folder, params(), rows.assign(probability=1 - rows.probability))
    assert watch(params(), folder / "result.md")["drift"]
    assert (folder / "reports/evidently_drift.html").exists()


def test_a_log_with_nothing_is_red_where_a_model_runs(folder: Path) -> None:
    old = folder / "result.md"
    with pytest.raises(
        UserError, match=r"there is no prediction log in .*; staging runs a model: is PREDICTION_LOG right"
    ):
        watch(params(), old)
    log(folder, params(), served(1200), at=datetime.now(UTC) - timedelta(days=30))
    with pytest.raises(UserError, match=r"no prediction was logged in .* since .*; staging runs a model"):
        watch(params(), old)
    assert not old.exists()
    path = folder / "deploy/staging/release.env"
    path.write_text(path.read_text().replace("MODEL_VERSION=champion", "MODEL_VERSION=none"))
    assert watch(params(), old) == {"drift": False, "worse": False}  # never deployed: no log is no fault
    assert "no prediction was logged" in old.read_text()


def test_what_can_not_be_read_is_red(folder: Path) -> None:
    log(folder, params(), served(1200))
    (path,) = (folder / "log").rglob("predictions/date=*/*.parquet")
    path.write_text("no Parquet")
    with pytest.raises(UserError, match="can't be read"):
        watch(params(), folder / "result.md")
    assert not (folder / "result.md").exists()


def test_if_one_check_can_not_be_done_there_is_no_result(folder: Path) -> None:
    log(folder, params(), served(1200))
    (folder / "models/champion/reference.parquet").unlink()
    install(folder, "champion", params())
    with pytest.raises(UserError, match=r"reference\.parquet can't be read"):
        watch(params(), folder / "result.md")
    assert not (folder / "result.md").exists()


def test_evidentlys_pages_say_what_the_check_says(folder: Path) -> None:
    target = params().schema_.target.name
    reference = served(3000, seed=9).rename(columns={"outcome": target})
    install(folder, "champion", params(), reference, categories=LEVELS)
    rows = served(1500, seed=2).assign(amount=lambda rows: rows.amount * 4, age=None)
    log(folder, params(), rows, labels=0.4)
    written = evidently_pages.write(params(), result := check(folder))
    assert [path.name for path in written] == ["evidently_drift.html", "evidently_classification.html"]
    page = written[0].read_text()
    said = re.findall(
        r"Drift in column '(\w+)'.{,40}Data drift (not )?detected.{,80}Drift score: ([\d.]+)", page
    )
    expected = [
        (n, "" if c["drift"] else "not ", c["distance"]) for n, c in result["columns"].items() if n != "age"
    ]
    assert [(name, no, float(score)) for name, no, score in said] == [
        (*e[:2], round(e[2], 3)) for e in expected
    ]
    assert {"amount"} == drifted(result) - {"age"}
    assert "Jensen-Shannon distance of all rows" in page and "<script src=" not in page
    assert "Classification" in written[1].read_text()
    check(folder)
    assert not any(path.exists() for path in written)  # they would be about another result
