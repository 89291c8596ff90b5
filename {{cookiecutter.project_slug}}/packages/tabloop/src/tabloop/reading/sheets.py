"""Excel's sheets and aligned text as CSV."""

import csv
import datetime
from pathlib import Path
from typing import Any

from tabloop.cli import UserError, explained
from tabloop.files import temporary
from tabloop.reading.result import Note


def as_csv(path: Path, wanted: str | None, fixed: dict[str, Any], notes: list[Note]) -> Path:
    """A sheet of a workbook as CSV: the wanted one, or the first that is not empty, with a note.

    Raises:
        UserError: there is no such sheet, or it is no workbook.
    """
    import python_calamine as calamine

    with explained(f"{path.name} can't be read as a workbook", calamine.CalamineError):
        book = calamine.CalamineWorkbook.from_path(path)
        if wanted and wanted not in book.sheet_names:
            raise UserError(f"{path.name} has no sheet {wanted!r}; it has: {', '.join(book.sheet_names)}")
        rows = {name: book.get_sheet_by_name(name).height for name in book.sheet_names}
        # Two rows may be a title and a date, so that the first sheet with more is preferred.
        name = wanted or max(rows, key=lambda sheet: min(rows[sheet], 3))
        sheet = book.get_sheet_by_name(name)
    if len(rows) > 1:
        fixed["sheet"] = name
    if not wanted and (others := [repr(other) for other in rows if rows[other] and other != name]):
        notes.append(Note(None, "warning", f"sheet {name!r} is read; there are also {', '.join(others)}"))
    target = temporary() / f"{path.stem}.csv"
    with target.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(map(text_of, row) for row in sheet.iter_rows())
    return target


def text_of(value: Any) -> str:
    """A cell as text: 30.0 is 30, as it is shown; a date has no time at midnight."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ") if value.time() != datetime.time() else value.date().isoformat()
    return str(value)


def aligned_as_csv(path: Path) -> Path:
    """Columns that spaces align as CSV."""
    import pandas as pd

    target = temporary() / f"{path.stem}.csv"
    options: dict[str, Any] = {"header": None, "dtype": str, "keep_default_na": False, "infer_nrows": 1000}
    for part in pd.read_fwf(path, chunksize=100_000, **options):
        part.to_csv(target, mode="a", header=False, index=False)
    return target
