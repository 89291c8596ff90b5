"""Columns: the one table of column types, and how names and values are written in SQL."""

import re
from dataclasses import dataclass
from typing import Any, Literal, get_args

TypeName = Literal["number", "integer", "boolean", "category"]


@dataclass(frozen=True)
class ColumnType:
    """What one column type is called by each library.

    Attributes:
        python: the type of a value in JSON and in the online store.
        sql: the DuckDB type.
        pandas: the pandas type; each keeps missing values apart from values.
        arrow: the constructor in `arro3.core.DataType`, which writes the prediction log.
        feast: the name in `feast.types`.
        numeric: whether the model takes it as float32. If not, the model takes it as a string.
        inferred_from: the DuckDB types of a user's table that become this type.
    """

    python: type
    sql: str
    pandas: str
    arrow: str
    feast: str
    numeric: bool
    inferred_from: tuple[str, ...]


_SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
TYPES: dict[TypeName, ColumnType] = {
    "number": ColumnType(
        float, "DOUBLE", "float64", "float64", "Float64", True, ("FLOAT", "DOUBLE", "DECIMAL")
    ),
    "integer": ColumnType(
        int, "BIGINT", "Int64", "int64", "Int64", True, (*_SIGNED, *(f"U{name}" for name in _SIGNED))
    ),
    "boolean": ColumnType(bool, "BOOLEAN", "boolean", "bool", "Bool", True, ("BOOLEAN",)),
    "category": ColumnType(str, "VARCHAR", "object", "utf8", "String", False, ("VARCHAR", "ENUM")),
}
assert set(TYPES) == set(get_args(TypeName))
INFERRED: dict[str, TypeName] = {sql: name for name, kind in TYPES.items() for sql in kind.inferred_from}


def quote(name: str) -> str:
    """A column or table name as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """A text as an SQL literal."""
    return "'" + str(value).replace("'", "''") + "'"


def text_of(column: str, kind: str) -> str:
    """SQL for a value as the text by which it is known: the 1.0 of a float is "1", as in a request."""
    if INFERRED.get(kind.partition("(")[0]) != "number":
        return f"{column}::VARCHAR"
    return f"regexp_replace({column}::DOUBLE::VARCHAR, '\\.0$', '')"


def key_of(column: str, kind: str) -> str:
    """SQL for the key of an entity: its text without the spaces around it, as in a request."""
    return rf"regexp_replace({text_of(column, kind)}, '^[\s\p{{Z}}]+|[\s\p{{Z}}]+$', '', 'g')"


def class_text(value: Any) -> str:
    """The text by which a class of the target is known: `True` and `"true"` are one class, so are 1 and 1.0.

    There is no second form of this rule in SQL, whose lower() and trim() differ: `table.classes` asks this one.
    """
    return re.sub(r"^(-?\d+)\.0+$", r"\1", str(value).strip().lower())
