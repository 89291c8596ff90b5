"""What is decided about each column of a table, and what its owner is told."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import plotly
import pytest
import time_machine
from tabloop import labels
from tabloop.cli import UserError
from tabloop.facts import Choices, constant_within
from tabloop.infer import Inferred, infer
from tabloop.params import Target
from tabloop.reading.read import read
from tabloop.reading.result import Table
from tabloop.reading.settings import Reading

from .conftest import orders

RANDOM = np.random.default_rng(0)
N = 500
HOLDOUT = 0.3
Y = RANDOM.integers(0, 2, N)


DB = duckdb.connect()  # one: each takes 20 ms of CPU


def relation(frame: pd.DataFrame) -> duckdb.DuckDBPyRelation:
    return DB.from_df(frame)


def decided(
    frame: pd.DataFrame,
    target: str = "y",
    entity: str | None = None,
    timestamp: str | None = None,
    **said: Any,
) -> Inferred:
    return infer(Table(relation(frame), Reading()), Choices(target, entity, timestamp, **said), HOLDOUT)


def one(values: Any, name: str = "x", **said: Any) -> tuple[str, str, str]:
    """Decision, reason and warnings of one column beside a target that it has nothing to do with."""
    found = decided(pd.DataFrame({name: values, "y": Y, "other": RANDOM.normal(size=N)}), **said).decisions[
        name
    ]
    return found.decision, found.why, "; ".join(found.warnings)


@pytest.fixture(scope="module")
def found() -> Inferred:
    frame = orders().rename(columns={"amount": "Amount (EUR)", "returned": "Returned?"})
    return decided(frame, "Returned?", "customer_id", "ordered_at")


def test_roles_views_and_request_are_found(found: Inferred) -> None:
    schema = found.schema
    assert schema["key"] == ["order_id"]
    assert schema["target"] == {"name": "returned", "positive": "1"}
    assert schema["views"] == {
        "customer_id_features": {"age": {"type": "integer"}, "country": {"type": "category"}}
    }
    assert schema["request"] == {"amount_eur": {"type": "number"}, "express": {"type": "boolean"}}
    assert found.segments == ["country"]


def test_renamed_columns_are_all_in_one_place(found: Inferred) -> None:
    assert found.schema["rename"] == {"returned": "Returned?", "amount_eur": "Amount (EUR)"}


def test_every_column_has_a_decision_and_nothing_is_to_be_warned_of(found: Inferred) -> None:
    assert set(found.decisions) == {*orders().columns, "Amount (EUR)", "Returned?"} - {"amount", "returned"}
    assert [d.warnings for d in found.decisions.values() if d.warnings] == [] and found.warnings == []


def test_entity_and_timestamp_are_the_key_where_they_are_unique() -> None:
    frame = orders().drop(columns="order_id")
    assert decided(frame, "returned", "customer_id", "ordered_at").schema["key"] == [
        "customer_id",
        "ordered_at",
    ]
    assert decided(frame, "returned", "customer_id").schema["key"] == []
    assert decided(frame, "returned").schema["key"] == []


# What tells rows apart


@pytest.mark.parametrize(
    ("name", "values", "decision"),
    [
        ("PassengerId", range(N), "key"),
        ("x", range(7, N + 7), "key"),
        ("x", np.arange(N) * 1.0, "key"),
        ("account_id", RANDOM.random(N), "key"),
        ("id2", RANDOM.random(N), "key"),
        ("Kunden-Nr.", RANDOM.permutation(10 * N)[:N], "key"),
        ("x", [f"k{i}" for i in range(N)], "key"),
        ("number_of_steps", RANDOM.permutation(10 * N)[:N], "integer"),
        ("price_index", RANDOM.permutation(10 * N)[:N], "integer"),
        ("income", RANDOM.random(N), "number"),
        ("price_index", RANDOM.random(N), "number"),
        ("children_number", RANDOM.integers(0, 5, N), "integer"),
        ("notes", [f"customer {i} said {'so ' * 40}" for i in range(N)], "left out"),
    ],
)
def test_ids_and_what_is_none(name: str, values: Any, decision: str) -> None:
    assert one(values, name)[0] == decision


def test_an_id_that_repeats_is_no_feature_in_silence() -> None:
    doubled = [f"o{max(i, 3)}" for i in range(N)]
    decision, why, warnings = one(doubled, "order_id")
    assert decision == "left out" and "3 rows repeat one" in why and "doubled?" in warnings
    assert one(RANDOM.integers(0, 400, N) * 7, "customer_id")[0] == "left out"
    decision, _, warnings = one(RANDOM.integers(0, 9, N), "store_id")
    assert decision == "category" and "--entity store_id" in warnings


def test_of_two_ids_the_one_called_so_is_the_key_and_the_other_is_said() -> None:
    frame = pd.DataFrame(
        {"x": range(N), "order_id": [f"o{i}" for i in range(N)], "f": RANDOM.normal(size=N), "y": Y}
    )
    found = decided(frame)
    assert found.schema["key"] == ["order_id"] and "--key x" in found.decisions["x"].warnings[0]
    other = decided(frame, key=("x",))
    assert other.schema["key"] == ["x"] and "--key order_id" in other.decisions["order_id"].warnings[0]
    assert set(found.schema["request"]) == set(other.schema["request"]) == {"f"}
    with pytest.raises(UserError, match=r"^--key y: 498 rows have the same key as another"):
        decided(frame, key=("y",))


def test_an_id_that_sorts_by_the_target_is_no_feature() -> None:
    frame = pd.DataFrame({"id": range(N), "f": RANDOM.normal(size=N), "y": np.sort(Y)})
    assert set(decided(frame).schema["request"]) == {"f"}
    named = decided(frame.rename(columns={"id": "rank"}).assign(rank=lambda rows: rows["rank"] * 3))
    assert "alone it predicts the target (AUC 1.0000)" in named.decisions["rank"].warnings[0]


def test_copies_of_rows_are_counted() -> None:
    frame = pd.DataFrame({"f": RANDOM.normal(size=N), "y": Y})
    assert decided(frame).warnings == []
    assert decided(pd.concat([frame, frame[:7]])).warnings[0].startswith("7 rows are exact copies")


def test_codes_are_said_and_can_be_categories() -> None:
    zips = RANDOM.integers(10000, 10040, N)
    assert one(zips, "zip")[0] == "integer" and "--type zip=category" in one(zips, "zip")[2]
    assert one(zips, "zip", types={"zip": "category"})[0] == "category"
    assert one(zips, "zip", drop=("zip",))[:2] == ("left out", "as you said")


@pytest.mark.parametrize(
    ("kind", "values", "problem"),
    [
        (
            "number",
            ["1", "2", "many"] * 166 + ["1", "2"],
            "^--type x=number: 166 rows have other values, such as 'many'",
        ),
        ("integer", [1.5] + [1.0] * (N - 1), "^--type x=integer: 1 rows have other values, such as '1.5'"),
        ("boolean", ["yes", "perhaps"] * 250, "^--type x=boolean: 250 rows"),
        ("days", range(N), "^--type x=days: it is no date"),
        ("days", pd.date_range("2020-01-01", periods=N), "^--type x=days: give TIMESTAMP"),
    ],
)
def test_a_type_that_the_values_are_not_of_is_refused(kind: str, values: Any, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        one(values, types={"x": kind})


@time_machine.travel("2026-03-01 12:00:00.9+00:00", tick=False)
def test_a_moment_ago_in_the_same_second_is_not_in_the_future() -> None:
    last = pd.Timestamp("2026-03-01 12:00:00.8")
    frame = orders().assign(ordered_at=lambda rows: rows.ordered_at - rows.ordered_at.max() + last)
    assert decided(frame, "returned", "customer_id", "ordered_at").schema["timestamp"] == "ordered_at"


def test_a_date_becomes_its_age_on_request() -> None:
    frame = orders().assign(since=lambda rows: rows.ordered_at - pd.to_timedelta(rows.age, unit="D"))
    plain = decided(frame, "returned", "customer_id", "ordered_at")
    assert (
        plain.decisions["since"].decision == "left out"
        and "--type since=days" in plain.decisions["since"].why
    )
    aged = decided(frame, "returned", "customer_id", "ordered_at", types={"since": "days"})
    assert aged.schema["request"]["since_days"] == {"type": "number", "days_since": "since"}
    ended = frame.assign(since=frame.since.where(frame.returned == 1))
    known = decided(ended, "returned", timestamp="ordered_at", types={"since": "days"}).decisions["since"]
    assert "alone it predicts the target" in known.warnings[0]
    frame.loc[:4, "since"] += pd.Timedelta(days=200)
    late = decided(frame, "returned", timestamp="ordered_at", types={"since": "days"})
    assert "5 rows have a date after TIMESTAMP" in late.decisions["since"].warnings[0]


def test_dates_that_can_be_read_in_two_ways_are_no_category() -> None:
    texts = [f"{day:02d}/{month:02d}/2024" for day, month in RANDOM.integers(1, 13, (N, 2))]
    decision, why, _ = one(texts, "when")
    assert decision == "left out" and "--date-format" in why
    with pytest.raises(UserError, match="--date-format when=dayfirst"):
        one(texts, "when", timestamp="when")
    assert one([f"{a}-{b}" for a, b in RANDOM.integers(1, 13, (N, 2))], "sizes")[0] == "category"


# The target


def target_of(*values: object, **said: Any) -> tuple[dict[str, Any], str, str]:
    frame = pd.DataFrame({"y": pd.Series(values, dtype=object)})
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    table = relation(frame if not numeric else frame.astype(float))
    found, why, warnings = labels.decide(table, Choices("y", **said), numeric)
    return found, why, "; ".join(warnings)


@pytest.mark.parametrize(
    ("values", "positive"),
    [
        ((0, 1, 1), "1"),
        ((1, 2, 2, 2), "1"),
        ((1, 1, 1, 2), "2"),
        ((-1, 1, 1), "1"),
        (("+", "+", "-"), "+"),
        (("0", "1.0", " 1"), "1"),
        ((True, False, True), "true"),
        (("Yes ", "yes", "YES", "No"), "yes"),
        (("evet", "evet", "hayır"), "evet"),  # noqa: RUF001
        (("İYİ", "HAYIR", "HAYIR"), "i̇yi̇"),
        (("healthy", "no", "no"), "healthy"),
        (("churned", "churned", "not churned"), "churned"),
        (("no", "maybe", "maybe"), "maybe"),
        (("a", "b", "b"), "a"),
        (("no", "0", "0"), "no"),
    ],
)
def test_the_positive_class(values: tuple[object, ...], positive: str) -> None:
    assert target_of(*values * 100)[0] == {"positive": positive}


def test_a_guess_is_said_and_the_other_way_shown() -> None:
    for values, other in ((("a", "b", "b"), "b"), ((1, 1, 2), "1")):
        assert f"else give `--positive {other}`" in target_of(*values * 100)[2]
    for pair in (("no", "yes"), (0, 1), ("healthy", "no"), ("churned", "not churned")):
        assert target_of(*pair * 100)[2] == ""
    assert target_of(*("a", "b", "b") * 100, positive="B ")[0] == {"positive": "b"}


def test_more_than_two_values() -> None:
    three = ("yes", "no", "no", "maybe") * 100
    with pytest.raises(UserError) as refused:
        target_of(*three)
    line = str(refused.value)
    assert line.startswith("TARGET=y has 3 values (no 200, maybe 100, yes 100): it must have two")
    assert "--positive yes` learns one against the rest" in line and "\n" not in line
    assert "`--positive yes --negative no`" in line
    found, why, warnings = target_of(*three, positive="yes")
    assert found == {"positive": "yes", "negative": "*"} and "(300)" in why and "all but 'yes'" in warnings
    found, why, warnings = target_of(*three, positive="yes", negative=("no",))
    assert found == {"positive": "yes", "negative": ["no"]} and "'maybe' (100) have no label" in warnings
    assert why == "'yes' is positive (100 rows), 'no' is not (200); 100 rows have no label yet"
    found, _, warnings = target_of(*("yes", "no", "Unknown") * 100)
    assert found == {"positive": "yes", "negative": ["no"]} and "'unknown' (100) have no label" in warnings
    both = {"positive": "yes", "negative": ["no", "maybe"]}
    assert target_of(*three, negative=("no", "maybe"))[0] == both
    for said, problem in (
        ({"positive": "si"}, "no value 'si'; it has: no 200"),
        ({"positive": "yes", "negative": ("yes",)}, "both"),
    ):
        with pytest.raises(UserError, match=problem):
            target_of(*three, **said)


def test_regression_is_one_line_with_the_option_that_works() -> None:
    values = tuple(range(1000))
    with pytest.raises(UserError, match=r"--at-least=(499|500)` learns"):
        target_of(*values)
    found, why, _ = target_of(*values, at_least=900.0)
    assert found == {"at_least": 900.0} and why == "at least 900 is positive (100 rows), less is not (900)"
    with pytest.raises(UserError, match=r"^--at-least: TARGET=y is not a number"):
        target_of("a", "b", at_least=1.0)
    for no_number in (float("nan"), float("inf")):
        with pytest.raises(UserError, match=rf"^--at-least: {no_number} is not a number$"):
            target_of(*values, at_least=no_number)


@pytest.mark.parametrize(
    ("values", "has"), [((1, "1.0", " 1 "), r"one value \(1 3\)"), ((None, None), "no value")]
)
def test_a_target_without_two_classes_is_refused(values: tuple[object, ...], has: str) -> None:
    texts = [None if value is None else str(value) for value in values]
    with pytest.raises(UserError, match=rf"^TARGET=y has {has}: it must have two"):
        target_of(*texts)


def test_all_values_of_a_target_count_and_the_commonest_are_shown() -> None:
    many = [*map(str, range(3000)), *["often"] * 50]
    with pytest.raises(UserError, match=r"^TARGET=y has 3,001 values \(often 50, 0 1, "):
        target_of(*many)
    with pytest.raises(UserError, match=r"^TARGET=y has 100,000 or more values \("):
        target_of(*map(str, range(100_001)))
    found, why, _ = target_of(*many, positive="often")
    assert found == {"positive": "often", "negative": "*"} and "(50 rows)" in why and "(3,000)" in why
    assert target_of(*many, positive="often", negative=("7", "8"))[1].endswith("2,998 rows have no label yet")


def test_few_rare_and_missing_labels_are_said_before_training() -> None:
    with pytest.raises(UserError, match=r"^TARGET=y: 1 rows are positive"):
        target_of(*[0] * 300, 1)
    assert "5 positive and 300 negative" in target_of(*[0] * 300, *[1] * 5)[2]
    assert "0.10% of the labels are positive" in target_of(*[0] * 99_900, *[1] * 100)[2]
    _, why, warnings = target_of(*["a", "b", None, None, None] * 100)
    assert why.endswith("; 300 rows have no label yet") and "60% of the rows have no label" in warnings


def test_the_label_is_the_same_in_sql_and_in_python() -> None:
    values = ["İYİ", " İYİ", "iyi", "1", "1.0", "yes ", "no", None, "nan"]
    table = relation(pd.DataFrame({"y": values}))
    for rule in (
        {"positive": "iyi"},
        {"positive": "İYİ", "negative": ["no", 1]},
        {"positive": "yes", "negative": "*"},
    ):
        target = Target(name="y", **rule)
        in_sql = [row[0] for row in table.project(labels.label_sql(table, "y", target)).fetchall()]
        assert in_sql == [None if value is None else target.label(value) for value in values]
    many = relation(pd.DataFrame({"y": ["rare", *(f"v{i}" for i in range(1500) for _ in "ab"), None]}))
    rest = labels.label_sql(many, "y", Target(name="y", positive="rare", negative="*"))
    assert many.project(f"{rest} AS label").aggregate("sum(label), count(label)").fetchall() == [(1, 3001)]
    numbers = relation(pd.DataFrame({"y": [1.0, 2.5, float("nan"), 3.0]}))
    bar = Target(name="y", at_least=2.5)
    in_sql = [row[0] for row in numbers.project(labels.label_sql(numbers, "y", bar)).fetchall()]
    assert in_sql == [0, 1, None, 1] and [bar.label(value) for value in (1.0, 2.5, "x", 3)] == [0, 1, None, 1]


# What gives the target away

NOISE = RANDOM.normal(size=N)
LEAKS: dict[str, Callable[[], Any]] = {
    "1 for 0": lambda: 1 - Y,
    "words": lambda: np.where(Y == 1, "alive", "dead"),
    "spellings": lambda: np.where(
        Y == 1, RANDOM.choice(["Yes", "y", "YES "], N), RANDOM.choice(["No", "n"], N)
    ),
    "boolean": lambda: Y == 1,
    "mostly there": lambda: pd.Series(Y.astype(float)).mask(NOISE < -3),
}


@pytest.mark.parametrize("name", LEAKS)
def test_copies_of_the_target_are_left_out(name: str) -> None:
    frame = pd.DataFrame({"y": Y, "f": NOISE, "copy": LEAKS[name]()})
    found = decided(frame)
    assert (
        found.decisions["copy"].decision == "left out" and "copy of the target" in found.decisions["copy"].why
    )
    assert set(found.schema["request"]) == {"f"}
    kind = "category" if frame["copy"].dtype == object else "number"
    assert set(decided(frame, types={"copy": kind}).schema["request"]) == {"f", "copy"}


def test_what_is_known_only_afterwards_is_named_and_stays() -> None:
    frame = pd.DataFrame({"y": Y, "f": NOISE, "score": Y * 10 + NOISE, "low": -9 * Y + NOISE})
    frame["reason"] = pd.Series(RANDOM.choice(list("abcdef"), N)).where(Y == 1)
    frame["odd"] = np.where(Y == 1, RANDOM.choice([1, 3, 5, 7], N), RANDOM.choice([2, 4, 6], N))
    found = decided(frame)
    for name in ("score", "low", "odd"):
        assert found.decisions[name].decision != "left out", name
        assert f"`--drop {name}`" in "; ".join(found.decisions[name].warnings), name
    assert found.decisions["f"].warnings == []
    assert found.decisions["reason"].warnings or found.decisions["reason"].decision == "left out"


def test_leaks_of_a_public_table_are_told_from_good_measurements() -> None:
    iris = pd.read_csv(Path(plotly.__file__).parent / "package_data/datasets/iris.csv.gz")
    found = decided(iris, "species", positive="setosa").decisions
    assert found["species_id"].decision == "left out" and "copy of the target" in found["species_id"].why
    assert found["petal_length"].decision == "number" and "AUC 1.0000" in found["petal_length"].warnings[0]
    assert found["sepal_width"].warnings == []


def test_many_levels_do_not_look_like_a_leak_by_chance() -> None:
    frame = pd.DataFrame({"y": Y, "f": NOISE, "code": [f"c{i}" for i in RANDOM.integers(0, 250, N)]})
    assert decided(frame).decisions["code"].warnings == []


def test_levels_that_differ_by_case_or_accents_are_said() -> None:
    assert "2 levels differ from another one" in one(RANDOM.choice(["DE", "de", "De", "FR"], N))[2]
    assert (
        "1 levels differ from another one"
        in one(RANDOM.choice(["Zu\u0308rich", "Z\u00fcrich", "Bern"], N))[2]
    )
    assert one(RANDOM.choice(["DE", "FR"], N))[2] == ""


# Roles


def test_a_table_without_a_feature_is_refused() -> None:
    with pytest.raises(UserError, match=r"^no column is left to learn from"):
        decided(pd.DataFrame({"x": [1, 1] * 9, "y": [0, 1] * 9}))


@pytest.mark.parametrize(
    ("roles", "problem"),
    [
        (("retruned", None, None), "^TARGET=retruned: no such column; did you mean 'returned'"),
        (("returned", "returned", None), "^TARGET=returned and ENTITY=returned"),
        (("returned", "ordered_at", "ordered_at"), "^ENTITY=ordered_at and TIMESTAMP=ordered_at"),
        (("returned", "gaps", None), "^ENTITY=gaps: 1 rows lack it"),
        (("returned", "blank", None), "^ENTITY=blank: 400 rows lack it"),
        (("returned", "same", None), "^ENTITY=same is the same in all rows"),
        (("returned", None, "today"), "^TIMESTAMP=today is the same in all rows"),
        (
            ("returned", None, "mostly"),
            "^TIMESTAMP=mostly: most rows are of 2026-01-01.*no row is older than the 30%",
        ),
        (("returned", None, "country"), "^TIMESTAMP=country: 'DE|FR|US' is no date"),
        (("returned", None, "later"), "^TIMESTAMP=later: .* rows are in the future, up to 2090"),
    ],
)
def test_a_column_that_cannot_have_its_role_is_named(
    roles: tuple[str, str | None, str | None], problem: str
) -> None:
    frame = orders().assign(
        gaps=lambda rows: rows.customer_id.mask(rows.index == 3),
        blank="  ",
        same="x",
        today=pd.Timestamp("2026-01-01"),
        mostly=lambda rows: (
            pd.Timestamp("2026-01-01") + pd.to_timedelta((rows.index > 390).astype(int), unit="D")
        ),
        later=lambda rows: rows.ordered_at.mask(rows.index > 390, pd.Timestamp("2090-01-01")),
    )
    with pytest.raises(UserError, match=problem):
        decided(frame, *roles)


@pytest.mark.parametrize("said", [{"drop": ("x",)}, {"types": {"x": "integer"}}])
def test_a_column_with_a_role_is_neither_dropped_nor_given_a_type(said: dict[str, Any]) -> None:
    option = "drop" if "drop" in said else "type"
    with pytest.raises(UserError, match=f"^ENTITY=x and --{option} x: give one of them"):
        one(range(N), entity="x", **said)


@pytest.mark.parametrize(
    ("role", "column", "value", "why"),
    [
        ("entity", "customer_id", "NA", "2 rows lack it (2 cells of text count as missing: 'NA'); fill"),
        (
            "timestamp",
            "ordered_at",
            "9999-12-31",
            "2 rows lack it (2 dates before 1678 or after 2261, or of zeros only,",
        ),
    ],
)
def test_why_values_that_stand_there_are_missing_is_said(
    role: str, column: str, value: str, why: str, tmp_path: Path
) -> None:
    """A country's code, or a date that means never."""
    frame = orders().astype({column: str})
    frame.loc[[5, 9], column] = value
    frame.to_csv(tmp_path / "t.csv", index=False)
    choices: dict[str, Any] = {role: column}
    with pytest.raises(UserError, match=re.escape(f"{role.upper()}={column}: {why}")):
        infer(read("t.csv", tmp_path), Choices("returned", **choices), HOLDOUT)


def test_long_texts_and_rows_without_a_time_are_no_feature_and_no_timestamp() -> None:
    texts = RANDOM.choice(["a" * 20_000, "b" * 20_000], N)
    assert one(texts)[:2] == ("left out", "text of up to 20,000 characters")
    times = pd.Series(pd.date_range("2026-01-01", periods=N, freq="h")).where(pd.Series(range(N)) != 7)
    with pytest.raises(UserError, match=r"^TIMESTAMP=x: 1 rows lack it; fill"):
        one(times, timestamp="x")


def test_spaces_around_the_entity_and_a_unique_entity_are_said() -> None:
    frame = orders().assign(customer_id=lambda rows: rows.customer_id + np.where(rows.index % 2, " ", ""))
    entity = decided(frame, "returned", "customer_id").decisions["customer_id"]
    assert entity.why == "40 of them" and "200 rows have spaces" in entity.warnings[0]
    assert set(decided(frame, "returned", "customer_id").schema["views"]["customer_id_features"]) == {
        "age",
        "country",
    }
    floats = orders().assign(customer_id=lambda rows: rows.customer_id.str[1:].astype(float))
    assert decided(floats, "returned", "customer_id").decisions["customer_id"].why == "40 of them"
    unique = decided(frame, "returned", "order_id")
    assert unique.schema["views"] == {} and len(unique.schema["request"]) == 5
    assert "nothing is looked up" in unique.decisions["order_id"].warnings[0]


def test_a_name_that_stands_twice_is_asked_for() -> None:
    frame = orders().assign(returned_1=lambda rows: rows.returned)
    table = Table(relation(frame), Reading(), [], {"returned": ["returned", "returned_1"]})
    with pytest.raises(UserError, match=r"^TARGET=returned: 2 columns have this name; .*--drop returned_1"):
        infer(table, Choices("returned"), HOLDOUT)
    assert (
        infer(table, Choices("returned", drop=("returned_1",)), HOLDOUT).schema["target"]["name"]
        == "returned"
    )


def test_a_holdout_without_a_class_is_said() -> None:
    frame = orders().assign(returned=lambda rows: (rows.index < 150).astype(int))
    warnings = decided(frame, "returned", None, "ordered_at").decisions["ordered_at"].warnings
    assert warnings == ["of the newest 30% of the rows, which are held out, 0 are positive"]


def test_what_never_changes_within_an_entity() -> None:
    frame = pd.DataFrame(
        {"who": ["a", "a", "b"], "same": [1, 1, 2], "other": [1, 2, 2], "gap": [1, None, 2], "none": None}
    )
    assert constant_within(relation(frame), "who", ["same", "other", "gap", "none"]) == ["same", "none"]


def test_a_large_table_is_described_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimates take the place of exact numbers only where nothing depends on them."""
    from tabloop import facts

    frame = orders(5000).assign(y=lambda rows: rows.returned, x=RANDOM.integers(0, 3000, 5000))
    exact = decided(frame, "y", drop=("returned",))
    monkeypatch.setattr(facts, "MANY", 100)
    assert decided(frame, "y", drop=("returned",)).schema == exact.schema
