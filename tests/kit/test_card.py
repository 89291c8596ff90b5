"""model.json: written and read by one class."""

import json
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from tabloop import card, report
from tabloop.card import ModelCard, Parity
from tabloop.cli import UserError
from tabloop.params import Params

from .conftest import PARAMS

METRICS = {"auc": 0.9, "auc_low": 0.8, "auc_high": 1.0, "average_precision": 0.5, "brier": 0.1}
CARD = ModelCard(
    version="0123456789ab",
    data_hash="d",
    framework="sklearn",
    rows=3,
    schema=Params.model_validate(PARAMS).schema_,
    categories={"country": ["DE", "Österreich"]},
    ranges={"age": (18.0, 60.0), "amount": (None, None), "express": (0.0, 1.0)},
    example={"age": 30, "country": None, "amount": 1.5, "express": True},
    parity=Parity(rows=3, largest_difference=1e-7),
    threshold=0.5,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    complete = CARD.completed(METRICS | {"rows": 3, "version": "0123456789ab"})
    complete.write(tmp_path)
    assert ModelCard.read(tmp_path) == complete and complete.metrics and complete.metrics.auc_high == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    written = json.loads((tmp_path / "model.json").read_text())
    assert written["schema"]["views"]["customer_features"]["country"] == {"type": "category"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "is missing"),
        ("{", "Invalid JSON"),
        ('{"version": 1}', "version"),
        (json.dumps(CARD.as_dict() | {"rows": "three"}), "rows"),
    ],
)
def test_a_broken_card_is_named(tmp_path: Path, text: str | None, named: str) -> None:
    if text:
        (tmp_path / "model.json").write_text(text)
    with pytest.raises(UserError, match=f"model.json.*{named}") as caught:
        ModelCard.read(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_missing_card_is_named_from_the_project_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(card, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"^models/champion/model\.json is missing: `make train`"):
        ModelCard.read(tmp_path / "models/champion")


def test_a_name_that_the_page_of_the_card_lacks_is_an_error() -> None:
    params = Params.model_validate(PARAMS)
    with pytest.raises(UndefinedError, match="'use' is undefined"):
        report.render("model_card.md.jinja", params=params, card=None, challenger=None)
