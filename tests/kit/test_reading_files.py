"""Where cells come from: encodings, containers, headers, rows that are none, files with types of their own."""

import bz2
import csv
import datetime
import gzip
import http.server
import io
import json
import lzma
import pickle
import re
import sys
import tarfile
import threading
import time
import zipfile
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import statsmodels
from tabloop import database, place, progress
from tabloop.cli import UserError
from tabloop.facts import Choices
from tabloop.infer import infer
from tabloop.reading import encodings, source
from tabloop.reading.read import read
from tabloop.reading.result import Overrides, Table
from tabloop.reading.settings import Reading

ROWS = [(20 + i, round(i * 1.5 + 0.25, 2), ["Bern", "Basel", "Zürich"][i % 3], i % 2) for i in range(40)]
HEAD, LINES = "age,income,city,churned\n", [",".join(map(str, row)) + "\n" for row in ROWS]
CSV = HEAD + "".join(LINES)
FRAME = pd.DataFrame(ROWS, columns=["age", "income", "city", "churned"])
RUSSIAN = CSV.replace("Zürich", "Москва").replace("Basel", "Тула")


def zipped(**files: str) -> bytes:
    """An archive of text files."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            archive.writestr(name.replace("_csv", ".csv"), text)
    return packed.getvalue()


def tarred(text: str) -> bytes:
    """An archive of one text file, compressed."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo("data/t.csv")
        member.size = len(text.encode())
        archive.addfile(member, io.BytesIO(text.encode()))
    return packed.getvalue()


def said(table: Table) -> str:
    """All notes, one a line."""
    return "\n".join(f"{note.severity} {note.column or ''}: {note.text}" for note in table.notes)


# name of the file: (its bytes, what differs from plain, words of what is said). All hold ROWS.
SAME: dict[str, tuple[bytes | str, dict[str, Any], str]] = {
    "plain.csv": (CSV, {}, ""),
    "UPPER.CSV": (CSV, {}, ""),
    "no_suffix": (CSV, {}, ""),
    "utf16.csv": (CSV.encode("utf-16"), {"encoding": "utf-16"}, ""),
    "utf16_no_mark.csv": (CSV.encode("utf-16-le"), {"encoding": "utf-16-le"}, ""),
    "utf8_mark.csv": (CSV.encode("utf-8-sig"), {}, ""),
    "cp1252.csv": (CSV.encode("cp1252"), {"encoding": "cp1252"}, "read as cp1252, so that a value is 'Zürich'"),
    "gzip.csv.gz": (gzip.compress(CSV.encode()), {}, ""),
    "cp1252.gz": (gzip.compress(CSV.encode("cp1252")), {"encoding": "cp1252"}, "warning"),
    "bzip.csv.bz2": (bz2.compress(CSV.encode()), {}, ""),
    "xz.csv.xz": (lzma.compress(CSV.encode()), {}, ""),
    "zip.zip": (zipped(t_csv=CSV), {}, ""),
    "tabs.tsv": (CSV.replace(",", "\t"), {"delimiter": "\t"}, ""),
    "semicolons.csv": (CSV.replace(",", ";"), {"delimiter": ";"}, ""),
    "bars.txt": (CSV.replace(",", "||"), {"delimiter": "||"}, ""),
    "windows.csv": (CSV.replace("\n", "\r\n"), {}, ""),
    "old_mac.csv": (CSV.replace("\n", "\r"), {}, ""),
    "line_ends.csv": (CSV.replace("\n", "\r\n", 20), {}, ""),
    "no_last_end.csv": (CSV[:-1], {}, ""),
    "blank_lines.csv": (CSV.replace("\n", "\n\n"), {}, ""),
    "nul.csv": (CSV.replace("Bern", "Be\0rn"), {}, "14 NUL bytes removed"),
    "aligned.txt": (FRAME.to_string(index=False) + "\n", {"format": "aligned"}, ""),
    "spaces.csv": (CSV.replace(",", ", "), {}, "spaces around 40 values removed"),
    "titles.csv": ("My report\n\n" + CSV, {"skip": 2}, "2 lines before the header left out: My report"),
    "titles_commas.csv": ("Report,2026,,\n,,,\n" + CSV, {"skip": 2}, "2 lines before the header"),
    "excel_sep.csv": ("sep=;\n" + CSV.replace(",", ";"), {"delimiter": ";", "skip": 1}, "sep=;"),
    "comments.csv": ("# by, me\n" + CSV, {"skip": 1, "comment": "#"}, "1 lines before the header"),
    "comment_within.csv": (HEAD + LINES[0] + "# hello\n" + "".join(LINES[1:]), {"comment": "#"}, "1 comments left out"),
    "header_again.csv": (HEAD + LINES[0] + CSV[len(HEAD + LINES[0]) :] + HEAD, {}, "1 rows left out: the header again"),
    "commas_only.csv": (HEAD + LINES[0] + ",,,\n,,,\n" + "".join(LINES[1:]), {}, "2 rows left out: blank"),
    "total.csv": (CSV + "Total,1234.5,,\n", {"footer": ["total"]}, "left out: 'Total,1234.5,,'"),
    "summe.csv": (CSV + ",,,\nSumme:,1234.5,,\n", {"footer": ["summe:"]}, "left out: 'Summe:,1234.5,,'"),
    "footer.csv": (CSV + "\nGenerated on 2026-01-01\n", {"footer": ["generated on"]}, "'Generated on 2026-01-01'"),
    "trailing.csv": (CSV.replace("\n", ",\n"), {}, ""),
    "trailing_rows.csv": (HEAD + "".join(LINES).replace("\n", ",\n"), {}, ""),
    "trailing_header.csv": (CSV.replace("\n", ",\n", 1), {}, ""),
    "cut_off.csv": (CSV + "41,22", {"bad_rows": "skip"}, "line 42; left out; line 42 is '41,22'"),
    "ragged.csv": (HEAD + LINES[0] + "5,6,Bern, BE,1\n" + "".join(LINES[1:]), {"bad_rows": "skip"}, "line 3 is '5,6,Bern, BE,1'"),
    "total_behind.csv": (CSV + ",,Total,20\n", {"footer": ["total"]}, "left out: ',,Total,20'"),
    "units.csv": (HEAD + "[years],[EUR],,[flag]\n" + "".join(LINES), {"header": False, "names": list(FRAME), "skip": 2}, "a second line of names left out: [years]"),
    "questions.csv": ("Survey\n" + HEAD + "How old?,Your income,Where?,Gone?\n" + "".join(LINES), {"header": False, "names": list(FRAME), "skip": 3}, "a second line of names left out: How old?"),
    "dashes.csv": (HEAD + "---,------,----,-\n" + "".join(LINES), {}, "1 rows left out: lines of dashes"),
    "markdown.md": ("".join(f"| {line.replace(',', ' | ')} |\n" for line in [HEAD[:-1], ":--,--:,:-:,---", *(r[:-1] for r in LINES)]), {"delimiter": "|"}, "lines of dashes"),
    "marks.tsv": (("##by=me\n##x=1,2\n" + CSV).replace(",", "\t"), {"delimiter": "\t", "skip": 2, "comment": "#"}, "2 lines before the header"),
    "sql_server.csv": (CSV + "\n(40 rows affected)\n", {"footer": ["("]}, "'(40 rows affected)'"),
    "packed_twice.gz": (gzip.compress(gzip.compress(CSV.encode())), {}, ""),
    "gzip_in.zip": (zipped(**{"a/t_csv": CSV, "a/.DS_Store": "x", "__MACOSX/t_csv": "x"}), {}, ""),
    "tar.tar.gz": (tarred(CSV), {}, ""),
    "mark.json": ("\ufeff" + FRAME.to_json(orient="records"), {"encoding": "utf-8-sig"}, ""),
    "records.json": (FRAME.to_json(orient="records"), {}, ""),
    "lines.jsonl": (FRAME.to_json(orient="records", lines=True), {}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_the_same_table_however_it_is_written(tmp_path: Path, name: str) -> None:
    content, differs, words = SAME[name]
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read(name, tmp_path)
    assert found.relation.fetchall() == ROWS and found.relation.columns == list(FRAME)
    assert found.reading.model_dump(exclude_defaults=True) == differs
    assert words in said(found) and (words or not found.notes)
    assert read(name, tmp_path, found.reading).relation.fetchall() == ROWS


def test_a_line_end_that_two_chunks_share_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "CHUNK", 64)
    path = tmp_path / "t.csv"
    for before in range(64):
        path.write_bytes(b"a" * before + b"\r\nb\r\n")
        assert encodings.as_utf8(path, None)[0] == path  # itself: no copy with other line ends was needed


def test_letters_of_another_alphabet_are_the_very_letters(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(RUSSIAN.encode("cp1251"))
    found = read("t.csv", tmp_path)
    assert found.reading.encoding == "cp1251" and "'Тула'" in said(found)
    assert {row[2] for row in found.relation.fetchall()} == {"Bern", "Тула", "Москва"}


WORDS = {
    "Zürich München Köln Größe weiß": ["cp1252", "cp850", "mac-roman"],
    "Orléans Béziers Besançon Nîmes Chloé": ["cp1252", "cp850", "mac-roman"],
    "Łódź Kraków Gdańsk Poznań Wrocław Wójcik": ["cp1250", "cp852"],
    "Plzeň České Děčín Třebíč Dvořák Šťastný": ["cp1250", "iso8859-2", "cp852"],
    "İstanbul Muğla Eskişehir Ağrı Çorum": ["cp1254", "cp857"],  # noqa: RUF001
    "Москва Казань Самара да нет": ["cp1251", "koi8-r", "cp866", "iso8859-5"],
    "Αθήνα Πάτρα Ηράκλειο Γιώργος Μαρία": ["cp1253"],
    "ירושלים חיפה משה שרה דוד": ["cp1255"],
    "القاهرة الرياض دبي محمد فاطمة": ["cp1256"],
    "東京 大阪 名古屋 札幌 さいたま はい": ["cp932", "euc-jp"],
    "北京 上海 广州 深圳 成都 男 女": ["gb18030"],
    "臺北 高雄 臺中 新竹 基隆 桃園 男": ["big5"],
    "서울 부산 대구 인천 남자 여자": ["cp949"],
}


@pytest.mark.parametrize(("words", "encoding"), [(w, e) for w, all_ in WORDS.items() for e in all_])
def test_a_few_words_show_their_encoding(tmp_path: Path, words: str, encoding: str) -> None:
    (tmp_path / "t.csv").write_bytes("".join(f"1,{w},5\n" for w in words.split()).encode(encoding))
    found, note = encodings.guessed(tmp_path / "t.csv")
    assert words.encode(encoding).decode(found) == words and note.severity == "warning"


def test_what_a_word_would_be_in_other_encodings_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a,b\n1,Säte\n2,weiß\n".encode("cp850"))
    found = read("t.csv", tmp_path)
    assert "is 'Säte', or 'S„te' in cp1252" in said(found) and "`--encoding` says which" in said(found)
    table = read("t.csv", tmp_path, overrides=Overrides(encoding="mac-roman"))
    assert table.relation.fetchall()[0] == (1, "SÑte") and not table.notes


def test_a_few_broken_bytes_do_not_make_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(CSV.encode() + "Ä,Ö,Ü\nß,é,à\n".encode() + b"1,2,Gen\xe8ve,0\n")
    with pytest.raises(UserError, match=r"t.csv is UTF-8 with broken bytes, such as b'Gen\\xe8ve'"):
        read("t.csv", tmp_path)


def test_several_files_are_one_table(tmp_path: Path) -> None:
    for name in ("csv", "parquet", "hive"):
        (tmp_path / name).mkdir()
    for part, rows in enumerate((FRAME[:20], FRAME[20:])):
        rows.to_csv(tmp_path / f"csv/{part}.csv", index=False)
        rows.to_parquet(tmp_path / f"parquet/{part}.parquet")
    (tmp_path / "parquet/_SUCCESS").touch()
    FRAME.to_parquet(tmp_path / "hive", partition_cols=["city"])
    for path in ("csv", "csv/*.csv", "parquet", "parquet/*.parquet", str(tmp_path / "csv/*")):
        assert read(path, tmp_path).relation.fetchall() == ROWS
    assert sorted(read("hive", tmp_path).relation.project("age, income, city, churned").fetchall()) == ROWS
    FRAME.rename(columns={"age": "years"}).to_csv(tmp_path / "csv/2.csv", index=False)
    with pytest.raises(UserError, match=r"csv: 2.csv has columns \['years'.*0.csv has \['age'"):
        read("csv", tmp_path)
    (tmp_path / "csv/2.csv").write_bytes((tmp_path / "parquet/0.parquet").read_bytes())
    with pytest.raises(UserError, match=r"several formats \(csv, parquet\)"):
        read("csv", tmp_path)


@pytest.mark.parametrize("suffix", [".parquet", ".parq", ".PARQUET", ".feather", ".arrow", ""])
def test_columnar_files_are_known_by_their_first_bytes(tmp_path: Path, suffix: str) -> None:
    name = f"table{suffix}"
    (FRAME.to_feather if suffix in (".feather", ".arrow") else FRAME.to_parquet)(tmp_path / name)
    assert read(name, tmp_path).relation.fetchall() == ROWS


def test_a_stream_of_arrow(tmp_path: Path) -> None:
    table = pa.Table.from_pandas(FRAME)
    with pa.ipc.new_stream(str(tmp_path / "t.arrows"), table.schema) as stream:
        stream.write_table(table)
    assert read("t.arrows", tmp_path).relation.fetchall() == ROWS


def test_each_type_of_parquet(tmp_path: Path) -> None:
    when = datetime.datetime(2024, 1, 1, 12)
    values: dict[str, tuple[pa.Array, object, str]] = {
        "nested": (pa.array([{"a": 1}] * 4), None, "nested or unknown to a model: left out"),
        "list": (pa.array([[1]] * 4), None, "left out"),
        "decimal": (pa.array([Decimal("1.50")] * 4), 1.5, ""),
        "whole_decimal": (pa.array([Decimal("7")] * 4, pa.decimal128(10, 0)), 7, ""),
        "big_decimal": (pa.array([Decimal(10**25)] * 4, pa.decimal128(38, 0)), str(10**25), "no digit is lost"),
        "dictionary": (pa.array(["a", "b"] * 2).dictionary_encode(), "a", ""),
        "bytes": (pa.array([b"abc"] * 4), "abc", ""),
        "binary": (pa.array([b"\xff\xfe"] * 4), None, "bytes that are no text: left out"),
        "unsigned": (pa.array([2**64 - 1] * 4, pa.uint64()), str(2**64 - 1), "no digit is lost"),
        "small": (pa.array([5] * 4, pa.uint64()), 5, ""),
        "nanoseconds": (pa.array([1704110400_000_000_000] * 4, pa.timestamp("ns")), when, ""),
        "zoned": (pa.array([when] * 4, pa.timestamp("us", "Europe/Berlin")), when, ""),
        "date": (pa.array([when.date()] * 4), datetime.datetime(2024, 1, 1), ""),
        "open": (pa.array([when.date(), datetime.date(9999, 12, 31)] * 2), datetime.datetime(2024, 1, 1), "2 values"),
        "nan": (pa.array([1.5, float("nan"), None, float("inf")]), 1.5, "2 values NaN or infinite count as missing"),
        "boolean": (pa.array([True, None] * 2), True, ""),
        "zip": (pa.array(["01234", "12345"] * 2), "01234", "kept as text"),
        "digits": (pa.array(["12", "13"] * 2), "12", "kept as text"),
        "german": (pa.array(["31.12.2025"] * 4), datetime.datetime(2025, 12, 31), "%d.%m.%Y"),
        "comma": (pa.array(["1,5"] * 4), 1.5, "read as numbers"),
        "spaces": (pa.array([" a", "b "] * 2), "a", "spaces around 4 values removed"),
    }  # fmt: skip
    pq.write_table(pa.table({name: value for name, (value, _, _) in values.items()}), tmp_path / "t.parquet")
    found = read("t.parquet", tmp_path)
    first = dict(zip(found.relation.columns, found.relation.fetchall()[0], strict=True))
    for name, (_, right, words) in values.items():
        assert first.get(name) == right and type(first.get(name)) is type(right), name
        notes = " ".join(note.text for note in found.notes if note.column == name)
        assert words in notes and (words or not notes), name
    again = read("t.parquet", tmp_path, found.reading)
    assert (
        again.relation.fetchall() == found.relation.fetchall()
        and again.relation.types == found.relation.types
    )


def test_numbers_of_parquet_that_are_times(tmp_path: Path) -> None:
    columns = {"ms": [1704326400000, None], "s": [1704326400.0, 1714326400.0], "days": [20251231, 20250115]}
    pq.write_table(
        pa.table({name: pa.array(values) for name, values in columns.items()}), tmp_path / "t.parquet"
    )
    found = read("t.parquet", tmp_path, overrides=Overrides(types=dict.fromkeys(columns, "timestamp")))
    first = datetime.datetime(2024, 1, 4)
    assert found.relation.fetchall()[0] == (first, first, datetime.datetime(2025, 12, 31))
    assert read("t.parquet", tmp_path, found.reading).relation.fetchall() == found.relation.fetchall()


def test_parquet_with_duplicate_names_and_an_index(tmp_path: Path) -> None:
    columns = [pa.array([1, 2]), pa.array(["x", "y"]), pa.array([3, 4])]
    pq.write_table(pa.table(columns, names=["a", "b", "A"]), tmp_path / "t.parquet")
    found = read("t.parquet", tmp_path)
    assert found.relation.columns == ["a", "b", "A_2"] and found.duplicates == {"a": ["a", "A_2"]}
    FRAME.set_index(FRAME.index * 2 + 5).to_parquet(tmp_path / "u.parquet")
    assert read("u.parquet", tmp_path).relation.fetchall() == ROWS


def test_sheets_of_a_workbook(tmp_path: Path) -> None:
    typed = pd.DataFrame(
        {
            "when": pd.date_range("2024-01-01", periods=4, freq="7h"),
            "zip": ["01234", "12345"] * 2,
            "big": [9007199254740991] * 4,
            "part": [1.5, None] * 2,
            "yes": [True, False] * 2,
        }
    )
    with pd.ExcelWriter(tmp_path / "t.xlsx", engine="xlsxwriter") as book:
        FRAME.to_excel(book, index=False, sheet_name="Data")
        typed.to_excel(book, index=False, sheet_name="Typed", startrow=3, startcol=1)
        book.sheets["Typed"].write(0, 0, "A title")
    found = read("t.xlsx", tmp_path)
    assert found.relation.fetchall() == ROWS and found.reading.sheet == "Data"
    assert "warning : sheet 'Data' is read; there are also 'Typed'" in said(found)
    found = read("t.xlsx", tmp_path, overrides=Overrides(sheet="Typed"))
    second = datetime.datetime(2024, 1, 1, 7), "12345", 9007199254740991, None, False
    assert found.relation.columns == list(typed) and found.relation.fetchall()[1] == second
    assert read("t.xlsx", tmp_path, found.reading).relation.fetchall() == found.relation.fetchall()
    with pytest.raises(UserError, match=r"no sheet 'Nope'; it has: Data, Typed"):
        read("t.xlsx", tmp_path, overrides=Overrides(sheet="Nope"))


def test_each_other_sheet_that_holds_something_is_named(tmp_path: Path) -> None:
    with pd.ExcelWriter(tmp_path / "t.xlsx", engine="xlsxwriter") as book:
        book.book.add_worksheet("Empty")
        pd.DataFrame({"Report of": ["2026"]}).to_excel(book, index=False, sheet_name="Title")
        FRAME.to_excel(book, index=False, sheet_name="Data")
        pd.DataFrame({"a": [1]}).to_excel(book, index=False, sheet_name="Two rows")
        pd.DataFrame({"a": []}).to_excel(book, index=False, sheet_name="One row")
    found = read("t.xlsx", tmp_path)
    assert found.relation.fetchall() == ROWS and found.reading.sheet == "Data"
    assert "warning : sheet 'Data' is read; there are also 'Title', 'Two rows', 'One row'" in said(found)


def test_sheets_of_libreoffice_and_of_old_excel(tmp_path: Path) -> None:
    number, text = 'float" office:value', 'string" office:string-value'
    names = {"office": "office:1.0", "table": "table:1.0", "text": "text:1.0"}
    spaces = " ".join(
        f'xmlns:{n}="urn:oasis:names:tc:opendocument:xmlns:{name}"' for n, name in names.items()
    )
    rows = "".join(
        "<table:table-row>"
        + "".join(
            f'<table:table-cell office:value-type="{text if isinstance(v, str) else number}="{v}"><text:p>{v}</text:p></table:table-cell>'
            for v in row
        )
        + "</table:table-row>"
        for row in [list(FRAME), *ROWS]
    )
    sheet = f'<office:spreadsheet><table:table table:name="Data">{rows}</table:table></office:spreadsheet>'
    content = (
        f"<office:document-content {spaces}><office:body>{sheet}</office:body></office:document-content>"
    )
    kind = "application/vnd.oasis.opendocument.spreadsheet"
    manifest = '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
    (tmp_path / "t.ods").write_bytes(
        zipped(**{"mimetype": kind, "content.xml": content, "META-INF/manifest.xml": manifest})
    )
    found = read("t.ods", tmp_path)
    assert found.relation.fetchall() == ROWS and not found.notes
    nowcasting = Path(statsmodels.__file__).parent / "tsa/statespace/tests/results/frbny_nowcast/Nowcasting"
    old = read(str(nowcasting / "data/US/2016-07-29.xls"), tmp_path).relation
    assert old.project('"Date", "PAYEMS", "UNRATE"').fetchall()[-2] == (
        datetime.datetime(2016, 6, 1),
        144175,
        4.9,
    )


def test_json_keeps_digits_and_zeros_and_leaves_out_what_is_nested(tmp_path: Path) -> None:
    rows = [{"a": 9007199254740993, "z": "007", "s": "12", "n": {"x": 1}}, {"a": 2, "s": "13", "l": [1]}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    found = read("t.json", tmp_path)
    assert found.relation.columns == ["a", "z", "s"]
    assert found.relation.fetchall() == [(9007199254740993, "007", 12), (2, None, 13)]
    assert said(found).count("nested: left out") == 2
    assert "warning s: text in the file, read as integer" in said(found)


@pytest.mark.parametrize(
    ("content", "names", "words"),
    [
        ("".join(LINES), ["column_1", "column_2", "column_3", "column_4"], "no header found"),
        ("ann,bern\nbob,basel\ncarl,bern\n", ["column_1", "column_2"], "no header found"),
        ("unknown,5,Bern,1\n3,4,Basel,1\n5,4,Bern,0\n", [f"column_{i}" for i in range(1, 5)], "no header found"),
        ("name,town\nann,bern\nbob,basel\n", ["name", "town"], ""),
        ("country,2019,2020\nDE,3,4\nFR,4,5\n", ["country", "2019", "2020"], ""),
        ("#id,name\n1,x\n2,y\n", ["#id", "name"], ""),
        ("##by=me,you,them\n##x\n#id,name\n1,x\n2,y\n", ["#id", "name"], "2 lines before the header left out"),
        (" a ,b \n1,2\n", ["a", "b"], ""),
        ('"a\nb",c\n1,2\n', ["a b", "c"], ""),
        ('"age","n"\n"1",3,4\n"2",5,6\n', ["column_1", "age", "n"], "one name too few"),
        (",age\n0,3\n1,4\n", ["column_1", "age"], "column_1: has no name in the file"),
        ("a,b,a,A\n1,2,3,4\n", ["a", "b", "a_2", "A_3"], "a: 3 columns are called 'a'"),
        ("a,a,a_2\n1,2,3\n", ["a", "a_3", "a_2"], "a_3: 2 columns are called 'a'"),
    ],
)  # fmt: skip
def test_names_of_columns(tmp_path: Path, content: str, names: list[str], words: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    found = read("t.csv", tmp_path)
    assert found.relation.columns == names and words in said(found) and (words or not found.notes)
    again = read("t.csv", tmp_path, found.reading)
    assert again.relation.columns == names and again.relation.fetchall() == found.relation.fetchall()
    lines = content.replace("a\nb", "a b").count("\n") - found.reading.header - found.reading.skip
    assert len(found.relation.fetchall()) == lines


def test_duplicate_names_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(CSV.replace("income", "churned"))
    found = read("t.csv", tmp_path)
    assert found.duplicates == {"churned": ["churned", "churned_2"]}
    assert found.relation.fetchall() == ROWS


def test_whether_there_is_a_header_can_be_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\nx,y\nz,u\n")
    assert len(read("t.csv", tmp_path, overrides=Overrides(header=False)).relation) == 3
    (tmp_path / "u.csv").write_text("1,2\n3,4\n")
    assert read("u.csv", tmp_path, overrides=Overrides(header=True)).relation.columns == ["1", "2"]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ('a,b\n"x, y",1\n"he said ""hi""",2\n"two\nlines",3\n', ["x, y", 'he said "hi"', "two\nlines"]),
        ('a,b\n"he said \\"hi\\" x",1\n"x, y",2\nz,3\n', ['he said "hi" x', "x, y", "z"]),
        ("a,b\n'x, y',1\n'u, v',2\n", ["x, y", "u, v"]),
        ('a,b\n5" pipe,1\n6" pipe,2\n', ['5" pipe', '6" pipe']),
        ('a,b\n"C:\\dir\\",1\n"D:\\x",2\n', ["C:\\dir\\", "D:\\x"]),
        ('a, b, c\n"x, y", "u", 1\n"z", "v, w", 2\n', ["x, y", "z"]),
        ("a;b\nx,1;1,5\ny,2;2,5\n", ["x,1", "y,2"]),
    ],
)
def test_quotes_and_backslashes(tmp_path: Path, content: str, rows: list[str]) -> None:
    (tmp_path / "t.csv").write_text(content)
    found = read("t.csv", tmp_path)
    assert [row[0] for row in found.relation.fetchall()] == rows and not [
        n for n in found.notes if n.column is None
    ]
    assert read("t.csv", tmp_path, found.reading).relation.fetchall() == found.relation.fetchall()


# Cells with signs that delimit in other files. CleverCSV tells them from the delimiter by what the cells between are.
SIGNS = {
    "names": ["O'Brien, Ann", "Smith, Bob", "Doe, Eve"],
    "links": ["https://x.org/?a=1&b=2;c", "https://x.org/?a=3&b=7;c", "https://y.org/;d"],
    "objects": ['{"a": 1, "b": [1, 2]}', '{"a": 2, "b": [3, 4]}', '{"a": 3, "b": []}'],
    "words": ['he said "no; never" twice', "a | b", "yes, or no"],
    "decimals": ["12,50", "7,25", "1,75"],
}


@pytest.mark.parametrize("how", ["minimal", "all", "backslash"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|", "^", "~"])
def test_signs_of_other_files_in_cells_do_not_delimit(tmp_path: Path, delimiter: str, how: str) -> None:
    rows = [[f"2026-01-{i:02}", str(i), *(cells[i % 3] for cells in SIGNS.values())] for i in range(1, 29)]
    with (tmp_path / "t.csv").open("w", newline="") as file:
        quoting: Literal[0, 1] = csv.QUOTE_MINIMAL if how == "minimal" else csv.QUOTE_ALL
        back: dict[str, Any] = {"doublequote": False, "escapechar": "\\"} if how == "backslash" else {}
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting, **back)
        writer.writerows([["day", "number", *SIGNS], *rows])
    found = read(
        "t.csv", tmp_path, overrides=Overrides(types=dict.fromkeys([*SIGNS, "day", "number"], "text"))
    )
    assert found.relation.columns == ["day", "number", *SIGNS]
    assert [list(row) for row in found.relation.fetchall()] == rows


def test_a_table_whose_lines_two_delimiters_fit_is_read_by_the_usual_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b;c,d\n" + "red,blue;red,blue\n" * 20)
    assert read("t.csv", tmp_path).relation.columns == ["a", "b;c", "d"]


def test_a_cell_may_be_longer_than_the_csv_module_expects(tmp_path: Path) -> None:
    text = "a word, " * 40_000
    (tmp_path / "t.csv").write_text("age,text,y\n" + "".join(f'{i},"{text}",{i % 2}\n' for i in range(5)))
    assert read("t.csv", tmp_path).relation.fetchall() == [(i, text.strip(), i % 2) for i in range(5)]


def test_a_quote_that_is_not_closed_is_named_in_a_large_file_too(tmp_path: Path) -> None:
    rows = "".join(f"{i},some text,{i % 2}\n" for i in range(20_000))
    (tmp_path / "t.csv").write_text('a,b,c\n1,x,0\n2,"y,1\n' + rows)
    with pytest.raises(UserError, match="line 3 opens a quote and does not close it"):
        read("t.csv", tmp_path)


def test_what_a_file_that_knows_its_types_has_beside_columns(tmp_path: Path) -> None:
    pd.DataFrame({"x": [1, 2]}, index=[3, 5]).to_parquet(tmp_path / "index.parquet")
    assert "__index_level_0__: the index of pandas is left out" in said(read("index.parquet", tmp_path))
    pq.write_table(pa.table({"x": [[1], [2]]}), tmp_path / "nested.parquet")
    with pytest.raises(UserError, match="no usable column: all are nested"):
        read("nested.parquet", tmp_path)


def test_names_that_params_gives_are_as_many_as_the_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("1,2\n3,4\n")
    with pytest.raises(UserError, match=r"has 2 columns, and data\.reading\.names has 3"):
        read("t.csv", tmp_path, Reading(header=False, names=["a", "b", "c"]))


RAGGED = CSV + "5,6,Bern, BE,1\n" * 20


@pytest.mark.parametrize(
    ("name", "content", "overrides", "problem"),
    [
        (
            "ragged.csv",
            RAGGED,
            Overrides(),
            r"20 rows have not 4 cells.*line 42, 43, .*, \.\.\.; put text .*in quotes",
        ),
        ("one.csv", CSV + "5,6\n", Overrides(bad_rows="refuse"), r"1 rows have not 4 cells.* line 42"),
        (
            "quote.csv",
            'a,b\nx,1\n"y,2\nz,3\nu,4\nv,5\n',
            Overrides(),
            "line 3 opens a quote and does not close it",
        ),
        ("header.csv", HEAD, Overrides(), "has no rows"),
        ("blank.csv", "\n\n\n", Overrides(), "has no rows"),
        ("none*.csv", None, Overrides(), "no such file"),
        ("web.xls", "<html><table></table></html>", Overrides(), "is HTML or XML"),
        (
            "two.zip",
            zipped(a_csv=CSV, b_csv=CSV),
            Overrides(),
            r"holds 2 files \(a.csv, b.csv\): unpack it and name one",
        ),
        ("cut.csv.gz", gzip.compress(CSV.encode())[:-50], Overrides(), "can't be unpacked"),
        ("binary.csv", bytes(range(256)) * 20, Overrides(), "can't be read as a table"),
        ("nested.json", '{"a": {"b": 1}}', Overrides(), "must hold a list of flat records"),
        (
            "wrapped.json",
            json.dumps({"data": [{"a": 1}], "n": 1}),
            Overrides(),
            "must hold a list of flat records",
        ),
        ("columns.json", FRAME.to_json(), Overrides(), "must hold a list of flat records"),
        ("twice.json", '[{"a":1,"a":2}]', Overrides(), 'duplicate key "a"$'),
        ("comma.json", '[{"a":1},]', Overrides(), "Malformed JSON .*unexpected character.$"),
        ("paper.pdf", b"%PDF-1.7\n%\xe2\xe3", Overrides(), "of the format PDF, which is not read"),
        ("frame.pkl", pickle.dumps(FRAME), Overrides(), "of the format pickle, which is not read"),
        ("not.xlsx", zipped(**{"[Content_Types].xml": "x"}), Overrides(), "can't be read as a workbook"),
        ("wrong.csv", CSV, Overrides(encoding="ascii"), "is not ascii: .*give another encoding"),
        ("unknown.csv", CSV, Overrides(encoding="klingon"), "'klingon' is unknown"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(
    tmp_path: Path, name: str, content: str | bytes | None, overrides: Overrides, problem: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=problem) as caught:
        read(name, tmp_path, overrides=overrides)
    assert ("\n" not in str(caught.value) and name in str(caught.value)) or "klingon" in problem


def test_a_parquet_file_cut_off_is_refused(tmp_path: Path) -> None:
    FRAME.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-200])
    with pytest.raises(UserError, match=r"t\.parquet can't be read as a table"):
        read("t.parquet", tmp_path)


def test_wrong_rows_are_skipped_if_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(RAGGED)
    found = read("t.csv", tmp_path, overrides=Overrides(bad_rows="skip"))
    assert found.relation.fetchall() == ROWS and "20 rows have not 4 cells" in said(found)
    (tmp_path / "t.csv").write_text(RAGGED * 2)
    assert "41 rows" not in said(read("t.csv", tmp_path, found.reading))
    with pytest.raises(UserError, match=r"data\.reading\.bad_rows: skip"):
        read("t.csv", tmp_path, Reading())


def test_a_name_with_signs_of_a_pattern(tmp_path: Path) -> None:
    (tmp_path / "t [1].csv").write_text(CSV)
    FRAME.to_parquet(tmp_path / "t*.parquet")
    for name in ("t [1].csv", "t*.parquet"):
        assert read(name, tmp_path).relation.fetchall() == ROWS


class Server(http.server.BaseHTTPRequestHandler):
    """A web server of one table, and of all that can go wrong."""

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, body = self.path.partition("?")[0], CSV.encode()
        if path == "/silent.csv":
            time.sleep(1)
        elif path in ("/404.csv", "/500.csv"):
            self.send_error(int(path[1:4]))
        else:
            self.send_response(302 if path == "/moved.csv" else 200)
            self.send_header("Location", "/t.csv")
            self.send_header(
                "Content-Length", str(0 if path == "/moved.csv" else len(body) + 99 * (path == "/cut.csv"))
            )
            self.end_headers()
            for at in range(0, len(body) if self.command == "GET" and path != "/moved.csv" else 0, 200):
                self.wfile.write(body[at : at + 200])
                time.sleep(0.1 * (path == "/slow.csv"))


def test_a_table_of_a_web_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "SILENCE", 0.3)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert read(f"{url}/t.csv?token=x&b=[1]", tmp_path).relation.fetchall() == ROWS
        for name in ("moved.csv", "slow.csv", "folder/?format=csv"):
            assert source.fetched(f"{url}/{name}").read_text() == CSV
        for name, problem in {
            "404.csv": "404, message='Not Found'",
            "500.csv": "500, message='Internal Server Error'",
            "cut.csv": r"Not enough data .*received \d+ of \d+ bytes",
            "silent.csv": "[Tt]imeout",
        }.items():
            with pytest.raises(UserError, match=f"{url}/{name} can't be fetched: .*{problem}") as caught:
                read(f"{url}/{name}", tmp_path)
            assert "\n" not in str(caught.value)
        server.shutdown()
    with pytest.raises(UserError, match=r"can't be fetched: .*[Cc]onnect"):
        read(f"{url}/t.csv", tmp_path)
    (tmp_path / "t.csv").write_text(CSV)
    assert read(f"file://{tmp_path}/t.csv", tmp_path).relation.fetchall() == ROWS


def test_what_takes_long_shows_its_progress_on_a_terminal_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.csv").write_text(CSV)
    monkeypatch.setattr(progress, "DELAY", 0)
    for terminal in (True, False):
        shown = io.StringIO()
        monkeypatch.setattr(shown, "isatty", lambda terminal=terminal: terminal)
        monkeypatch.setattr(sys, "stderr", shown)
        infer(read("t.csv", tmp_path), Choices("churned", "city"), 0.2)
        place.copy(tmp_path / "t.csv", tmp_path / f"{terminal}/t.csv")
        lines = shown.getvalue().split("\r")
        for what in ("reading t.csv", "looking at columns", "converting", "counting", "comparing", "copying"):
            assert any(re.match(f"{what}.*%.* left", line) for line in lines) == terminal, what
        assert terminal or not shown.getvalue()


def test_a_table_need_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(database.SETTING, "0.03")
    monkeypatch.setattr(database, "LARGE", 0)
    wide = ", ".join(
        f"repeat(md5((range + {i})::VARCHAR), 8) AS t{i}" for i in range(4)
    )  # some 15 MB as text and 15 more as typed columns
    duckdb.sql(f"COPY (SELECT range AS id, {wide} FROM range(15000)) TO '{tmp_path}/t.csv'")
    found = read("t.csv", tmp_path)
    assert found.relation.aggregate("count(*), sum(id), min(length(t3))").fetchall() == [
        (15_000, 112_492_500, 256)
    ]


@pytest.mark.parametrize("stream", [True, False])
def test_the_rows_of_a_large_file_stay_in_order(tmp_path: Path, stream: bool) -> None:
    """DuckDB's threads read its row groups, and a list of 20 words for a missing value is looked up for each cell."""
    number = np.arange(300_000)
    texts = {f"text{i}": np.char.add("t", (number * (i + 1)).astype(str)) for i in range(3)}
    pq.write_table(pa.table({"number": number, **texts}), tmp_path / "t.parquet", row_group_size=30_000)
    columns = {"number": "integer", **dict.fromkeys(texts, "text")}
    reading = Reading.model_validate({"columns": {name: {"type": kind} for name, kind in columns.items()}})
    table = read(source.locate(str(tmp_path / "t.parquet"), tmp_path), tmp_path, reading, stream=stream)
    found = pa.Table.from_batches(table.relation.to_arrow_reader(1 << 15))
    assert (found["number"].to_numpy() == number).all()
    assert found["text0"].to_pylist() == texts["text0"].tolist()
