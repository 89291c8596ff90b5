"""The split into train and holdout, by time or by a hash."""

from typing import TYPE_CHECKING

import numpy as np

from tabloop.cli import UserError
from tabloop.params import Schema

if TYPE_CHECKING:
    import pandas as pd

REPORTED = "in train only"  # the column that marks what clients reported; a schema's columns have no spaces


def split(rows: "pd.DataFrame", schema: Schema, share: float) -> "tuple[pd.DataFrame, pd.DataFrame]":
    """Train and holdout: the newest rows are held out; without timestamps, a hash of the entity (or row) decides.

    Rows that are REPORTED are not held out and do not shift the holdout. Where entities are held out, theirs are left out.

    Raises:
        UserError: one of the two lacks a class of the target.
    """
    import pandas as pd

    reported = rows[REPORTED] if REPORTED in rows else pd.Series(False, rows.index)
    rows = rows.drop(columns=REPORTED, errors="ignore")
    if schema.timestamp:
        newest = rows.event_timestamp[~reported].quantile(1 - share, interpolation="higher")
        held = rows.event_timestamp >= newest
    else:
        held = pd.Series(hashes(rows, schema) / 2**64 < share, rows.index)
    whole = schema.entity and not schema.timestamp
    parts = {"train": rows[~held if whole else ~held | reported], "holdout": rows[held & ~reported]}
    for name, part in parts.items():
        if (classes := part[schema.target.name].nunique()) < 2:
            raise UserError(
                f"the {name} part has {len(part):,} labelled rows and {classes} of the target's 2 classes: "
                "it needs both; give more data or change split.holdout in params.yaml"
            )
    return parts["train"], parts["holdout"]


def hashes(rows: "pd.DataFrame", schema: Schema) -> np.ndarray:
    """A hash of each row's entity, (n,) uint64, or of the row itself where the schema has no entity."""
    import pandas as pd

    unit = rows[schema.entity] if schema.entity else rows.drop(columns=schema.target.name)
    return pd.util.hash_pandas_object(unit, index=False).to_numpy()
