"""Rows of a text file that are none of the table's: blank, repeated header, comments, totals, wrong number of cells."""

import re

from tabloop.cli import UserError
from tabloop.columns import literal
from tabloop.reading.result import Loaded

TOTAL = re.compile(
    r"(grand |sub)?(total|sum|summe|gesamt|insgesamt|somme|suma|totale|toplam|итого|всего|average|mean|avg)\b.*",
    re.I,
)
LAST = 10  # rows at the end that may sum up
FEW = 0.01  # share of rows with too few or too many cells that is left out; more is refused


def check(loaded: Loaded, bad_rows: str | None, first: int) -> None:
    """Take out of `raw` what is no row of the table, and say how many rows and why.

    Args:
        bad_rows: what a person said: `skip` or `refuse`.
        first: the number of lines before the first row.

    Raises:
        UserError: rows have too few or too many cells, and the reading does not say to skip them; or no row is left.
    """
    db, reading = loaded.db, loaded.reading
    total = db.execute("SELECT count(*) FROM raw").fetchall()[0][0]
    ends, bad = _rejected(loaded, bad_rows, first + total - LAST)
    tests = {"blank": f"coalesce({', '.join(f'c{i}' for i in range(len(loaded.names)))}) IS NULL"}
    if reading.header:
        same = (f"c{i} = {literal(n)}" for i, n in enumerate(loaded.names) if n)
        tests["the header again"] = " AND ".join(same)
    cells = [f"c{i}" for i in range(len(loaded.names))]
    dashes = f"regexp_full_match(concat({', '.join(cells)}), '[-:=+]{{3,}}')"
    sign = f"left(coalesce({', '.join(cells[:2])}), 1) IN ('-', ':', '=', '+')"
    tests["lines of dashes"] = f"CASE WHEN {sign} THEN {dashes} END"  # AND would join the cells of all rows
    if reading.comment:
        tests["comments"] = f"starts_with(c0, {literal(reading.comment)})"
    if totals := _totals(loaded, total):
        tests["totals"] = f"rowid IN ({', '.join(map(str, totals))})"
    ends += totals.values()
    sql = ", ".join(f"count(*) FILTER ({test}) AS n{i}" for i, test in enumerate(tests.values()))
    left = dict(zip(tests, db.execute(f"SELECT {sql} FROM raw").fetchall()[0], strict=True))
    if total == sum(left.values()):
        raise UserError(f"{loaded.source} has no rows")
    for text in ends:
        what = "a row at the end is a total or a note, so it is left out"
        loaded.note("warning", f"{what}: {text[:80]!r}")
    for why, count in left.items():
        if count and why != "totals":
            loaded.note("note", f"{count:,} rows left out: {why}")
    if sum(left.values()):
        out = " OR ".join(f"({test})" for why, test in tests.items() if left[why])
        db.execute(f"CREATE TABLE kept AS SELECT *, rowid AS line FROM raw WHERE ({out}) IS NOT TRUE")
        db.execute("DROP TABLE raw; ALTER TABLE kept RENAME TO raw")
        loaded.row = "line"
    if loaded.guess:
        words = list(dict.fromkeys(map(beginning, ends)))
        loaded.reading = reading.model_copy(update={"footer": words, "bad_rows": "skip" if bad else "refuse"})


def _rejected(loaded: Loaded, bad_rows: str | None, end: int) -> tuple[list[str], int]:
    """Of the lines that are no rows: those at the end that explain, and the number of those that are wrong."""
    sql = "SELECT line, any_value(csv_line) FROM reject_errors GROUP BY line ORDER BY line"
    lines, comment = dict(loaded.db.execute(sql).fetchall()), loaded.reading.comment
    comments = [n for n, text in lines.items() if comment and text.lstrip().startswith(comment)]
    last = {n: t.strip() for n, t in lines.items() if n > end + len(lines) and n not in comments}
    ends = {n: text for n, text in last.items() if is_footer(text, loaded)}
    bad = {n: text for n, text in lines.items() if n not in ends and n not in comments}
    if comments:
        loaded.note("note", f"{len(comments):,} comments left out")
    if open_quote := next((n for n, text in bad.items() if text.count("\n") > 1), None):
        what = f"line {open_quote:,} opens a quote and does not close it: correct it"
        raise UserError(f"{loaded.source}: {what}")
    if bad:
        shown = ", ".join(f"{n:,}" for n in list(bad)[:10]) + (", ..." if len(bad) > 10 else "")
        text = f"{len(bad):,} rows have not {len(loaded.names)} cells or wrong quotes: line {shown}"
        few = loaded.guess and len(bad) <= max(FEW * end, 1)
        if (bad_rows or ("skip" if few else loaded.reading.bad_rows)) == "refuse":
            fix = "put text with a delimiter in quotes, or leave them out by data.reading.bad_rows: skip"
            raise UserError(f"{loaded.source}: {text}; {fix}")
        one, example = next(iter(bad.items()))
        loaded.note("warning", f"{text}; left out; line {one:,} is {example.strip()[:80]!r}")
    return list(ends.values()), len(bad)


def beginning(text: str) -> str:
    """What a row at the end begins with, up to a digit or delimiter: by it the reading knows such rows again."""
    return re.split(r"[\d,;|\t]", text.strip(' ",;|\t'))[0].strip().lower()


def is_footer(text: str, loaded: Loaded) -> bool:
    """Whether a row at the end explains or sums up: one cell of words, or a word like Total."""
    if not loaded.guess:
        return any(word and beginning(text) == word for word in loaded.reading.footer)
    one_cell = (loaded.reading.delimiter or ",") not in text.strip().rstrip(loaded.reading.delimiter or ",")
    return bool(beginning(text)) and (one_cell or bool(TOTAL.fullmatch(text.strip().strip('"'))))


def _totals(loaded: Loaded, total: int) -> dict[int, str]:
    """Rows at the end with all cells, of which the first that is filled says Total or the like, as no row before."""
    cells = ", ".join(f"c{i}" for i in range(len(loaded.names)))
    found = {}
    sql = f"SELECT rowid, [{cells}] FROM raw WHERE rowid >= {total - LAST}"
    for row, values in loaded.db.execute(sql).fetchall():
        i = next((i for i, value in enumerate(values) if value), 0)
        word = values[i] or ""
        known = not loaded.guess and beginning(word) in loaded.reading.footer
        if known or (loaded.guess and total > 1 and TOTAL.fullmatch(word)):
            again = f"SELECT 1 FROM raw WHERE rowid < {total - LAST} AND c{i} = {literal(word)} LIMIT 1"
            if known or not loaded.db.execute(again).fetchall():
                found[row] = ",".join(value or "" for value in values)
    return found
