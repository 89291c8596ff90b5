# ruff: noqa: RUF001 - signs that people write are meant as they are
"""What the text of a column means: a table of cases, each a column of a file that is read once."""

import csv
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from tabloop.cli import UserError
from tabloop.reading.read import read
from tabloop.reading.result import Note, Overrides, Table
from tabloop.reading.settings import ReadColumn, Reading

ROWS = 40
Columns = dict[str, list[str]]


def write(path: Path, columns: Columns, delimiter: str = ",") -> None:
    """A CSV of ROWS rows in which each column repeats its values."""
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, delimiter=delimiter)
        rows.writerow(["row", *columns])
        rows.writerows(
            [f"r{i}", *(values[i % len(values)] for values in columns.values())] for i in range(ROWS)
        )


def told(table: Table, column: str | None) -> str:
    """All that is said of a column, or of the table."""
    return " | ".join(f"{note.severity}: {note.text}" for note in table.notes if note.column == column)


def way(table: Table, column: str) -> dict[str, Any]:
    """What the reading says of a column that is not plain."""
    found = table.reading.columns.get(column)
    return found.model_dump(exclude_defaults=True) if found else {}


def day(*parts: int) -> datetime:
    """A timestamp."""
    return datetime(*parts)  # type: ignore[arg-type]


# name: (values, values as they are read, what differs from plain, a word of what is said). One file in the English way.
ENGLISH: dict[str, tuple[list[str], list[Any], dict[str, Any], str]] = {
    "integer": (["5", "-7", "0"], [5, -7, 0], {}, ""),
    "four_decimals": (["35.8352", "20.4019", "8.8918", "100.1234"], [35.8352, 20.4019, 8.8918, 100.1234], {}, ""),
    "number": (["1.5", "-.25", "3."], [1.5, -0.25, 3.0], {}, ""),
    "exponent": (["1.5e+10", "2e-3"], [1.5e10, 0.002], {}, ""),
    "exponent_or_code": (["12e4", "3e5"], [120000.0, 300000.0], {}, "warning: 12e3"),
    "thousands": (["1,234.50", "12.00"], [1234.5, 12.0], {"thousands": ","}, "separates thousands"),
    "thousands_few": (["2,500", "500", "12,000"], [2500, 500, 12000], {"thousands": ","}, "separates thousands"),
    "lakh": (["12,34,567", "1,00,000", "50"], [1234567, 100000, 50], {"thousands": ","}, "separates thousands"),
    "apostrophe": (["1'234.50", "3.20"], [1234.5, 3.2], {"thousands": "'"}, "separates thousands"),
    "spaces": (["1 234.5", "12.0"], [1234.5, 12.0], {"thousands": " "}, "separates thousands"),
    "narrow_spaces": (["1\u202f234.5", "1\u00a0234.5"], [1234.5, 1234.5], {"thousands": " "}, "thousands"),
    "millions": (["1,000,000", "2,500,000"], [1000000, 2500000], {"thousands": ","}, "separates thousands"),
    "dollars": (["$1,200.50", "-$3.00", "($5.00)"], [1200.5, -3.0, -5.0], {"unit": "$", "thousands": ","}, "in $"),
    "euros_behind": (["29.99 €", "9.99 €"], [29.99, 9.99], {"unit": "€"}, "in €"),
    "code_of_currency": (["EUR 12", "EUR 5"], [12, 5], {"unit": "EUR"}, "in EUR"),
    "unit_at_times": (["12 €", "5"], [12, 5], {"unit": "€"}, "warning: in €"),
    "two_currencies": (["$5", "€7"], ["$5", "€7"], {}, "warning: text"),
    "percent": (["4.7%", "16.0%"], [4.7, 16.0], {"unit": "%"}, "5 % is 5"),
    "measure": (["5 kg", "7.5 kg"], [5.0, 7.5], {"unit": "kg"}, "in kg"),
    "parentheses": (["(12.50)", "3.00"], [-12.5, 3.0], {}, "negative"),
    "minus_behind": (["5-", "3"], [-5, 3], {}, "negative"),
    "unicode_minus": (["−5", "3"], [-5, 3], {}, ""),
    "infinite": (["inf", "1.5", "-inf", "2.5"], [None, 1.5, None, 2.5], {"missing": ["-inf", "inf"]}, "missing"),
    "excel_errors": (["#N/A", "#DIV/0!", "3.5"], [None, None, 3.5], {"missing": ["#DIV/0!"]}, "missing"),
    "words": (["unknown", "1", "2"], [None, 1, 2], {"missing": ["unknown"]}, "'unknown' (14)"),
    "dash": (["-", "1.5", "2"], [None, 1.5, 2.0], {"missing": ["-"]}, "count as missing"),
    "n_a": (["n.a.", "3"], [None, 3], {"missing": ["n.a."]}, "count as missing"),
    "usual_words": (["NA", "3", "", "NaN"], [None, 3, None, None], {}, ""),
    "top_coded": (["90+", "3", "4"], ["90+", "3", "4"], {}, "warning: text, because"),
    "codes": (["A", "1", "2", "3"], ["A", "1", "2", "3"], {}, "warning: text, because"),
    "zip": (["01234", "12345"], ["01234", "12345"], {"type": "text"}, "leading zero"),
    "zip_all_zero": (["007", "012"], ["007", "012"], {"type": "text"}, ""),
    "phone": (["+4912345678", "+4987654321"], ["+4912345678", "+4987654321"], {"type": "text"}, "a plus"),
    "past_2_53": (["9007199254740993", "3"], [9007199254740993, 3], {}, ""),
    "past_2_63": (["12345678901234567890", "3"], ["12345678901234567890", "3"], {"type": "text"}, "more digits"),
    "hexadecimal": (["0x1F", "0x2A"], ["0x1F", "0x2A"], {}, "hexadecimal"),
    "prefix": (["k28", "k30"], ["k28", "k30"], {}, ""),
    "version": (["1.2.3", "1.2.4"], ["1.2.3", "1.2.4"], {}, ""),
    "address": (["192.168.1.1", "10.0.0.1"], ["192.168.1.1", "10.0.0.1"], {}, ""),
    "scaled": (["1.2k", "3M"], ["1.2k", "3M"], {}, "such as '1.2k', but looks like numbers of several units"),
    "other_unit": (["12 km/h", "0 km/h", "unknown"], [12, 0, None], {"unit": "km/h", "missing": ["unknown"]}, "in km/h"),
    "degrees": (["-12.5°", "15°"], [-12.5, 15.0], {"unit": "°"}, "in °"),
    "accounting": (["$ (5.00)", "$ 7.00"], [-5.0, 7.0], {"unit": "$"}, "negative"),
    "two_apostrophes": (["1'234.50", "1’234.50", "7.00"], [1234.5, 1234.5, 7.0], {"thousands": "'"}, "separates thousands"),
    "full_width": (["１２．５", "７"], [12.5, 7.0], {}, ""),
    "arabic_digits": (["١٢٣", "٤٥٬٠٠٠"], [123, 45000], {"thousands": ","}, ""),
    "two_units": (["5.00 CR", "7.00 DR"], ["5.00 CR", "7.00 DR"], {}, "numbers of several units"),
    "seat": (["A12", "B7"], ["A12", "B7"], {}, ""),
    "social": (["123-45-6789", "987-65-4321"], ["123-45-6789", "987-65-4321"], {}, ""),
    "iban": (["DE89 3704 0044 0532"], ["DE89 3704 0044 0532"], {}, ""),
    "sql_null": (["\\N", "5"], [None, 5], {}, ""),
    "pandas_null": (["<NA>", "5", "-nan", "1.#QNAN"], [None, 5, None, None], {}, ""),
    "no_space": (["a\u200b", "a"], ["a", "a"], {}, "spaces around 20"),
    "boolean": (["true", "FALSE"], [True, False], {}, ""),
    "answer": (["Yes ", "yes", " No"], ["Yes", "yes", "No"], {}, "spaces around"),
    "turkish": (["İYİ", "hayır"], ["İYİ", "hayır"], {}, ""),
    "country": (["NA", "DE"], [None, "DE"], {}, "cells of text count as missing: 'NA'"),
    "time_of_day": (["10:00", "11:30"], ["10:00", "11:30"], {}, "looks like times of the day"),
    "quoted": (['he said "hi"', "a, b", "two\nlines"], ['he said "hi"', "a, b", "two\nlines"], {}, ""),
}  # fmt: skip
# In the German way, delimited by semicolons. `ambiguous` is only decided by the other columns.
GERMAN: dict[str, tuple[list[str], list[Any], dict[str, Any], str]] = {
    "income": (["1.234,56", "12,00"], [1234.56, 12.0], {"decimal": ",", "thousands": "."}, "separates thousands"),
    "ambiguous": (["42.567", "9.479"], [42567, 9479], {"decimal": ",", "thousands": "."}, "separates thousands"),
    "ambiguous_decimal": (["1,234", "2,345"], [1.234, 2.345], {"decimal": ","}, "comma"),
    "decimal": (["0,5", "2,7"], [0.5, 2.7], {"decimal": ","}, "comma"),
    "money": (["1.200,50 €", "3,00 €"], [1200.5, 3.0], {"unit": "€", "decimal": ",", "thousands": "."}, "in €"),
    "dotted": (["1.2.2025", "3.4.2025"], [day(2025, 2, 1), day(2025, 4, 3)], {"format": "%d.%m.%Y"}, "%d.%m.%Y"),
}  # fmt: skip
# Dates whose day is known by a value above 12 in `sure`, so that those of `both` have it first, too.
DATES: dict[str, tuple[list[str], list[Any], dict[str, Any], str]] = {
    "iso": (["2024-01-31", "2024-01-31 10:00"], [day(2024, 1, 31), day(2024, 1, 31, 10)], {}, ""),
    "offset": (["2024-01-31T10:00:00+02:00", "2024-01-31T10:00:00Z"], [day(2024, 1, 31, 8), day(2024, 1, 31, 10)], {}, "UTC"),
    "offset_apart": (["2024-01-31 10:00:00 +0200"], [day(2024, 1, 31, 8)], {}, "UTC"),
    "fraction": (["2024-01-31T10:00:00.123456"], [day(2024, 1, 31, 10, 0, 0, 123456)], {}, ""),
    "sure": (["31/12/2025", "01/02/2025"], [day(2025, 12, 31), day(2025, 2, 1)], {"format": "%d/%m/%Y"}, "%d/%m/%Y"),
    "both": (["01/02/2025", "03/04/2025"], [day(2025, 2, 1), day(2025, 4, 3)], {"format": "%d/%m/%Y"}, "another column"),
    "both_kinds": (["31/12/2025", "12/31/2025"], ["31/12/2025", "12/31/2025"], {}, "warning: text"),
    "dotted_time": (["31.12.2025 14:00", "01.02.2025 09:30"], [day(2025, 12, 31, 14), day(2025, 2, 1, 9, 30)], {"format": "%d.%m.%Y %H:%M"}, ""),
    "two_digits": (["31/12/25", "01/02/99"], [day(2025, 12, 31), day(1999, 2, 1)], {"format": "%d/%m/%y"}, "20th century"),
    "year_first": (["25/01/31", "24/02/28"], [day(2025, 1, 31), day(2024, 2, 28)], {"format": "%y/%m/%d"}, "two digits"),
    "compact": (["20251231", "20250115"], [day(2025, 12, 31), day(2025, 1, 15)], {"format": "%Y%m%d"}, "%Y%m%d"),
    "not_compact": (["12024567", "20240131"], [12024567, 20240131], {}, ""),
    "month": (["2025-12", "2025-11"], [day(2025, 12, 1), day(2025, 11, 1)], {"format": "%Y-%m"}, "%Y-%m"),
    "basic": (["20240131T100000Z"], [day(2024, 1, 31, 10)], {"format": "%Y%m%dT%H%M%SZ"}, ""),
    "names": (["5 Jan 2024", "17 February 2024"], [day(2024, 1, 5), day(2024, 2, 17)], {"format": ["%d %b %Y", "%d %B %Y"]}, ""),
    "american": (["Jan 5, 2024", "Feb 17, 2024"], [day(2024, 1, 5), day(2024, 2, 17)], {"format": "%b %d, %Y"}, ""),
    "oracle": (["05-JAN-24", "17-FEB-24"], [day(2024, 1, 5), day(2024, 2, 17)], {"format": "%d-%b-%y"}, ""),
    "mail": (["Mon, 05 Feb 2024 10:00:00"], [day(2024, 2, 5, 10)], {"format": "%a, %d %b %Y %H:%M:%S"}, ""),
    "german_names": (["5. Januar 2024", "1. März 2024"], ["5. Januar 2024", "1. März 2024"], {}, "names of months are read in English only"),
    "polish_names": (["5 stycznia 2024", "17 lutego 2024"], ["5 stycznia 2024", "17 lutego 2024"], {}, "names of months are read in English only"),
    "russian_names": (["05-янв-24", "17-фев-24"], ["05-янв-24", "17-фев-24"], {}, "names of months are read in English only"),
    "spanish_names": (["5 de enero de 2024", "7 de mayo de 2024"], ["5 de enero de 2024", "7 de mayo de 2024"], {}, "names of months are read in English only"),
    "ctime": (["Wed Jan 31 10:00:00 2024"], ["Wed Jan 31 10:00:00 2024"], {}, "looks like dates"),
    "named_zone": (["2024-01-31 10:00 CET"], ["2024-01-31 10:00 CET"], {}, "looks like dates"),
    "quarter": (["2024Q1", "2024-Q2"], ["2024Q1", "2024-Q2"], {}, "looks like dates"),
    "dots_and_spaces": (["31. 1. 2024", "2. 3. 2024"], [day(2024, 1, 31), day(2024, 3, 2)], {"format": "%d. %m. %Y"}, ""),
    "clock": (["31.01.2024 14:30 Uhr"], [day(2024, 1, 31, 14, 30)], {"format": "%d.%m.%Y %H:%M Uhr"}, ""),
    "web_log": (["31/Jan/2024:10:00:00 +0200"], [day(2024, 1, 31, 8)], {"format": "%d/%b/%Y:%H:%M:%S %z"}, "UTC"),
    "february_30": (["2024-02-30", "2024-01-31"], ["2024-02-30", "2024-01-31"], {}, "no one way reads all of its 40 dates"),
    "japanese": (["2024年1月31日", "2024年12月1日"], [day(2024, 1, 31), day(2024, 12, 1)], {"format": "%Y年%m月%d日"}, ""),
    "korean": (["2024년 1월 31일"], [day(2024, 1, 31)], {"format": "%Y년 %m월 %d일"}, ""),
    "dotted_month": (["12.2024", "01.2025"], [day(2024, 12, 1), day(2025, 1, 1)], {"format": "%m.%Y"}, ""),
    "no_month": (["12.2024", "11.9025", "10.1234"], [12.2024, 11.9025, 10.1234], {}, ""),
    "sizes": (["5 Pack 20", "6 Pack 20"], ["5 Pack 20", "6 Pack 20"], {}, ""),
    "half_days": (["13/02/2024 02:30 PM", "14/02/2024 11:00 AM"], [day(2024, 2, 13, 14, 30), day(2024, 2, 14, 11)], {"format": "%d/%m/%Y %I:%M %p"}, ""),
    "mixed": (["31.01.2024", "31.01.2024 10:00"], [day(2024, 1, 31), day(2024, 1, 31, 10)], {"format": ["%d.%m.%Y", "%d.%m.%Y %H:%M"]}, ""),
    "two_ways": (["2024-01-31", "31.01.2024"], [day(2024, 1, 31), day(2024, 1, 31)], {"format": ["%d.%m.%Y", "%Y-%m-%d"]}, ""),
    "open": (["2024-01-31", "0000-00-00", "9999-12-31"], [day(2024, 1, 31), None, None], {}, "26 dates"),
    "open_dotted": (["31.12.9999", "31.01.2024", "00.00.0000"], [None, day(2024, 1, 31), None], {"format": "%d.%m.%Y"}, "27 dates"),
    "word": (["open", "2024-01-31", "2024-02-01"], [None, day(2024, 1, 31), day(2024, 2, 1)], {"missing": ["open"]}, "count as missing"),
    "no_date": (["2024-13-45", "2024-01-01"], ["2024-13-45", "2024-01-01"], {"type": "text"}, "warning: text"),
    "created_at": (["1704326400", "1714326400"], [day(2024, 1, 4), day(2024, 4, 28, 17, 46, 40)], {"format": "epoch_s"}, "seconds since 1970"),
    "event_time": (["1704326400000"], [day(2024, 1, 4)], {"format": "epoch_ms"}, "milliseconds since 1970"),
    "account": (["1704326400", "1714326400"], [1704326400, 1714326400], {}, ""),
    "far": (["2999-12-31", "2024-01-31"], [None, day(2024, 1, 31)], {}, "20 dates"),
}  # fmt: skip
FILES = {"english": (ENGLISH, ","), "german": (GERMAN, ";"), "dates": (DATES, ",")}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Table, Table]]:
    """Each file of the cases, read, and read again by what the first reading found."""
    made: dict[str, tuple[Table, Table]] = {}

    def tables(name: str) -> tuple[Table, Table]:
        if name not in made:
            cases, delimiter = FILES[name]
            folder = tmp_path_factory.mktemp(name)
            write(folder / "t.csv", {column: values for column, (values, *_) in cases.items()}, delimiter)
            found = read("t.csv", folder)
            made[name] = found, read("t.csv", folder, Reading.model_validate(found.reading.model_dump()))
        return made[name]

    return tables


@pytest.mark.parametrize(("name", "column"), [(n, c) for n, (cases, _) in FILES.items() for c in cases])
def test_a_column_means_what_its_owner_means(
    tables: Callable[[str], tuple[Table, Table]], name: str, column: str
) -> None:
    values, right, differs, said = FILES[name][0][column]
    found, again = tables(name)
    got = [row[0] for row in found.relation.project(f'"{column}"').fetchall()]
    assert got == [right[i % len(right)] for i in range(ROWS)], values
    assert differs.items() <= way(found, column).items()
    if not differs:
        assert not way(found, column).keys() & {"format", "missing", "unit", "thousands", "decimal"}
    assert said in told(found, column) and (said or differs or not told(found, column))
    assert got == [row[0] for row in again.relation.project(f'"{column}"').fetchall()]


def test_what_was_read_again_was_not_guessed(tables: Callable[[str], tuple[Table, Table]]) -> None:
    for name in FILES:
        found, again = tables(name)
        assert again.relation.types == found.relation.types and again.reading == found.reading
        assert all("missing" in note.text or "spaces" in note.text for note in again.notes)


def test_day_and_month_are_asked_where_nothing_shows_which_is_first(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", {"when": ["01/02/2025", "03/04/2025", "02/01/2025"]})
    found = read("t.csv", tmp_path)
    assert str(found.relation.types[1]) == "VARCHAR" and "day first or month first" in told(found, "when")
    for said, first in (("dayfirst", day(2025, 2, 1)), ("%m/%d/%Y", day(2025, 1, 2))):
        for key in ("when", None):
            table = read("t.csv", tmp_path, overrides=Overrides(dates={key: said}))
            assert table.relation.fetchall()[0][1] == first
    with pytest.raises(UserError, match=r"'when'.*day first or month first"):
        read("t.csv", tmp_path, overrides=Overrides(types={"when": "timestamp"}))
    with pytest.raises(UserError, match=r"'when'.*0 dayfirst"):
        write(tmp_path / "u.csv", {"when": ["01/13/2025"]})
        read("u.csv", tmp_path, overrides=Overrides(dates={"when": "dayfirst"}))


def test_days_that_are_their_months_are_a_warning(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", {"when": ["01/01/2025", "02/02/2025"]})
    assert "warning: dayfirst" in told(read("t.csv", tmp_path), "when")


def test_rows_in_the_order_of_time_show_which_is_first(tmp_path: Path) -> None:
    days = [f"{month:02}/{d:02}/2024" for month in range(1, 13) for d in (1, 4, 8, 11)]
    rows = "".join(f"{i},{when}\n" for i, when in enumerate(days))
    (tmp_path / "t.csv").write_text("n,when\n" + rows)
    found = read("t.csv", tmp_path)
    assert way(found, "when")["format"] == "%m/%d/%Y" and "warning: monthfirst" in told(found, "when")
    assert found.relation.fetchall()[1][1] == day(2024, 1, 4)


@pytest.mark.parametrize(
    ("values", "delimiter", "right", "meant"),
    [
        (["1.234", "5.678"], ",", 1.234, "decimals"),
        (["1,234", "2,345"], ",", 1234, "thousands"),
        (["1,234", "2,345"], ";", 1.234, "decimals"),
    ],
)
def test_thousands_or_decimals_is_a_warning_where_nothing_shows_which(
    tmp_path: Path, values: list[str], delimiter: str, right: float, meant: str
) -> None:
    write(tmp_path / "t.csv", {"x": values}, delimiter)
    found = read("t.csv", tmp_path)
    assert found.relation.fetchall()[0][1] == right
    assert f"warning: {values[0][1]!r} could separate" in told(found, "x") and f"{meant} taken" in told(
        found, "x"
    )


@pytest.mark.parametrize(
    ("values", "said", "right"),
    [
        (["5", "7"], "text", "5"),
        (["5", "90+"], "integer", 5),
        (["5", "7"], "number", 5.0),
        (["yes", "no"], "boolean", True),
        (["1", "0"], "boolean", True),
        (["01234", "12345"], "integer", 1234),
        (["1704326400"], "timestamp", day(2024, 1, 4)),
    ],
)
def test_a_type_that_was_said_is_taken(tmp_path: Path, values: list[str], said: str, right: object) -> None:
    write(tmp_path / "t.csv", {"x": values})
    found = read("t.csv", tmp_path, overrides=Overrides(types={"x": said}))
    assert found.relation.fetchall()[0][1] == right and type(found.relation.fetchall()[0][1]) is type(right)
    assert found.reading.columns["x"].type == said
    assert read("t.csv", tmp_path, found.reading).relation.fetchall() == found.relation.fetchall()


def test_the_timestamp_is_read_as_one_whatever_it_is_called(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", {"x": ["1704326400"], "y": ["word"]})
    assert read("t.csv", tmp_path, overrides=Overrides(timestamp="x")).relation.fetchall()[0][1] == day(
        2024, 1, 4
    )
    assert read("t.csv", tmp_path, overrides=Overrides(timestamp="y")).relation.fetchall()[0][2] == "word"


def test_a_type_that_no_value_has_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", {"x": ["a", "b"]})
    with pytest.raises(UserError, match="column 'x' can't be of type number: such as 'a'"):
        read("t.csv", tmp_path, overrides=Overrides(types={"x": "number"}))
    with pytest.raises(UserError, match="has no column 'y'; it has: row, x"):
        read("t.csv", tmp_path, overrides=Overrides(types={"y": "number"}))


@pytest.mark.parametrize(
    ("way", "values", "problem"),
    [
        (ReadColumn(type="integer"), ["5", "x5"], "20 values are no integer, the first is 'x5' in row 2"),
        (ReadColumn(type="integer"), ["5", "5.5"], "are no integer, the first is '5.5' in row 2"),
        (ReadColumn(type="number", decimal=","), ["5,5", "5.5"], r"no number \(like 1234,5\).*'5.5'"),
        (ReadColumn(type="timestamp", format="%d.%m.%Y"), ["31.12.2025", "12/31/2025"], r"no timestamp \(%d"),
        (
            ReadColumn(type="timestamp"),
            ["2025-12-31", "31.12.2025"],
            "no timestamp, the first is '31.12.2025'",
        ),
        (ReadColumn(type="boolean"), ["yes", "maybe"], "no boolean, the first is 'maybe'"),
    ],
)
def test_on_a_later_day_a_value_that_does_not_fit_is_named(
    tmp_path: Path, way: ReadColumn, values: list[str], problem: str
) -> None:
    write(tmp_path / "t.csv", {"x": values})
    with pytest.raises(UserError, match=f"column 'x': .*{problem}.*data.reading.columns.x.missing"):
        read("t.csv", tmp_path, Reading(columns={"x": way}))
    allowed = way.model_copy(update={"missing": [values[1]]})
    assert read("t.csv", tmp_path, Reading(columns={"x": allowed})).relation.fetchall()[1][1] is None


def test_missing_words_are_those_of_the_reading(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", {"x": ["NA", "DE"], "y": ["-", "NA"]})
    reading = Reading(missing=["-"], columns={"x": ReadColumn(type="text", missing=[])})
    table = read("t.csv", tmp_path, reading)
    assert [row[1:] for row in table.relation.fetchall()[:2]] == [("NA", None), ("DE", "NA")]
    assert table.notes == [Note("y", "note", "20 cells of text count as missing: '-'")]
