"""What a request may hold: one pydantic model made from the schema, which the API's page shows as well."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from ..params import Column, Schema

LARGEST = 3.4028235e38  # float32's
WHOLE = 2**53  # beyond, JSON's readers disagree about integers
TEXT = 1000  # characters


def row_model(
    schema: Schema, columns: Mapping[str, Column], optional: set[str], model: Mapping[str, Any]
) -> type[BaseModel]:
    """The model of one row of these columns.

    `optional` are those that a row may leave out though they can't be null: the online store knows them.
    `model` is model.json, for what it knows of levels and for its example.
    """
    fields: dict[str, Any] = {}
    if schema.entity:
        about = f"key of the entity; enough to leave out {', '.join(schema.views) or 'nothing'}"
        fields[schema.entity] = (
            Annotated[str, Field(max_length=TEXT)] | None,
            Field(None, description=about),
        )
    for name, column in columns.items():
        required = not column.nullable and name not in optional
        about = column.description or ""
        if levels := model.get("categories", {}).get(name):
            about += f" one of {', '.join(levels)}; others count as unseen"
        fields[name] = (
            annotation(column) if not column.nullable else annotation(column) | None,
            Field(... if required else None, description=about.strip() or None),
        )
    config = ConfigDict(
        extra="forbid",
        coerce_numbers_to_str=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        json_schema_extra={"examples": [model["example"]]},
    )
    return create_model("Row", __config__=config, **fields)


def annotation(column: Column) -> Any:
    """The type of one column's value, with its bounds."""
    if column.type == "boolean":
        return bool
    if column.type == "category":
        return Annotated[str, Field(max_length=TEXT)]
    whole = column.type == "integer"
    bound = WHOLE if whole else LARGEST
    low = -bound if column.min is None else column.min
    high = bound if column.max is None else column.max
    return Annotated[int if whole else float, Field(ge=low, le=high)]
