"""What is served is watched, end to end: drift, performance, the A/B verdict; candidate, challenger, champion."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import UV, Project, Run, Serve, Server, edit, wait_for
from playwright.sync_api import Page


def traffic(run: Run, project: Path, server: Server, rows: int, *options: str, answers: int = 1) -> None:
    """Rows of the holdout to the service; wait until they and their labels are in the log.

    `answers` is the number of models that answer each row.
    """
    share = float(options[options.index("--labels") + 1]) if "--labels" in options else 1.0
    expected = server.metric("prediction_log_rows_total") + rows * answers + int(rows * share)
    run(project, "tabloop", "traffic", "--url", server.url, "--rows", str(rows), *options)
    wait_for(lambda: server.metric("prediction_log_rows_total") >= expected)


def watch(run: Run, project: Path, name: str, log: Path, *options: str, code: int = 0) -> str:
    """What a check says of the log."""
    variables = {"PREDICTION_LOG": str(log), "GITHUB_OUTPUT": str(project / "outputs")}
    done = run(project, "tabloop", name, *options, code=code, **variables)
    return done.stdout + done.stderr


def outputs(project: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (project / "outputs").read_text().splitlines())


def install(run: Run, project: Path, role: str, **changes: Any) -> None:
    """Make the candidate that role's model whatever the gate says of it, with changes to its card."""
    script = f"""
import json
import re
from tabloop import roles
result = json.loads(roles.EVALUATION.read_text())
card = roles.ModelCard.read(roles.CANDIDATE).completed(result)
roles.install({role!r}, card.model_copy(update=json.loads({json.dumps(changes)!r})))
"""
    run(project, "python", "-c", script)


def version(project: Path, role: str) -> str:
    return str(json.loads((project / "models" / role / "model.json").read_text())["version"])


@pytest.fixture(scope="module")
def candidate(quick: Path, run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose candidate is another model than its champion; don't write into it."""
    folder = shutil.copytree(quick, tmp_path_factory.mktemp("candidate") / quick.name, symlinks=True)
    edit(folder, lambda p: p["train"].update(max_iter=80))
    run(folder, "dvc", "repro")
    return folder


# The cells whose text takes more than one line.
BROKEN = """selector => [...document.querySelectorAll(selector)].filter(cell => {
  const text = document.createRange()
  text.selectNodeContents(cell)
  return new Set([...text.getClientRects()].map(line => Math.round(line.bottom))).size > 1
}).map(cell => cell.innerText)"""


def reads_on_a_phone(page: Page, path: Path, cells: str) -> None:
    """The page is no wider than a phone, and none of these cells takes two lines."""
    page.set_viewport_size({"width": 390, "height": 850})
    page.goto(path.as_uri())
    assert page.locator(cells).count() > 5
    assert page.evaluate(BROKEN, cells) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_drift_and_performance_of_the_served_champion(
    run: Run, serve: Serve, project: Project, quick: Path, page: Page
) -> None:
    copy = project(quick)
    with serve(copy) as server:
        for name in ("drift", "performance"):
            assert "there is no prediction log" in watch(run, copy, name, server.log)
        traffic(run, copy, server, 5000, "--labels", "0.8")
        said = watch(run, copy, "drift", server.log)
        assert "No drift in 5,000 predictions" in said and "reports/drift.html shows" in said
        assert outputs(copy)["drift"] == "false"
        said = watch(run, copy, "performance", server.log)
        window = json.loads((copy / "reports/performance.json").read_text())["window"]
        assert (
            window["unlabelled"] == pytest.approx(0.2)
            and "as champion:" in said
            and " 5,000 " in said
            and " 20% " in said
        )
        card = json.loads((copy / "models/champion/model.json").read_text())
        assert window["thresholds"] == [card["threshold"]] * 2 and "left out" not in said
        assert 0.85 < window["auc_low"] < window["auc"] < window["auc_high"]
        assert outputs(copy)["worse"] == "false"

        traffic(run, copy, server, 6000, "--drift", "amount=4")
        assert "⚠️ **Drift** in 11,000 predictions" in watch(run, copy, "drift", server.log, code=3)
        columns = json.loads((copy / "reports/drift.json").read_text())["columns"]
        assert columns["amount"]["drift"] and not columns["country"]["drift"]
        assert (copy / "reports/drift.html").stat().st_size < 100_000
        reads_on_a_phone(page, copy / "reports/drift.html", "td:first-child")
        reads_on_a_phone(page, copy / "reports/evaluation.html", "td .quiet")
        assert page.get_by_text("a calibrated model's error is above 0").is_visible()
        assert not run(copy, "git", "status", "--porcelain", "--", "reports").stdout
        edit(copy, lambda p: p["gates"][0].update(min=0.999))
        assert "⚠️ **Worse" in watch(run, copy, "performance", server.log, code=3)
        assert outputs(copy) == {"drift": "true", "worse": "true"}
        for name in ("drift", "performance"):  # for make, a check that found something did its work
            run(copy, "make", f"UV={UV}", name, PREDICTION_LOG=str(server.log))


def test_a_challenger_that_costs_more_is_withdrawn_in_shadow_and_in_an_ab_test(
    run: Run, serve: Serve, project: Project, trained: Path
) -> None:
    """The challenger is the champion's model with a threshold that lets all fraud pass."""
    copy = project(trained)
    install(run, copy, "challenger", threshold=0.99, version="bad0bad0bad0")
    release = copy / "deploy/staging/release.env"
    assert "CHALLENGER_MODE=off" in watch(run, copy, "experiment", copy, "staging", code=1)

    release.write_text(release.read_text().replace("MODE=off", "MODE=shadow"))
    log = copy / "data/log"
    with serve(copy, CHALLENGER_MODE="shadow", PREDICTION_LOG=str(log)) as server:
        traffic(run, copy, server, 4000, answers=2)
    said = watch(run, copy, "experiment", log, "staging")
    assert "**Withdraw**" in said and "paired, in shadow" in said

    release.write_text(
        release.read_text().replace("MODE=shadow", "MODE=ab").replace("SHARE=0\n", "SHARE=0.5\n")
    )
    with serve(copy, CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.5", PREDICTION_LOG=str(log)) as server:
        traffic(run, copy, server, 500)
        early = watch(run, copy, "experiment", log, "staging")
        assert "**Keep going**" in early and "are needed" in early  # what the shadow logged does not count
        traffic(run, copy, server, 12_000, "--seed", "1")
    said = watch(run, copy, "experiment", log, "staging")
    assert "**Withdraw**" in said and "A/B" in said and outputs(copy)["verdict"] == "withdraw"
    assert (copy / "reports/experiment.png").stat().st_size > 1000
    # A ramp is another share of the same test: the rows of each are compared with one another.
    release.write_text(release.read_text().replace("SHARE=0.5", "SHARE=0.2"))
    with serve(copy, CHALLENGER_MODE="ab", CHALLENGER_SHARE="0.2", PREDICTION_LOG=str(log)) as server:
        traffic(run, copy, server, 3000, "--seed", "2")
    said = watch(run, copy, "experiment", log, "staging")
    assert "**Withdraw**" in said and re.search(r"A/B, by share: 0\.2 since .*, 0\.5 since", said)


def test_candidate_challenger_champion_and_back_are_commits(
    run: Run, project: Project, candidate: Path
) -> None:
    copy = project(candidate)

    def step(name: str) -> str:
        done = run(copy, "make", f"UV={UV}", name).stdout.splitlines()[0]
        run(copy, "git", "add", "--all", "models", "MODEL_CARD.md", "dvc.lock")
        run(copy, "git", "commit", "--quiet", "--message", done)
        return done

    first, second = version(copy, "champion"), version(copy, "candidate")
    assert step("challenge") == f"Make {second} the challenger"
    assert (version(copy, "champion"), version(copy, "challenger")) == (first, second)
    assert aliases(run, copy) == {"champion": first, "challenger": second}
    assert step("promote") == f"Promote {second} to champion, after {first}"
    assert version(copy, "champion") == second and not (copy / "models/challenger").exists()
    assert not (copy / "models/challenger.dvc").exists() and aliases(run, copy) == {"champion": second}
    assert "is already the champion" in run(copy, "tabloop", "rollout", "challenge", code=1).stderr
    run(copy, "git", "revert", "--no-edit", "HEAD")
    run(copy, "dvc", "checkout", "models/champion.dvc", "models/challenger.dvc")
    assert (version(copy, "champion"), version(copy, "challenger")) == (first, second)
    page = (copy / "MODEL_CARD.md").read_text()
    assert f": model {first}\n" in page and f"The challenger is {second}." in page
    assert step("withdraw") == f"Withdraw the challenger {second}"
    assert "there is no challenger" in run(copy, "tabloop", "rollout", "promote", code=1).stderr


def aliases(run: Run, project: Path) -> dict[str, str]:
    """The model version of each alias in MLflow's registry."""
    script = """
import json, mlflow
client = mlflow.MlflowClient("sqlite:///mlflow.db")
model = client.get_registered_model("fraud-detection")
print(json.dumps({a: client.get_model_version(model.name, v).tags["version"] for a, v in model.aliases.items()}))
"""
    found: dict[str, str] = json.loads(run(project, "python", "-c", script).stdout.splitlines()[-1])
    return found


def test_a_pinned_champion_that_is_not_here_is_said_by_all_in_one_way(
    run: Run, project: Project, candidate: Path
) -> None:
    copy = project(candidate)
    install(run, copy, "challenger")
    shutil.rmtree(copy / "models/champion")
    release = copy / "deploy/staging/release.env"
    release.write_text(release.read_text().replace("MODE=off", "MODE=shadow"))
    reports = sorted((copy / "reports").iterdir())
    commands = [["drift"], ["performance"], ["experiment", "staging"], ["rollout", "challenge"]]
    said = {run(copy, "tabloop", *command, code=1).stderr.partition(": ")[2] for command in commands}
    assert said == {
        "models/champion.dvc pins a model that models/champion does not hold: "
        "`uv run dvc pull models/champion.dvc` fetches it; "
        "if no DVC remote has it, `uv run tabloop rollout drop champion` gives it up\n"
    }
    assert sorted((copy / "reports").iterdir()) == reports
    run(copy, "dvc", "checkout", "models/champion.dvc")
    run(copy, "tabloop", "rollout", "challenge")


def test_the_model_card_is_about_the_champion_and_names_the_commit_whose_params_trained_it(
    run: Run, project: Project, quick: Path
) -> None:
    copy = project(quick)
    card, model = copy / "MODEL_CARD.md", json.loads((copy / "models/champion/model.json").read_text())

    def commit_of_the_page() -> str:
        found = re.search(r"^- Code and parameters: commit ([0-9a-f]{40})$", card.read_text(), re.MULTILINE)
        assert found, card.read_text()
        return found[1]

    # `quick` was trained from a changed params.yaml and committed with it.
    for part in (model["version"], model["data_hash"], "2026-01-01 to 2026-0", "| channel | online |"):
        assert part in card.read_text()
    assert "no commit had them. params.yaml differed from commit " in card.read_text()
    head = run(copy, "git", "rev-parse", "HEAD").stdout.strip()
    assert run(copy, "tabloop", "card", "champion", "git_commit").stdout.strip() == head
    run(copy, "tabloop", "register")
    assert commit_of_the_page() == head

    card.write_text(card.read_text().replace("Fill in.", "Our own words."))
    before = card.read_text()
    edit(copy, lambda p: p["train"].update(max_iter=90))
    said = run(copy, "dvc", "repro").stdout
    assert f"trained from uncommitted changes of params.yaml since commit {head[:7]}" in said
    assert card.read_text() == before  # another candidate changes nothing of the champion
    run(copy, "git", "commit", "--quiet", "--all", "--message", "More trees")
    run(copy, "git", "commit", "--quiet", "--allow-empty", "--message", "Something else")
    run(copy, "tabloop", "rollout", "challenge")
    run(copy, "tabloop", "rollout", "promote")
    assert (
        f": model {version(copy, 'candidate')}\n" in card.read_text() and "Our own words." in card.read_text()
    )
    assert card.read_text().count("## Intended use") == 1
    trained = run(copy, "git", "show", f"{commit_of_the_page()}:params.yaml").stdout
    assert trained == (copy / "params.yaml").read_text() and "max_iter: 90" in trained
