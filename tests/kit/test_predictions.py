"""The reader of the prediction log, against files of the service's own writer."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tabloop import predictions
from tabloop.cli import UserError

from . import monitored
from .conftest import LOG_COLUMNS, PARAMS
from .monitored import log, params, served


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monitored.enter(tmp_path, monkeypatch)
    return tmp_path


def read(query: str, since: datetime | None = None) -> pd.DataFrame:
    return predictions.table(predictions.connect(since), query)


def test_what_was_logged_is_read_with_its_last_label(folder: Path) -> None:
    chosen, rows = params(), served(100)
    rows.loc[0, "amount"] = None
    rows["express"] = rows.express.astype(object)
    rows.loc[1, ["country", "express", "entity"]] = None
    ids = log(folder, chosen, rows, labels=0.5)
    features = chosen.schema_.features
    columns = ", ".join(
        [*predictions.select(predictions.connect(), features), "entity", "probability", "label"]
    )
    back = read(
        f"SELECT {columns} FROM predictions LEFT JOIN outcomes USING (prediction_id) ORDER BY prediction_id"
    )
    expected = rows.assign(label=rows.outcome.where(rows.index < 50))
    pd.testing.assert_frame_equal(
        back.astype(object).where(back.notna(), None),
        expected[list(back)].astype(object).where(expected[list(back)].notna(), None),
        check_dtype=False,
    )
    later = {"prediction_id": ids[:1], "label": [7], "received_at": [int(9e15)]}
    monitored.write(folder, "feedback", predictions.tables(features), later)
    assert read("FROM outcomes").set_index("prediction_id").label[ids[0]] == 7
    assert len(read("FROM outcomes")) == 50
    changed = read("FROM outcomes WHERE changed").prediction_id.tolist()
    assert changed == ids[:1]


def test_the_window_is_exact(folder: Path) -> None:
    now = datetime.now(UTC)
    for hours in (1, 30):
        log(folder, params(), served(10), at=now - timedelta(hours=hours))
    assert (
        len(read("FROM predictions")) == 20 and len(read("FROM predictions", now - timedelta(hours=2))) == 10
    )
    with pytest.raises(predictions.NothingLogged, match=r"no prediction was logged in .* since "):
        read("FROM predictions", now)


def test_no_log_and_no_label_are_no_failure(folder: Path) -> None:
    with pytest.raises(
        predictions.NothingLogged, match=r"there is no prediction log in .*/log: set PREDICTION_LOG"
    ):
        predictions.connect()
    log(folder, params(), served(10), labels=0)
    assert read("FROM outcomes").empty and len(read("FROM predictions")) == 10


@pytest.mark.parametrize("table", ["predictions", "feedback"])
@pytest.mark.parametrize("content", ["no Parquet", ""])
def test_a_log_that_can_not_be_read_is_a_failure_in_one_line(folder: Path, table: str, content: str) -> None:
    log(folder, params(), served(10))
    (day,) = (folder / "log" / table).iterdir()
    (day / "bad.parquet").write_text(content)
    with pytest.raises(UserError, match="log can't be read: ") as caught:
        predictions.connect()
    assert not isinstance(caught.value, predictions.NothingLogged) and "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["nowhere://x/log", "s3x://bucket"])
def test_an_unknown_protocol_is_named(url: str) -> None:
    with pytest.raises(UserError, match=f"{url}: Protocol not known"):
        predictions.connect(log=url)


def test_features_called_like_columns_of_the_log_collide_with_nothing(folder: Path) -> None:
    request = {name: {"type": "number"} for name in LOG_COLUMNS}
    chosen = params(schema={"views": {}, "request": request}, evaluate=PARAMS["evaluate"] | {"segments": []})
    rows = served(50).assign(**{name: float(i) for i, name in enumerate(LOG_COLUMNS)})
    log(folder, chosen, rows)
    back = read(
        f"SELECT {', '.join(predictions.select(predictions.connect(), chosen.schema_.features))} FROM predictions"
    )
    assert list(back) == LOG_COLUMNS
    assert back.drop_duplicates().values.tolist() == [[float(i) for i in range(len(LOG_COLUMNS))]]
    own = read("FROM predictions JOIN outcomes USING (prediction_id)")
    assert set(own.variant) == {"champion"} and own.prediction_id.str.startswith("p").all()


@pytest.mark.parametrize(
    ("before", "logged", "now", "read_as"),
    [
        ("category", ["many", "7.5", "8"], "number", [None, 7.5, 8.0]),
        ("category", ["many", "7.5", "8"], "integer", [None, None, 8]),  # not rounded
        ("number", [7.5, 8.0, -1e300], "integer", [None, 8, None]),
        ("number", [7.5, 1.0, 0.0], "boolean", [None, True, False]),  # 7.5 is not true
        ("integer", [7, 1, 0], "boolean", [None, True, False]),
        ("category", ["7", "true", "False"], "boolean", [None, True, False]),
        ("number", [7.5, 17.0, None], "category", ["7.5", "17", None]),  # as a request has it
        ("boolean", [True, False, None], "number", [1.0, 0.0, None]),
        ("boolean", [True, False, None], "category", ["true", "false", None]),
    ],
)
def test_values_of_a_type_that_the_schema_no_longer_has_are_converted_or_missing(
    folder: Path, before: str, logged: list[Any], now: str, read_as: list[Any]
) -> None:
    def typed(kind: str) -> Any:
        return params(
            schema={"views": {}, "request": {"amount": {"type": kind}}},
            evaluate=PARAMS["evaluate"] | {"segments": []},
        )

    values = pd.Series(logged, dtype=object)
    log(folder, typed(before), served(3).assign(amount=values))
    columns = predictions.select(predictions.connect(), typed(now).schema_.features)
    found = (
        predictions.connect().sql(f"SELECT {columns[0]} FROM predictions ORDER BY prediction_id").fetchall()
    )
    assert [value for (value,) in found] == read_as
    assert [type(value) for (value,) in found] == [type(value) for value in read_as]


def test_a_log_that_is_no_folder_is_not_an_empty_one(folder: Path) -> None:
    (folder / "log").write_text("a file")
    with pytest.raises(UserError, match="/log can't be read: Not a directory") as caught:
        predictions.connect()
    assert not isinstance(caught.value, predictions.NothingLogged)
