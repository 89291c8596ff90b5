"""A table's columns are checked as a request's rows are: the same rows are refused, in the same words, for the same inputs."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as chosen
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from tabloop.params import Schema
from tabloop.serving.predictor import Predictor
from tabloop.serving.rows import RowChecker

from .test_serving import Models, models, settings  # noqa: F401

VIEWS = {"profile": {"label": {"type": "number"}, "visits": {"type": "integer", "nullable": False}}}
REQUEST = {
    "amount": {"type": "number", "nullable": False, "min": 0, "max": 100},
    "ratio": {"type": "number"},
    "count": {"type": "integer", "min": -5, "max": 100},
    "large": {"type": "integer", "nullable": False},
    "vip": {"type": "boolean"},
    "sure": {"type": "boolean", "nullable": False},
    "shop": {"type": "category"},
    "kind": {"type": "category", "nullable": False, "values": ["a", "b"]},
}
SCHEMA = Schema.model_validate(
    {"entity": "customer", "target": {"name": "returned"}, "views": VIEWS, "request": REQUEST}
)
NAMES = ["customer", *SCHEMA.features]

FLOATS = st.one_of(
    st.floats(),
    st.floats(0, 100),
    st.integers(-6, 101).map(float),
    st.sampled_from([2.0**63, -(2.0**63), 1e19, 1e39, -1e300]),
)
TEXTS = st.sampled_from(
    ["a", "b", "", " ", "17", "é" * 500, "é" * 501, "x" * 1000, " \x1fx\u3000", "y" * 1001]
)
TIMES = st.datetimes().map(lambda time: time.replace(microsecond=0))
KINDS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.float64(), FLOATS),
    (pa.float32(), st.floats(width=32)),
    (pa.float16(), st.floats(0, 100, width=16)),
    (pa.decimal128(9, 2), st.decimals(-6, 101, places=2)),
    *((getattr(pa, name)(), st.integers(-6, 101)) for name in ("int8", "int16", "int32")),
    (pa.int64(), st.one_of(st.integers(-6, 101), st.integers(-(2**63), 2**63 - 1))),
    (pa.uint64(), st.one_of(st.integers(0, 101), st.integers(2**63 - 2, 2**64 - 1))),
    (pa.bool_(), st.booleans()),
    *((kind, TEXTS) for kind in (pa.utf8(), pa.large_utf8(), pa.string_view())),
    (pa.dictionary(pa.int8(), pa.utf8()), TEXTS),
    (pa.dictionary(pa.int32(), pa.large_utf8()), TEXTS),
    (pa.binary(), st.binary(max_size=3)),
    (pa.timestamp("s"), TIMES),
    (pa.list_(pa.int64()), st.lists(st.integers(0, 3), max_size=2)),
    (pa.list_(pa.utf8()), st.lists(TEXTS, max_size=2)),
    (pa.null(), st.none()),
]
FITTING = {"number": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_(), "category": pa.utf8()}
VALUES = {
    "number": st.floats(0, 100),
    "integer": st.integers(0, 9),
    "boolean": st.booleans(),
    "category": TEXTS,
}


@st.composite
def tables(draw: st.DrawFn) -> pa.RecordBatch:
    """Rows in which most columns fit; some are of another type, missing, unknown or have nulls."""
    rows, offset = draw(st.integers(1, 12)), draw(st.integers(0, 9))
    arrays = {}
    for name in [*NAMES, "unknown"]:
        odd = draw(st.integers(0, 5))
        if (name == "unknown") != (odd == 1):  # left out
            continue
        kind = SCHEMA.features[name].type if name in SCHEMA.features else "category"
        type_, values = (FITTING[kind], VALUES[kind]) if odd > 2 else draw(st.sampled_from(KINDS))
        values = FLOATS if name == "ratio" and odd > 2 else values
        values = values if odd in (0, 3) else st.one_of(st.none(), values)
        column = pa.array(draw(st.lists(values, min_size=rows + offset, max_size=rows + offset)), type_)
        arrays[name] = column[offset:]  # whose buffers begin elsewhere
    return pa.RecordBatch.from_pydict(arrays or {"unknown": pa.nulls(rows)})


def python_rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows as JSON has them."""
    plain = [
        column.cast(pa.float64())
        if pa.types.is_decimal(column.type) or column.type == pa.float16()
        else column
        for column in batch.columns
    ]
    return [
        dict(zip(batch.schema.names, row, strict=True))
        for row in zip(*(c.to_pylist() for c in plain), strict=True)
    ]


def by_row(
    predictor: Predictor, validate: Callable[[Any], Any], row: dict[str, Any]
) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """What the service makes of a row in JSON: the row that is scored, and the errors."""
    try:
        valid = validate(row)
        with contextlib.suppress(StopIteration):  # nothing is looked up: it never waits
            predictor.complete(valid).send(None)
        return valid, []
    except ValidationError as errors:
        return {}, [(str(e["loc"][0]), e["msg"], e["type"]) for e in errors.errors(include_url=False)]


@pytest.fixture
def predictor(models: Models) -> Predictor:  # noqa: F811
    return Predictor(settings(models("champion", schema_=SCHEMA), online_store="none"), "kit")


def test_columns_are_taken_and_refused_as_rows_are(predictor: Predictor) -> None:
    checker = RowChecker(predictor.champion.card, SCHEMA.features, predictor.looked_up)
    validate = TypeAdapter(predictor.row).validate_python

    @chosen(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(tables())
    def check(batch: pa.RecordBatch) -> None:
        checked, rows = checker.check(batch), python_rows(batch)
        for at, row in enumerate(rows):
            valid, errors = by_row(predictor, validate, row)
            assert [(r.column, r.message, r.kind) for r in checked.refusals if r.rows[at]] == errors, row
            assert checked.refused[at] == bool(errors)
            if not errors:
                blank = predictor.blank | valid
                expected = predictor.champion.inputs({name: [value] for name, value in blank.items()})
                for name, column in checked.inputs.items():
                    np.testing.assert_array_equal(column[at], expected[name][0])
                    assert column.dtype == expected[name].dtype and column.shape == (len(rows), 1)
        if "customer" in batch.schema.names and not checked.refused.any():
            keys = checker.keys(pa_column(batch, "customer"))
            assert list(keys.to_pylist()) == [by_row(predictor, validate, row)[0]["customer"] for row in rows]

    check()


JSON = st.one_of(
    st.none(), st.booleans(), st.integers(-6, 101), FLOATS, TEXTS, st.lists(st.none(), max_size=1)
)
FIT = {"customer": TEXTS} | {name: VALUES[column.type] for name, column in SCHEMA.features.items()}


@st.composite
def json_rows(draw: st.DrawFn) -> list[Any]:
    """Rows of a request, which have the same columns in most cases, and values that fit."""
    names = draw(st.sets(st.sampled_from([*NAMES, "unknown"])))
    rows = [
        {name: draw(FIT[name]) for name in draw(st.permutations(NAMES))}
        for _ in range(draw(st.integers(1, 4)))
    ]
    for row in rows:
        for name in names if draw(st.integers(0, 3)) == 0 else ():
            row.pop(name, None)
            if draw(st.booleans()):
                row[name] = draw(JSON)
    return [draw(st.sampled_from([row] * 15 + [1, [], "x", {}])) for row in rows]


def test_rows_are_taken_by_column_as_one_by_one(predictor: Predictor) -> None:
    checker = RowChecker(predictor.champion.card, SCHEMA.features, predictor.looked_up)
    validate, taken = TypeAdapter(list[predictor.row]).validate_python, []  # type: ignore[name-defined]

    @chosen(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
    @given(json_rows())
    def check(rows: list[Any]) -> None:
        part = checker.part(rows)
        taken.append(part is not None)
        try:
            valid = validate(rows)
        except ValidationError:
            assert part is None
        else:
            assert (part is None) == (
                len({*map(frozenset, rows)}) > 1
            )  # by column, if they have the same ones
            if part is not None:
                by_column = [
                    dict(zip(part, values, strict=True)) for values in zip(*part.values(), strict=True)
                ]
                assert by_column == valid and repr(by_column) == repr(
                    [{n: r[n] for n in part} for r in valid]
                )

    check()
    assert 10 < sum(taken) < len(taken) - 10


def pa_column(batch: pa.RecordBatch, name: str) -> Any:
    from arro3.core import Array

    return Array.from_arrow(batch.column(name))


def test_no_rows_give_no_inputs(predictor: Predictor) -> None:
    checker = RowChecker(predictor.champion.card, SCHEMA.features, predictor.looked_up)
    fields = {name: FITTING[column.type] for name, column in SCHEMA.features.items()}
    checked = checker.check(pa.RecordBatch.from_pylist([], schema=pa.schema(fields)))
    assert checked.rows == 0 and not checked.refused.any()
    assert all(column.shape == (0, 1) for column in checked.inputs.values())


def test_a_dictionary_may_have_a_null_among_its_values(predictor: Predictor) -> None:
    checker = RowChecker(predictor.champion.card, {"shop": SCHEMA.features["shop"]}, frozenset())
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 2], pa.int8()), pa.array(["a", None, "b"]))
    checked = checker.check(pa.RecordBatch.from_pydict({"shop": column}))
    assert checked.inputs["shop"].ravel().tolist() == ["a", "", "", "b"] and not checked.refused.any()


def test_numbers_beyond_float32_are_its_largest(predictor: Predictor) -> None:
    checker = RowChecker(predictor.champion.card, {"ratio": SCHEMA.features["ratio"]}, frozenset())
    column = pa.array([1e300, -1e300, None, 0.1])
    found = checker.check(pa.RecordBatch.from_pydict({"ratio": column})).inputs["ratio"]
    np.testing.assert_array_equal(
        found, predictor.champion.inputs({n: column.to_pylist() for n in SCHEMA.features})["ratio"]
    )
