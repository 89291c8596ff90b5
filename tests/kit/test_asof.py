"""The point-in-time join: each event gets the newest row that was known, once, whatever the rows are."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tabloop import database
from tabloop.asof import AsofView, asof_join, schema_views

from .test_featurize import schema_of

START = datetime(2026, 1, 1)
TIMES = st.none() | st.integers(0, 2).map(lambda hours: START + timedelta(hours=hours))
KEYS = st.sampled_from(["a", "1", "11", "", None])
EVENTS = st.lists(st.tuples(KEYS, TIMES), min_size=1, max_size=20)
ROWS = st.lists(st.tuples(KEYS, TIMES, TIMES, st.none() | st.integers(0, 9)), max_size=40)
TTLS = st.sampled_from([timedelta(0), timedelta(hours=1), timedelta(hours=1, microseconds=-1)])


def newest(event: Sequence[Any], rows: Sequence[Sequence[Any]], ttl: timedelta) -> int | None:
    """The value that the join must give, by looking at every row."""
    key, now = event
    known = [row for row in rows if key is not None and row[0] == key and now and row[1] and row[1] <= now]
    if not known:
        return None
    _, time, _, value = max(
        known, key=lambda row: (row[1], row[2] or datetime.min, -(row[3] if row[3] is not None else 10))
    )
    return value if not ttl or time >= now - ttl else None


@settings(max_examples=25, deadline=None, database=None)
@given(events=EVENTS, first=ROWS, second=ROWS, ttl=TTLS)
def test_the_join_is_what_looking_at_every_row_gives(
    events: list[Any], first: list[Any], second: list[Any], ttl: timedelta
) -> None:
    db = CONNECTION
    table = {
        "key": texts(key for key, _ in events),
        "event_timestamp": pd.Series([at for _, at in events], dtype="datetime64[us]"),
    }
    left = db.from_df(pd.DataFrame(table).assign(place=range(len(events))))
    views = []
    for name, rows in (("first", first), ("second", second)):
        columns = {
            "who": texts(row[0] for row in rows),
            "value": pd.Series([row[3] for row in rows], dtype="Int64"),
        }
        columns |= {
            name: pd.Series([row[at] for row in rows], dtype="datetime64[us]")
            for at, name in ((1, "at"), (2, "made"))
        }
        db.register(name, pd.DataFrame(columns))
        views.append(AsofView(name, {"value": name}, {"who": "key"}, "at", created="made", ttl=ttl))
    joined = asof_join(left, views).order("place").fetchall()
    assert joined == [
        (*event, place, newest(event, first, ttl), newest(event, second, ttl))
        for place, event in enumerate(events)
    ]


def texts(values: Any) -> "pd.Series[Any]":
    return pd.Series(list(values), dtype="string")


CONNECTION = database.connect()


def test_a_view_of_another_key_or_of_none_and_times_with_a_zone(tmp_path: Path) -> None:
    db = database.connect()
    left = db.sql("SELECT 'x' AS seller, 'y' AS buyer, TIMESTAMPTZ '2026-01-01 01:00:00+02' AS at")
    db.sql(
        "CREATE TABLE people AS SELECT * FROM (VALUES ('x', TIMESTAMP '2025-12-31 23:00:00', 1), ('y', TIMESTAMP '2025-12-31 23:00:01', 2)) t(id, since, age)"
    )
    views = [
        AsofView("people", {"age": "seller_age"}, {"id": "seller"}, "since"),
        AsofView("people", {"age": "buyer_age"}, {"id": "buyer"}, "since"),
        AsofView("people", {"age": "newest"}, {}, "since"),
    ]
    assert asof_join(left, views, "at").project("seller_age, buyer_age, newest").fetchall() == [(1, None, 1)]
    with pytest.raises(ValueError, match=r"two columns are called seller$"):
        asof_join(left, [AsofView("people", {"age": "seller"}, {}, "since")], "at")
    with pytest.raises(duckdb.IOException, match="customer_features"):
        asof_join(left, schema_views(schema_of().schema_, tmp_path), "at")
