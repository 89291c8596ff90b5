"""A project that is monitored: models pinned by DVC's files, and a prediction log by the service's own writer."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tabloop import drift, evidently_pages, experiment, performance, predictions, release, roles
from tabloop.card import ModelCard
from tabloop.params import Params
from tabloop.serving.log_writer import Table

from .conftest import PARAMS
from .test_card import CARD

IDS: Iterator[int] = iter(range(10**9))


def params(**changes: Any) -> Params:
    """The settings of PARAMS, with few rows needed for a statement; `schema` replaces its parts one by one."""
    schema = PARAMS["schema"] | changes.pop("schema", {})
    experiment = {"min_entities": 50, "error": 0.05}
    monitoring = {"min_rows": 1000, "sample": 1000, "experiment": experiment} | changes.pop("monitoring", {})
    return Params.model_validate(PARAMS | {"schema": schema, "monitoring": monitoring} | changes)


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the monitoring modules work on the project in `folder`."""
    monkeypatch.setattr(roles, "MODELS", folder / "models")
    monkeypatch.setattr(release, "ROOT", folder)
    for module in (drift, evidently_pages):
        monkeypatch.setattr(module, "REPORT", folder / "reports/drift.html")
    monkeypatch.setattr(performance, "REPORT", folder / "reports/performance.json")
    monkeypatch.setattr(experiment, "REPORT", folder / "reports/experiment.json")
    monkeypatch.setattr(experiment, "PLOT", folder / "reports/experiment.png")
    monkeypatch.setenv("PREDICTION_LOG", str(folder / "log"))


def install(
    folder: Path, role: roles.Role, chosen: Params, reference: pd.DataFrame | None = None, **changes: Any
) -> ModelCard:
    """Give the role a model with this reference data, and pin it as DVC does."""
    model = folder / "models" / role
    model.mkdir(parents=True, exist_ok=True)
    made = {"version": role, "threshold": 0.5, "schema_": chosen.schema_, "source_table": chosen.source_table}
    card = CARD.model_copy(update=made | changes)
    card.write(model)
    if reference is not None:
        reference.to_parquet(model / "reference.parquet", index=False)
    pin = {"outs": [{"md5": roles.folder_hash(model), "hash": "md5", "path": role}]}
    (folder / f"models/{role}.dvc").write_text(yaml.safe_dump(pin))
    return card


def released(folder: Path, mode: str, share: float | str = 0) -> None:
    """Write deploy/staging/release.env."""
    path = folder / "deploy/staging/release.env"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"# A comment\nMODEL_VERSION=champion\nCHALLENGER_MODE={mode}\nCHALLENGER_SHARE={share}\n"
    )


def served(rows: int, seed: int = 0) -> pd.DataFrame:
    """Rows of PARAMS' features with entity, probability and outcome; the probability says much of the outcome."""
    random = np.random.default_rng(seed)
    label = (random.random(rows) < 0.3).astype(int)
    return pd.DataFrame(
        {
            "entity": [f"c{i:04d}" for i in random.integers(0, 400, rows)],
            "age": random.integers(18, 80, rows),
            "country": np.array(["DE", "FR", "US"])[random.integers(0, 3, rows)],
            "amount": random.lognormal(3, 1, rows),
            "express": random.random(rows) < 0.3,
            "probability": np.clip(0.2 + 0.6 * label + random.normal(0, 0.15, rows), 0, 1),
            "outcome": label,
        }
    )


def log(
    folder: Path,
    chosen: Params,
    rows: pd.DataFrame,
    variant: str = "champion",
    version: str | None = None,
    at: datetime | None = None,
    ids: list[str] | None = None,
    labels: float = 1.0,
    **columns: Any,
) -> list[str]:
    """Write rows to the folder's prediction log as the service's writer does; the predictions' ids.

    Args:
        version: of the model; by default the variant's name.
        at: when they were predicted, by default now.
        ids: those of rows that were answered by the other variant, too; their labels are in the log already.
        labels: the share of rows whose label is reported.
        columns: the same value for all rows, for example of `threshold`; else null, but for a threshold of 0.5 and the table.
    """
    time = int((at or datetime.now(UTC)).timestamp() * 1e6)
    tables = predictions.tables(chosen.schema_.features)
    names = ids or [f"p{next(IDS):08d}" for _ in range(len(rows))]
    values = {name: rows[name].astype(object).where(rows[name].notna(), None).tolist() for name in rows}
    n = len(rows)
    constant = {"predicted_at": time, "variant": variant, "model_version": version or variant}
    constant |= {"threshold": 0.5, "source_table": chosen.source_table} | columns
    rows_of = {name: [constant.get(name)] * n for name in tables["predictions"]}
    rows_of |= {predictions.feature(name): values[name] for name in chosen.schema_.features}
    rows_of |= {
        "prediction_id": list(names),
        "entity": values["entity"],
        "probability": values["probability"],
    }
    write(folder, "predictions", tables, rows_of)
    if ids is None and (known := int(n * labels)):
        outcomes = {"prediction_id": names[:known], "label": values["outcome"][:known]}
        write(folder, "feedback", tables, outcomes | {"received_at": [time] * known})
    return names


def write(folder: Path, name: str, tables: dict[str, dict[str, str]], columns: dict[str, Any]) -> None:
    """Write a file of one of the log's tables, given as lists."""
    table = Table(name, tables[name], str(folder / "log"))
    table.written = next(IDS)  # a file name of its own
    table.add(columns)
    table.write()
    assert not table.failed
