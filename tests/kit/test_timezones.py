"""Times with an offset are UTC everywhere, whatever the machine's zone; times without are UTC, or of a stated zone."""

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tabloop import feature_store, featurize, feedback, ingest, params, predictions, validate, views
from tabloop.cli import UserError
from tabloop.facts import Choices
from tabloop.infer import infer
from tabloop.params import Params
from tabloop.reading.read import read
from tabloop.reading.result import Overrides
from tabloop.reading.settings import Reading

from . import monitored
from .conftest import PARAMS, Project, orders

ZONES = ["UTC", "America/New_York", "Asia/Tokyo"]


@pytest.fixture(autouse=True)
def same_zone_again() -> Iterator[None]:
    before = os.environ.get("TZ")
    yield
    os.environ.pop("TZ", None)
    os.environ |= {"TZ": before} if before is not None else {}
    time.tzset()


def enter(zone: str) -> None:
    """Let this process be on a machine of that zone."""
    os.environ["TZ"] = zone
    time.tzset()


def test_the_machines_zone_changes_no_byte(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offsets, half of them of winter and half of summer; times that the source's type knows to be in a zone; a view."""
    table = orders().assign(at=orders().ordered_at.dt.tz_localize("UTC"))
    zoned = table["at"].dt.tz_convert("Europe/Berlin")
    table["ordered_at"] = zoned.dt.strftime("%Y-%m-%d %H:%M:%S%z").where(
        table.index % 2 == 0, table["at"].astype(str)
    )
    table["labelled_at"] = zoned + pd.Timedelta(days=1)
    target = PARAMS["schema"]["target"] | {"known_at": "labelled_at"}
    folder = project(schema={"target": target}, data={"source": "events.parquet"})
    table.to_parquet(folder / "events.parquet")
    for module in (ingest, featurize, params, feature_store):
        monkeypatch.setattr(module, "ROOT", folder)
    for module in (views, feature_store):
        monkeypatch.setattr(module, "REPO", folder / "feature_repo")
    monkeypatch.setattr(featurize, "FEATURES", folder / "data/features")
    monkeypatch.setattr(featurize, "ONLINE", folder / "data/online")
    found = set()
    for zone in ZONES:
        enter(zone)
        chosen = params.load(folder / "params.yaml")
        said = [ingest.ingest(chosen), validate.validate(chosen, folder / "data/raw", folder / "report.json")]
        enter(zone)
        said.append(featurize.featurize(chosen, folder / "data/raw"))
        names = ("raw/events", "features/train", "features/holdout", "features/customer_features")
        found.add((*said, *((folder / f"data/{name}.parquet").read_bytes() for name in names)))
    assert len(found) == 1
    train = pd.read_parquet(folder / "data/features/train.parquet")
    pd.testing.assert_series_equal(train.ordered_at, orders().ordered_at[: len(train)], check_dtype=False)
    assert train.age.tolist() == orders().age[: len(train)].tolist() and 250 < len(train) < 300


def times(folder: Path, texts: list[Any], zone: str | None, **column: Any) -> list[str]:
    """The times that a table of these texts has when read so."""
    pd.DataFrame({"at": texts, "x": 1}).to_csv(folder / "t.csv", index=False, sep=";")
    reading = Reading.model_validate(
        {"delimiter": ";", "timezone": zone, "columns": {"at": {"type": "timestamp"} | column}}
    )
    return [str(row[0]) for row in read("t.csv", folder, reading).relation.project('"at"').fetchall()]


@pytest.mark.parametrize("machine", ZONES)
def test_times_without_an_offset_are_of_the_stated_zone(tmp_path: Path, machine: str) -> None:
    """Where clocks go back, the later of two times is meant; where they go forward, a skipped time is an hour later."""
    enter(machine)
    texts = [
        "2026-01-01 00:30",
        "2026-07-01 00:30",
        "2026-07-01 00:30+02:00",
        "2026-07-01T00:30Z",
        "2026-07-01",
    ]
    assert times(tmp_path, texts, "Europe/Berlin") == [
        "2025-12-31 23:30:00", "2026-06-30 22:30:00", "2026-06-30 22:30:00", "2026-07-01 00:30:00", "2026-06-30 22:00:00"
    ]  # fmt: skip
    assert times(tmp_path, texts[:3], None) == [
        "2026-01-01 00:30:00",
        "2026-07-01 00:30:00",
        "2026-06-30 22:30:00",
    ]
    changes = [
        "2026-03-29 01:59",
        "2026-03-29 02:30",
        "2026-03-29 03:30",
        "2026-10-25 01:59",
        "2026-10-25 02:30",
    ]
    assert times(tmp_path, changes, "Europe/Berlin") == [
        "2026-03-29 00:59:00", "2026-03-29 01:30:00", "2026-03-29 01:30:00", "2026-10-24 23:59:00", "2026-10-25 01:30:00"
    ]  # fmt: skip
    mixed = ["01.07.2026 00:30", "01.07.2026 00:30 +0200"]
    formats = ["%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M %z"]
    assert set(times(tmp_path, mixed, "Europe/Berlin", format=formats)) == {"2026-06-30 22:30:00"}
    assert times(tmp_path, mixed[:1], "Europe/Berlin", format=formats[0]) == ["2026-06-30 22:30:00"]
    assert times(tmp_path, [1782858600], "Europe/Berlin", format="epoch_s") == ["2026-06-30 22:30:00"]


@pytest.mark.parametrize("name", ["parquet", "json", "xlsx"])
def test_every_format_has_the_stated_zone(tmp_path: Path, name: str) -> None:
    at = pd.to_datetime(["2026-07-01 00:30", "2026-01-01 00:30"])
    table, path = pd.DataFrame({"at": at, "x": 1}), tmp_path / f"t.{name}"
    if name == "parquet":
        table.assign(zoned=at.tz_localize("UTC")).to_parquet(path)
    elif name == "json":
        table.assign(at=at.astype(str)).to_json(path, orient="records")
    else:
        table.to_excel(path, index=False)
    found = read(str(path), tmp_path, None, Overrides(timezone="Europe/Berlin"))
    assert found.reading.timezone == "Europe/Berlin"
    rows = read(str(path), tmp_path, found.reading).relation
    assert [str(row[0]) for row in rows.project('"at"').fetchall()] == [
        "2026-06-30 22:30:00",
        "2025-12-31 23:30:00",
    ]
    if name == "parquet":
        assert str(rows.project("zoned").fetchall()[0][0]) == "2026-07-01 00:30:00"


def test_a_zone_that_is_none_is_refused() -> None:
    for name in ("Europe/Nowhere", "CEST", "+02:00", "../etc/passwd", ""):
        with pytest.raises(ValueError, match=r"is no time zone: give a name such as Europe/Berlin"):
            Reading(timezone=name)


def test_now_in_another_zone_is_not_in_the_future(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    local = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=9)  # as a clock in Tokyo shows
    table = orders().assign(ordered_at=lambda rows: rows.ordered_at - rows.ordered_at.max() + local)
    folder = project(table, schema={"views": {}, "request": {"amount": {"type": "number"}}})
    monkeypatch.setattr(ingest, "ROOT", folder)
    own = {"schema": PARAMS["schema"] | {"views": {}, "request": {"amount": {"type": "number"}}}}
    own |= {"evaluate": PARAMS["evaluate"] | {"segments": []}}
    for zone in ("Asia/Tokyo", None):
        reading = {"timezone": zone} if zone else {}
        chosen = Params.model_validate(PARAMS | own | {"data": {"source": "events.csv", "reading": reading}})
        ingest.ingest(chosen)
        if zone:
            validate.validate(chosen, folder / "data/raw", folder / "report.json")
        else:
            with pytest.raises(
                UserError, match=r"ordered_at: must be not in the future \(UTC; data.reading.timezone"
            ):
                validate.validate(chosen, folder / "data/raw", folder / "report.json")
    said = Choices("returned", timestamp="ordered_at")
    with pytest.raises(
        UserError, match=r"rows are in the future, up to .* UTC: .*`--timezone Europe/Berlin`"
    ):
        infer(read("events.csv", folder), said, 0.25)
    infer(read("events.csv", folder, None, Overrides(timezone="Asia/Tokyo")), said, 0.25)


def test_the_window_and_the_days_of_the_log_are_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREDICTION_LOG", str(tmp_path / "log"))
    chosen = monitored.params()
    orders().to_parquet(tmp_path / "events.parquet")
    midnight = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
    for hours in (-1, 1):
        monitored.log(
            tmp_path,
            chosen,
            monitored.served(5),
            source_table="kit/returned",
            at=midnight + timedelta(hours=hours),
        )
    found = set[tuple[Any, ...]]()
    for zone in ZONES:
        enter(zone)
        db = predictions.connect(since=midnight)
        columns = "count(*), min(predicted_at::DATE)::VARCHAR, min(date_trunc('week', predicted_at))::VARCHAR"
        found |= set(db.sql(f"SELECT {columns} FROM predictions").fetchall())
        labelled = feedback.labelled_predictions(chosen, str(tmp_path / "log"), tmp_path / "events.parquet")
        assert labelled is not None
        found |= set(labelled.project('event_timestamp, "known at"').fetchall())
    assert len(found) == 3 and (5, "2026-03-02", "2026-03-02 00:00:00+00") in found
    assert (datetime(2026, 3, 1, 23), datetime(2026, 3, 1, 23)) in found
