"""Train holds what was known when the holdout begins: labels, rows, features."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tabloop import database, featurize, ingest, validate
from tabloop.cli import UserError
from tabloop.facts import Choices
from tabloop.infer import infer
from tabloop.params import Params
from tabloop.reading.result import Table
from tabloop.reading.settings import Reading
from tabloop.views import connect, refuse_to_look_ahead, view_rows

from .conftest import PARAMS, orders
from .test_infer import relation

AMOUNT = {"views": {}, "request": {"amount": {"type": "number"}}}
DAY = pd.Timedelta(days=1)
Featurize = Callable[..., tuple[str, pd.DataFrame, pd.DataFrame]]


def params_of(known_at: str | None = "labelled_at", **schema: Any) -> Params:
    target = PARAMS["schema"]["target"] | {"known_at": known_at}
    own = {"schema": PARAMS["schema"] | AMOUNT | {"target": target} | schema}
    return Params.model_validate(PARAMS | own | {"evaluate": PARAMS["evaluate"] | {"segments": []}})


def late(rows: int = 400) -> pd.DataFrame:
    """Orders whose label is known a day later, of every fifth row after a month."""
    delay = np.where(np.arange(rows) % 5, 1, 30)
    return orders(rows).assign(labelled_at=lambda table: table.ordered_at + delay * DAY)


@pytest.fixture
def featurized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Featurize:
    """`featurized(table, params)`: what ingest, validate and featurize say, and both parts."""
    for module in (ingest, featurize):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(featurize, "FEATURES", tmp_path / "data/features")
    monkeypatch.setattr(featurize, "ONLINE", tmp_path / "data/online")

    def featurized(table: pd.DataFrame, params: Params) -> tuple[str, pd.DataFrame, pd.DataFrame]:
        table.to_csv(tmp_path / "events.csv", index=False)
        raw = tmp_path / "data/raw"
        said = [ingest.ingest(params), validate.validate(params, raw, tmp_path / "report.json")]
        said.append(featurize.featurize(params, raw))
        train, holdout = (
            pd.read_parquet(tmp_path / f"data/features/{part}.parquet") for part in ("train", "holdout")
        )
        return "\n".join(said), train, holdout

    return featurized


def test_a_label_that_came_after_the_holdout_began_is_not_in_train(featurized: Featurize) -> None:
    table = late()
    said, train, holdout = featurized(table, params_of())
    begins = holdout.ordered_at.min()
    assert holdout.order_id.tolist() == table.order_id[300:].tolist()  # labels of any age count there
    known = table[(table.ordered_at < begins) & (table.labelled_at <= begins)]
    assert train.order_id.tolist() == known.order_id.tolist() and 200 < len(train) < 240
    assert (
        f", {300 - len(train)} whose label was not known at {begins}, when the holdout begins, left out"
        in said
    )
    assert "labelled_at" not in {*train, *holdout} and "known at" not in {*train, *holdout}
    said, everything, _ = featurized(table, params_of(None))
    assert len(everything) == 300 and "left out" not in said


def test_a_label_that_nobody_dates_is_not_in_train(featurized: Featurize) -> None:
    table = late()
    table.loc[:49, "labelled_at"] = pd.NaT
    _, train, _ = featurized(table, params_of())
    assert train.order_id.min() == "o00051"


def test_a_date_is_known_when_its_day_ends(featurized: Featurize, capsys: pytest.CaptureFixture[str]) -> None:
    table = orders().assign(
        labelled_at=lambda rows: rows.ordered_at.dt.date
    )  # as of the same day, at midnight
    _, train, holdout = featurized(table, params_of())
    assert (
        "labelled_at: dates without a time: labels count as known when the day ends"
        in capsys.readouterr().out
    )
    begins = holdout.ordered_at.min()
    assert begins.hour and train.ordered_at.max() == begins.normalize() - pd.Timedelta(hours=1)


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (
            lambda rows: rows.ordered_at - DAY,
            "labelled_at: must be not before ordered_at; 3 rows break it, row 3: ",
        ),
        (lambda rows: pd.Timestamp.now() + 3 * DAY, "labelled_at: must be not in the future; 3 rows"),
    ],
)
def test_labels_of_before_their_row_or_of_the_future_are_named(
    featurized: Featurize, wrong: Any, rule: str
) -> None:
    table = late()
    table.loc[2:4, "labelled_at"] = wrong(table.loc[2:4])
    with pytest.raises(UserError, match=rule):
        featurized(table, params_of())
    # Without a label there is nothing to be known.
    _, train, _ = featurized(
        table.assign(returned=table.returned.astype("Int64").mask(table.index < 5)), params_of()
    )
    assert train.order_id.min() > "o00004"


def test_known_at_is_a_time_of_its_own_and_no_feature(featurized: Featurize) -> None:
    with pytest.raises(
        UserError, match=r"column 'labelled_at': 400 values are no timestamp, the first is 'soon'"
    ):
        featurized(orders().assign(labelled_at="soon"), params_of())
    with pytest.raises(UserError, match=r"events\.csv lacks column 'labelled_at'"):
        featurized(orders(), params_of())
    age = {"days": {"type": "number", "days_since": "labelled_at"}}
    wrong: dict[str, dict[str, Any]] = {
        "declared twice: amount": {"known_at": "amount"},
        "needs a timestamp, which is another column": {"known_at": "ordered_at"},
        "known_at needs a timestamp": {"timestamp": None},
        "days: days_since labelled_at, which is known only with the label": {"request": age},
    }
    for message, changes in wrong.items():
        with pytest.raises(ValueError, match=message):
            params_of(**changes)


def test_nothing_to_learn_from_is_said_with_the_reason(featurized: Featurize) -> None:
    table = late().assign(labelled_at=lambda rows: rows.ordered_at + 60 * DAY)
    why = "the train part has 0 rows whose label was known when the holdout begins and 0 of the target's 2 classes"
    with pytest.raises(UserError, match=why):
        featurized(table, params_of())


def test_other_threads_and_less_memory_give_the_same_bytes(
    featurized: Featurize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of rows that are the same but for one value, and of more rows than one part of a file has."""
    params, raw = params_of(), tmp_path / "data/raw/events.parquet"
    featurized(late(1000), params)
    table = pd.concat([pd.read_parquet(raw)] * 130, ignore_index=True)
    table = table.assign(amount=np.random.default_rng(0).random(len(table)), order_id=table.index.astype(str))
    table.to_parquet(raw)
    connect, written = database.connect, list[dict[str, bytes]]()
    for many, memory in ((1, "1"), (3, "0.2")):

        def other(threads: int | None = None, many: int = many, **_: Any) -> Any:
            return connect(threads=threads or many)

        monkeypatch.setattr(database, "connect", other)
        monkeypatch.setenv(database.SETTING, memory)
        featurize.featurize(params, tmp_path / "data/raw")
        written.append({path.name: path.read_bytes() for path in (tmp_path / "data/features").iterdir()})
    assert len(written[0]) == 2 and written[0] == written[1]


VIEWS = {
    "the mean of all rows": ("avg(amount) OVER (PARTITION BY customer_id)", True),
    "the next row": ("lead(amount) OVER (PARTITION BY customer_id ORDER BY ordered_at)", True),
    "the rows of before": ("avg(amount) OVER (PARTITION BY customer_id ORDER BY ordered_at)", False),
    "labels of before, as if they were known": (
        "avg(returned) OVER (PARTITION BY customer_id ORDER BY ordered_at)",
        True,
    ),
    "a sum whose last digits are others": ("amount * (1 + 1e-9 * (SELECT count(*) FROM events))", False),
    "a sum that the rows of later change a little": (
        "amount * (1 + 1e-4 * (SELECT count(*) FROM events))",
        True,
    ),
}
TWICE = """
SELECT customer_id, ordered_at, amount AS feature FROM events
UNION ALL SELECT customer_id, ordered_at, amount + 1 FROM events
"""
KNOWN = """
SELECT customer_id, labelled_at AS ordered_at,
  avg(returned) OVER (PARTITION BY customer_id ORDER BY labelled_at) AS feature FROM events
"""
BY_DAY = "SELECT customer_id, ordered_at::DATE AS ordered_at, sum(amount) AS feature FROM events GROUP BY ALL"


@pytest.mark.parametrize(
    ("sql", "ahead"),
    [
        *(
            (f"SELECT customer_id, ordered_at, {feature} AS feature FROM events", ahead)
            for feature, ahead in VIEWS.values()
        ),
        (KNOWN, False),
        (TWICE, False),
        (BY_DAY, True),  # as known at the day's beginning, and it has the whole day
    ],
    ids=[*VIEWS, "labels when they were known", "two rows of a time", "a day at its beginning"],
)
def test_a_view_that_looks_ahead_is_refused(tmp_path: Path, sql: str, ahead: bool) -> None:
    view = {"history": {"feature": {"type": "number"}}}
    schema = params_of(views=view).schema_
    (tmp_path / "raw").mkdir()
    late().to_parquet(tmp_path / "raw/events.parquet")
    (tmp_path / "history.sql").write_text(sql)
    view_rows(connect(tmp_path / "raw"), schema, "history", tmp_path).write_parquet(
        str(tmp_path / "history.parquet")
    )
    check = (tmp_path / "raw", tmp_path, schema, "history", "2026-01-10 12:00:00", tmp_path)
    if ahead:
        with pytest.raises(
            UserError, match=r"^history\.sql looks ahead: [\d,]+ of its rows up to 2026-01-10 12"
        ):
            refuse_to_look_ahead(*check)
    else:
        refuse_to_look_ahead(*check)


def inferred(frame: pd.DataFrame, known_at: str | None = None, timestamp: str | None = "ordered_at") -> Any:
    said = Choices("returned", "customer_id", timestamp, known_at=known_at)
    return infer(Table(relation(frame), Reading()), said, 0.25)


def test_adopt_takes_the_column_that_says_when_a_label_was_known() -> None:
    table = late().rename(columns={"labelled_at": "Labelled at"})
    found = inferred(table, "Labelled at")
    assert found.schema["target"] == {"name": "returned", "positive": "1", "known_at": "labelled_at"}
    assert found.schema["rename"] == {"labelled_at": "Labelled at"}
    assert found.decisions["Labelled at"].decision == "known at"
    wrong: dict[str, dict[str, Any]] = {
        "it is no date or time": {"known_at": "amount"},
        "give TIMESTAMP, the row's time, too": {"known_at": "Labelled at", "timestamp": None},
        "--known-at=when: no such column": {"known_at": "when"},
        "TIMESTAMP=ordered_at and --known-at=ordered_at|--known-at=ordered_at and TIMESTAMP": {
            "known_at": "ordered_at"
        },
    }
    for message, changes in wrong.items():
        with pytest.raises(UserError, match=message):
            inferred(table, **changes)
    table["Labelled at"] -= 60 * DAY * (table.index == 3)
    with pytest.raises(UserError, match="--known-at Labelled at: 1 labels were known before their row"):
        inferred(table, "Labelled at")


def test_adopt_suggests_a_date_that_may_be_it() -> None:
    table = late().assign(returned=lambda rows: rows.returned.astype("Int64").mask(rows.index > 380))
    open_ = table.assign(labelled_at=table.labelled_at.mask(table.returned.isna()))
    hint = "`--known-at labelled_at` keeps labels out of train that came after the holdout begins"
    assert hint in "; ".join(inferred(open_).decisions["labelled_at"].warnings)
    for other in (
        table,
        open_.assign(labelled_at=open_.labelled_at - 10 * DAY),
        open_.assign(labelled_at=open_.ordered_at),
    ):
        assert not inferred(other).decisions["labelled_at"].warnings
