"""Tables as users have them."""

import sys
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import yaml
from tabloop.cli import UserError
from tabloop.params import RESERVED
from tabloop.reading.read import read
from tabloop.table import YAML_WORDS, classes, safe_names, snake

# Columns of the prediction log and the like: each of them may be a feature.
ORDINARY = [
    "label", "variant", "prediction_id", "model_version", "predicted_at", "date", "received_at", "prediction", "entity",
]  # fmt: skip


def test_a_name_is_ascii_and_snake_case() -> None:
    assert [snake(n) for n in ("TotalCharges", "Größe (cm)", " income ", "A/B")] == [
        "total_charges",
        "grosse_cm",
        "income",
        "a_b",
    ]


def test_names_are_different_and_taken_by_python_and_yaml() -> None:
    raw = ["a b", "a_b", "A B", "2nd", "class", "", "Größe", *YAML_WORDS, *RESERVED]
    names = safe_names(raw)
    assert list(names) == raw and len(set(names.values())) == len(raw)
    for name in names.values():
        assert name.isidentifier() and name not in RESERVED
        assert yaml.safe_load(name) == name


def test_only_reserved_names_are_changed() -> None:
    assert safe_names(ORDINARY) == {name: name for name in ORDINARY}
    assert safe_names(["probability", "event_timestamp"]) == {
        "probability": "probability_",
        "event_timestamp": "event_timestamp_",
    }


def test_delimiter_encoding_and_missing_values_are_found(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("größe;n\n1,5;1\nNA;2\n?;3\n".encode("cp1252"))
    table = read("t.csv", tmp_path).relation
    assert table.columns == ["größe", "n"] and table.filter('"größe" IS NULL').fetchall() == [
        (None, 2),
        (None, 3),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "no such file"), (b"", "is empty"), (b"a,b\n", "has no rows")],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(UserError, match=f"t.csv.*{problem}"):
        read("t.csv", tmp_path)


def test_a_folder_without_a_file_is_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "in/.hidden").mkdir(parents=True)
    (tmp_path / "in/.hidden/t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"^in: the folder has no file$"):
        read("in", tmp_path)


@pytest.mark.parametrize(("url", "package"), [("s3://b/t.csv", "s3fs"), ("gs://b/t.csv", "gcsfs")])
def test_a_url_whose_library_is_missing_says_how_it_is_added(
    url: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed
    with pytest.raises(UserError, match=rf"^{url} can't be fetched: run `uv add {package}`$"):
        read(url, tmp_path)


def test_a_broken_parquet_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"not a table")
    with pytest.raises(UserError, match=r"t\.parquet can't be read as a table") as caught:
        read("t.parquet", tmp_path)
    assert "\n" not in str(caught.value)


def test_classes_are_those_of_the_one_rule() -> None:
    values = ["İYİ", " İYİ", "yok", "yok\t", None]
    frame = pd.DataFrame({"it's": values})
    found = classes(duckdb.from_df(frame), "it's")
    assert {text for text, _ in found.values()} == {"i̇yi̇", "yok"} and set(found) == set(values) - {None}
