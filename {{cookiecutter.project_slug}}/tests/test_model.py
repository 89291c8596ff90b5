"""The model: what it answers to rows like those of training, to missing values, to values that it never saw."""

from pathlib import Path

import pandas as pd
import pytest
from tabloop.card import ModelCard
from tabloop.onnx_model import FILE, OnnxModel
from tabloop.params import ROOT

TRAINED = [path for path in sorted((ROOT / "models").glob("*")) if (path / "model.json").exists()]


def answers(folder: Path) -> None:
    """Check the model in a folder on its example row."""
    card = ModelCard.read(folder)
    graph = OnnxModel(folder / FILE, card.schema_)
    row = pd.DataFrame([card.example])
    categories = [name for name, column in card.schema_.features.items() if column.type == "category"]
    empty = row.astype(object).where(row.isna(), None)
    unseen = row.assign(**dict.fromkeys(categories, "never seen"))
    for changed in (row, empty, unseen):
        (probability,) = graph.probability(changed)
        assert 0 <= probability <= 1


def test_a_model_of_this_schema_answers(models: Path) -> None:
    answers(models / "champion")


@pytest.mark.parametrize("folder", TRAINED, ids=lambda path: path.name)
def test_a_trained_model_answers(folder: Path) -> None:
    answers(folder)
