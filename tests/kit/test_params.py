"""params.yaml: what is accepted, and how a mistake is named."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from tabloop.cli import UserError
from tabloop.params import RESERVED, Params, load

from .conftest import LOG_COLUMNS, PARAMS


def schema(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(PARAMS), "schema": {**copy.deepcopy(PARAMS["schema"]), **changes}}


def test_features_are_those_of_the_views_then_of_the_request() -> None:
    params = Params.model_validate(PARAMS)
    assert list(params.schema_.features) == ["age", "country", "amount", "express"]
    assert params.schema_.own_key == ["order_id"]


@pytest.mark.parametrize("name", [*LOG_COLUMNS, "entity"])
def test_a_column_of_the_log_may_be_a_feature(name: str) -> None:
    params = Params.model_validate(schema(request={name: {"type": "number"}}))
    assert name in params.schema_.features


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        *(
            ({"request": {name: {"type": "number"}}}, f"schema: .*'{name}'.*rename")
            for name in (*RESERVED, "a b")
        ),
        ({"target": {"name": "probability"}}, "schema: .*'probability'.*rename"),
        ({"timestamp": "event_timestamp"}, "schema: .*'event_timestamp'.*rename"),
        ({"request": {"age": {"type": "number"}}}, "schema: .*declared twice: age"),
        ({"request": {"returned": {"type": "number"}}}, "schema: .*declared twice: returned"),
        ({"rename": {"nobody": "X"}}, "schema: .*rename: no column is called nobody"),
        ({"entity": None}, "schema: .*views need an `entity`"),
        ({"request": {"a": {"type": "integer", "min": 0.5}}}, r"schema\.request\.a: .*min of an integer"),
        ({"request": {"a": {"type": "integer", "max": 1e20}}}, r"schema\.request\.a: .*max of an integer"),
        ({"request": {"a": {"type": "number", "max": math.inf}}}, r"schema\.request\.a\.max: .*finite"),
        ({"request": {"a": {"type": "number", "min": 2, "max": 1}}}, r"schema\.request\.a: .*above"),
        ({"request": {"a": {"type": "text"}}}, r"schema\.request\.a\.type"),
        ({"views": {}, "request": {}}, "schema: .*no feature"),
    ],
)
def test_a_mistake_in_the_schema_is_named(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(schema(**changes)))
    with pytest.raises(UserError, match=rf"^params\.yaml: {named}") as caught:
        load(tmp_path / "params.yaml")
    assert "Value error" not in str(caught.value)  # pydantic's
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "named"), [(None, "is missing"), ("a: [", "is not YAML"), ("x: 1", "x: Extra")]
)
def test_a_file_that_is_no_params_is_named(tmp_path: Path, text: str | None, named: str) -> None:
    if text:
        (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError, match=rf"params\.yaml.* {named}"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("monitoring", {"window_days": 1e9}, "monitoring.window_days: .*less than or equal to"),
        ("monitoring", {"keep_days": 36_500_000}, "monitoring.keep_days: .*less than or equal to"),
        ("monitoring", {"drift": {"column": math.inf}}, "monitoring.drift.column: .*finite"),
        (
            "evaluate",
            {"confidence": 0.9, "cost": {"false_positive": math.inf, "false_negative": 1}},
            ".*finite",
        ),
        ("schema", {"target": {"name": "returned", "at_least": math.inf}}, ".*at_least: .*finite"),
    ],
)
def test_a_number_with_which_nothing_can_be_computed_is_refused(
    tmp_path: Path, part: str, value: dict[str, Any], named: str
) -> None:
    changed = schema(**value) if part == "schema" else PARAMS | {part: value}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(changed))
    with pytest.raises(UserError, match=rf"^params\.yaml: {named}"):
        load(tmp_path / "params.yaml")


def test_a_file_of_another_encoding_is_read_or_named(tmp_path: Path) -> None:
    path, text = tmp_path / "params.yaml", f"# Größe\n{yaml.safe_dump(PARAMS)}"
    for encoding in ("utf-8-sig", "utf-16"):
        path.write_text(text, encoding)
        assert load(path) == Params.model_validate(PARAMS)
    path.write_text(text, "cp1252")
    with pytest.raises(UserError, match=r"^params\.yaml is not YAML in UTF-8: "):
        load(path)
