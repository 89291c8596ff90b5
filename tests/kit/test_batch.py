"""Batch scoring: the service's answers for a whole table, however often it is killed; what can't be scored is in a file."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from batch import fault
from fastapi.testclient import TestClient
from tabloop import batch, batch_score, batch_source, roles
from tabloop.cli import UserError
from tabloop.onnx_model import FILE
from tabloop.params import Schema
from tabloop.serving import create_app
from tabloop.serving.predictor import UNSCORABLE

from .conftest import Project
from .test_card import CARD
from .test_serving import graph, settings

VIEWS = {"profile": {"label": {"type": "number"}, "country": {"type": "category"}}}
REQUEST = {
    "amount": {"type": "number", "nullable": False, "min": 0},
    "visits": {"type": "integer"},
    "express": {"type": "boolean"},
    "shop": {"type": "category"},
}
SCHEMA: dict[str, Any] = {
    "key": ["order_id"],
    "entity": "customer",
    "timestamp": "ordered_at",
    "target": {"name": "returned"},
    "views": VIEWS,
    "request": REQUEST,
}
Scoring = Callable[..., pd.DataFrame]


def orders(rows: int = 60) -> pd.DataFrame:
    random = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "order_id": [f"o{i}" for i in range(rows)],
            "customer": [f"c{i % 7}" for i in range(rows)],
            "ordered_at": pd.date_range("2026-01-01", periods=rows, freq="h"),
            "amount": random.lognormal(3, 1, rows).round(2),
            "visits": pd.array(random.integers(0, 9, rows), "Int64"),
            "express": random.random(rows) < 0.3,
            "shop": random.choice(["a", "b", "ü"], rows),
            "unknown": "x",
        }
    )


def add_model(folder: Path, role: str, version: str, **made: Any) -> None:
    """A model that adds `label` of the view and nothing else: P = sigmoid(label)."""
    schema = Schema.model_validate(SCHEMA)
    changes = {
        "schema_": schema,
        "categories": {},
        "ranges": {},
        "example": {"label": 0.5},
        "version": version,
    }
    (folder / "models" / role).mkdir(parents=True, exist_ok=True)
    CARD.model_copy(update=changes).write(folder / "models" / role)
    (folder / "models" / role / FILE).write_bytes(graph(schema, **made))


@pytest.fixture
def here(project: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a champion and a view, in which this process is."""
    folder = project(schema=SCHEMA)
    add_model(folder, "champion", "v1")
    views = pd.DataFrame(
        [
            (f"c{i}", pd.Timestamp(f"2026-01-0{day}"), i + day / 10, ["DE", "FR"][i % 2])
            for i in range(6)  # c6 is unknown
            for day in (1, 2, 3)
        ],
        columns=["customer", "event_timestamp", "label", "country"],
    )
    (folder / "data/features").mkdir(parents=True)
    views.to_parquet(folder / "data/features/profile.parquet")
    monkeypatch.chdir(folder)
    for module in (batch, roles):
        monkeypatch.setattr(module, "MODELS", folder / "models")
    monkeypatch.setattr(batch_source, "ROOT", folder)
    monkeypatch.setattr(batch_source, "FEATURES", folder / "data/features")
    return folder


def read(path: str) -> pd.DataFrame:
    return duckdb.read_parquet(path).df()


def sigmoid(values: Any) -> np.ndarray:
    return 1 / (1 + np.exp(-np.asarray(values, float)))


def expected(rows: pd.DataFrame, day: Any) -> np.ndarray:
    """The probabilities by the view's row of this day."""
    return sigmoid(rows.customer.str[1:].astype(int) + day / 10)


def test_without_a_time_the_newest_features_count(here: Path) -> None:
    rows = orders()
    rows.loc[rows.index % 2 == 0, "ordered_at"] = pd.NaT
    for name, given in (("none", rows.drop(columns="ordered_at")), ("some", rows)):
        given.to_csv(f"{name}.csv", index=False)
        batch.batch(f"{name}.csv", "out", "champion")
        known = rows[rows.customer != "c6"]
        day = 3 if name == "none" else known.ordered_at.dt.day.fillna(3)
        found = read("out/*.parquet")
        np.testing.assert_allclose(found.probability, expected(known, day), rtol=1e-5)


def test_the_answers_and_the_refusals_are_the_service_s(here: Path) -> None:
    odd: dict[str, list[Any]] = {
        "amount": [1.5, -1.0, None, 1e300, 2.0, 3.0],
        "visits": [1.0, 2.0, 2.5, None, 1e19, 3.0],
        "shop": ["a", "x" * 1001, None, "", "b", "new"],
        "express": [True, None, False, True, True, None],
        "label": [0.1, 0.2, 0.3, None, -0.5, 1e300],
        "customer": ["c1", None, " c2 ", "", "y" * 1001, "c3"],
    }
    rows = [
        {name: values[(at * step) % 6] for step, (name, values) in enumerate(odd.items(), 1)}
        for at in range(36)
    ]
    rows += [{name: values[at] for name, values in odd.items()} for at in range(6)]
    rows += [dict.fromkeys(odd) | {"amount": 1.0, "label": 0.5, "visits": at} for at in range(3)]
    for row in rows:
        row["country"] = "DE"
    pd.DataFrame(rows).astype({"express": "boolean"}).to_parquet("in.parquet")
    batch.batch("in.parquet", "out.parquet", "champion")
    found = iter(read("out.parquet").probability)
    reasons = read("out.refused.parquet").set_index("row").reasons
    with TestClient(create_app("kit", settings(here / "models", online_store="none"))) as client:
        for at, row in enumerate(rows):
            answer = client.post("/predict", json=row)
            if answer.status_code == 200:
                assert at not in reasons and answer.json()["probability"] == next(found)
            elif answer.status_code == 422:
                errors = [f"{e['loc'][-1]}: {e['msg']}" for e in answer.json()["detail"]]
                assert reasons[at].split("; ") == errors
            else:
                assert (answer.json()["detail"], reasons[at]) == (UNSCORABLE,) * 2
    assert next(found, None) is None and len(reasons) > 10


def test_what_is_no_value_of_its_column_is_refused_with_the_reason(here: Path) -> None:
    rows = orders(6).astype(object).assign(label=1.0)
    rows.loc[0, "amount"], rows.loc[1, "visits"], rows.loc[2, "express"] = "dear", "many", "perhaps"
    rows.loc[3, "ordered_at"], rows.loc[4, "customer"] = "soon", None
    rows.to_csv("in.csv", index=False)
    batch.batch("in.csv", "out.parquet", "champion")
    assert read("out.parquet").order_id.tolist() == ["o5"]
    assert read("out.refused.parquet").reasons.tolist() == [
        "amount: Input should be a valid number",
        "visits: Input should be a whole number from -9.22337203685478e+18 to 9.22337203685478e+18",
        "express: Input should be a valid boolean",
        "ordered_at: Input should be a time",
        "customer: Field required: give it, or all of: country",
    ]


def test_rows_with_the_same_key_are_scored_each_and_rows_without_one_have_their_number(here: Path) -> None:
    rows = orders(5).assign(order_id="o", label=[0.0, 1, 2, 3, 4], country="DE")
    rows.to_csv("in.csv", index=False)
    assert batch.batch("in.csv", "out.parquet", "champion")[1] == 0
    np.testing.assert_allclose(read("out.parquet").probability, sigmoid(range(5)), rtol=1e-5)
    assert not Path("out.refused.parquet").exists()
    rows[["amount", "label", "country"]].to_csv("bare.csv", index=False)
    batch.batch("bare.csv", "out.parquet", "champion")
    assert read("out.parquet").row.tolist() == [0, 1, 2, 3, 4]


def test_a_file_that_can_not_be_read_meanwhile_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders().to_csv("in.csv", index=False)

    def refused(*arguments: Any) -> Any:
        raise PermissionError(13, "Permission denied", "in.csv")

    monkeypatch.setattr(batch, "score_parts", refused)
    line = "^out.parquet can't be written: in.csv can't be used: Permission denied$"
    with pytest.raises(UserError, match=line):
        batch.batch("in.csv", "out.parquet", "champion")


@pytest.mark.parametrize(
    ("source", "output", "why"),
    [
        ("nowhere.csv", "out.parquet", "nowhere.csv: no such file"),
        ("empty.csv", "out.parquet", "empty.csv is empty"),
        ("head.csv", "out.parquet", "head.csv has no rows"),
        ("wrong.csv", "out.parquet", r"wrong.csv lacks column 'amount'; it has: customer, price$"),
        ("keyless.csv", "out.parquet", "keyless.csv lacks 'customer', or all of: label, country"),
        ("in.csv", "in.csv/out.parquet", "in.csv/out.parquet can't be written: Not a directory"),
        ("in.csv", "in.csv", "in.csv is the input or contains it"),
        ("in.csv", ".", ". is the input or contains it"),
        ("in.csv", "other", "other is a folder with other files"),
        ("in.csv", "other.csv", r"other.csv: name a file that ends with .parquet"),
        ("in.csv", "pipe", r"pipe: name a file that ends with .parquet"),
        (
            "in.csv",
            "new.xlsx",
            r"new.xlsx: name a file that ends with .parquet, or a folder without an ending$",
        ),
        ("in.csv", "new/a.csv", r"new/a.csv: name a file that ends with .parquet"),
        ("in.csv", "s3://bucket/out.parquet", "s3://bucket/out.parquet is not a path"),
        (
            "refused.csv",
            "out.parquet",
            r"no row of refused.csv can be scored: all 60 refused -> .*out.refused.parquet",
        ),
    ],
)
def test_what_can_not_be_done_is_one_line_and_the_output_is_as_it_was(
    here: Path, source: str, output: str, why: str
) -> None:
    rows = orders()
    rows.to_csv("in.csv", index=False)
    rows.assign(amount=-1).to_csv("refused.csv", index=False)
    rows.drop(columns="customer").to_csv("keyless.csv", index=False)
    rows.rename(columns={"amount": "price"})[["customer", "price"]].to_csv("wrong.csv", index=False)
    rows[:0].to_csv("head.csv", index=False)
    for name in ("empty.csv", "other/precious", "other.csv", "out.parquet"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("" if name == "empty.csv" else "precious")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind("pipe")  # neither file nor folder, as /dev/stdout
    with pytest.raises(UserError, match=f"^{why}") as caught:
        batch.batch(source, output, "champion")
    assert Path("pipe").is_socket() and "\n" not in str(caught.value)
    kept = [Path(name).read_text() for name in ("other/precious", "other.csv", "out.parquet")]
    assert kept == ["precious"] * 3 and len(pd.read_csv("in.csv")) == 60


def test_without_model_or_view_it_says_which(here: Path) -> None:
    orders().to_csv("in.csv", index=False)
    with pytest.raises(UserError, match="there is no challenger"):
        batch.batch("in.csv", "out.parquet", "challenger")
    with pytest.raises(UserError, match=r"candidate/model.json is missing"):
        batch.batch("in.csv", "out.parquet", "candidate")
    (here / "data/features/profile.parquet").unlink()
    with pytest.raises(UserError, match=r"profile.parquet is missing: run `make train`"):
        batch.batch("in.csv", "out.parquet", "champion")
    (here / "models/champion.dvc").write_text("outs: [{md5: 0123.dir, path: champion}]")
    with pytest.raises(UserError, match="pins a model that models/champion does not hold"):
        batch.batch("in.csv", "out.parquet", "champion")


def interrupt() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of rows that were scored, in parts of 16 and blocks of 8."""
    monkeypatch.setattr(batch, "BLOCK", 8)
    monkeypatch.setattr(batch, "PART", 16)
    scored, score = list[int](), batch_score.Scorer.__call__

    def counted(self: Any, block: Any, first: int) -> Any:
        scored.append(block.num_rows)
        return score(self, block, first)

    monkeypatch.setattr(batch_score.Scorer, "__call__", counted)
    return scored


@pytest.mark.parametrize("output", ["out.parquet", "out"])
@pytest.mark.parametrize("step", ["rows_of", "rmtree"])
def test_a_run_that_ends_while_it_publishes_has_nothing_to_score_again(
    here: Path, output: str, step: str, scored: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(path: Path, **_: Any) -> None:
        if step == "rows_of" or path.name == f".{output}.batch":
            raise KeyboardInterrupt

    orders().to_parquet("in.parquet")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batch if step == "rows_of" else shutil, step, interrupted)
        batch.batch("in.parquet", output, "champion")
    assert Path(output).exists() == (step == "rmtree")  # which is the last one
    scored.clear()
    batch.batch("in.parquet", output, "champion")
    assert not scored and len(read(f"{output}/*.parquet" if output == "out" else output)) == 52


@pytest.mark.parametrize("what", ["model", "input", "view"])
def test_after_a_change_an_interrupted_run_begins_anew(
    here: Path,
    what: str,
    scored: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = orders()
    rows.to_parquet("in.parquet")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        write = batch.write_part
        patch.setattr(
            batch, "write_part", lambda folder, part, *a: interrupt() if part else write(folder, part, *a)
        )
        batch.batch("in.parquet", "out.parquet", "champion")
    if what == "model":
        add_model(here, "champion", "v2")
    elif what == "input":
        rows = rows[::-1]
        rows.to_parquet("in.parquet")
    else:
        path = here / "data/features/profile.parquet"
        read(str(path)).assign(label=0).to_parquet(path)
    batch.batch("in.parquet", "out.parquet", "champion")
    assert "starts again: the model, the input, a view or a setting changed" in capsys.readouterr().out
    found, known = read("out.parquet"), rows[rows.customer != "c6"]
    assert found.order_id.tolist() == known.order_id.tolist()
    assert set(found.model_version) == {"v2" if what == "model" else "v1"}
    probability = sigmoid(np.zeros(52)) if what == "view" else expected(known, known.ordered_at.dt.day)
    np.testing.assert_allclose(found.probability, probability, rtol=1e-5)


def test_two_runs_at_once_do_not_write_the_same_output(here: Path) -> None:
    orders().to_csv("in.csv", index=False)
    with (
        batch.working_folder(here / "out.parquet", "out.parquet"),
        pytest.raises(UserError, match=r"another batch writes out\.parquet"),
    ):
        batch.batch("in.csv", "out.parquet", "champion")
    batch.batch("in.csv", "out.parquet", "champion")


def test_folders_and_patterns_are_read_and_a_folder_of_parts_is_replaced(here: Path) -> None:
    rows = orders().assign(label=1.0, country="DE")
    for at in range(3):
        (here / f"in/day={at}").mkdir(parents=True)
        rows[at::3].to_parquet(f"in/day={at}/rows.parquet")
    for source in ("in", "in/*/rows.parquet"):
        assert batch.batch(source, "out", "champion")[1] == 0
        assert sorted(read("out/*.parquet").order_id) == sorted(rows.order_id)
        assert [path.name for path in Path("out").iterdir()] == ["part-00000.parquet"]


def test_the_benchmark_sees_rows_in_another_order_and_scores_of_other_rows(tmp_path: Path) -> None:
    rows = pd.DataFrame({"order_id": [f"o{i}" for i in range(50)], "probability": np.linspace(0, 1, 50)})
    rows.to_parquet(tmp_path / "in.parquet")
    swapped = rows.assign(probability=rows.probability[::-1].to_numpy())
    for output, what in (
        (rows, ""),
        (rows[::-1], "50 rows are not where the input has them"),
        (rows[:49], "1 rows are not where the input has them"),
        (swapped, "50 rows have another score than ONNX Runtime's"),
    ):
        output.to_parquet(tmp_path / "out.parquet")
        expected = rows.probability.to_numpy()
        assert fault(tmp_path / "in.parquet", tmp_path / "out.parquet", "order_id", expected) == what
