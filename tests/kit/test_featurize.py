"""Features: what was known at the time, the one rule of the target, split by time."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tabloop import database, feature_store
from tabloop.cli import UserError
from tabloop.featurize import labelled_events
from tabloop.params import Params
from tabloop.split import split
from tabloop.views import connect, view_rows

from .conftest import PARAMS, Project, orders

NO_VIEWS = {"views": {}, "request": {"amount": {"type": "number"}, "express": {"type": "boolean"}}}
SETTINGS = {"evaluate": PARAMS["evaluate"] | {"segments": []}}


def schema_of(**changes: object) -> Params:
    return Params.model_validate(PARAMS | {"schema": PARAMS["schema"] | changes} | SETTINGS)


def test_sums_of_floats_do_not_depend_on_threads(tmp_path: Path) -> None:
    """DuckDB gives each thread a part of so many rows; their sums differ by the order in which they are added."""
    random = np.random.default_rng(0)
    n = 600_000
    at = pd.to_datetime("2026-01-01") + pd.to_timedelta(random.integers(0, 5, n), unit="D")
    events = {
        "customer_id": random.integers(0, 9, n).astype(str),
        "ordered_at": at,
        "amount": random.lognormal(3, 3, n),
    }
    (tmp_path / "raw").mkdir()
    pd.DataFrame(events).to_parquet(tmp_path / "raw/events.parquet", row_group_size=20_000)
    sql = "SELECT customer_id, ordered_at, sum(amount) AS total FROM events GROUP BY ALL"
    (tmp_path / "spending.sql").write_text(sql)
    schema = schema_of(views={"spending": {"total": {"type": "number"}}}).schema_
    written = set()
    for i in range(4):
        view_rows(connect(tmp_path / "raw"), schema, "spending", tmp_path).write_parquet(
            str(tmp_path / f"{i}.parquet")
        )
        written.add((tmp_path / f"{i}.parquet").read_bytes())
    assert len(written) == 1 and len(pd.read_parquet(tmp_path / "0.parquet")) == 45


def test_a_view_has_one_row_for_an_entity_and_time(tmp_path: Path) -> None:
    events = pd.concat([orders(50), orders(50).assign(country="XX")])
    events.to_parquet(tmp_path / "events.parquet")
    rows = view_rows(connect(tmp_path), schema_of().schema_, "customer_features", tmp_path).df()
    assert len(rows) == 50 and not rows.duplicated(["customer_id", "event_timestamp"]).any()


def test_a_feature_repo_that_is_wrong_is_one_line(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "REPO", project() / "feature_repo")
    (feature_store.REPO / "definitions.py").write_text("from feast import NoSuchThing\n")
    with (
        pytest.raises(UserError, match=r"^feature_repo: ImportError: .*NoSuchThing.*$"),
        feature_store.opened(tmp_path),
    ):
        raise AssertionError("Feast took definitions that can't be imported")


@pytest.mark.parametrize("positive", [1, "1", 1.0, "1.0", " 1 "])
@pytest.mark.parametrize("values", [[0, 1, None], [0.0, 1.0, None], ["0", "1.0", None], ["0", " 1", None]])
def test_the_target_is_that_of_the_one_rule(tmp_path: Path, values: list[object], positive: object) -> None:
    events = orders(3)
    events["returned"] = pd.Series(values, dtype=None if isinstance(values[0], str) else "Float64")
    events.to_parquet(tmp_path / "events.parquet")
    params = schema_of(target={"name": "returned", "positive": positive}, **NO_VIEWS)
    assert labelled_events(connect(tmp_path), params.schema_).df().returned.tolist() == [0, 1]


def test_words_as_classes_are_those_of_the_one_rule(tmp_path: Path) -> None:
    for positive, other in (("Yes ", "no"), (True, False), ("\tİYİ", "it's not")):
        orders(4).assign(returned=[other, positive, positive, other]).to_parquet(tmp_path / "events.parquet")
        params = schema_of(target={"name": "returned", "positive": str(positive).strip().lower()}, **NO_VIEWS)
        assert labelled_events(connect(tmp_path), params.schema_).df().returned.tolist() == [0, 1, 1, 0]


def parted(rows: pd.DataFrame, params: Params) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train and holdout of rows, a quarter held out."""
    table = database.connect().from_df(rows)
    parts = split(table, params.schema_, 0.25)
    train, holdout = (table.filter(part).df() for part in (parts.train, parts.holdout))
    sizes = {"train": len(train), "holdout": len(holdout), "left out": len(rows) - len(train) - len(holdout)}
    assert parts.rows.items() >= sizes.items()
    return train, holdout


def test_the_holdout_is_the_newest_rows_or_whole_entities() -> None:
    rows = orders().rename(columns={"ordered_at": "event_timestamp"})
    train, holdout = parted(rows, schema_of())
    assert len(holdout) == 100 and train.event_timestamp.max() < holdout.event_timestamp.min()
    train, holdout = parted(rows, schema_of(timestamp=None))
    assert not set(train.customer_id) & set(holdout.customer_id) and len(holdout) > 20


@pytest.mark.parametrize("rows", [2, 3, 7, 100, 101, 399])
@pytest.mark.parametrize("share", [0.1, 0.2, 1 / 3, 0.5])
def test_the_holdout_begins_at_the_quantile_that_numpy_calls_higher(rows: int, share: float) -> None:
    times: pd.Series[Any] = pd.Series(pd.date_range("2026-01-01", periods=rows, freq="min"))
    table = pd.DataFrame({"event_timestamp": times, "returned": np.arange(rows) % 2})
    with contextlib.suppress(UserError):  # a part of one row has one class
        begins = split(database.connect().from_df(table), schema_of().schema_, share).begins
        assert begins == times.quantile(1 - share, interpolation="higher")


def test_a_part_of_one_class_is_refused() -> None:
    rows = orders().rename(columns={"ordered_at": "event_timestamp"})
    rows.loc[300:, "returned"] = 1
    with pytest.raises(
        UserError, match=r"the holdout part has 100 labelled rows and 1 of the target's 2 classes"
    ):
        parted(rows, schema_of())
    with pytest.raises(
        UserError, match=r"the train part has 0 labelled rows and 0 of the target's 2 classes"
    ):
        parted(rows[:0], schema_of())
