"""The contract of `data.reading` in `params.yaml`: how the source is read."""

from typing import Annotated, Literal
from zoneinfo import available_timezones

from pydantic import BaseModel, Field, field_validator


class ReadColumn(BaseModel, extra="forbid", frozen=True, defer_build=True):
    """What the text of a raw column means. `format` is a strptime format or several, or epoch_s, _ms, _us, _ns.

    `missing` are words that mean missing besides the table's; in a column of type text, instead of them.
    """

    type: Literal["text", "number", "integer", "boolean", "timestamp"]
    format: str | list[str] | None = None
    unit: str | None = None
    decimal: Literal[".", ","] = "."
    thousands: str | None = None
    missing: list[str] | None = None


class Reading(BaseModel, extra="forbid", frozen=True, defer_build=True):
    """How the file at data.source is read, where it differs from plain: UTF-8, comma or tab by its name, a header.

    `adopt` finds and writes it, and later days are read the same way. `skip` are lines before the header, `names` the
    columns where there is no header, `footer` the first cells of rows that sum up, `bad_rows` what happens to rows
    with too few or too many cells. `timezone` is the zone of times without an offset; without it they are UTC. `columns`
    has the raw columns whose text means something else than it seems.
    """

    format: Literal["csv", "parquet", "arrow", "json", "excel", "aligned"] | None = None
    encoding: str | None = None
    delimiter: Annotated[str, Field(min_length=1, max_length=4)] | None = None
    quote: Annotated[str, Field(min_length=1, max_length=1)] = '"'
    escape: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    header: bool = True
    names: list[str] = []
    skip: Annotated[int, Field(ge=0)] = 0
    comment: Annotated[str, Field(min_length=1)] | None = None
    footer: list[str] = []
    bad_rows: Literal["refuse", "skip"] = "refuse"
    sheet: str | None = None
    missing: list[str] | None = None
    timezone: str | None = None
    columns: dict[str, ReadColumn] = {}

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in available_timezones():
            raise ValueError(f"{name!r} is no time zone: give a name such as Europe/Berlin or UTC")
        return name
