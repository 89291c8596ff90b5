"""data/raw: the raw table under the schema's names, and the log's labelled rows."""

from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
from kit.conftest import LOG_COLUMNS, PARAMS, Project, orders
from tabloop import predictions
from tabloop.params import Params

from .conftest import Tabloop

REQUEST = {name: {"type": "number"} for name in LOG_COLUMNS}
SCHEMA = {"key": ["order_id"], "timestamp": "at", "views": {}, "request": REQUEST}
SETTINGS = {"evaluate": PARAMS["evaluate"] | {"segments": []}}


def raw(folder: Path, table: str = "events") -> pd.DataFrame:
    return pd.read_parquet(folder / f"data/raw/{table}.parquet")


def test_columns_get_the_schemas_names_and_others_stay(project: Project, tabloop: Tabloop) -> None:
    events = orders().rename(columns={"amount": "Amount (EUR)", "returned": "Zurück?"})
    events["AMOUNT"] = "left out: SQL's names have no case"
    events["note"] = "x"
    folder = project(events, schema={"rename": {"amount": "Amount (EUR)", "returned": "Zurück?"}})
    assert tabloop(folder, "ingest").stdout == "ingest: 400 events from events.csv -> data/raw\n"
    assert set(raw(folder)) == {*orders().columns, "note"}
    pd.testing.assert_series_equal(raw(folder).amount, orders().amount)


def test_data_raw_is_replaced_whole_or_not_at_all(project: Project, tabloop: Tabloop) -> None:
    folder = project(orders())
    tabloop(folder, "ingest")
    (folder / "data/raw/old.parquet").write_bytes(b"of another source")
    before = (folder / "data/raw/events.parquet").read_bytes()
    orders().drop(columns="amount").to_csv(folder / "events.csv", index=False)
    failed = tabloop(folder, "ingest", code=1)
    assert failed.stderr.startswith("ingest: events.csv lacks column 'amount'; it has: ")
    assert (folder / "data/raw/events.parquet").read_bytes() == before
    orders(200).to_csv(folder / "events.csv", index=False)
    tabloop(folder, "ingest")
    assert [path.name for path in (folder / "data").rglob("*")] == ["raw", "events.parquet"] and len(
        raw(folder)
    ) == 200


def test_a_source_that_breaks_while_it_is_written_changes_nothing(project: Project, tabloop: Tabloop) -> None:
    folder = project(data={"source": "simulator", "simulator": {"rows": 3}})
    package = folder / "src/kit"
    package.mkdir(parents=True)
    for name in ("__init__", "model"):
        (package / f"{name}.py").touch()
    script = "import pandas as pd\ndef simulate(arguments):\n    return {'events': pd.DataFrame({'x': range(arguments['rows'])}), 'users': %s}\n"
    (package / "simulator.py").write_text(script % "pd.DataFrame({'y': [1]})")
    assert "3 events, 1 users" in tabloop(folder, "ingest").stdout
    (package / "simulator.py").write_text(script.replace("'rows'", "'no such'") % "None")
    tabloop(folder, "ingest", code=1)
    assert len(raw(folder)) == 3 and len(raw(folder, "users")) == 1
    (package / "simulator.py").unlink()
    assert "src/kit/simulator.py is missing" in tabloop(folder, "ingest", code=1).stderr


def write_log(folder: Path, rows: int = 4) -> None:
    """Two labelled predictions, of which one was answered in the shadow too, and two without a label."""
    schema = Params.model_validate(PARAMS | {"schema": PARAMS["schema"] | SCHEMA} | SETTINGS).schema_
    at = [datetime(2026, 2, 1, i) for i in range(rows)]
    log = pd.DataFrame(
        {
            "prediction_id": [f"p{i}" for i in range(rows)],
            "predicted_at": at,
            "variant": "champion",
            "model_version": "m",
            "entity": [f"c{i}" for i in range(rows)],
            "probability": 0.5,
            "threshold": 0.5,
            "source_table": "kit/returned",
            "mode": "off",
            "share": None,
            "champion": "m",
            "challenger": None,
            "trace_id": None,
        }
        | {predictions.feature(name): float(i) for i, name in enumerate(schema.features)}
    )
    assert set(log) == set(predictions.tables(schema.features)["predictions"])
    shadow = log.head(1).assign(variant="challenger", model_version="n")
    labels = pd.DataFrame({"prediction_id": ["p0", "p0", "p1"], "label": [0, 1, 0], "received_at": at[:3]})
    for name, table in (("predictions", pd.concat([log, shadow])), ("feedback", labels)):
        part = folder / f"data/log/{name}/date=2026-02-01"
        part.mkdir(parents=True)
        table.to_parquet(part / "0.parquet")


def test_labelled_predictions_join_whatever_the_features_are_called(
    project: Project, tabloop: Tabloop
) -> None:
    events = (
        orders().drop(columns=["age", "country", "amount", "express"]).rename(columns={"ordered_at": "at"})
    )
    events[LOG_COLUMNS] = 0.0
    split = {"holdout": 0.25, "feedback_in_holdout": True}
    data = {"source": "events.csv", "feedback": "data/log"}
    folder = project(events, schema=SCHEMA, data=data, split=split, **SETTINGS)
    done = tabloop(folder, "ingest").stdout
    assert "ingest: no prediction was logged" in done or "there is no prediction log" in done
    write_log(folder)
    assert "400 events from events.csv, 2 labelled predictions" in tabloop(folder, "ingest").stdout
    feedback = raw(folder, "feedback")
    assert list(feedback.order_id) == ["p0", "p1"] and list(feedback.customer_id) == ["c0", "c1"]
    assert list(feedback.returned) == [1, 0]  # the last label counts
    assert [feedback[name].iloc[0] for name in LOG_COLUMNS] == [float(i) for i in range(len(LOG_COLUMNS))]
    tabloop(folder, "featurize")
    parts = [pd.read_parquet(folder / f"data/features/{part}.parquet") for part in ("train", "holdout")]
    joined = pd.concat(parts)
    assert len(joined) == 402
    assert joined[joined.order_id == "p0"][LOG_COLUMNS].to_numpy().tolist() == [list(range(len(LOG_COLUMNS)))]


def test_a_feature_newer_than_the_log_is_missing_in_its_rows(project: Project, tabloop: Tabloop) -> None:
    events = orders().drop(columns=["age", "country"]).rename(columns={"ordered_at": "at"})
    events[LOG_COLUMNS] = 0.0
    schema = SCHEMA | {"request": REQUEST | {"amount": {"type": "number"}, "express": {"type": "boolean"}}}
    folder = project(events, schema=schema, data={"source": "events.csv", "feedback": "data/log"}, **SETTINGS)
    write_log(folder)
    tabloop(folder, "ingest")
    assert raw(folder, "feedback")[["amount", "express"]].isna().all(axis=None)
    tabloop(folder, "featurize")


@pytest.mark.parametrize("source", ["nowhere.csv", "memory://nowhere.csv"])
def test_a_source_that_is_not_there_is_one_line(project: Project, tabloop: Tabloop, source: str) -> None:
    failed = tabloop(project(data={"source": source}), "ingest", code=1)
    assert len(failed.stderr.splitlines()) == 1 and failed.stderr.startswith(f"ingest: {source}")


def test_every_command_works_in_utc(project: Project, tabloop: Tabloop) -> None:
    """So do the owner's own files, such as the simulator, whose times may know their zone."""
    folder = project(data={"source": "simulator", "simulator": {}})
    package = folder / "src/kit"
    package.mkdir(parents=True)
    for name in ("__init__", "model"):
        (package / f"{name}.py").touch()
    (package / "simulator.py").write_text(
        "import datetime, pandas as pd\n"
        "def simulate(arguments):\n"
        "    local = datetime.datetime.fromtimestamp(0)\n"
        "    zoned = pd.to_datetime(['2026-01-01T09:00+09:00'])\n"
        "    return {'events': pd.DataFrame({'local': [local], 'zoned': zoned})}\n"
    )
    tabloop(folder, "ingest", TZ="Asia/Tokyo")
    written = pd.read_parquet(folder / "data/raw/events.parquet").iloc[0]
    assert written.to_dict() == {"local": pd.Timestamp("1970-01-01"), "zoned": pd.Timestamp("2026-01-01")}
