"""The example is replaced by the owner's table, whole or not at all."""

import json
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import click.testing
import pandas as pd
import pytest
import tabloop.adopt as adopt
import yaml
from kit.conftest import PARAMS, TEMPLATE, Project, clean, orders
from tabloop import files, ingest, own_params, place, predictions, release, roles
from tabloop.main import tabloop as command
from tabloop.params import Schema, load
from tabloop.reading.read import read
from tabloop.reading.source import save

from .conftest import begin_history, commit

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


Run = Callable[..., click.testing.Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run(project, "table.csv", "--target", "y", code=1)`: the finished `tabloop adopt`, in this process."""

    def run(folder: Path, *arguments: str | Path, code: int = 0) -> click.testing.Result:
        enter(folder, monkeypatch)
        done = click.testing.CliRunner().invoke(command, ["adopt", *map(str, arguments)])
        assert done.exit_code == code, (arguments, done.output, done.exception)
        return done

    return run


def enter(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let this process work on the project in `folder`."""
    patch.chdir(folder)
    patch.setenv("PROJECT_ROOT", str(folder))
    for module in (adopt, own_params, place, predictions, release, roles):
        patch.setattr(module, "ROOT", folder)
    patch.setattr(adopt, "PLAN", folder / ".dvc/tmp/adopt.json")


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


def contents(folder: Path) -> dict[str, bytes]:
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


def graph(folder: Path) -> Any:
    return yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]["ingest"]


ROLES = ["--target", "Returned?", "--entity", "customer_id", "--timestamp", "ordered_at"]


def test_the_example_leaves_and_the_table_takes_its_place(example: Path, run: Run) -> None:
    done = run(example, mine(example), *ROLES).output
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
    assert "# How it is measured" in (example / "params.yaml").read_text()
    assert graph(example)["deps"] == ["data/My orders.csv"] and graph(example)["outs"] == ["data/raw"]
    for decision in (
        "Amount (EUR)",
        "looked up by customer_id: age, country",
        "key: order_id; split by time",
    ):
        assert decision in done


def test_what_was_decided_for_the_example_does_not_stay_in_silence(
    example: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whatever adopt leaves alone stays as it was."""
    (example / "data/log/predictions").mkdir(parents=True)
    (example / "data/log/predictions/a.parquet").write_text("rows")
    text = (example / "params.yaml").read_text().replace("feedback: null", "feedback: data/log")
    (example / "params.yaml").write_text(text)
    (example / "mlflow.db").touch()
    (example / "MODEL_CARD.md").write_text("<!-- use -->\nWe decide about refunds.\n<!-- /use -->")
    (example / "deploy/production").mkdir(parents=True)
    (example / "deploy/production/release.env").write_text("MODEL_VERSION=abc\n")
    commit(example)
    monkeypatch.setenv("PREDICTION_LOG", "s3://bucket/log")
    done = run(example, mine(example), *ROLES).output
    found = params(example)
    assert found["gates"] == yaml.safe_load(own_params.GATES)
    assert found["evaluate"]["segments"] == ["country", "class_"]
    assert found["evaluate"]["cost"] == {"false_positive": 1, "false_negative": 1}
    assert found["split"] == PARAMS["split"] and found["data"]["feedback"] is None
    assert (example / "data/log/before-1/predictions/a.parquet").exists()
    assert not (example / "data/log/predictions").exists()
    for line in (
        "evaluate.cost is 1:1",
        "gates: AUC at least 0.5",
        "evaluate.segments: country, class_",
        "data.feedback was data/log",
        "data/log -> data/log/before-1",
        "'kit' in MLflow",
        "MODEL_CARD.md: its section on intended use",
        "PREDICTION_LOG=s3://bucket/log",
        "production: the old table's model runs there",
    ):
        assert line in done, line


def test_a_second_table_replaces_the_first(example: Path, run: Run) -> None:
    from dvc.repo import Repo

    run(example, mine(example), *ROLES)
    commit(example)
    orders().to_parquet(example / "plain.parquet")
    done = run(example, "plain.parquet", "--target", "returned").output
    found = params(example)
    assert found["data"]["source"] == "plain.parquet" and "rename" not in found["schema"]
    assert found["schema"]["entity"] is None and "views" not in found["schema"]
    assert graph(example)["deps"] == ["plain.parquet"]
    assert "`uv run dvc remove --outs 'data/My orders.csv.dvc'`" in done
    with Repo(str(example)) as repo:
        repo.remove("data/My orders.csv.dvc", outs=True)
    assert not any(path.is_file() and "My orders" in path.name for path in example.rglob("*"))
    assert "dvc remove" not in run(example, "plain.parquet", "--target", "returned").output


def test_what_the_pipeline_wrote_needs_no_commit(example: Path, run: Run) -> None:
    run(example, mine(example), *ROLES)
    written = ["reports/validation.json", "metrics/evaluation.json", "dvc.lock", "models/champion.dvc"]
    for name in written:
        (example / name).parent.mkdir(exist_ok=True)
        (example / name).write_text(
            "outs: []\n# new\n" if name.endswith(".dvc") else "schema: '2.0'\n# new\n"
        )
    run(example, mine(example), *ROLES, "--drop", "age")
    assert not any((example / name).exists() for name in written)


def test_adopt_again_gives_the_same_and_an_option_changes_it_without_a_commit(
    example: Path, run: Run
) -> None:
    table = mine(example)
    first = run(example, table, *ROLES).output
    before = contents(example)
    assert run(example, table, *ROLES).output == first and contents(example) == before
    types = ["--type", "age=category", "--drop", "express", "--positive", "0"]
    run(example, table, *ROLES, *types)
    schema = params(example)["schema"]
    assert schema["views"]["customer_id_features"]["age"] == {"type": "category"}
    assert "express" not in schema["request"] and schema["target"]["positive"] == "0"
    (example / "params.yaml").write_text((example / "params.yaml").read_text() + "# mine\n")
    assert (
        "params.yaml would be overwritten, and git does not have its changes"
        in run(example, table, *ROLES, code=1).stderr
    )


def test_a_dry_run_changes_nothing_and_json_is_for_machines(example: Path, run: Run) -> None:
    (example / "params.yaml").write_text((example / "params.yaml").read_text() + "# mine\n")
    before = contents(example)
    assert "nothing was changed" in run(example, mine(example), *ROLES, "--dry-run").output
    found = json.loads(run(example, mine(example), *ROLES, "--dry-run", "--json").stdout)
    assert contents(example) == before and found["dry_run"] and found["rows"] == 400
    (amount,) = (column for column in found["columns"] if column["column"] == "Amount (EUR)")
    assert amount["decision"] == "number" and amount["type"] == "DOUBLE" and amount["missing"] == 0
    assert amount["examples"] == ["11.18", "12.52", "36.1"] and amount["warnings"] == []
    assert found["schema"]["key"] == ["order_id"] and len(found["changes"]) >= 3


def test_how_the_table_is_read_stays_in_params(example: Path, run: Run) -> None:
    table = orders().assign(ordered_at=lambda rows: rows.ordered_at.dt.strftime("%d/%m/%Y"), zip=10000)
    table.loc[7:, "zip"] = range(20000, 20393)
    table.to_csv(example.parent / "t.csv", sep=";", index=False)
    options = ["--date-format", "ordered_at=%d/%m/%Y", "--type", "zip=category"]
    run(example, example.parent / "t.csv", "--target", "returned", "--timestamp", "ordered_at", *options)
    found = params(example)
    reading = found["data"]["reading"]
    assert reading["delimiter"] == ";" and reading["columns"]["ordered_at"]["format"] == "%d/%m/%Y"
    assert reading["columns"]["zip"]["type"] == "text" and found["schema"]["request"]["zip"] == {
        "type": "category"
    }


def test_what_is_written_is_what_was_decided_whatever_the_table_calls_things(example: Path, run: Run) -> None:
    names = [
        "a: b",
        "#x",
        "no",
        "null",
        "1e3",
        "it's",
        'q"q',
        "Größe",
        "on",
        "{x}",
        "- y",
        "0x1F",
        "model_config",
        "copy",
    ]
    rows = orders(200)
    words = [["on", "yes: it's", '"q"', "#"][i % 4] for i in range(200)]
    table = pd.DataFrame({name: words if i % 2 else rows.amount + i for i, name in enumerate(names)})
    table["Outcome?"] = rows.returned.map({0: "no", 1: "yes: #1"}).where(rows.index % 9 > 0, "null; maybe")
    table["at"], table["since"] = rows.ordered_at, rows.ordered_at - pd.to_timedelta(rows.age, unit="D")
    table.to_parquet(example.parent / "odd.parquet")
    options = ["--timestamp", "at", "--positive", "yes: #1", "--negative", "no", "--type", "since=days"]
    arguments = [example.parent / "odd.parquet", "--target", "Outcome?", *options]
    decided = json.loads(run(example, *arguments, "--json").stdout)["schema"]
    own = load(example / "params.yaml")
    schema = own.schema_.model_dump(mode="json", exclude_defaults=True)
    wanted = {name: value for name, value in decided.items() if value}
    assert schema == Schema.model_validate(wanted).model_dump(mode="json", exclude_defaults=True)
    assert schema["target"] == {"name": "outcome", "positive": "yes: #1", "negative": ["no"]}
    assert {*schema["rename"].values()} >= {"a: b", "it's", 'q"q', "- y"} and "copy" in schema["request"]
    again = read(own.data.source, example, own.data.reading).relation
    types = dict(zip(again.columns, map(str, again.types), strict=True))
    assert ingest.projection(types, own).count(" AS ") == len(table.columns)


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
        (["TABLE", "--target", "Returned?", "--type", "age"], "--type age: give COLUMN=VALUE"),
        (["TABLE", "--target", "Returned?", "--type", "age=text"], "--type age=text: give one of number"),
        (
            ["TABLE", "--target", "Returned?", "--drop", "aeg"],
            "--drop=aeg: no such column; did you mean 'age'",
        ),
        (["", "--target", "y"], "say which table"),
    ],
)
def test_what_is_refused_changes_nothing(example: Path, run: Run, arguments: list[str], problem: str) -> None:
    given = [str(mine(example)) if argument == "TABLE" else argument for argument in arguments]
    before = contents(example)
    failed = run(example, *given, code=1).stderr
    assert failed.startswith(f"adopt: {problem}") and len(failed.splitlines()) == 1
    assert contents(example) == before


@pytest.mark.parametrize(
    "name", ["params.yaml", "feature_repo/mine.sql", "tests/test_example.py", "reports/mine.md"]
)
def test_changes_that_git_does_not_hold_are_not_overwritten(example: Path, run: Run, name: str) -> None:
    with (example / name).open("a") as file:
        file.write("# mine\n")
    before = contents(example)
    failed = run(example, mine(example), *ROLES, code=1).stderr
    assert failed.startswith(f"adopt: {name} would be overwritten, and git does not have its changes")
    assert contents(example) == before


# Where the table lies


def test_a_table_that_git_holds_stays_with_git(example: Path, run: Run) -> None:
    orders().to_csv(example / "events.csv", index=False)
    commit(example)
    run(example, "events.csv", "--target", "returned")
    assert graph(example)["deps"] == ["events.csv"] and not (example / "events.csv.dvc").exists()


@pytest.mark.parametrize("pattern", ["*.csv", "events.*"])
def test_a_table_that_git_ignores_is_adopted_or_refused_in_one_line(
    example: Path, run: Run, pattern: str
) -> None:
    orders().to_csv(example / "events.csv", index=False)
    with (example / ".gitignore").open("a") as file:
        file.write(f"{pattern}\n")
    commit(example)
    before = contents(example)
    if pattern == "*.csv":
        run(example, "events.csv", "--target", "returned")
        assert (example / "events.csv.dvc").exists()
        return
    refused = run(example, "events.csv", "--target", "returned", code=1).stderr
    assert "events.csv" in refused and "git-ignored" in refused and len(refused.splitlines()) == 1
    assert contents(example) == before


def test_a_table_that_dvc_ignores_is_refused_in_one_line(example: Path, run: Run) -> None:
    orders().to_csv(example / "events.csv", index=False)
    (example / ".dvcignore").write_text("events.csv\n")
    commit(example)
    (example / "other.csv").write_bytes((example / "events.csv").read_bytes())
    (example / ".dvcignore").write_text("other.csv\n")
    before = contents(example)
    refused = run(example, "other.csv", "--target", "returned", code=1).stderr
    assert refused.startswith("adopt: other.csv: DVC refuses it") and len(refused.splitlines()) == 1
    assert contents(example) == before


@pytest.mark.parametrize("name", ["data/raw/events.parquet", "reports/t.parquet", "data/log/t.parquet"])
def test_a_table_that_adopt_would_remove_is_refused(example: Path, run: Run, name: str) -> None:
    (example / name).parent.mkdir(parents=True, exist_ok=True)
    orders().to_parquet(example / name)
    (example / "new").touch()
    commit(example)
    before = contents(example)
    refused = run(example, name, "--target", "returned", code=1).stderr
    assert "the pipeline empties" in refused and contents(example) == before


def test_a_table_called_like_our_folders_or_like_another_is_refused(example: Path, run: Run) -> None:
    for name in ("raw", "features", "log"):
        orders().to_csv(example.parent / name, index=False)
        refused = run(example, example.parent / name, "--target", "returned", code=1).stderr
        assert f"data/{name} belongs to the pipeline: give the table another name" in refused
    (example / "data/My orders.csv").write_text("another\n")
    before = contents(example)
    assert "data/My orders.csv exists already" in run(example, mine(example), *ROLES, code=1).stderr
    assert contents(example) == before


def test_a_folder_is_adopted_whole(example: Path, run: Run) -> None:
    folder = example.parent / "parts"
    folder.mkdir()
    orders()[:200].to_parquet(folder / "a.parquet")
    orders()[200:].to_parquet(folder / "b.parquet")
    run(example, folder, "--target", "returned")
    run(example, folder, "--target", "returned")
    assert graph(example)["deps"] == ["data/parts"] and (example / "data/parts/b.parquet").exists()
    assert (example / "data/parts.dvc").exists()


def test_of_a_glob_dvc_holds_the_folder(example: Path, run: Run) -> None:
    folder = example / "data/parts"
    folder.mkdir(parents=True, exist_ok=True)
    orders()[:200].to_csv(folder / "a.csv", index=False)
    orders()[200:].to_csv(folder / "b.csv", index=False)
    assert "400 rows of data/parts/*.csv" in run(example, "data/parts/*.csv", "--target", "returned").output
    assert graph(example)["deps"] == ["data/parts"] and (example / "data/parts.dvc").exists()
    orders().to_csv(example / "plain.csv", index=False)
    refused = run(example, "*.csv", "--target", "returned", code=1).stderr
    assert refused == "adopt: *.csv: put the files into their own folder, which DVC can track\n"


def test_a_copy_that_fails_leaves_nothing(example: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: IO[bytes], part: Path, *_: object) -> None:
        part.write_text("half")
        raise OSError(28, "No space left on device")

    before = contents(example)
    monkeypatch.setattr(place, "save", full)
    refused = run(example, mine(example), *ROLES, code=1).stderr
    assert "No space left on device" in refused and contents(example) == before


# Interruptions


def forked(folder: Path, arguments: list[str], sabotage: Callable[[pytest.MonkeyPatch], None]) -> int:
    """Run adopt in a process of its own; its exit status, negative for a signal."""
    if not (pid := os.fork()):
        status = 99
        try:
            os.environ.update(clean())
            patch = pytest.MonkeyPatch()
            enter(folder, patch)
            sabotage(patch)
            result = click.testing.CliRunner().invoke(command, ["adopt", *arguments])
            (folder.parent / "output").write_text(f"{result.output}{result.exception}")
            status = result.exit_code
        except BaseException:
            (folder.parent / "output").write_text(traceback.format_exc())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def dying(at: int, kind: int, seen: Path | None = None) -> Callable[[pytest.MonkeyPatch], None]:
    """Send this process a signal when it is about to change the project for the `at`-th time; `seen` counts them."""
    steps = [0]

    def before(function: Callable[..., Any]) -> Callable[..., Any]:
        def dies(*arguments: Any, **named: Any) -> Any:
            steps[0] += 1
            if steps[0] == at + 1:
                os.kill(os.getpid(), kind)
            if seen:
                with seen.open("w") as file:
                    file.write(str(steps[0]))
            return function(*arguments, **named)

        return dies

    def sabotage(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(place, "add", before(place.add))
        patch.setattr(place, "save", before(save))
        patch.setattr(files, "write", before(files.write))
        patch.setattr(shutil, "rmtree", before(shutil.rmtree))
        for name in ("unlink", "rename"):
            patch.setattr(Path, name, before(getattr(Path, name)))

    return sabotage


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT], ids=lambda kind: kind.name)
def test_an_interrupted_adopt_left_all_as_it_was_or_is_finished_by_the_next(example: Path, kind: int) -> None:
    table = example.parent / "small.csv"
    orders(100)[["order_id", "country", "amount", "returned"]].to_csv(table, index=False)
    if (
        kind == signal.SIGKILL
    ):  # at more of the steps; DVC, which takes a second each time, is in the other case
        shutil.copy(table, example / "mine.csv")
        commit(example)
        table = Path("mine.csv")
    arguments = [str(table), "--target", "returned"]
    whole = shutil.copytree(example, example.parent / "whole", symlinks=True)
    seen = example.parent / "seen"
    assert forked(whole, arguments, dying(-1, kind, seen)) == 0, (example.parent / "output").read_text()
    expected, before, steps = contents(whole), contents(example), int(seen.read_text())
    ways = set()
    for at in range(0, steps, steps // (6 if kind == signal.SIGKILL else 2)):
        folder = shutil.copytree(example, example.parent / f"at{at}", symlinks=True)
        status = forked(folder, arguments, dying(at, kind))
        output = (example.parent / "output").read_text()
        assert status == -kind or (kind == signal.SIGINT and status == 130), output
        as_it_was = contents(folder) == before
        ways.add(as_it_was)
        if not as_it_was:
            assert (folder / ".dvc/tmp/adopt.json").exists(), at
            assert forked(folder, arguments, lambda patch: None) == 0, (example.parent / "output").read_text()
            assert contents(folder) == expected, at
    assert ways == {True, False}


def test_another_adopt_after_an_interrupted_one_is_not_held_up(example: Path, run: Run) -> None:
    orders().to_csv(example / "plain.csv", index=False)
    commit(example)
    assert forked(example, [str(mine(example)), *ROLES], dying(12, signal.SIGKILL)) == -signal.SIGKILL
    assert (example / ".dvc/tmp/adopt.json").exists()
    run(example, "plain.csv", "--target", "returned")
    assert params(example)["data"]["source"] == "plain.csv" and not (example / "dvc.lock").exists()
