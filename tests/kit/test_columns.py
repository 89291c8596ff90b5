"""The one table of column types, names in SQL, and the one rule for a class of the target."""

import duckdb
import pandas as pd
import pytest
from arro3.core import DataType
from tabloop.columns import INFERRED, TYPES, class_text, literal, quote
from tabloop.feature_store import import_feast


def select(columns: str) -> duckdb.DuckDBPyRelation:
    """One row."""
    return duckdb.values([1]).project(columns)


@pytest.mark.parametrize("name", TYPES)
def test_each_library_knows_its_name_of_a_type(name: str) -> None:
    import_feast()  # takes seconds: not while tests are collected
    import feast.types

    kind = TYPES[name]  # type: ignore[index]
    (described,) = select(f"NULL::{kind.sql} AS x").types
    assert INFERRED[str(described)] == name
    assert pd.Series([None], dtype=kind.pandas).isna().all()
    assert getattr(DataType, kind.arrow)()
    assert getattr(feast.types, kind.feast)


@pytest.mark.parametrize("name", ['say "hello"', "select", "it's", "Größe (cm)", "a;b", "-- x"])
def test_any_name_and_text_passes_through_sql(name: str) -> None:
    relation = select(f"{literal(name)} AS {quote(name)}")
    assert relation.columns == [name] and relation.fetchall() == [(name,)]


@pytest.mark.parametrize(
    "values", [(1, 1.0, "1", " 1.0 ", "1.00"), (True, "true", "TRUE\n"), ("Yes ", "\tyes", "YES")]
)
def test_one_class_has_one_text(values: tuple[object, ...]) -> None:
    assert len({class_text(value) for value in values}) == 1
    assert all(class_text(class_text(value)) == class_text(value) for value in values)


def test_different_classes_have_different_texts() -> None:
    assert len({class_text(v) for v in (0, 1, -1, "1.5", "10", "İYİ", "iyi", True, "yes")}) == 9
