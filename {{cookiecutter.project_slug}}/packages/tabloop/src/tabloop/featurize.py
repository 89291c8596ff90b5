"""data/raw to data/features and data/online: the views' SQL, the point-in-time join, the split by time."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duckdb import DuckDBPyConnection, DuckDBPyRelation

from tabloop import asof, database, files, labels, ray_engine
from tabloop.cli import UserError
from tabloop.columns import literal, quote
from tabloop.params import ROOT, Params, Schema
from tabloop.progress import watched
from tabloop.split import KNOWN, REPORTED, Split, split
from tabloop.views import connect, refuse_to_look_ahead, refused, typed, view_name, view_rows

if TYPE_CHECKING:
    import pandas as pd

FEATURES, ONLINE = ROOT / "data/features", ROOT / "data/online"


def labelled_events(db: DuckDBPyConnection, schema: Schema) -> DuckDBPyRelation:
    """The events whose label is known: key, entity, event_timestamp, request and sensitive columns, target as 0 or 1, KNOWN."""
    target = quote(schema.target.name)
    label = labels.label_sql(db.view("events"), schema.target.name, schema.target)
    key = [quote(name) for name in schema.own_key if name not in schema.features]
    known = quote(schema.target.known_at or schema.timestamp or "") if schema.timestamp else "NULL"
    columns = [*key, typed(schema, schema.request | schema.sensitive), f"{label} AS {target}"]
    columns += [f"{known}::TIMESTAMP AS {quote(KNOWN)}"]
    return db.sql(f"SELECT {', '.join(columns)} FROM events WHERE {label} IS NOT NULL")


def exact_types(rows: "pd.DataFrame", schema: Schema) -> "pd.DataFrame":
    """The rows with whole numbers and booleans in types that keep missing values apart from numbers."""
    exact = [n for n, c in schema.columns.items() if n in rows and c.type in ("integer", "boolean")]
    return rows.astype({name: schema.columns[name].kind.pandas for name in exact})


def with_feedback(db: DuckDBPyConnection, events: DuckDBPyRelation, in_holdout: bool) -> DuckDBPyRelation:
    """The events and the labelled predictions, of which REPORTED says whether they are in train only."""
    if "feedback" not in tables(db):
        return events
    both = f"SELECT *, false AS {quote(REPORTED)} FROM own UNION ALL BY NAME SELECT *, {not in_holdout} AS {quote(REPORTED)} FROM feedback"
    joined = events.query("own", both)
    assert joined is not None  # as it is of any SELECT
    return joined


def write_view(raw: Path, made: Path, schema: Schema, view: str) -> None:
    """Compute a view and write `made/<view>.parquet`, which says that no two rows have the same entity and time."""
    with refused(view_name(view)):
        db = connect(raw)
        rows = view_rows(db, schema, view).sql_query()
        unique = asof.unique_metadata([str(schema.entity), "event_timestamp"])
        copy = f"COPY ({rows}) TO {literal(made / f'{view}.parquet')} ({unique})"
        database.run(db, copy, f"computing {view}")


def write_part(db: DuckDBPyConnection, rows: DuckDBPyRelation, schema: Schema, path: Path) -> None:
    """Write rows to `path` in a fixed order, with what pandas needs to give whole numbers and booleans their types."""
    import pyarrow as pa

    judged_by = schema.sensitive if path.stem == "holdout" else {}
    names = [*schema.key, schema.entity, "event_timestamp", *schema.features, *judged_by, schema.target.name]
    columns = {name: name for name in dict.fromkeys(names) if name and name != schema.timestamp}
    if schema.timestamp:
        columns["event_timestamp"] = schema.timestamp
    else:
        del columns["event_timestamp"]
    shown = ", ".join(f"{quote(name)} AS {quote(as_name)}" for name, as_name in columns.items())
    everything = ", ".join(map(quote, columns))
    key = [quote(name) for name in schema.own_key]
    # Of rows with one key, any fixed order.
    order = ", ".join(["event_timestamp", *key, f"hash({everything})"])
    part = rows.order(order).project(shown)
    kinds = exact_types(part.limit(0).df(), schema)
    pandas = pa.Schema.from_pandas(kinds, preserve_index=False).metadata[b"pandas"].decode()
    options = f"KV_METADATA {{pandas: {literal(pandas)}}}"
    database.run(db, f"COPY ({part.sql_query()}) TO {literal(path)} ({options})", f"writing {path.stem}")


def tables(db: DuckDBPyConnection) -> list[str]:
    """The names of the raw tables."""
    return [row[0] for row in db.sql("SHOW TABLES").fetchall()]


def featurize(params: Params, raw: Path) -> str:
    """Write data/features (`<view>.parquet`, `train.parquet`, `holdout.parquet`) and data/online; what was written.

    Raises:
        UserError: a view's SQL or feature_repo is wrong, or a part lacks a class; both folders are as they were.
    """
    schema, raw = params.schema_, raw.absolute()  # Feast changes the working directory
    if not (raw / "events.parquet").exists():
        raise UserError("data/raw/events.parquet is missing: run `make train`")
    db = connect(raw, threads=None)
    with files.scratch(FEATURES) as base, refused("data/raw/events.parquet"):
        made = base / "data/features"
        made.mkdir(parents=True)
        (base / "data/online").mkdir()
        events = labelled_events(db, schema)
        labelled = events.aggregate("count(*)").fetchall()[0][0]
        rows = with_feedback(db, events, params.split.feedback_in_holdout)
        parts = split(rows, schema, params.split.holdout)
        if "feedback" in tables(db):
            where = "" if params.split.feedback_in_holdout else ", in train only"
            count = db.view("feedback").aggregate("count(*)").fetchall()[0][0]
            print(f"featurize: {count:,} labelled predictions join the data{where}", flush=True)
        looked_up = (
            joined(db, raw, base, schema, str(parts.begins or "")) if schema.views else nullcontext(events)
        )
        with ThreadPoolExecutor(1) as pool:
            with looked_up as events:
                rows = with_feedback(db, events, params.split.feedback_in_holdout)
                write_part(db, rows.filter(parts.train), schema, made / "train.parquet")
                from tabloop import leaks  # pandas, which Feast has imported beside the views

                leak = pool.submit(leaks.refuse, made / "train.parquet", schema)
                write_part(db, rows.filter(parts.holdout), schema, made / "holdout.parquet")
            leak.result()
        files.replace(FEATURES, made)
        files.replace(ONLINE, base / "data/online")
    unlabelled = db.view("events").aggregate("count(*)").fetchall()[0][0] - labelled
    waiting = f", {unlabelled:,} without a label yet" if unlabelled else ""
    how = "by time" if schema.timestamp else "by hash"
    sizes = f"{parts.rows['train']:,} train and {parts.rows['holdout']:,} holdout rows"
    return f"{sizes}, split {how}{waiting}{left_out(parts)}"


@contextmanager
def joined(
    db: DuckDBPyConnection, raw: Path, base: Path, schema: Schema, begins: str
) -> Iterator[DuckDBPyRelation]:
    """The labelled events with the views' columns. At the end the views are checked, and the online store is written.

    Each view is computed in one thread, for the same bytes each time; so two are at a time.
    """
    from tabloop.feature_store import join, opened

    made, file = base / "data/features", base / "joined.parquet"
    with ThreadPoolExecutor(2) as pool:

        def check(view: str) -> None:
            views[view].result()
            refuse_to_look_ahead(raw, made, schema, view, begins)

        views = {view: pool.submit(write_view, raw, made, schema, view) for view in schema.views}
        # A view that is written is checked while another is still computed.
        beside: list[Future[Any]] = [pool.submit(check, view) for view in views if begins]
        with opened(base) as store:  # Feast is imported meanwhile
            from tabloop.online_file import write_online

            for written in views.values():
                written.result()
            beside.append(pool.submit(write_online, store))
            print(f"featurize: joining the labelled events with {', '.join(schema.views)} ...", flush=True)
            source = f"FROM read_parquet({literal(raw / 'events.parquet')})"
            events = f"WITH events AS ({source}) FROM ({labelled_events(db, schema).sql_query()})"
            if ray_engine.is_chosen():
                from tabloop import ray_join

                ray_join.join(db, events, schema, made, file)
            else:
                with watched("joining"):
                    # It is read twice and removed: to compress it would take as long as to sort it.
                    plain = "(FORMAT parquet, COMPRESSION uncompressed, DICTIONARY_SIZE_LIMIT 1)"
                    join(store, schema, db, events).query("joined", f"COPY joined TO {literal(file)} {plain}")
            yield db.read_parquet(str(file))
            for done in beside:
                done.result()


def left_out(parts: Split) -> str:
    """How many labelled rows are in neither part, and why."""
    if not (count := parts.rows["left out"]):
        return ""
    why = "of held-out entities"
    if parts.begins:
        why = f"whose label was not known at {parts.begins:%Y-%m-%d %H:%M:%S}, when the holdout begins,"
    reported = parts.rows["reported"]
    clients = f" ({reported:,} of them reported by clients)" if reported else ""
    return f", {count:,} {why} left out{clients}"
