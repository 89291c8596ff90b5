"""Rows of a text file that are none of the table's: blank, repeated header, comments, totals, wrong number of cells."""

import re

import duckdb

from tabloop.cli import UserError
from tabloop.columns import literal
from tabloop.reading.result import Loaded, Note

TOTAL = re.compile(
    r"(grand |sub)?(total|sum|summe|gesamt|insgesamt|somme|suma|totale|toplam|итого|всего|average|mean|avg)\b.*",
    re.I,
)
LAST = 10  # rows at the end that may sum up
FEW = 0.01  # share of rows with too few or too many cells that is left out; more is refused


def check(
    db: duckdb.DuckDBPyConnection, loaded: Loaded, name: str, guess: bool, bad_rows: str | None, first: int
) -> None:
    """Set `loaded.keep`, and say how many rows are left out and why.

    Raises:
        UserError: rows have too few or too many cells, and the reading does not say to skip them; or no row is left.
    """
    reading, cells = loaded.reading, [f"trim(coalesce(c{i}, ''))" for i in range(len(loaded.names))]
    total = db.execute("SELECT count(*) FROM raw").fetchall()[0][0]
    rejected = dict(
        db.execute(
            "SELECT line, any_value(csv_line) FROM reject_errors GROUP BY line ORDER BY line"
        ).fetchall()
    )
    end = first + total + len(rejected) - LAST
    footers = {
        line: text.strip() for line, text in rejected.items() if line > end and is_footer(text, loaded, guess)
    }
    comments = {
        line
        for line, text in rejected.items()
        if reading.comment and text.lstrip().startswith(reading.comment)
    }
    bad = {line: text for line, text in rejected.items() if line not in footers and line not in comments}
    skipping = bad_rows or ("skip" if guess and len(bad) <= max(FEW * total, 1) else reading.bad_rows)
    if open_quote := next((line for line, text in bad.items() if text.count("\n") > 1), None):
        raise UserError(
            f"{name}: the quote in line {open_quote:,} is opened and not closed: correct that line"
        )
    shown = ", ".join(f"{line:,}" for line in list(bad)[:10]) + (", ..." if len(bad) > 10 else "")
    if bad:
        text = f"{len(bad):,} rows have not {len(loaded.names)} cells or wrong quotes: line {shown}"
        if skipping == "refuse":
            raise UserError(
                f"{name}: {text}; put text with a delimiter in quotes, or leave them out by data.reading.bad_rows: skip"
            )
        loaded.notes.append(
            Note(
                None,
                "warning",
                f"{text}; they are left out; line {next(iter(bad)):,} is {next(iter(bad.values())).strip()[:80]!r}",
            )
        )
    tests = {"blank": " AND ".join(f"{c} = ''" for c in cells)}
    if reading.header:
        header = [f"{c} = {literal(n)}" for c, n in zip(cells, loaded.names, strict=True)]
        tests["the header again"] = " AND ".join(header)
    if reading.comment:
        tests[f"comments ({reading.comment})"] = f"starts_with({cells[0]}, {literal(reading.comment)})"
    if summing := _totals(db, loaded, cells, total, guess):
        tests["totals"] = f"rowid IN ({', '.join(map(str, summing))})"
    counts = db.execute(
        "SELECT " + ", ".join(f"count(*) FILTER ({test})" for test in tests.values()) + " FROM raw"
    ).fetchall()[0]
    left = dict(zip(tests, counts, strict=True))
    left["comments"] = len(comments)
    for text in (*footers.values(), *summing.values()):
        loaded.notes.append(
            Note(None, "warning", f"a row at the end sums up or explains, so it is left out: {text[:80]!r}")
        )
    for why, count in left.items():
        if count and why != "totals":
            loaded.notes.append(Note(None, "note", f"{count:,} rows left out: {why}"))
    loaded.keep = " AND ".join(f"NOT ({test})" for why, test in tests.items() if left[why]) or "true"
    if total == sum(left.values()) - len(comments):
        raise UserError(f"{name} has no rows")
    if guess:
        words = list(dict.fromkeys(map(beginning, (*footers.values(), *summing.values()))))
        loaded.reading = reading.model_copy(update={"footer": words, "bad_rows": "skip" if bad else "refuse"})


def beginning(text: str) -> str:
    """What a row at the end begins with, up to a digit or delimiter: by it the reading knows such rows again."""
    return re.split(r"[\d,;|\t]", text.strip().strip('"'))[0].strip().lower()


def is_footer(text: str, loaded: Loaded, guess: bool) -> bool:
    """Whether a row at the end explains or sums up: one cell of words, or a word like Total."""
    if not guess:
        return any(word and beginning(text) == word for word in loaded.reading.footer)
    one_cell = (loaded.reading.delimiter or ",") not in text.strip().rstrip(loaded.reading.delimiter or ",")
    return bool(beginning(text)) and (one_cell or bool(TOTAL.fullmatch(text.strip().strip('"'))))


def _totals(
    db: duckdb.DuckDBPyConnection, loaded: Loaded, cells: list[str], total: int, guess: bool
) -> dict[int, str]:
    """Rows at the end with all cells, of which the first that is filled says Total or the like."""
    some = f"SELECT rowid, [{', '.join(cells)}] FROM raw WHERE rowid >= {total - LAST}"
    found = {}
    for row, values in db.execute(some).fetchall():
        filled = next((i for i, value in enumerate(values) if value), 0)
        known = not guess and beginning(values[filled]) in loaded.reading.footer
        if known or (guess and total > 1 and TOTAL.fullmatch(values[filled])):
            again = f"SELECT count(*) FROM raw WHERE rowid < {total - LAST} AND {cells[filled]} = {literal(values[filled])}"
            if known or not db.execute(again).fetchall()[0][0]:
                found[row] = ",".join(values)
    return found
