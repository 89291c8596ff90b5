"""The point-in-time join: each event gets the newest row that was known, once, whatever the rows are."""

import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from tabloop import database
from tabloop.asof import AsofView, asof_join, schema_views

from .test_featurize import schema_of

START = datetime(2026, 1, 1)
KEYS = ["a", "1", "11", "", None]
TTLS = [timedelta(0), timedelta(hours=1), timedelta(hours=1, microseconds=-1)]


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


@pytest.mark.parametrize("ttl", TTLS)
def test_the_join_is_what_looking_at_every_row_gives(ttl: timedelta) -> None:
    """Ties in time, ties in both times, the same row twice, nulls everywhere, keys without a row."""
    draw = random.Random(1)

    def time() -> datetime | None:
        return draw.choice([None, *(START + timedelta(hours=hours) for hours in range(6))])

    db, views = database.connect(), []
    events = [(draw.choice(KEYS), time()) for _ in range(200)]
    db.execute("CREATE TABLE events (key VARCHAR, event_timestamp TIMESTAMP, place INTEGER)")
    db.executemany("INSERT INTO events VALUES (?, ?, ?)", [[*event, i] for i, event in enumerate(events)])
    tables = {}
    for name in ("first", "second"):
        rows = [(draw.choice(KEYS[1:]), time(), time(), draw.choice([None, 1, 2, 3])) for _ in range(60)]
        db.execute(f"CREATE TABLE {name} (who VARCHAR, since TIMESTAMP, made TIMESTAMP, value INTEGER)")
        db.executemany(f"INSERT INTO {name} VALUES (?, ?, ?, ?)", rows)
        views.append(AsofView(name, {"value": name}, {"who": "key"}, "since", created="made", ttl=ttl))
        tables[name] = rows
    joined = asof_join(db.table("events"), views).order("place").fetchall()
    assert joined == [
        (*event, place, *(newest(event, rows, ttl) for rows in tables.values()))
        for place, event in enumerate(events)
    ]


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
