"""Performance on labelled outcomes: by week and variant, and the alarm of the champion's window."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tabloop import performance
from tabloop.metrics import auc

from . import monitored
from .monitored import install, log, params, served


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monitored.enter(tmp_path, monkeypatch)
    install(tmp_path, "champion", params())
    return tmp_path


def check(folder: Path, min_auc: float = 0.5) -> dict[str, Any]:
    result = performance.check(params(gates={"min_auc": min_auc}))
    assert json.loads((folder / "reports/performance.json").read_text()) == result
    return result


def test_each_week_and_variant_has_a_line(folder: Path) -> None:
    now = datetime.now(UTC)
    rows = served(500)
    log(folder, params(), rows, labels=0.8)
    log(folder, params(), rows, variant="challenger")
    log(folder, params(), rows.assign(probability=0.0), at=now - timedelta(days=21))
    result = check(folder)
    assert [(w["variant"], w["rows"]) for w in result["weeks"]] == [
        ("champion", 500),  # of three weeks ago
        ("challenger", 500),
        ("champion", 500),
    ]
    window, known = result["window"], rows.head(400)
    assert window["rows"] == 500 and window["unlabelled"] == pytest.approx(0.2)
    assert window["auc"] == pytest.approx(auc(known.outcome.to_numpy(), known.probability.to_numpy()))
    assert window["auc_low"] < window["auc"] < window["auc_high"] and not result["worse"]
    acted = known.probability >= 0.5
    cost = 1 * (acted & (known.outcome == 0)).sum() + 5 * (~acted & (known.outcome == 1)).sum()
    assert window["cost_per_row"] == pytest.approx(cost / 400)
    text = performance.text(result)
    assert "| champion | 500 | 20% |" in text and f"AUC {window['auc']:.4f} [" in text


def test_worse_is_said_of_the_present_champion_only(folder: Path) -> None:
    random_scores = served(800).assign(probability=served(800, seed=5).probability)
    log(folder, params(), random_scores, version="an older champion")
    log(folder, params(), random_scores, variant="challenger")
    log(folder, params(), random_scores, at=datetime.now(UTC) - timedelta(days=8))
    result = check(folder, 0.9)
    assert not result["worse"] and "Too few labels for a statement" in performance.text(result)
    log(folder, params(), random_scores)
    result = check(folder, 0.9)
    assert result["worse"] and "⚠️ **Worse than the gate asks.** AUC 0." in performance.text(result)


def test_few_labels_or_none_are_no_verdict(folder: Path) -> None:
    assert "there is no prediction log" in performance.text(check(folder))
    log(folder, params(), served(100), labels=0)
    result = check(folder, 0.99)
    assert result["window"] == {"rows": 100, "unlabelled": 1.0} and not result["worse"]
    log(folder, params(), served(40))
    result = check(folder, 0.99)
    assert "auc" not in result["window"] and "cost_per_row" in result["window"] and not result["worse"]
