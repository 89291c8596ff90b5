"""Many rows at once: Arrow's columns, checked by the rules of `request.py`, to the graph's inputs.

A null in Arrow is JSON's null; a column that is not there is left out of every row.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any

import numpy as np
from arro3.core import Array, DataType, RecordBatch, dictionary_dictionary, dictionary_indices
from arro3.core.types import ArrowArrayExportable
from nanoarrow import c_array
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tabloop.card import ModelCard
from tabloop.onnx_model import MAX
from tabloop.params import Column
from tabloop.serving.request import MAX_TEXT, bounds, column_values, entity_values, missing_entity

CODES = DataType.dictionary(DataType.int32(), DataType.utf8())


@dataclass(frozen=True)
class Refusal:
    """The rows, (n,) of bool, that break one rule of a column; message and type of the error as a JSON request gets them."""

    rows: np.ndarray
    column: str
    message: str
    kind: str


@dataclass(frozen=True)
class Checked:
    """The columns of n rows.

    Attributes:
        inputs: of each feature that the rows have (n, 1) of float32 or str, as the graph takes it. The values of
            refused rows mean nothing.
        refusals: in the order of a JSON request's errors.
    """

    rows: int
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)

    @cached_property
    def refused(self) -> np.ndarray:
        """The rows, (n,) of bool, that break a rule."""
        return np.logical_or.reduce([np.zeros(self.rows, bool), *(refusal.rows for refusal in self.refusals)])


class Part(dict[str, list[Any]]):
    """The columns of validated rows that have no other ones, n values each."""


class RowChecker:
    """The check of all columns of a model's rows. The arguments are those of `request.row_type`."""

    def __init__(self, card: ModelCard, columns: Mapping[str, Column], optional: Set[str]) -> None:
        self.entity, self.columns, self.optional = card.schema_.entity or "", columns, optional
        types = {name: column_values(column) for name, column in columns.items()}
        if self.entity:
            types = {self.entity: entity_values()} | types
        config = ConfigDict(allow_inf_nan=False)
        self.types = {name: TypeAdapter(list[values], config=config) for name, values in types.items()}  # type: ignore[valid-type]
        self.required = {name for name, column in columns.items() if not column.nullable} - optional

    def part(self, rows: list[Any]) -> Part | None:
        """The columns of rows of a JSON request; None: they differ in their columns, or one of them is refused.

        A quarter of the time that validation row by row takes, which then says what is wrong.
        """
        if {*map(type, rows)} != {dict} or {*map(len, rows)} != {len(rows[0]) or 1}:
            return None
        try:
            part = Part((n, self.types[n].validate_python([row[n] for row in rows])) for n in rows[0])
        except (KeyError, ValidationError):
            return None
        return part if self.required <= part.keys() else None

    def check(self, batch: ArrowArrayExportable) -> Checked:
        """The inputs of a record batch, and which rows are refused. Of two columns of a name the last counts, as in JSON."""
        table = RecordBatch.from_arrow(batch)
        given = {name: table.column(at) for at, name in enumerate(table.column_names)}
        checked, every = Checked(table.num_rows), np.ones(table.num_rows, bool)
        refuse = checked.refusals.append
        for name in self.types:
            column = self.columns.get(name)
            if name in given and column is None:
                self._check_key(checked, given[name])
            elif name in given:
                check = self._check_numbers if column and column.numeric else self._check_texts
                checked.inputs[name] = check(checked, name, given[name])[:, None]
            elif column and not column.nullable and name not in self.optional:
                refuse(Refusal(every, name, "Field required", "missing"))
        for name in given:
            if name not in self.types:
                refuse(Refusal(every, name, "Extra inputs are not permitted", "extra_forbidden"))
        if absent := sorted(self.optional - given.keys()):
            keyless = ~_valid(given[self.entity]) if self.entity in given else every
            keyless = keyless & ~Checked(table.num_rows, {}, checked.refusals).refused
            (error,) = missing_entity(self.entity, absent, ()).errors()
            if keyless.any():
                refuse(Refusal(keyless, self.entity, error["msg"], error["type"]))
        return checked

    def keys(self, array: Array) -> Array:
        """The entities' keys, (n,), of a column that was checked."""
        if DataType.is_string(array.type) and not _padded(array):  # as most are: they need no conversion
            return array
        levels, codes = _levels(array) or ([], np.zeros(len(array), int))
        keys = _objects([*self._validated(self.entity, levels)[0], None])[codes]
        return Array(keys.tolist(), DataType.utf8())

    def _refuse(self, checked: Checked, name: str, array: Array, rows: np.ndarray) -> None:
        """Refuse these rows, with the error that a JSON request with the first of their values would get."""
        if rows.any():
            first = list(array.slice(int(rows.argmax()), 1).to_pylist())
            checked.refusals.append(Refusal(rows, name, *self.error(name, first)))

    def error(self, name: str, values: list[Any]) -> tuple[str, str]:
        """Message and type of the error of a JSON request whose value of this column is the one in `values`."""
        try:
            self.types[name].validate_python(values)
        except ValidationError as errors:
            error = errors.errors(include_url=False, include_input=False)[0]
            return error["msg"], error["type"]
        raise AssertionError(f"{name}: {values[0]!r} is refused in a column and taken in a row")

    def _check_key(self, checked: Checked, array: Array) -> None:
        if DataType.is_string(array.type) and len(array) and np.diff(_buffer(array, 1)).max() <= MAX_TEXT:
            return  # bytes: nothing can be wrong
        self._check_texts(checked, self.entity, array)

    def _check_texts(self, checked: Checked, name: str, array: Array) -> np.ndarray:
        """The texts, (n,), "" where there is none."""
        if name in self.columns and not self.columns[name].nullable:
            self._refuse(checked, name, array, ~_valid(array))
        if (found := _levels(array)) is None:
            self._refuse(checked, name, array, _valid(array))
            return np.full(len(array), "", object)
        levels, codes = found
        values, bad = self._validated(name, levels)
        if bad:
            self._refuse(checked, name, array, np.isin(codes, bad))
        return _objects([*values, ""])[codes]

    def _validated(self, name: str, levels: list[Any]) -> tuple[list[Any], list[int]]:
        """The values as the request's type has them, and the places of those that it refuses."""
        try:
            return self.types[name].validate_python(levels), []
        except ValidationError as error:
            bad = {int(e["loc"][0]) for e in error.errors(include_url=False, include_input=False)}
        kept = ["" if at in bad else level for at, level in enumerate(levels)]
        return self.types[name].validate_python(kept), sorted(bad)

    def _check_numbers(self, checked: Checked, name: str, array: Array) -> np.ndarray:
        """The numbers, (n,) of float32, NaN where there is none."""
        column, found = self.columns[name], _numbers(array)
        boolean = column.kind.python is bool
        if not column.nullable:
            self._refuse(checked, name, array, ~_valid(array))
        if found is None or (found[0].dtype == bool) != boolean:
            self._refuse(checked, name, array, _valid(array))
            return np.full(len(array), np.nan, np.float32)
        values, valid = found
        for broken in () if boolean else _broken(column, values):
            self._refuse(checked, name, array, valid & broken)
        numbers = np.where(valid, values, np.nan)
        return np.maximum(np.minimum(numbers, MAX), -MAX).astype(np.float32)


def _broken(column: Column, values: np.ndarray) -> Iterator[np.ndarray]:
    """The rows, (n,) of bool, that break each rule of a column of numbers, which exclude each other."""
    low, high = bounds(column)
    if column.kind.python is float:
        values = values.astype(np.float64)
        finite = np.isfinite(values)
        yield ~finite
        yield finite & (values > high)
        yield finite & (values < low)
        return
    low, high = int(low), int(high)
    if values.dtype != np.float64:
        yield (values < low) | (values > high)
        return
    first, last = float(low), float(high)  # rounded, perhaps to outside of the bounds
    first = np.nextafter(first, inf) if first < low else first
    last = np.nextafter(last, -inf) if last > high else last
    yield ~((values >= first) & (values <= last) & (np.trunc(values) == values))


def _valid(array: Array) -> np.ndarray:
    """Where there is a value, (n,) of bool."""
    array = _plain(array)
    if DataType.is_null(array.type):
        return np.zeros(len(array), bool)
    return np.ones(len(array), bool) if array.null_count == 0 else _bits(array, 0)


def _plain(array: Array) -> Array:
    """The array without a dictionary."""
    inner = array.type.value_type
    return array.cast(inner) if inner is not None and DataType.is_dictionary(array.type) else array


def _buffer(array: Array, more: int = 0) -> np.ndarray:
    """The values, (n,), anything where there is none. Of texts, with one more: where each begins, and where the last ends."""
    view = c_array(array).view()
    return np.asarray(view.buffer(1))[view.offset :][: len(array) + more]


def _padded(array: Array) -> bool:
    """Whether a text begins or ends with white space, or with what may be some: a character that is not ASCII."""
    ends = _buffer(array, 1)
    first, last = ends[:-1], ends[1:] - 1
    data = np.asarray(c_array(array).view().buffer(2)).view(np.uint8)
    outer = data[np.concatenate([first, last])[np.tile(first <= last, 2)]]
    return bool(((outer <= ord(" ")) | (outer >= 0x80)).any())


def _bits(array: Array, buffer: int) -> np.ndarray:
    """A buffer of bits as (n,) of bool."""
    view = c_array(array).view()
    bits = np.unpackbits(np.asarray(view.buffer(buffer)).view(np.uint8), bitorder="little")
    return bits[view.offset :][: len(array)].astype(bool)


def _numbers(array: Array) -> tuple[np.ndarray, np.ndarray] | None:
    """Values, (n,) of bool, an integer type or float64, and where there is one; None: they are no numbers."""
    array = _plain(array)
    kind, valid = array.type, _valid(array)
    if DataType.is_null(kind):
        return np.zeros(len(array)), valid
    if DataType.is_boolean(kind):
        return _bits(array, 1), valid
    if DataType.is_floating(kind) or DataType.is_decimal(kind):
        array = array.cast(DataType.float64())
    elif not DataType.is_integer(kind):
        return None
    return _buffer(array), valid


def _levels(array: Array) -> tuple[list[Any], np.ndarray] | None:
    """Different values, and the place of each row's among them, (n,), after the last if there is none.

    None: they are neither texts nor numbers.
    """
    inner = _plain(array.slice(0, 0)).type
    if DataType.is_string(inner) or DataType.is_large_string(inner) or DataType.is_string_view(inner):
        array = array.cast(CODES)
        if None in (levels := list(dictionary_dictionary(array).to_pylist())):
            return _levels(array.cast(DataType.utf8()))
        codes = dictionary_indices(array)
        places: np.ndarray = np.where(_valid(codes), _buffer(codes), len(levels))
        return levels, places
    numbers = _numbers(array)
    if numbers is None or numbers[0].dtype == bool:
        return None
    values, valid = numbers
    different, among = np.unique(values[valid], return_inverse=True)
    places = np.full(len(array), len(different))
    places[valid] = among
    return list(different.tolist()), places


def _objects(values: list[Any]) -> np.ndarray:
    made = np.empty(len(values), object)
    made[:] = values
    return made
