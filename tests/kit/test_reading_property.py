"""Whatever a frame is written like: the same frame comes back, or a line says of what it may not be the same."""

import csv
import gzip
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tabloop.cli import UserError
from tabloop.reading.read import read

ROWS = st.integers(3, 25)
DATES = [
    "%Y-%m-%d",
    "%Y-%m-%dT%H:%M:%S",
    "%d.%m.%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d %b %Y",
    "%Y%m%d",
    "%d.%m.%y %H:%M",
]
LETTERS = "abcXYZ ,;|\t'\"\\äöüßéñ€#-_/.0123456789\n"


@dataclass
class Dialect:
    """How a frame is written."""

    delimiter: str
    quoting: int
    encoding: str
    end: str
    decimal: str
    date: str
    missing: str
    titles: list[str]
    packed: bool


DIALECTS = st.builds(
    Dialect,
    delimiter=st.sampled_from([",", ";", "\t", "|"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    end=st.sampled_from(["\n", "\r\n"]),
    decimal=st.sampled_from([".", ","]),
    date=st.sampled_from(DATES),
    missing=st.sampled_from(["", "NA", "null"]),
    titles=st.sampled_from([[], ["A report"], ["A report", ""]]),
    packed=st.booleans(),
)
WORDS = st.text(LETTERS, max_size=12).map(lambda text: f"w{text}".strip())
TYPES: dict[str, st.SearchStrategy[Any]] = {
    "integer": st.integers(-(10**17), 10**17),
    "small": st.integers(0, 5),
    "number": st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: round(x, 4)),
    "text": WORDS,
    "boolean": st.booleans(),
    "date": st.datetimes(datetime(2000, 1, 1), datetime(2024, 12, 31)).map(
        lambda t: t.replace(microsecond=0)
    ),
}


@st.composite
def frames(draw: Callable[..., Any]) -> tuple[Dialect, dict[str, list[Any]]]:
    """A dialect, and columns of it by names that begin with their type; dates are as exact as the dialect writes them."""
    dialect, rows = draw(DIALECTS), draw(ROWS)
    columns: dict[str, list[Any]] = {"integer_0": list(range(1, rows + 1))}
    for i, kind in enumerate(draw(st.lists(st.sampled_from(list(TYPES)), min_size=1, max_size=5))):
        values = draw(st.lists(TYPES[kind] | st.none(), min_size=rows, max_size=rows))
        if kind == "date":
            values = [t and datetime.strptime(t.strftime(dialect.date), dialect.date) for t in values]
        columns[f"{kind}_{i + 1}"] = values
    return dialect, columns


def cell(value: Any, dialect: Dialect) -> str:
    """A value as the dialect writes it."""
    if value is None:
        return dialect.missing
    if isinstance(value, datetime):
        return value.strftime(dialect.date)
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value).replace(".", dialect.decimal) if isinstance(value, float) else str(value)


def written(dialect: Dialect, columns: dict[str, list[Any]]) -> bytes:
    """The file."""
    text = io.StringIO(newline="")
    text.writelines(title + dialect.end for title in dialect.titles)
    rows = csv.writer(text, delimiter=dialect.delimiter, quoting=dialect.quoting, lineterminator=dialect.end)  # type: ignore[arg-type]
    rows.writerow(columns)
    rows.writerows([cell(v, dialect) for v in row] for row in zip(*columns.values(), strict=True))
    content = text.getvalue().encode(dialect.encoding, errors="replace")
    return gzip.compress(content) if dialect.packed else content


@settings(
    max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
@given(frames())
def test_a_frame_comes_back_or_a_line_says_why_not(frame: tuple[Dialect, dict[str, list[Any]]]) -> None:
    dialect, columns = frame
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "t").write_bytes(written(dialect, columns))
        try:
            found = read("t", Path(folder))
        except UserError as error:
            assert "\n" not in str(error)
            return
        again = read("t", Path(folder), found.reading).relation.fetchall()
    assert found.relation.fetchall() == again and found.relation.columns == list(columns)
    warned = {note.column for note in found.notes if note.severity == "warning"}
    for i, (name, values) in enumerate(columns.items()):
        got = [row[i] for row in again]
        same = [v.replace("\r\n", "\n") if isinstance(v, str) else v for v in got] == values
        assert same or name in warned or None in warned or not any(v is not None for v in values), (
            name,
            values,
            got,
        )
