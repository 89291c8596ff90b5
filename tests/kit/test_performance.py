"""Performance on labelled outcomes: by week, version and variant, and the alarm of the champion's window."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tabloop import performance
from tabloop.cli import UserError
from tabloop.metrics import auc

from . import monitored
from .monitored import install, log, params, served


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monitored.enter(tmp_path, monkeypatch)
    install(tmp_path, "champion", params())
    return tmp_path


def check(folder: Path, min_auc: float = 0.5) -> dict[str, Any]:
    result = performance.check(params(gates=[{"metric": "auc", "min": min_auc}]))
    assert json.loads((folder / "reports/performance.json").read_text()) == result
    return result


def cost(rows: pd.DataFrame, threshold: float) -> float:
    acted = rows.probability >= threshold
    errors = 1 * (acted & (rows.outcome == 0)).sum() + 5 * (~acted & (rows.outcome == 1)).sum()
    return float(errors / len(rows))


def test_each_week_version_and_variant_has_a_line(folder: Path) -> None:
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
    assert window["cost_per_row"] == pytest.approx(cost(known, 0.5))
    text = performance.text(result)
    assert (
        "\nModel champion as champion:\n" in text
        and "| 500 | 20% |" in text
        and f"AUC {window['auc']:.4f} [" in text
    )


def test_each_version_is_measured_by_its_own_threshold(folder: Path) -> None:
    rows = served(500)
    log(folder, params(), rows, variant="challenger", threshold=0.3)
    log(folder, params(), rows, version="v1", threshold=0.7)
    log(folder, params(), rows, version="champion", threshold=0.6)
    weeks = {week["version"]: week for week in check(folder)["weeks"]}
    for version, threshold in {"challenger": 0.3, "v1": 0.7, "champion": 0.6}.items():
        assert weeks[version]["cost_per_row"] == pytest.approx(cost(rows, threshold)), version
    log(folder, params(), rows)  # by 0.5, as before the champion was trained again
    result = check(folder)
    assert result["window"]["thresholds"] == [0.5, 0.6]
    assert result["window"]["cost_per_row"] == pytest.approx((cost(rows, 0.5) + cost(rows, 0.6)) / 2)
    assert "| 0.5000 to 0.6000 |" in performance.text(result)


def test_the_log_of_another_project_or_an_earlier_table_is_not_mixed_in(folder: Path) -> None:
    rows = served(400)
    log(folder, params(), rows, threshold=0.5)
    before = check(folder)
    assert "left out" not in performance.text(before)
    for other in ("kit/is_fraud", "another/returned", None):
        log(folder, params(), rows.assign(probability=0.0), version="v9", source_table=other, threshold=0.5)
    result = check(folder)
    assert result["weeks"] == before["weeks"] and result["window"] == before["window"]
    assert "- 1,200 predictions of another project, table or service are left out" in performance.text(result)


def test_worse_is_said_of_the_present_champion_only(folder: Path) -> None:
    random_scores = served(800).assign(probability=served(800, seed=5).probability)
    log(folder, params(), random_scores, version="an older champion")
    log(folder, params(), random_scores, variant="challenger")
    log(folder, params(), random_scores, at=datetime.now(UTC) - timedelta(days=8))
    result = check(folder, 0.9)
    assert not result["worse"]
    assert "Performance is unknown: no prediction of model champion since" in performance.text(result)
    log(folder, params(), random_scores)
    result = check(folder, 0.9)
    assert result["worse"] and "⚠️ **Worse than the gate allows.** AUC 0." in performance.text(result)
    free = performance.check(params(gates=[{"metric": "auc", "by": "country", "min": 0.99}]))
    assert not free["worse"] and ", no bar in params.yaml, of model" in performance.text(free)


def test_few_labels_or_none_are_no_verdict_and_what_is_missing_is_said(folder: Path) -> None:
    assert "there is no prediction log" in performance.text(check(folder))
    log(folder, params(), served(100), labels=0)
    result = check(folder, 0.99)
    assert result["window"] == {"rows": 100, "unlabelled": 1.0} and not result["worse"]
    assert "no label yet of 100 predictions of model champion since" in performance.text(result)
    rows = served(40)
    log(folder, params(), rows)
    result = check(folder, 0.99)
    assert "auc" not in result["window"] and "cost_per_row" in result["window"] and not result["worse"]
    positive = int(rows.outcome.sum())
    assert 0 < positive < 20 < 40 - positive
    said = performance.text(result)
    assert "40 of 140 predictions" in said and f"; {20 - positive} positive more are needed." in said


def test_a_file_that_breaks_while_it_is_read_is_one_line(folder: Path) -> None:
    """Its end, which is read first, is whole."""
    log(folder, params(), served(3000))
    (path,) = (folder / "log/predictions").rglob("*.parquet")
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = b"\0" * (len(content) // 2 - 4)
    path.write_bytes(content)
    with pytest.raises(UserError, match="log can't be read: ") as caught:
        check(folder)
    assert "\n" not in str(caught.value)
