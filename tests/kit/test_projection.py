"""Raw columns as data/raw has them: keys and categories as a request has them, a date as its age, labels by one rule."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from pydantic import TypeAdapter
from tabloop import database, ingest, validate
from tabloop.featurize import labelled_events
from tabloop.params import Params, Schema
from tabloop.serving.request import row_type
from tabloop.views import connect

from .conftest import PARAMS
from .test_card import CARD

SCHEMA = {
    "entity": "who",
    "timestamp": "at",
    "target": {"name": "y", "positive": "yes", "negative": ["no"]},
    "request": {
        "code": {"type": "category"},
        "since_days": {"type": "number", "days_since": "Since"},
    },
}
TABLE = pd.DataFrame(
    {
        "who": [1.0, 2.0, 10.0],
        "code": [1.0, None, 2.5],
        "Since": pd.to_datetime(pd.Series(["2026-01-01 00:00", None, "2025-12-31 12:00"])),
        "at": pd.to_datetime(["2026-01-02", "2026-01-03", "2026-01-01"]),
        "y": ["Yes", "maybe", "no"],
    }
)


def params(**schema: Any) -> Params:
    evaluate = PARAMS["evaluate"] | {"segments": []}
    return Params.model_validate(PARAMS | {"schema": SCHEMA | schema, "evaluate": evaluate})


def raw(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    relation = duckdb.connect().from_df(table)
    types = dict(zip(relation.columns, map(str, relation.types), strict=True))
    events = relation.project(ingest.projection(types, params()))
    events.write_parquet(str(folder / "events.parquet"))
    return events.df()


def test_a_float_is_the_key_and_the_category_that_a_request_has(tmp_path: Path) -> None:
    events = raw(TABLE, tmp_path)
    assert events.who.tolist() == ["1", "2", "10"]
    assert events.code.where(events.code.notna(), None).tolist() == ["1", None, "2.5"]
    card = CARD.model_copy(update={"schema_": Schema.model_validate(SCHEMA), "categories": {}, "example": {}})
    asked = TypeAdapter(row_type(card, card.schema_.features, set()))
    assert asked.validate_json('{"who": 1.0, "code": 1}') == {"who": "1", "code": "1"}
    assert asked.validate_json('{"who": " c1\\u00a0", "code": 2.5}') == {"who": "c1", "code": "2.5"}


def test_spaces_around_the_entity_are_removed(tmp_path: Path) -> None:
    assert raw(TABLE.assign(who=[" a", "a\u00a0", "b c"]), tmp_path).who.tolist() == ["a", "a", "b c"]


def test_a_date_is_its_age_in_days_at_the_rows_time(tmp_path: Path) -> None:
    events = raw(TABLE, tmp_path)
    assert events.since_days[0] == 1 and pd.isna(events.since_days[1]) and events.since_days[2] == 0.5
    with pytest.raises(ValueError, match="since_days: days_since needs a timestamp"):
        params(timestamp=None)


def breaches(events: pd.DataFrame, schema: Schema) -> list[dict[str, Any]]:
    db = database.connect()
    db.register("events", events)
    return validate.breaches(db, "events", schema, datetime.now(UTC))


def test_what_is_neither_class_has_no_label_and_is_counted(tmp_path: Path) -> None:
    events = raw(TABLE, tmp_path)
    assert labelled_events(connect(tmp_path), params().schema_).df().y.tolist() == [1, 0]
    assert validate.validate(params(), tmp_path, tmp_path / "v.json").startswith("3 events")
    assert '"unlabelled": 1' in (tmp_path / "v.json").read_text()
    schema = params(target={"name": "y", "positive": "yes"}).schema_
    (breach,) = breaches(events, schema)
    assert breach["rule"] == "two classes, 'yes' among them, not 3"
    numbers = params(target={"name": "y", "at_least": 5}).schema_
    (breach,) = breaches(events.assign(y=[1.0, 2.0, 3.0]), numbers)
    assert breach["rule"] == "numbers on both sides of 5"
    assert breaches(events.assign(y=[1.0, 5.0, float("nan")]), numbers) == []
