"""The split into train and holdout, by time or by a hash."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tabloop.cli import UserError
from tabloop.columns import quote
from tabloop.params import Schema

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from duckdb import DuckDBPyRelation

# Columns of rows before the split; a schema's have no spaces.
REPORTED = "in train only"  # whether clients reported the label
KNOWN = "known at"  # when the label was known; null: nobody says


@dataclass(frozen=True)
class Split:
    """Which rows are in which part.

    Attributes:
        train: the SQL condition of the rows to learn from. It is never null.
        holdout: that of the rows to judge by.
        begins: the time of the first row of the holdout; None without timestamps.
        rows: how many rows each part has; "left out": that are in neither, and "reported": that clients reported of these.
    """

    train: str
    holdout: str
    begins: datetime | None
    rows: dict[str, int]


def split(rows: "DuckDBPyRelation", schema: Schema, share: float) -> Split:
    """Train and holdout: the newest rows are held out; without timestamps, a hash of the entity (or row) decides.

    Train has only rows whose label was KNOWN when the holdout begins: a model of that day could not have learnt others. Rows
    that are REPORTED are not held out and do not shift the holdout. Where entities are held out, theirs are left out.

    Raises:
        UserError: one of the two lacks a class of the target.
    """
    reported = quote(REPORTED) if REPORTED in rows.columns else "false"
    known = quote(KNOWN) if KNOWN in rows.columns else "event_timestamp"
    begins = None
    if schema.timestamp:
        begins = _begins(rows.filter(f"NOT {reported}"), share)
        moment = f"TIMESTAMP '{begins or datetime.max}'"
        held = f"event_timestamp >= {moment}"
        learnt = f"event_timestamp < {moment} AND coalesce({known} <= {moment}, false)"
    else:
        held = f"{_hash(rows, schema)} < {share * 2.0**64!r}"
        learnt = f"NOT ({held})" if schema.entity else f"(NOT ({held}) OR {reported})"
    parts = {"train": learnt, "holdout": f"{held} AND NOT {reported}"}
    target = quote(schema.target.name)
    figures = [
        f"count(*) FILTER ({test}), count(DISTINCT {target}) FILTER ({test})" for test in parts.values()
    ]
    neither = f"NOT ({learnt}) AND NOT ({parts['holdout']})"
    figures += [f"count(*) FILTER ({test})" for test in (neither, f"{neither} AND {reported}")]
    figures += [f"coalesce(bool_or(NOT ({held}) AND NOT ({learnt})), false)"]
    learnable, classes, judged, others, left, clients, late = rows.aggregate(", ".join(figures)).fetchall()[0]
    early = "rows whose label was known when the holdout begins" if late else "labelled rows"
    found = {"train": (learnable, classes, early), "holdout": (judged, others, "labelled rows")}
    for name, (count, kinds, what) in found.items():
        if kinds < 2:
            has = f"{count:,} {what} and {kinds} of the target's 2 classes"
            how = "it needs both; give more data or change split.holdout in params.yaml"
            raise UserError(f"the {name} part has {has}: {how}")
    counts = {"train": learnable, "holdout": judged, "left out": left, "reported": clients}
    return Split(parts["train"], parts["holdout"], begins, counts)


def _begins(rows: "DuckDBPyRelation", share: float) -> datetime | None:
    """The time of the first row that is held out: the quantile, rounded up to a row, as numpy's method "higher" does."""
    count = rows.aggregate("count(event_timestamp)").fetchall()[0][0]
    place = math.ceil((count - 1) * (1 - share))
    found = rows.aggregate(f"quantile_disc(event_timestamp, {(place + 0.5) / max(count, 1)!r})").fetchall()
    return found[0][0]


def _hash(rows: "DuckDBPyRelation", schema: Schema) -> str:
    """SQL for a number below 2^64 of each row's entity, or of the row itself where the schema has no entity."""
    apart = {schema.target.name, REPORTED, KNOWN, *schema.sensitive}
    names = [schema.entity] if schema.entity else [name for name in rows.columns if name not in apart]
    texts = (f"coalesce({quote(name)}::VARCHAR, chr(31))" for name in names)
    return f"md5_number_lower(concat_ws(chr(30), {', '.join(texts)}))"


def parts(rows: "pd.DataFrame", schema: Schema, count: int) -> "np.ndarray":
    """The part of each row, (n,), from 0: by time, of equal size, without a timestamp by a hash. Rows of one time, or entity, are in one."""
    if not schema.timestamp:
        return (hashes(rows, schema) % count).astype(int)
    earlier = rows[schema.timestamp].rank(method="min").to_numpy() - 1
    return (earlier * count // len(rows)).astype(int)


def hashes(rows: "pd.DataFrame", schema: Schema) -> "np.ndarray":
    """A hash of each row's entity, (n,) uint64, or of the row itself where the schema has no entity."""
    import pandas as pd

    unit = rows[schema.entity] if schema.entity else rows.drop(columns=schema.target.name)
    return pd.util.hash_pandas_object(unit, index=False).to_numpy()
