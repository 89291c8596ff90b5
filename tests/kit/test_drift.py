"""Drift: what is found and what is not, each reason why nothing can be said, and the pages that say the same."""

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tabloop import drift
from tabloop.cli import UserError
from tabloop.params import Params

from . import monitored
from .conftest import LOG_COLUMNS, PARAMS
from .monitored import install, log, params, served

NAMES = ["c1", "c0", "v", "w0", "rows", *LOG_COLUMNS]  # also those of the SQL that counts
LEVELS = {"country": ["DE", "FR", "US"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monitored.enter(tmp_path, monkeypatch)
    install(tmp_path, "champion", params(), served(3000, seed=9), categories=LEVELS)
    return tmp_path


def check(folder: Path, chosen: Params | None = None) -> dict[str, Any]:
    result = drift.check(chosen or params())
    assert json.loads((folder / "reports/drift.json").read_text()) == result
    assert not list((folder / "reports").glob(".*"))
    page = (folder / "reports/drift.html").read_text()
    assert len(page) < 8_000 * (2 + len(result["columns"])) and "<script" not in page and "http" not in page
    assert ("<strong>Drift.</strong>" in page) == result["drift"]
    # As `whole` decides: new values alone are drift, not only half of a column's.
    assert ("or its new values reach their bar" in page) == bool(result["columns"])
    assert ("<strong>No drift.</strong>" in page) == (bool(result["columns"]) and not result["drift"])
    assert (
        re.findall(r"<tr><td>(\w+)</td>", page)
        == re.findall("<h2>(.+)</h2>", page)
        == list(result["columns"])
    )
    return result


def drifted(result: dict[str, Any]) -> set[str]:
    return {name for name, column in result["columns"].items() if column["drift"]}


def test_the_same_distribution_is_no_drift_another_is(folder: Path) -> None:
    assert "there is no prediction log" in drift.text(check(folder))
    log(folder, params(), served(900))
    few = drift.text(check(folder))
    assert few.startswith("Too few to check drift: 900 predictions of model champion since 2")
    assert "1,000 are needed" in few and "No drift" not in few
    log(folder, params(), served(600, seed=1))
    result = check(folder)
    assert not result["drift"] and result["rows"] == 1500 and not drifted(result)
    assert set(result["columns"]) == {*params().schema_.features, "probability"}
    assert drift.text(result).startswith("No drift in 1,500 predictions")
    moved = served(1500, seed=2).assign(amount=lambda rows: rows.amount * 4, country="US")
    log(folder, params(), moved)
    result = check(folder)
    assert drift.text(result).startswith("⚠️ **Drift** in 3,000 predictions")
    assert drifted(result) == {"amount", "country"} == set(list(result["columns"])[:2])
    assert "- 2 of 4 features have drifted, bar 30%" in drift.text(result)


def test_the_score_alone_is_enough_and_missing_values_are_drift_of_a_column(folder: Path) -> None:
    log(folder, params(), served(1200).assign(probability=lambda rows: rows.probability / 2))
    result = check(folder)
    assert result["drift"] and result["share"] == 0 and drifted(result) == {"probability"}
    (reason,) = result["reasons"]
    most = [name for name in result["columns"] if name != "probability"][:3]
    assert re.findall(r"(\w+) 0\.\d{3}(?:, |$)", reason.partition("; most moved: ")[2]) == most
    assert result["columns"][most[0]]["distance"] == max(result["columns"][n]["distance"] for n in most)
    assert f"- {reason}" in drift.text(result)
    gaps = served(4000, seed=3)
    gaps["country"] = gaps.country.mask(gaps.index % 3 == 0)
    log(folder, params(), gaps, version="champion")
    column = check(folder)["columns"]["country"]
    assert column["drift"] and column["missing"] > 0.2 and column["distance"] < 0.1


def test_a_change_that_rounds_to_nothing_has_no_minus(folder: Path) -> None:
    reference = served(4000, seed=4)
    reference["country"] = reference.country.mask(reference.index == 0)
    install(folder, "champion", params(), reference)
    log(folder, params(), served(1200))
    result = check(folder)
    assert -0.0005 < result["columns"]["country"]["missing"] < 0 and "-0.0%" not in drift.text(result)
    page = (folder / "reports/drift.html").read_text()
    for level in (name for name, *shares in result["columns"]["country"]["bins"] if any(shares)):
        assert f'text-anchor="middle">{level}</text>' in page
    assert "<td>+0.0&nbsp;%</td>" in page and ">-0.0" not in page


@pytest.mark.parametrize(
    ("change", "column", "why"),
    [
        ({"age": None}, "age", "100% of its values are gone"),
        ({"country": None}, "country", "100% of its values are gone"),
        ({"country": ""}, "country", "100% of its values are gone"),
        (
            {"country": "Österreich"},
            "country",
            "100.0% more new values, of a level or type that training did not have",
        ),
        ({"amount": float("nan")}, "amount", "100% of its values are gone"),
    ],
)
def test_a_column_that_is_lost_is_drift_by_itself(
    folder: Path, change: dict[str, Any], column: str, why: str
) -> None:
    log(folder, params(), served(1200, seed=4).assign(**change))
    result = check(folder, params(monitoring={"drift": {"share": 0.9}}))
    assert result["drift"] and drifted(result) == {column} and result["share"] == 0.25
    assert f"- {column}: {why}" in drift.text(result)


def test_a_new_level_is_drift_from_one_percent_a_known_one_is_not(folder: Path) -> None:
    rows = served(2000, seed=4)
    rows.loc[:9, "country"] = "PL"
    log(folder, params(), rows)
    assert not drifted(check(folder))
    rows.loc[:39, "country"] = "PL"
    log(folder, params(), rows)
    result = check(folder)
    assert result["drift"] and drifted(result) == {"country"}
    # A level that training saw, though the reference has none of it; and levels of which there are always new ones.
    install(
        folder, "champion", params(), served(3000, seed=9), categories={"country": [*LEVELS["country"], "PL"]}
    )
    assert not drifted(check(folder))
    many = np.array([f"shop {i}" for i in range(5000)])
    reference, rows = (
        served(3000, seed).assign(country=many[np.random.default_rng(seed).zipf(1.3, 3000) % 5000])
        for seed in (5, 6)
    )
    install(folder, "champion", params(), reference, version="wide", categories={"country": [*many[:500]]})
    log(folder, params(), rows, version="wide")
    result = check(folder)
    assert not result["drift"] and not drifted(result) and len(result["columns"]["country"]["bins"]) == 22


def test_a_type_that_changed_is_drift(folder: Path) -> None:
    """The column is text now: numbers that are written out are the same, words are not."""
    text = params(schema={"request": PARAMS["schema"]["request"] | {"amount": {"type": "category"}}})
    rows = served(1200, seed=4)
    log(folder, text, rows.assign(amount=rows.amount.map(repr)))
    assert not drifted(check(folder))
    log(folder, text, rows.assign(amount="12,50"))
    result = check(folder)
    assert result["drift"] and drifted(result) == {"amount"} and result["columns"]["amount"]["unseen"] == 0.5


def test_one_wild_row_is_no_drift(folder: Path) -> None:
    rows = served(5000, seed=4)
    rows.loc[7, ["age", "amount"]] = 1e9
    rows.loc[8, "amount"] = -np.inf
    rows.loc[9, "country"] = "?"
    log(folder, params(), rows.astype({"age": int}))
    result = check(folder)
    assert not result["drift"] and not drifted(result)
    reference = served(3000, seed=9)
    reference.loc[7, ["age", "amount"]] = 1e9, -1e9  # nor does one in the reference make them correlated
    install(folder, "champion", params(), reference, categories=LEVELS)
    result = check(folder)
    assert not result["drift"] and not drifted(result)


def test_two_columns_whose_correlation_changed_have_drifted(folder: Path) -> None:
    rows = served(3000, seed=4)
    rows["amount"], rows["age"] = np.sort(rows.amount), np.sort(rows.age)
    log(folder, params(), rows)
    result = check(folder)
    assert drifted(result) == {"age", "amount"} and result["drift"]
    assert all(c["distance"] < 0.1 for c in result["columns"].values())
    assert "correlation with amount" in drift.text(result)


def test_of_many_columns_all_pairs_are_correlated(folder: Path) -> None:
    request = {f"n{i}": {"type": "number"} for i in range(30)}
    chosen = params(schema={"views": {}, "request": request}, evaluate=PARAMS["evaluate"] | {"segments": []})
    random = np.random.default_rng(0)

    def wide(rows: int) -> pd.DataFrame:
        return served(rows).assign(**{name: random.normal(size=rows) for name in request})

    install(folder, "champion", chosen, wide(3000))
    rows = wide(2000)
    log(folder, chosen, rows.assign(n2=rows.n1, n28=rows.n29))
    result = check(folder, chosen)
    assert drifted(result) == {"n1", "n2", "n28", "n29"} and not result["drift"] and not result["notes"]


def test_few_reference_rows_or_many_levels_are_no_drift(folder: Path) -> None:
    for seed in range(5):
        install(folder, "champion", params(), served(60, seed=seed), version=f"v{seed}", categories=LEVELS)
        log(folder, params(), served(1200, seed=seed + 50), version=f"v{seed}")
        result = check(folder)
        assert not drifted(result) and result["columns"]["amount"]["distance"] > 0.1


def test_only_the_champions_predictions_of_the_window_count(folder: Path) -> None:
    strange = served(1500).assign(amount=1e6, country="US")
    log(folder, params(), strange, variant="challenger", version="champion")
    log(folder, params(), strange, version="an older champion")
    log(folder, params(), strange, at=datetime.now(UTC) - timedelta(days=8))
    assert "3,000 predictions are of other versions" in drift.text(check(folder))
    log(folder, params(), served(1200, seed=4))
    result = check(folder)
    assert result["rows"] == 1200 and not result["drift"]


def test_columns_that_the_reference_or_the_log_does_not_have(folder: Path) -> None:
    reference = served(3000).drop(columns="age").assign(country=None, amount=1.0, express=True)
    install(folder, "champion", params(), reference, categories={"country": []})
    log(folder, params(), served(1200).assign(express=True, country=None))
    result = check(folder)
    assert result["notes"] == ["age: not in the reference"]
    assert drifted(result) == {"amount"} and result["columns"]["amount"]["distance"] == 1
    wider = params(schema={"request": PARAMS["schema"]["request"] | {"new": {"type": "number"}}})
    install(folder, "champion", wider, served(3000).assign(new=1.5), categories=LEVELS)
    log(folder, params(), served(1200))
    result = check(folder, wider)
    assert "- new: 100% of its values are gone" in drift.text(result) and result["drift"]


def test_features_called_like_columns_of_the_log_are_compared(folder: Path) -> None:
    request = {name: {"type": "number"} for name in NAMES}
    chosen = params(schema={"views": {}, "request": request}, evaluate=PARAMS["evaluate"] | {"segments": []})
    values = served(1500)
    named = values.assign(**{name: values.amount + i for i, name in enumerate(NAMES)})
    install(folder, "champion", chosen, named)
    log(folder, chosen, named.assign(date=values.amount * 9))
    result = check(folder, chosen)
    assert set(result["columns"]) == {*NAMES, "probability"} and not result["notes"]
    assert drifted(result) == {"date"}


def test_no_champion_no_reference_an_old_report_stays(folder: Path) -> None:
    log(folder, params(), served(1200))
    check(folder)
    before = (folder / "reports/drift.json").read_text()
    (folder / "models/champion.dvc").rename(folder / "pin")
    with pytest.raises(UserError, match="there is no champion"):
        check(folder)
    (folder / "pin").rename(folder / "models/champion.dvc")
    path = folder / "models/champion/reference.parquet"
    kept = pd.read_parquet(path)
    path.write_text("no Parquet")
    with pytest.raises(UserError, match=r"models/champion\.dvc pins a model"):
        check(folder)
    for broken in (None, kept.drop(columns="probability"), kept.head(0)):
        path.unlink(missing_ok=True)
        install(folder, "champion", params(), broken)
        with pytest.raises(UserError, match=r"reference\.parquet can't be read") as caught:
            check(folder)
        assert "\n" not in str(caught.value) and len(kept)
    assert (folder / "reports/drift.json").read_text() == before
