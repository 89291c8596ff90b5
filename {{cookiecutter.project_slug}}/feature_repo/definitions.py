"""Feast's entity and feature views, derived from the schema in params.yaml."""

from datetime import timedelta

import feast.types
from feast import Entity, FeatureView, Field, FileSource, ValueType
from tabloop.params import load

schema = load().schema_
entity = Entity(name=schema.entity, value_type=ValueType.STRING)
views = [
    FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),  # no expiry
        schema=[
            Field(name=schema.entity, dtype=feast.types.String),
            *(Field(name=n, dtype=getattr(feast.types, c.kind.feast)) for n, c in columns.items()),
        ],
        # `tabloop featurize` writes it; the path is relative to this folder.
        source=FileSource(
            name=name, path=f"../data/features/{name}.parquet", timestamp_field="event_timestamp"
        ),
    )
    for name, columns in schema.views.items()
]
# `feast apply` looks at a module's names, not into lists.
globals().update({f"view_{view.name}": view for view in views})
