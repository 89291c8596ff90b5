"""What clients can do with /feedback: report outcomes of predictions that they were given, and no more."""

from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from prometheus_client import REGISTRY
from tabloop import predictions
from tabloop.serving import create_app
from tabloop.split import REPORTED

from .conftest import orders
from .test_featurize import parted, schema_of
from .test_serving import ROW, Models, models, settings  # noqa: F401

NOW = pd.Timestamp("2026-03-01")


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


def test_where_entities_are_held_out_what_was_reported_of_them_is_left_out() -> None:
    rows = orders().rename(columns={"ordered_at": "event_timestamp"})
    alone = parted(rows, schema_of(timestamp=None))
    both = pd.concat([rows.assign(**{REPORTED: False}), rows.assign(**{REPORTED: True, "amount": 1e6})])
    train, holdout = parted(both, schema_of(timestamp=None))
    pd.testing.assert_frame_equal(holdout.drop(columns=REPORTED), alone[1])
    assert len(train) == 2 * len(alone[0]) and not set(train.customer_id) & set(holdout.customer_id)
    # Rows of nobody are not of the same entity as any other.
    nobody = schema_of(timestamp=None, entity=None, views={})
    assert len(parted(both, nobody)[0]) == 400 + len(parted(rows, nobody)[0])


def labels_counted(outcome: str) -> float:
    return REGISTRY.get_sample_value("feedback_labels_total", {"outcome": outcome}) or 0


def test_each_key_may_send_so_many_labels_in_an_hour(
    models: Models,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [1000.0]
    monkeypatch.setattr("tabloop.serving.rate_limit.time.monotonic", lambda: clock[0])
    before = {outcome: labels_counted(outcome) for outcome in ("accepted", "limited", "refused")}
    chosen = settings(models("champion"), api_keys="one,two", feedback_per_hour=100)
    with TestClient(create_app("kit", chosen), headers={"X-API-Key": "one"}) as client:
        given = ids(client, 100)
        assert not report(client, *given[:99])
        last = {"prediction_id": given[99], "label": 1}
        assert client.post("/feedback", json=last).status_code == 202
        refused = client.post("/feedback", json=last)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "36"
        assert refused.json() == {"detail": "more than 100 labels in an hour: try it again in 36 s"}
        batch = client.post("/feedback/batch", json=[last] * 50)
        assert batch.status_code == 429 and batch.headers["retry-after"] == "1800"
        other = {"X-API-Key": "two"}  # is another client; what does not answer /feedback has no limit
        assert client.post("/feedback/batch", json=[last] * 100, headers=other).status_code == 202
        assert client.post("/predict", json=ROW).status_code == 200
        clock[0] += 36
        assert client.post("/feedback", json=last).status_code == 202
        assert client.post("/feedback", json=last).status_code == 429
        clock[0] += 1e6  # no more than an hour's labels are saved up
        wrong = last | {"prediction_id": "0" * 32}
        assert client.post("/feedback/batch", json=[wrong] * 100).status_code == 422
        assert client.post("/feedback", json=last).status_code == 429  # what was refused counts, too
        many = client.post("/feedback/batch", json=[last] * 101)
        assert many.status_code == 413 and "more than 100 labels: send them in parts" in many.json()["detail"]
        documented = client.get("/openapi.json").json()["paths"]
        assert all("429" in documented[f"/feedback{path}"]["post"]["responses"] for path in ("", "/batch"))
    counted = {outcome: labels_counted(outcome) - number for outcome, number in before.items()}
    assert counted == {"accepted": 201, "limited": 53, "refused": 100}
    logged = pd.concat(map(pd.read_parquet, (chosen.models / "log/feedback").rglob("*.parquet")))
    assert len(logged) == 201


def test_without_keys_the_limit_is_that_of_all_whatever_key_they_claim(models: Models) -> None:  # noqa: F811
    chosen = settings(models("champion"), feedback_per_hour=2)
    with TestClient(create_app("kit", chosen)) as client:
        outcomes = [{"prediction_id": id, "label": 0} for id in ids(client, 3)]
        found = [
            client.post("/feedback", json=outcome, headers={"X-API-Key": f"key {at}"}).status_code
            for at, outcome in enumerate(outcomes)
        ]
    assert found == [202, 202, 429]


def test_the_last_label_of_a_prediction_counts_also_within_one_request(models: Models) -> None:  # noqa: F811
    folder = models("champion")
    with TestClient(create_app("kit", settings(folder))) as client:
        one, two, three = ids(client, 3)
        given = [(one, 1), (two, 0), (one, 0), (two, 1), (three, 1), (three, 1)]
        batch = [{"prediction_id": id, "label": label} for id, label in given]
        assert client.post("/feedback/batch", json=batch).status_code == 202
        for label in (1, 0):
            client.post("/feedback", json={"prediction_id": two, "label": label}).raise_for_status()
    found = predictions.table(predictions.connect(log=str(folder / "log")), "FROM outcomes")
    assert sorted(found.drop(columns="received_at").itertuples(index=False, name=None)) == sorted(
        [(one, 0, True), (two, 0, True), (three, 1, False)]
    )
