"""A column that alone tells the target stops the pipeline before the fit, unless its owner allows it."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tabloop import leaks
from tabloop.cli import UserError
from tabloop.facts import Choices
from tabloop.infer import infer
from tabloop.leaks import refuse
from tabloop.params import Params
from tabloop.reading.result import Table
from tabloop.reading.settings import Reading

from .conftest import PARAMS
from .test_infer import relation

RANDOM = np.random.default_rng(0)
N = 3000
Y = (RANDOM.random(N) < 0.05).astype(int)
NO_SEGMENTS = {"evaluate": PARAMS["evaluate"] | {"segments": []}}


def look(values: Any, type_: str = "number", allow: bool = False) -> None:
    """Look for a leak in a column `x` of this type, beside one that has nothing to do with the target."""
    x = {"type": type_} | ({"allow_leak": True} if allow else {})
    changes = {"views": {}, "request": {"other": {"type": "number"}, "x": x}, "timestamp": None}
    own = {"schema": PARAMS["schema"] | changes} | NO_SEGMENTS
    look_at(pd.DataFrame({"x": values, "other": RANDOM.normal(size=N), "returned": Y}), own)


def look_at(rows: pd.DataFrame, own: dict[str, Any]) -> None:
    """Look for a leak in rows, which are in a file."""
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        rows.to_parquet(file.name)
        refuse(Path(file.name), Params.model_validate(PARAMS | own).schema_)


LEAKS: dict[str, tuple[Any, str]] = {
    "a copy": (Y, "integer"),
    "the other way round": (-Y + RANDOM.normal(0, 0.01, N), "number"),
    "another name": (np.where(Y, "yes", "no"), "category"),
    "a level for each class and more": (
        np.where(Y, "chargeback", RANDOM.choice(["a", "b", "c"], N)),
        "category",
    ),
    "present with the positive only": (pd.Series(RANDOM.normal(size=N)).where(Y == 1), "number"),
    "missing with the positive only": (pd.Series(["x"] * N).where(Y == 0), "category"),
    "a copy of half of the rows": (pd.Series(Y + 0.0).mask(np.arange(N) % 2 == 0), "number"),
    "another name with gaps": (pd.Series(np.where(Y, "yes", "no")).mask(np.arange(N) % 2 == 0), "category"),
    "far from the middle": (
        np.where(Y, RANDOM.choice([-1, 1], N) * RANDOM.uniform(6, 9, N), RANDOM.normal(size=N)),
        "number",
    ),
    "a range in the middle": (
        np.where(Y, RANDOM.uniform(4, 5, N), RANDOM.choice([0, 6], N) + RANDOM.random(N)),
        "number",
    ),
    "a flag with gaps": (pd.Series(Y == 1, dtype="boolean").mask(np.arange(N) % 3 == 0), "boolean"),
    "whole numbers with gaps": (pd.Series(Y, dtype="Int64").mask(np.arange(N) % 3 == 0), "integer"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_named_with_its_auc_and_what_to_do(name: str) -> None:
    values, type_ = LEAKS[name]
    with pytest.raises(
        UserError, match=r"x \(AUC (1\.0000|0\.99[5-9]\d)\); drop it .* `allow_leak: true`$"
    ) as caught:
        look(values, type_)
    assert "other" not in str(caught.value) and "\n" not in str(caught.value)
    look(values, type_, allow=True)


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        (Y + RANDOM.normal(0, 0.5, N), "number"),  # good, and no more: AUC 0.92
        (np.full(N, np.nan), "number"),
        ([None] * N, "category"),
        ([f"u{i}" for i in range(N)], "category"),  # another in every row
        (pd.Series(RANDOM.normal(size=N)).where(RANDOM.random(N) < 0.01), "number"),
        (
            np.abs(RANDOM.normal(size=N)) * np.where(Y, 3, 1) * RANDOM.choice([-1, 1], N),
            "number",
        ),  # farther out
        (RANDOM.permutation(N), "integer"),
    ],
)
def test_what_is_no_leak_is_not_called_one(values: Any, type_: str) -> None:
    look(values, type_)


def test_of_a_wide_table_few_rows_say_which_columns_are_looked_at_closely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked, alone = list[int](), leaks.alone

    def counted(values: pd.Series, target: np.ndarray) -> float:
        looked.append(len(target))
        return alone(values, target)

    monkeypatch.setattr(leaks, "alone", counted)
    request = {f"x{i}": {"type": "number"} for i in range(150)}
    schema = {"views": {}, "request": request, "timestamp": None}
    wide = pd.DataFrame(RANDOM.normal(size=(20_000, 150)), columns=list(request))
    wide = wide.assign(returned=RANDOM.integers(0, 2, 20_000), x149=lambda rows: rows.returned)
    with pytest.raises(UserError, match="x149"):
        look_at(wide, {"schema": PARAMS["schema"] | schema} | NO_SEGMENTS)
    assert max(looked[:150]) <= 2 * leaks.EACH and looked[150:] == [20_000]


def test_adopt_says_that_featurize_stops_and_what_its_owner_says_is_allowed() -> None:
    frame = pd.DataFrame(
        {
            "y": Y,
            "x": Y + RANDOM.normal(0, 0.01, N),
            "copy": np.where(Y, "a", "b"),
            "z": RANDOM.normal(size=N),
        }
    )
    found = infer(Table(relation(frame), Reading()), Choices("y"), 0.25)
    assert "`--type x=number` says that it is, else featurize stops" in found.decisions["x"].warnings[0]
    assert "allow_leak" not in str(found.schema)
    said = Choices("y", types={"x": "number", "copy": "category"})
    request = infer(Table(relation(frame), Reading()), said, 0.25).schema["request"]
    assert request == {
        "x": {"type": "number", "allow_leak": True},
        "copy": {"type": "category", "allow_leak": True},
        "z": {"type": "number"},
    }
