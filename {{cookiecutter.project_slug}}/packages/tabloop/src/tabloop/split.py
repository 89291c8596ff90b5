"""The split into train and holdout, by time or by a hash."""

from typing import TYPE_CHECKING, Any

import numpy as np

from tabloop.cli import UserError
from tabloop.params import Schema

if TYPE_CHECKING:
    import pandas as pd

# Columns of rows before the split; a schema's have no spaces.
REPORTED = "in train only"  # whether clients reported the label
KNOWN = "known at"  # when the label was known; null: nobody says


def split(rows: "pd.DataFrame", schema: Schema, share: float) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Train and holdout: the newest rows are held out; without timestamps, a hash of the entity (or row) decides.

    Train has only rows whose label was KNOWN when the holdout begins: a model of that day could not have learnt others. Rows
    that are REPORTED are not held out and do not shift the holdout. Where entities are held out, theirs are left out.

    Raises:
        UserError: one of the two lacks a class of the target.
    """
    import pandas as pd

    reported = rows[REPORTED] if REPORTED in rows else pd.Series(False, rows.index)
    known: Any = rows.get(KNOWN, rows.get("event_timestamp"))
    rows = rows.drop(columns=[REPORTED, KNOWN], errors="ignore")
    if schema.timestamp:
        begins = rows.event_timestamp[~reported].quantile(1 - share, interpolation="higher")
        held = rows.event_timestamp >= begins
        learnt = ~held & (known <= begins)
    else:
        held = pd.Series(hashes(rows, schema) / 2**64 < share, rows.index)
        learnt = ~held if schema.entity else ~held | reported
    parts = {"train": rows[learnt], "holdout": rows[held & ~reported]}
    early = "rows whose label was known when the holdout begins"
    what = {"train": early if (~held & ~learnt).any() else "labelled rows", "holdout": "labelled rows"}
    for name, part in parts.items():
        if (classes := part[schema.target.name].nunique()) < 2:
            raise UserError(
                f"the {name} part has {len(part):,} {what[name]} and {classes} of the target's 2 classes: "
                "it needs both; give more data or change split.holdout in params.yaml"
            )
    return parts["train"], parts["holdout"]


def hashes(rows: "pd.DataFrame", schema: Schema) -> np.ndarray:
    """A hash of each row's entity, (n,) uint64, or of the row itself where the schema has no entity."""
    import pandas as pd

    unit = rows[schema.entity] if schema.entity else rows.drop(columns=schema.target.name)
    return pd.util.hash_pandas_object(unit, index=False).to_numpy()
