"""Feast's entity and feature views, derived from the schema in params.yaml."""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, Float64, Int64, String

from {{ cookiecutter.package_name }}.params import ROOT, load

TYPES = {"number": Float64, "integer": Int64, "boolean": Bool, "category": String}

schema = load().schema_
entity = Entity(name=schema.entity, value_type=ValueType.STRING)
views = [
    FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),  # no expiry
        schema=[Field(name=schema.entity, dtype=String)]
        + [Field(name=n, dtype=TYPES[c.type]) for n, c in columns.items()],
        source=FileSource(
            name=name, path=str(ROOT / "data/features" / f"{name}.parquet"), timestamp_field="event_timestamp"
        ),
    )
    for name, columns in schema.views.items()
]
