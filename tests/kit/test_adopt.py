"""The example is replaced by the owner's table, whole or not at all."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from .conftest import PARAMS, TEMPLATE, Project, Tabloop, begin_history, commit, orders

EXAMPLE = ["src/kit/simulator.py", "tests/test_example.py", "feature_repo/customer_features.sql"]
RESULTS = [
    "data/raw/events.parquet",
    "data/features/train.parquet",
    "data/online/store.db",
    "metrics/evaluation.json",
]
RESULTS += [
    "reports/evaluation.html",
    "dvc.lock",
    "models/candidate/model.json",
    "models/champion/model.json",
]


@pytest.fixture
def example(project: Project) -> Path:
    """A committed project with the example's files, and results that git ignores or holds."""
    data = {"source": "simulator", "feedback": None, "simulator": {"seed": 7}}
    folder = project(data=data, schema={"rename": {"amount": "Old name"}})
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("evaluate:", "# How it is measured\nevaluate:", 1))
    graph = (TEMPLATE / "dvc.yaml").read_text().replace("{{ cookiecutter.package_name }}", "kit")
    (folder / "dvc.yaml").write_text(graph)
    for name in [*EXAMPLE, *RESULTS, "models/champion.dvc", "MODEL_CARD.md"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("outs: []\n" if name.endswith(".dvc") else "{}\n")
    (folder / ".gitignore").write_text(
        "data/raw/\ndata/features/\ndata/online/\nmodels/candidate/\nmodels/champion/\n"
    )
    (folder / "dvc.lock").write_text("schema: '2.0'\n")
    begin_history(folder)
    commit(folder)
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """All files of the project, DVC's cache and what git and DVC keep for themselves aside."""
    found = (path for path in folder.rglob("*") if path.is_file())
    relative = {path.relative_to(folder): path for path in found}
    return {
        str(name): path.read_bytes()
        for name, path in relative.items()
        if name.parts[0] not in (".git", ".dvc")
    }


def mine(folder: Path) -> Path:
    """A table outside the project, with names that have to be changed."""
    path = folder.parent / "My orders.csv"
    table = orders().rename(columns={"amount": "Amount (EUR)", "returned": "Returned?"})
    table["class"], table["event_timestamp"] = ["a", "b"] * 200, range(0, 1200, 3)
    table.to_csv(path, index=False)
    return path


def params(folder: Path) -> Any:
    return yaml.safe_load((folder / "params.yaml").read_text())


def adopt(table: str | Path) -> list[str]:
    return [
        "adopt",
        str(table),
        "--target",
        "Returned?",
        "--entity",
        "customer_id",
        "--timestamp",
        "ordered_at",
    ]


def test_the_example_leaves_and_the_table_takes_its_place(example: Path, tabloop: Tabloop) -> None:
    done = tabloop(example, *adopt(mine(example))).stdout
    for name in [*EXAMPLE, *RESULTS, "models/champion.dvc", "data/online"]:
        assert not (example / name).exists(), name
    for name in (
        "MODEL_CARD.md",
        "data/My orders.csv",
        "data/My orders.csv.dvc",
        "feature_repo/definitions.py",
    ):
        assert (example / name).exists(), name
    found = params(example)
    assert found["data"] == {"source": "data/My orders.csv", "feedback": None}
    assert found["schema"]["rename"] == {
        "returned": "Returned?",
        "amount_eur": "Amount (EUR)",
        "class_": "class",
        "event_timestamp_": "event_timestamp",
    }
    assert found["schema"]["target"] == {"name": "returned", "positive": "1"}
    assert "sources" not in found["schema"] and "source" not in str(found["schema"])
    assert "# How it is measured" in (example / "params.yaml").read_text()
    ingest = yaml.safe_load((example / "dvc.yaml").read_text())["stages"]["ingest"]
    assert ingest["deps"] == ["data/My orders.csv"] and ingest["outs"] == ["data/raw"]
    for decision in (
        "Amount (EUR)",
        "looked up by customer_id: age, country",
        "key: order_id; split by time",
    ):
        assert decision in done
    tabloop(example, "ingest"), tabloop(example, "validate")
    raw = pd.read_parquet(example / "data/raw/events.parquet")
    assert {"amount_eur", "class_", "event_timestamp_", "returned"} <= set(raw)


def test_a_second_table_replaces_the_first(example: Path, tabloop: Tabloop) -> None:
    tabloop(example, *adopt(mine(example)))
    commit(example)
    orders().to_parquet(example / "plain.parquet")
    tabloop(example, "adopt", "plain.parquet", "--target", "returned")
    found = params(example)
    assert found["data"]["source"] == "plain.parquet" and "rename" not in found["schema"]
    assert found["schema"]["entity"] is None and "views" not in found["schema"]
    ingest = yaml.safe_load((example / "dvc.yaml").read_text())["stages"]["ingest"]
    assert ingest["deps"] == ["plain.parquet"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere.csv", "--target", "y"], "nowhere.csv: no such file"),
        (["TABLE", "--target", "retruned"], "TARGET=retruned: no such column"),
        (["TABLE", "--target", "country"], "TARGET=country has 3 values"),
        (
            ["TABLE", "--target", "Returned?", "--entity", "Returned?"],
            "TARGET=Returned? and ENTITY=Returned?",
        ),
        (["", "--target", "y"], "say which table"),
    ],
)
def test_what_is_refused_changes_nothing(
    example: Path, tabloop: Tabloop, arguments: list[str], problem: str
) -> None:
    given = [str(mine(example)) if argument == "TABLE" else argument for argument in arguments]
    before = files(example)
    failed = tabloop(example, "adopt", *given, code=1)
    assert failed.stderr.startswith(f"adopt: {problem}") and len(failed.stderr.splitlines()) == 1
    assert files(example) == before


def test_a_failure_after_the_table_was_read_changes_nothing(example: Path, tabloop: Tabloop) -> None:
    table = mine(example)
    (example / "data/My orders.csv").write_text("another\n")
    commit(example)
    before = files(example)
    assert "data/My orders.csv exists already" in tabloop(example, *adopt(table), code=1).stderr
    assert files(example) == before
    # git holds this file, so DVC refuses it.
    refused = tabloop(example, "adopt", "events.csv", "--target", "returned", code=1).stderr
    assert refused.startswith("adopt: events.csv: no such file")
    orders().to_csv(example / "events.csv", index=False)
    commit(example)
    before = files(example)
    refused = tabloop(example, "adopt", "events.csv", "--target", "returned", code=1).stderr
    assert refused.startswith("adopt: events.csv: DVC refuses it: ") and len(refused.splitlines()) == 1
    assert files(example) == before


@pytest.mark.parametrize("name", ["params.yaml", "feature_repo/mine.sql", "tests/test_example.py"])
def test_changes_that_git_does_not_hold_are_not_overwritten(
    example: Path, tabloop: Tabloop, name: str
) -> None:
    with (example / name).open("a") as file:
        file.write("# mine\n")
    before = files(example)
    failed = tabloop(example, *adopt(mine(example)), code=1).stderr
    assert failed.startswith(f"adopt: {name} has changes that git does not hold")
    assert files(example) == before


def test_parameters_of_the_kit_are_those_that_adopt_writes(example: Path, tabloop: Tabloop) -> None:
    """Whatever adopt leaves alone stays as it was."""
    tabloop(example, *adopt(mine(example)))
    found = params(example)
    assert found["gates"] == {"min_auc": 0.5} and found["evaluate"]["segments"] == ["country", "class_"]
    assert found["evaluate"]["cost"] == PARAMS["evaluate"]["cost"] and found["split"] == PARAMS["split"]
