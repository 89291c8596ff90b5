"""What clients can do with /feedback: report outcomes of predictions that they were given, and no more."""

from typing import Any

import pandas as pd
import pytest
import yaml
from fastapi.testclient import TestClient
from tabloop.serving import create_app
from tabloop.split import REPORTED, split

from .conftest import PARAMS, Project, Tabloop, orders
from .test_featurize import schema_of
from .test_serving import ROW, Models, models, settings  # noqa: F401

NOW = pd.Timestamp("2026-03-01")
NO_SEGMENTS = {"evaluate": PARAMS["evaluate"] | {"segments": []}}


def ids(client: TestClient, rows: int = 2) -> list[str]:
    answers = client.post("/predict/batch", json=[ROW] * rows).raise_for_status().json()
    return [answer["prediction_id"] for answer in answers]


def report(client: TestClient, *given: str) -> list[dict[str, Any]]:
    """What is wrong with these ids, which are reported as a batch; nothing: they are accepted."""
    answer = client.post("/feedback/batch", json=[{"prediction_id": id, "label": 1} for id in given])
    assert answer.status_code in (202, 422), answer.text
    return [] if answer.status_code == 202 else list(answer.json()["detail"])


def test_an_id_that_the_service_did_not_give_is_refused(models: Models) -> None:  # noqa: F811
    folder = models("champion")
    with TestClient(create_app("kit", settings(folder))) as client:
        given = ids(client, 30)
        assert len({id[:24] for id in given}) == 30 and all(len(id) == 32 for id in given)
        wrong = [
            given[0][:-1] + ("0" if given[0][-1] != "0" else "1"),
            "0" * 32,
            given[1][:24] + given[2][24:],
        ]
        for id in wrong:
            refused = client.post("/feedback", json={"prediction_id": id, "label": 1})
            assert refused.status_code == 422
            assert refused.json()["detail"] == [
                {
                    "loc": ["body", "prediction_id"],
                    "msg": "this service did not give this id",
                    "type": "unknown_prediction",
                }
            ]
        assert [error["loc"] for error in report(client, *given, *wrong)] == [
            ["body", 30 + i, "prediction_id"] for i in range(3)
        ]
        assert len(report(client, *wrong * 100)) == 20
        assert not report(client, *given)
    logged = pd.concat(map(pd.read_parquet, (folder / "log/feedback").rglob("*.parquet")))
    assert sorted(logged.prediction_id) == sorted(given)  # of a batch with a wrong id, nothing


@pytest.mark.parametrize("key", ["", "a secret"])
def test_replicas_and_restarts_know_one_anothers_ids(models: Models, key: str) -> None:  # noqa: F811
    folder = models("champion")

    def service(project: str = "kit", key: str = key) -> TestClient:
        """One that has not been started: it has no log."""
        return TestClient(create_app(project, settings(folder, feedback_key=key)))

    one, other = service(), service()
    given = ids(one)
    assert not report(other, *given) and not report(one, *ids(other))
    assert len(report(service(key="another"), *given)) == 2
    assert len(report(service(project="another"), *given)) == (0 if key else 2)


def test_what_clients_reported_is_learnt_from_and_decides_no_gate(project: Project, tabloop: Tabloop) -> None:
    """By one setting it may. Outcomes of predictions that are not in the log are left out, and that is said."""
    views: dict[str, Any] = {"views": {}, "request": {"amount": {"type": "number"}}}
    folder = project(
        orders(), schema=views, data={"source": "events.csv", "feedback": "data/log"}, **NO_SEGMENTS
    )
    reported = pd.DataFrame(
        {
            "prediction_id": [f"p{i:02d}" for i in range(60)],
            "predicted_at": pd.date_range(
                "2026-01-05", periods=60, freq="12h"
            ),  # before the holdout begins, and later
            "variant": "champion",
            "model_version": "m",
            "entity": "c001",
            "probability": 0.5,
            "feature_amount": 1e6,
        }
    )
    labels = pd.DataFrame(
        {"prediction_id": [*reported.prediction_id, *"xyz"], "label": 0, "received_at": NOW}
    )
    for name, table in (("predictions", reported), ("feedback", labels)):
        (folder / f"data/log/{name}/date=2026-02-01").mkdir(parents=True)
        table.to_parquet(folder / f"data/log/{name}/date=2026-02-01/0.parquet")
    said = tabloop(folder, "ingest").stdout
    assert "ingest: 3 outcomes of predictions that are not in the log are left out\n" in said
    assert "60 labelled predictions join the data, in train only" in tabloop(folder, "featurize").stdout
    train, holdout = (
        pd.read_parquet(folder / f"data/features/{part}.parquet") for part in ("train", "holdout")
    )
    assert holdout.order_id.tolist() == orders().order_id[300:].tolist() and set(train) == set(holdout)
    assert train.order_id.tolist()[-1] > "p" and (train.amount == 1e6).sum() == 60 and len(train) == 360
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["split"]["feedback_in_holdout"] = True
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    assert "join the data\n" in tabloop(folder, "featurize").stdout
    trusted = pd.read_parquet(folder / "data/features/holdout.parquet")
    assert trusted.order_id.str.startswith("p").any() and set(trusted) == set(holdout)


def test_where_entities_are_held_out_what_was_reported_of_them_is_left_out() -> None:
    rows = orders().rename(columns={"ordered_at": "event_timestamp"})
    alone = split(rows, schema_of(timestamp=None).schema_, 0.25)
    both = pd.concat([rows.assign(**{REPORTED: False}), rows.assign(**{REPORTED: True, "amount": 1e6})])
    train, holdout = split(both, schema_of(timestamp=None).schema_, 0.25)
    pd.testing.assert_frame_equal(holdout, alone[1])
    assert len(train) == 2 * len(alone[0]) and not set(train.customer_id) & set(holdout.customer_id)
    # Rows of nobody are not of the same entity as any other.
    nobody = schema_of(timestamp=None, entity=None, views={}).schema_
    assert len(split(both, nobody, 0.25)[0]) == 400 + len(split(rows, nobody, 0.25)[0])
