"""Breaches of the schema: named by column, rule, count and first rows."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tabloop.cli import UserError
from tabloop.params import Params
from tabloop.validate import validate

from .conftest import PARAMS, orders


def check(folder: Path, events: pd.DataFrame, **schema: Any) -> str:
    """Validate these events against the schema of PARAMS with changes."""
    (folder / "raw").mkdir(exist_ok=True)
    events.to_parquet(folder / "raw/events.parquet")
    params = Params.model_validate(PARAMS | {"schema": PARAMS["schema"] | schema})
    return validate(params, folder / "raw", folder / "reports/validation.json")


def report(folder: Path) -> Any:
    return json.loads((folder / "reports/validation.json").read_text())


def test_data_that_keep_the_schema_pass(tmp_path: Path) -> None:
    events = orders().assign(returned=lambda rows: rows.returned.astype("Int64").mask(rows.index > 390))
    assert check(tmp_path, events) == "400 events keep the schema"
    assert report(tmp_path) == {"passed": True, "rows": {"events": 400}, "unlabelled": 9, "breaches": []}


@pytest.mark.parametrize(
    ("column", "value", "line"),
    [
        ("amount", -1.0, "events.amount: must be at least 0; 2 rows break it, row 2: -1.0, row 3: -1.0"),
        ("age", 3, "events.age: must be at least 18; 2 rows break it, row 2: 3.0, row 3: 3.0"),
        ("customer_id", None, "events.customer_id: must be not missing; 2 rows break it"),
        (
            "ordered_at",
            pd.Timestamp("2200-01-01"),
            "events.ordered_at: must be not in the future (UTC; data.reading.timezone names another zone); 2 rows",
        ),
        ("order_id", "o00001", "events.order_id: must be unique; 1 rows break it, row 3: o00001"),
        ("returned", 2, "events.returned: must be two classes, '1' among them, not 3; 400 rows break it"),
    ],
)
def test_a_breach_is_named_and_reported(tmp_path: Path, column: str, value: Any, line: str) -> None:
    events = orders()
    events.loc[[1, 2], column] = value
    with pytest.raises(UserError) as caught:
        check(tmp_path, events)
    first, *breaches = str(caught.value).splitlines()
    assert first.startswith("data/raw breaks the schema") and len(breaches) == 1
    assert breaches[0].strip().startswith(line)
    (found,) = report(tmp_path)["breaches"]
    assert not report(tmp_path)["passed"] and found["column"] == column


def test_a_column_that_is_absent_is_a_breach(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"events\.express: must be present"):
        check(tmp_path, orders().drop(columns="express"))


@pytest.mark.parametrize(
    ("values", "positive"),
    [
        ({0: 0, 1: 1}, "1"),
        ({0: 0.0, 1: 1.0}, 1),
        ({0: "0", 1: "1.0"}, 1),
        ({0: False, 1: True}, "true"),
        ({0: False, 1: True}, True),
        ({0: "No", 1: " Yes "}, "yes"),
        ({0: "hayir", 1: "İYİ"}, "i̇yi̇"),
    ],
)
def test_the_positive_class_is_that_of_the_one_rule(
    tmp_path: Path, values: dict[int, Any], positive: Any
) -> None:
    events = orders().assign(returned=lambda rows: rows.returned.map(values))
    assert check(tmp_path, events, target={"name": "returned", "positive": positive})


def test_no_data_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "raw").mkdir()
    with pytest.raises(UserError, match=r"events\.parquet is missing: run `make train`"):
        validate(Params.model_validate(PARAMS), tmp_path / "raw", tmp_path / "reports/validation.json")
