"""A sensitive column: the model never gets it, and is judged by it."""

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from tabloop import database
from tabloop.params import Params
from tabloop.split import split

from .conftest import PARAMS, orders

SENSITIVE = {"gender": {"type": "category", "values": ["f", "m"]}, "minor": {"type": "boolean"}}
PARITY = {"metric": "equal_opportunity_difference", "by": "gender", "max": 0.1}
CHANGES = {
    "gates": [PARITY],
    "evaluate": PARAMS["evaluate"] | {"segments": ["country", "gender"]},
}


def people(rows: int = 600) -> pd.DataFrame:
    random = np.random.default_rng(1)
    sex = np.where(random.random(rows) < 0.5, "f", "m")
    return orders(rows).assign(sex=sex, minor=random.random(rows) < 0.5).drop(columns=["age", "country"])


def test_it_moves_no_row_between_the_parts() -> None:
    """Without time or entity the whole row has a hash, of what the model gets."""
    schema = PARAMS["schema"] | {"entity": None, "timestamp": None, "views": {}}
    plain, judged = (
        Params.model_validate(PARAMS | CHANGES | {"gates": [], "evaluate": PARAMS["evaluate"] | {"segments": []}, "schema": each})
        for each in (schema, schema | {"sensitive": SENSITIVE})
    )  # fmt: skip
    rows = people().rename(columns={"sex": "gender"})
    db = database.connect()
    without = split(db.from_df(rows.drop(columns=["gender", "minor"])), plain.schema_, 0.25)
    assert without == split(db.from_df(rows), judged.schema_, 0.25)


@pytest.mark.parametrize(
    ("sensitive", "said"),
    [
        ({}, "segments: neither a feature nor a sensitive column: gender"),
        (SENSITIVE | {"age": {"type": "integer"}}, "declared twice: age"),
        (SENSITIVE | {"label 1": {"type": "integer"}}, "can't be a column's name"),
    ],
)
def test_what_is_wrong_is_named(sensitive: dict[str, object], said: str) -> None:
    schema = PARAMS["schema"] | {"sensitive": sensitive}
    with pytest.raises(ValidationError, match=said):
        Params.model_validate(PARAMS | CHANGES | {"schema": schema})
