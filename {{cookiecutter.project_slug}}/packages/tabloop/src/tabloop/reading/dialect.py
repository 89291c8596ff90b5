# ruff: noqa: RUF001 - signs that people write are meant as they are
"""How the lines of a text file are cells: delimiter, quotes, lines before the header, the header."""

import csv
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tabloop.files import temporary
from tabloop.reading.result import MISSING, Note
from tabloop.reading.settings import Reading

DELIMITERS, DOUBLE = [",", ";", "\t", "|", "^", "~", "\x01", "\x1f"], ["::", "||"]
SEEN = 1000  # lines by which the delimiter is found
SAMPLE = 1 << 20  # characters; of the rest only counts and patterns are used
NUMBER = re.compile(r"[-+−(]?\s*\W{0,2}\d[\d.,'\s:/%€$£T)-]*([eE][-+]?\d+)?(\s?\W|\s?[AP]M)?")
Rows = list[list[str]]


@dataclass
class Head:
    """The beginning of a text file as cells: the names that stand in it, and how many cells a row has."""

    names: list[str] | None
    width: int
    skip: int  # rows before the first one of the data
    notes: list[Note] = field(default_factory=list)
    more: int = 0  # lines after the names that explain them


def sample(path: Path) -> list[str]:
    """The first lines of a UTF-8 file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        text = file.read(SAMPLE)
        lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)
    return lines[:-1] if len(text) == SAMPLE and len(lines) > 1 else lines


def tightened(path: Path) -> Path:
    """The file, or a copy without the spaces between a delimiter and a quote: `1, "Bern"` is `1,"Bern"`."""
    apart, lines = re.compile(r'([,;|])[ \t]+(?="[^"]*"\s*(?:[,;|]|$))'), sample(path)
    if sum(bool(apart.search(line)) for line in lines) <= len(lines) / 2:
        return path
    copy = temporary() / path.name
    with (
        path.open(encoding="utf-8-sig", newline="") as source,
        copy.open("w", encoding="utf-8", newline="") as to,
    ):
        to.writelines(apart.sub(r"\1", line) for line in source)
    return copy


def cells(lines: list[str], delimiter: str, quote: str, escape: str | None) -> Rows:
    """The cells of each row, blank rows included. The csv module knows delimiters of one character only."""
    one = delimiter if len(delimiter) == 1 else "\x1e"
    lines = [line.replace(delimiter, one) for line in lines] if one != delimiter else lines
    double = escape in (None, quote)
    escapes = None if double else escape
    csv.field_size_limit(SAMPLE)  # of a text; else it is 128 KiB
    return list(csv.reader(lines, delimiter=one, doublequote=double, escapechar=escapes, quotechar=quote))


def find(lines: list[str], delimiter: str | None) -> dict[str, str | None] | None:
    """Delimiter, quote and escape; None if there is no delimiter.

    CleverCSV finds them: van den Burg, Nazabal, Sutton, "Wrangling messy CSV files by detecting row and type patterns"
    (Data Mining and Knowledge Discovery 33, 2019).
    """
    from clevercsv import Detector

    text = "".join(lines[:SEEN])
    doubled = [d for d in DOUBLE if 2 * text.count(d) == text.count(d[0]) > 0]
    known = [delimiter] if delimiter else doubled or DELIMITERS
    # It knows delimiters of one character only.
    found = Detector().detect(text.replace(known[0], known[0][0]), delimiters=[one[0] for one in known])
    if not found or not found.delimiter:  # none, or two that are as likely
        left = [d for d in known if delimiter or all(d in line for line in lines[:SEEN] if line.strip())]
        return {"delimiter": left[0]} if left else None
    sign = found.delimiter if known is DELIMITERS else known[0]
    return {"delimiter": sign, "quote": found.quotechar or '"', "escape": found.escapechar or None}


def head(lines: list[str], reading: Reading, guess: bool, header: bool | None) -> Head:
    """Where the data begin and what the columns are called.

    Args:
        guess: find the lines before the header, and whether there is one if `header` is None.
    """
    rows = cells(lines, reading.delimiter or ",", reading.quote, reading.escape)
    if reading.comment:
        rows = [[] if row and row[0].lstrip().startswith(reading.comment) else row for row in rows]
    full = [row for row in rows[reading.skip :] if any(c.strip() for c in row)]
    widths = Counter(map(len, full))
    width = max(widths, key=lambda w: (widths[w], w), default=1)
    body = [row for row in full if len(row) == width][:2000]
    if not guess and not reading.header:
        return Head(None, width, reading.skip)
    expected = sum(any(row[i].strip() for row in body[1:]) for i in range(width)) if len(body) > 1 else width
    for at, row in enumerate(rows):
        named = sum(bool(c.strip()) for c in row)
        if not named or at < reading.skip:
            continue
        if guess and header is not True and len(row) == width and (header is False or is_data(row, body)):
            return Head(None, width, at)
        below = next((r for r in rows[at + 1 :] if r), [])
        title = len(row) < width == len(below) and not is_data(below, body)  # above the header
        title = title or any(c.strip() for c in row[width:])
        if not guess or (len(row) >= width - 1 and named >= min(expected, width) - 1 and not title):
            found = _named(row, body, width, at)
            while guess and len(body) > 9 and len(line := rows[found.skip]) == width and explains(line, body):
                what = f"a second line of names left out: {', '.join(line)[:80]}"
                found.notes.append(Note(None, "warning", what))
                found.skip, found.more = found.skip + 1, found.more + 1
            return found
    return Head(None, width, reading.skip)


def comment(lines: list[str], reading: Reading) -> str | None:
    """`#` if lines begin with it that are not the header."""
    rows = [row for row in cells(lines, reading.delimiter or ",", reading.quote, reading.escape) if row]
    marked = [row for row in rows if row[0].lstrip().startswith("#")]
    others = [row for row in rows if not row[0].lstrip().startswith("#")]
    if not marked or len(marked) > len(others):
        return None
    width = Counter(map(len, others)).most_common(1)[0][0]
    body = [row for row in others if len(row) == width]
    header = marked[-1] == rows[len(marked) - 1] and len(marked[-1]) == len(others[0]) == width
    return None if header and is_data(others[0], body) else "#"


def _named(row: list[str], body: Rows, width: int, at: int) -> Head:
    names = [" ".join(c.split()) for c in row]
    while len(names) > width and not names[-1]:
        names.pop()
    notes = []
    if len(names) == width - 1:
        if any(r[-1].strip() for r in body if [c.strip() for c in r[:-1]] != names):
            names.insert(0, "")
            what = "the header has one name too few: the first column has none"
            notes.append(Note(None, "warning", what))
        else:
            names.append("")
    return Head(names, max(width, len(names)), at + 1, notes)


def _fits(row: list[str], body: Rows) -> tuple[int, int, int]:
    """In how many columns of numbers a row has one, in how many none, and in how many others a value that they have."""
    below = [r for r in body if r != row]
    alike = names = seen = 0
    for i, cell in enumerate(c.strip() for c in row):
        values = [v for r in below if (v := r[i].strip()) not in MISSING]
        if not values or cell in MISSING:
            continue
        if sum(bool(NUMBER.fullmatch(v)) for v in values) > 0.8 * len(values):
            fits = bool(NUMBER.fullmatch(cell))
            alike, names = alike + fits, names + (not fits)
        else:
            seen += cell in values
    return alike, names, seen


def explains(row: list[str], body: Rows) -> bool:
    """Whether a row below the names has words where numbers are: units, or questions."""
    alike, names, _ = _fits(row, body)
    return alike == 0 and names > 1 and bool(re.search(r"[^\W\d_]{2}", " ".join(row)))


def is_data(row: list[str], body: Rows) -> bool:
    """Whether a first row holds values as the rows below it do, not names."""
    alike, names, seen = _fits(row, body)
    years = [c.strip() for c in row if re.fullmatch(r"(19|20)\d\d", c.strip())]
    wide = len(years) > 1 and len(years) == alike and years == sorted(set(years))
    return alike > names and not wide if alike + names else seen > 0
