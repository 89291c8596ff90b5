"""What a request may contain: one type, made from the schema. Requests are validated by it, and /docs shows it."""

import sys
from collections.abc import Mapping, Set
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, GetPydanticSchema, Strict, with_config
from pydantic_core import CoreSchema, PydanticCustomError, ValidationError
from pydantic_core import core_schema as core
from typing_extensions import TypedDict  # pydantic takes typing's own from Python 3.12 on only

from tabloop.card import ModelCard
from tabloop.params import Column, Schema

MAX_INTEGER = 2**63 - 1  # what the prediction log's column holds
MAX_TEXT = 1000


def first(message: str, *choices: CoreSchema) -> GetPydanticSchema:
    """JSON's values that a column takes: the first of `choices` that fits, which may convert; else the error `message`."""
    error: Any = {"custom_error_type": "wrong_value", "custom_error_message": message}
    choice = core.union_schema([*choices], mode="left_to_right", **error)
    # A copy, as pydantic writes into it. In OpenAPI the first choice stands for all.
    return GetPydanticSchema(lambda *_: {**choice}, lambda schema, handler: handler(schema["choices"][0]))


# Strict: neither `true` nor "1_000" is a number. 12.0 is a whole one, and NaN, which JSON does not have, is none.
_float, _int = core.float_schema(strict=True, allow_inf_nan=False), core.int_schema(strict=True)
_whole = core.chain_schema([_float, core.int_schema()])
_number = core.union_schema([_int, _whole, _float], mode="left_to_right")


def _text(strip: bool = False) -> Any:
    """A text. A number is the text that it is in data/features and in the online store: 17 and 17.0 are "17"."""
    text = core.str_schema(strict=True, max_length=MAX_TEXT, strip_whitespace=strip)
    number = core.chain_schema([_number, core.str_schema(coerce_numbers_to_str=True, max_length=MAX_TEXT)])
    message = f"Input should be a text of at most {MAX_TEXT:,} characters, or a number"
    return Annotated[str, first(message, text, number)]


def whole(low: float, high: float) -> GetPydanticSchema:
    """Whole numbers within bounds."""
    message = f"Input should be a whole number from {low:,.15g} to {high:,.15g}"
    integer = core.int_schema(strict=True, ge=low, le=high)  # type: ignore[arg-type]
    return first(message, integer, core.chain_schema([_whole, integer]))


def request_columns(
    champion: Schema, challenger: Schema | None
) -> tuple[dict[str, Column], dict[str, dict[str, Column]]]:
    """The features of both models, and the columns of their views, which can be looked up.

    What only the challenger has is nullable, so that no client must know of the challenger.
    """
    columns, views = dict(champion.features), {view: dict(own) for view, own in champion.views.items()}
    if challenger:
        extra = {name: c for name, c in challenger.features.items() if name not in columns}
        columns |= {name: c.model_copy(update={"nullable": True}) for name, c in extra.items()}
        if challenger.entity == champion.entity:
            for view, own in challenger.views.items():
                views.setdefault(view, {}).update({name: c for name, c in own.items() if name in extra})
    return columns, views


def row_type(card: ModelCard, columns: Mapping[str, Column], optional: Set[str]) -> Any:
    """The type of one row: a TypedDict, in which a column can have any name.

    Args:
        card: the champion's, for its schema, levels and example.
        columns: the columns that a row may have, besides the entity.
        optional: columns that a row may leave out though they are not nullable: the online store has them.
    """
    schema, fields = card.schema_, dict[str, Any]()
    if schema.entity:
        about = f"Key of the entity. With it, a row may leave out {', '.join(schema.views) or 'nothing'}."
        key: Any = entity_values()
        fields[schema.entity] = NotRequired[Annotated[key, Field(description=about)]]
    for name, column in columns.items():
        about = column.description or ""
        if levels := card.categories.get(name):
            about += f" One of {', '.join(levels)}; any other counts as unseen."
        values: Any = column_values(column)
        values = Annotated[values, Field(description=about.strip() or None)]
        fields[name] = values if not column.nullable and name not in optional else NotRequired[values]
    config = ConfigDict(extra="forbid", allow_inf_nan=False, json_schema_extra={"examples": [card.example]})
    return with_config(config)(TypedDict("Row", fields))  # type: ignore[operator]


def missing_entity(entity: str, absent: list[str], place: tuple[int, ...]) -> ValidationError:
    """The error of a row without the entity and without the looked-up columns `absent`; `place`: its row in a batch."""
    about = {"about": f"give it, or all of: {', '.join(absent)}"}
    problem = PydanticCustomError("missing", "Field required: {about}", about)
    where: Any = {"type": problem, "loc": (*place, entity), "input": None}
    return ValidationError.from_exception_data("Row", [where])


def entity_values() -> Any:
    """The type of the entity's key: without the spaces that ingest removes, too."""
    return _text(strip=True) | None


def column_values(column: Column) -> Any:
    """The type of one column's values, with its bounds."""
    return _values(column) | None if column.nullable else _values(column)


def bounds(column: Column) -> tuple[float, float]:
    """The least and the greatest number that a column takes."""
    bound = MAX_INTEGER if column.kind.python is int else sys.float_info.max
    return -bound if column.min is None else column.min, bound if column.max is None else column.max


def _values(column: Column) -> Any:
    python = column.kind.python
    if python is bool:
        return Annotated[bool, Strict()]
    if python is str:
        return _text()
    low, high = bounds(column)
    if python is float:
        return Annotated[float, Strict(), Field(ge=low, le=high)]
    return Annotated[int, whole(low, high)]
