"""Tables as users have them: the target's classes, and names that all tools take."""

import keyword
import re

import duckdb

from tabloop.columns import class_text, quote
from tabloop.params import RESERVED

VALUES = 100_000  # different ones of a target that are looked at, the commonest first

# YAML reads them as other than text.
YAML_WORDS = {"yes", "no", "on", "off", "y", "n", "true", "false", "null"}


def classes(table: duckdb.DuckDBPyRelation, target: str) -> dict[str, tuple[str, int]]:
    """The target's values as DuckDB writes them: the class of each by `class_text`, and its rows.

    SQL has no part in the rule: its lower() and trim() differ from Python's.
    """
    column = f"{quote(target)}::VARCHAR"
    counts = table.aggregate(f"{column} AS value, count(*) AS n").filter("value IS NOT NULL")
    found = counts.order("n DESC, value").limit(VALUES).fetchall()
    return {value: (class_text(value), rows) for value, rows in found}


def snake(name: str) -> str:
    """A name in snake case and ASCII: TotalCharges is total_charges, Größe is grosse."""
    from slugify import slugify

    return slugify(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name), separator="_")


def safe_names(columns: list[str]) -> dict[str, str]:
    """Each column's name in snake case and ASCII, as Python, YAML, SQL, Feast and JSON all take it."""
    names: dict[str, str] = {}
    for column in columns:
        name = snake(column) or "column"
        if not name[0].isalpha():
            name = f"c_{name}"
        if keyword.iskeyword(name) or name in (*RESERVED, *YAML_WORDS):
            name += "_"
        unique, n = name, 2
        while unique in names.values():
            unique, n = f"{name}_{n}", n + 1
        names[column] = unique
    return names
