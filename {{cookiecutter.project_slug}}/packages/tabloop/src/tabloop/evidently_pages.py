"""Evidently's pages on a sample of the predictions: drift and a summary of each column, and with labels the errors."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from tabloop import files, predictions, roles
from tabloop.card import ModelCard
from tabloop.columns import quote
from tabloop.drift import REPORT, SCORE, reference
from tabloop.metrics import enough
from tabloop.onnx_model import MAX
from tabloop.params import Params

METHOD = "tabloop"  # in Evidently's registry of drift methods


def write(params: Params, result: dict[str, Any]) -> list[Path]:
    """Write Evidently's pages beside the result of `drift.check`; their paths.

    They have its columns in its order, with its distances, bars and verdicts, which count all rows; only what they
    draw is of the sample. A column without a value on one side is left out, as Evidently refuses it.
    """
    from evidently import BinaryClassification, DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift
    from evidently.presets import ClassificationPreset, DataSummaryPreset

    if not result["columns"]:
        return []
    champion = roles.required("champion")
    target, features = champion.schema_.target.name, champion.schema_.features
    columns = result["columns"]
    sides = samples(params, champion, result).items()
    tables = {side: rows.dropna(axis="columns", how="all") for side, rows in sides}
    shown = [name for name in columns if all(name in rows for rows in tables.values())]
    numbers = [name for name in shown if name == SCORE or features[name].numeric]
    others = [name for name in shown if name not in numbers]
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=others)
    data = [Dataset.from_pandas(typed(rows[shown], numbers), definition) for rows in tables.values()]
    register(columns)
    bars = [ValueDrift(column=n, method=METHOD, threshold=columns[n]["distance_bar"]) for n in shown]
    pages = {"drift": (Report([*bars, DataSummaryPreset(columns=shown)]), data)}
    if all(target in rows and enough(rows[target].dropna().to_numpy(int)) for rows in tables.values()):
        by_label = BinaryClassification(target=target, prediction_probas=SCORE, pos_label=1)
        definition = DataDefinition(classification=[by_label])
        known = [rows[[target, SCORE]].dropna().astype({target: int}) for rows in tables.values()]
        labelled = [Dataset.from_pandas(rows, definition) for rows in known]
        preset = ClassificationPreset(probas_threshold=champion.threshold)
        pages["classification"] = (Report([preset]), labelled)
    paths = {name: REPORT.with_name(f"evidently_{name}.html") for name in pages}
    for name, (page, (current, before)) in pages.items():
        files.write(paths[name], page.run(current, before).get_html_str(as_iframe=False))
    return list(paths.values())


def typed(rows: pd.DataFrame, numbers: list[str]) -> pd.DataFrame:
    """The rows with numbers as models take them: of greater ones Evidently can't compute its bins."""
    return rows.astype(object).assign(**{n: rows[n].astype("float64").clip(-MAX, MAX) for n in numbers})


def samples(params: Params, champion: ModelCard, result: dict[str, Any]) -> dict[str, pd.DataFrame]:
    """Rows of the log and of the reference: features, score, and the label by the target's name."""
    schema, db = champion.schema_, predictions.connect(datetime.fromisoformat(result["since"]))
    # By a hash of the id, not at random: the same log gives the same page.
    share = min(1.0, params.monitoring.sample / result["rows"])
    current = (
        f"SELECT {', '.join(predictions.select(db, schema.features))}, predictions.{SCORE}, label AS {quote(schema.target.name)} "
        "FROM predictions LEFT JOIN outcomes USING (prediction_id) "
        f"WHERE {predictions.served(champion.version, 'champion')} AND hash(prediction_id) / 2::DOUBLE ** 64 <= {share!r}"
    )
    return {"current": predictions.table(db, current), "reference": reference(db).df()}


def register(columns: dict[str, dict[str, Any]]) -> None:
    """Give Evidently the drift method that says what was found of each column."""
    from evidently.legacy.calculations.stattests import StatTest, register_stattest
    from evidently.legacy.core import ColumnType

    def found(_: Any, current: "pd.Series[Any]", *__: Any) -> tuple[float, bool]:
        column = columns[str(current.name)]
        return column["distance"], column["drift"]

    kinds = [ColumnType.Numerical, ColumnType.Categorical]
    register_stattest(StatTest(METHOD, "Jensen-Shannon distance of all rows", kinds), found)
