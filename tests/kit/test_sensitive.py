"""A sensitive column: the model never gets it, and is judged by it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from tabloop import candidate, database
from tabloop.evaluation import Holdout, Scored, by_segment, judge
from tabloop.onnx_model import model_inputs
from tabloop.params import Params, load
from tabloop.split import split

from .conftest import PARAMS, Project, Tabloop, orders
from .test_gates import measure

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


def part(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(folder / f"data/features/{name}.parquet")


def test_parity_by_a_column_that_the_model_never_gets(
    project: Project, tabloop: Tabloop, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = {"views": {}, "sensitive": SENSITIVE, "rename": {"gender": "sex"}}
    changes = CHANGES | {"evaluate": PARAMS["evaluate"] | {"segments": ["gender"]}}
    folder = project(people(), schema=schema, **changes)
    for stage in ("ingest", "validate", "featurize"):
        tabloop(folder, stage)
    params, train = load(folder / "params.yaml"), part(folder, "train")
    monkeypatch.setattr(candidate, "FEATURES", folder / "data/features")
    rows = candidate.read_features("holdout", params.schema_)  # as evaluate does
    assert not {"gender", "sex", "minor"} & set(train) and set(rows.gender) == {"f", "m"}
    assert candidate.read_features("train", params.schema_).shape[1] < train.shape[1]
    assert rows.minor.dtype == "boolean" and "gender" not in model_inputs(rows, params.schema_)

    target = rows.returned.to_numpy()
    unfair = np.where(rows.gender == "f", target * 0.9, target * 0.3)
    found = Holdout(params, measure, rows, target, Scored(unfair, 0.5), None)
    (check,) = judge(found, "", None)["checks"]
    assert check["passed"] is False and check["value"] == 1
    assert set(by_segment(target, unfair, rows, ["gender"])["gender"]) == {"f", "m"}

    broken = people().assign(sex="x")
    broken.to_csv(folder / "events.csv", index=False)
    tabloop(folder, "ingest")
    assert (
        "events.gender: must be one of f, m; 600 rows break it" in tabloop(folder, "validate", code=1).stderr
    )
    broken.drop(columns="sex").to_csv(folder / "events.csv", index=False)
    assert "lacks column 'sex'" in tabloop(folder, "ingest", code=1).stderr


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
