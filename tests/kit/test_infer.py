"""What is decided about each column of a table."""

import duckdb
import pandas as pd
import pytest
from tabloop.cli import UserError
from tabloop.infer import Inferred, constant_within, infer, positive_class

from .conftest import orders


def table(frame: pd.DataFrame) -> duckdb.DuckDBPyRelation:
    return duckdb.connect().from_df(frame)


def column(*values: object) -> duckdb.DuckDBPyRelation:
    return table(pd.DataFrame({"y": pd.Series(values, dtype=object)}))


@pytest.fixture
def found() -> Inferred:
    frame = orders().rename(columns={"amount": "Amount (EUR)", "returned": "Returned?"})
    return infer(table(frame), "Returned?", "customer_id", "ordered_at")


def test_roles_views_and_request_are_found(found: Inferred) -> None:
    schema = found.schema
    assert schema["key"] == ["order_id"]
    assert schema["target"] == {"name": "returned", "positive": "1"}
    assert schema["views"] == {
        "customer_id_features": {"age": {"type": "integer"}, "country": {"type": "category"}}
    }
    assert schema["request"] == {"amount_eur": {"type": "number"}, "express": {"type": "boolean"}}
    assert found.segments == ["country"]


def test_renamed_columns_are_all_in_one_place(found: Inferred) -> None:
    assert found.schema["rename"] == {"returned": "Returned?", "amount_eur": "Amount (EUR)"}


def test_every_column_has_a_decision(found: Inferred) -> None:
    assert len(found.decisions) == len(orders().columns)


def test_entity_and_timestamp_are_the_key_where_they_are_unique() -> None:
    frame = orders().drop(columns="order_id")
    assert infer(table(frame), "returned", "customer_id", "ordered_at").schema["key"] == [
        "customer_id",
        "ordered_at",
    ]
    assert infer(table(frame), "returned", "customer_id", None).schema["key"] == []
    assert infer(table(frame), "returned", None, None).schema["key"] == []


@pytest.mark.parametrize(
    ("values", "positive"),
    [
        ((0, 1, 1), "1"),
        ((0.0, 1.0, 1.0), "1"),
        (("0", "1.0", " 1"), "1"),
        ((True, False, True), "true"),
        (("Yes ", "yes", "YES", "No"), "yes"),
        (("healthy", "no", "no"), "healthy"),
        (("a", "b", "b"), "a"),
        (("no", "0", "0"), "no"),
    ],
)
def test_the_positive_class(values: tuple[object, ...], positive: str) -> None:
    assert positive_class(column(*values, None), "y")[0] == positive


@pytest.mark.parametrize(("values", "count"), [((1, 2, 3), 3), ((1, "1.0", " 1 "), 1), ((None, None), 0)])
def test_a_target_without_two_classes_is_refused(values: tuple[object, ...], count: int) -> None:
    texts = [None if value is None else str(value) for value in values]
    with pytest.raises(UserError, match=rf"^TARGET=y has {count} values"):
        positive_class(column(*texts), "y")


def test_a_table_without_a_feature_is_refused() -> None:
    with pytest.raises(UserError, match=r"^no column is left to learn from"):
        infer(table(pd.DataFrame({"x": [1, 1], "y": [0, 1]})), "y", None, None)


def test_missing_labels_are_counted() -> None:
    assert positive_class(column("a", "b", None, None), "y")[1].endswith("; 2 rows have no label yet")


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        (("retruned", None, None), "^TARGET=retruned: no such column; did you mean 'returned'"),
        (("returned", "returned", None), "^TARGET=returned and ENTITY=returned"),
        (("returned", "gaps", None), "^ENTITY=gaps: 1 rows lack it"),
        (("returned", None, "country"), "^TIMESTAMP=country: 'DE|FR|US' is no date"),
    ],
)
def test_a_column_that_cannot_have_its_role_is_named(
    roles: tuple[str, str | None, str | None], problem: str
) -> None:
    frame = orders().assign(gaps=lambda rows: rows.customer_id.mask(rows.index == 3))
    with pytest.raises(UserError, match=problem):
        infer(table(frame), *roles)


def test_what_never_changes_within_an_entity() -> None:
    frame = pd.DataFrame(
        {"who": ["a", "a", "b"], "same": [1, 1, 2], "other": [1, 2, 2], "gap": [1, None, 2], "none": None}
    )
    assert constant_within(table(frame), "who", ["same", "other", "gap", "none"]) == ["same", "none"]
