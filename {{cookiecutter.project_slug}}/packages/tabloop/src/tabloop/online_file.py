"""Feast's SQLite online store, written by difference: what is there already is not written again.

Feast's own `materialize` has all rows of a view in memory, and writes each of them each time.
"""

import contextlib
import io
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabloop import database
from tabloop.columns import quote
from tabloop.progress import progress
from tabloop.serving.online_store import entity_key

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView

CHUNK = 10_000  # entities that are in memory, and in a transaction: one's features change at once
Cell = tuple[bytes, str, bytes, str | None, int]


def write_online(store: "FeatureStore") -> tuple[int, int, int]:
    """Let the store's file hold the newest row of every entity; how many values it has, were written, were removed.

    A reader finds an entity's row of a view as it was or as it is. When it is interrupted, the next time completes it.
    """
    path = Path(store.config.repo_path or ".") / store.config.online_store.path
    values = written = removed = 0
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        for view in store.list_feature_views():
            # What is not the template's own Feast writes.
            if store.config.online_store.type != "sqlite" or len(view.join_keys) != 1:
                with contextlib.redirect_stdout(io.StringIO()):  # a page of Feast's own
                    store.materialize(*span(), feature_views=[view.name])
                continue
            table = quote(f"{store.project}_{view.name}")
            insert = (
                f"INSERT INTO {table} (entity_key, feature_name, value, value_text, event_ts) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT DO UPDATE SET value = excluded.value, value_text = excluded.value_text, "
                "event_ts = excluded.event_ts WHERE value IS NOT excluded.value OR event_ts IS NOT excluded.event_ts"
            )
            file.execute("CREATE TEMP TABLE seen (entity_key BLOB PRIMARY KEY) WITHOUT ROWID")
            for cells in chunks(store, view):
                before = file.total_changes
                file.execute("BEGIN IMMEDIATE")
                file.executemany(insert, cells)
                written += file.total_changes - before
                file.executemany("INSERT INTO seen VALUES (?)", {(cell[0],) for cell in cells})
                file.execute("COMMIT")
                values += len(cells)
            gone = f"DELETE FROM {table} WHERE entity_key NOT IN (SELECT entity_key FROM seen)"
            removed += file.execute(gone).rowcount
            file.execute("DROP TABLE seen")
    return values, written, removed


def span() -> tuple[datetime, datetime]:
    """All times until now."""
    return datetime(1970, 1, 1, tzinfo=UTC), datetime.now(UTC)


def chunks(store: "FeatureStore", view: "FeatureView") -> Iterator[list[Cell]]:
    """The rows of Feast's table of a view, of so many entities at a time, in the order of their keys."""
    from feast.infra.online_stores.helpers import extract_text_and_num
    from feast.type_map import python_values_to_proto_values

    source: Any = view.batch_source
    (key,), names = view.join_keys, [field.name for field in view.features]
    pull: Any = store._get_provider().offline_store.pull_latest_from_table_or_query
    time, created = source.timestamp_field, source.created_timestamp_column or None
    job = pull(store.config, source, [key], names, time, created, *span())
    rows: Any = job.relation if hasattr(job, "relation") else database.connect().from_arrow(job.to_arrow())
    columns = [quote(key), f"epoch_us({quote(time)}::TIMESTAMP) // 1000000", *map(quote, names)]
    newest = rows.project(", ".join(columns)).filter(f"{quote(key)} IS NOT NULL").order(quote(key))
    with progress(f"writing {view.name}", None, "{n_fmt} entities") as bar:
        for batch in newest.to_arrow_reader(CHUNK):
            keys, seconds = (column.to_pylist() for column in batch.columns[:2])
            cells = []
            for field, column in zip(view.features, batch.columns[2:], strict=True):
                values = column.dictionary_encode("encode")  # each different one is converted once, null too
                kind = field.dtype.to_value_type()
                protos = python_values_to_proto_values(values.dictionary.to_pylist(), kind)
                texts = (extract_text_and_num(proto, False)[0] for proto in protos)
                made = [
                    (field.name, p.SerializeToString(), text) for p, text in zip(protos, texts, strict=True)
                ]
                cells.append([made[at] for at in values.indices.to_pylist()])
            own_keys = (entity_key(key, value) for value in keys)
            rows = zip(own_keys, seconds, zip(*cells, strict=True), strict=True)
            yield [(own, *cell, at) for own, at, row in rows for cell in row]
            bar.update(len(keys))
