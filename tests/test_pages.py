"""The commands of all pages: each program takes them, and each runs in its own words, here or in a named file."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import textwrap
from pathlib import Path

import duckdb
import pandas as pd
import pytest
import yaml
from conftest import AUTHOR, ROOT, UV, Project, Run, Serve, clean, free_port, git, wait_for
from shown import PAGES, SHELL, blocks, check, shown, text_of

# Run by another file of the tests, as they need a server, Docker, a bucket or another bake: how they begin.
ELSEWHERE = {
    "make demo": "test_make.py",
    "uvx cookiecutter": "conftest.py",  # by the environment's own cookiecutter
    "cookiecutter": "conftest.py",
    "cruft": "test_update.py",
    "make setup": "test_make.py",  # `make demo` calls it
    "make test": "test_workflows.py",
    "make serve": "test_serving.py",
    "make train": "test_make.py",
    "make adopt": "test_make.py",
    "make tune": "programs/test_tune.py",
    "make mlflow": "programs/test_registry.py",
    "make challenge": "test_monitoring.py",
    "make promote": "test_monitoring.py",
    "make withdraw": "test_monitoring.py",
    "make image": "test_container.py",
    "make smoke": "test_container.py",
    "make reconcile": "test_reconcile.py",
    "make traffic": "test_monitoring.py",
    "make drift": "test_monitoring.py",
    "make monitor": "test_alerts.py",
    "make performance": "test_monitoring.py",
    "make experiment": "test_monitoring.py",
    "make loop": "test_loop.py",
    "make lint": "test_make.py",
    "make format": "test_make.py",
    "make audit": "test_supply_chain.py",
    "make pin": "test_supply_chain.py",
    "make update": "test_update.py",
    "make rollback": "test_workflows.py",
    "dvc push": "test_object_store.py",
    "dvc pull": "test_object_store.py",
    "dvc repro": "test_pipeline.py",
    "dvc checkout": "test_pipeline.py",
    "dvc exp": "test_pipeline.py",
    "dvc remote": "test_object_store.py",
    "uv sync": "conftest.py",  # the environment of all tests
    "uv add": "test_object_store.py",
    "uv audit": "test_supply_chain.py",
    "pytest": "test_pipeline.py",
    "python -m fraud_detection.app": "test_serving.py",
    "python notebooks/explore.py": "test_pipeline.py",
    "docs/workflows.py": "test_docs.py",
    "tabloop ingest": "test_pipeline.py",  # `dvc repro` runs the stages
    "tabloop featurize": "test_pipeline.py",
    "tabloop champion": "test_pipeline.py",
    "tabloop register": "test_pipeline.py",
    "tabloop run": "test_pipeline.py",
    "tabloop validate": "programs/test_forget.py",
    "tabloop summary": "test_owner.py",
    "tabloop batch": "test_container.py",
    "tabloop release show": "programs/test_release.py",
    "tabloop materialize": "programs/test_online_store.py",
    "tabloop card": "test_pipeline.py",
    "tabloop adopt": "test_adopt.py",
    "tabloop update": "test_update.py",
    "tabloop tune": "programs/test_tune.py",
    "tabloop drift": "test_monitoring.py",
    "tabloop compact": "programs/test_compaction.py",
    "tabloop forget": "programs/test_forget.py",
    "tabloop performance": "test_monitoring.py",
    "tabloop experiment": "test_monitoring.py",
    "tabloop rollout": "test_monitoring.py",
    "tabloop release set": "programs/test_release.py",
    "tabloop release deploy": "test_workflows.py",
    "tabloop release rollback": "test_workflows.py",
    "tabloop traffic": "test_monitoring.py",
    "tabloop loop": "test_loop.py",
    "tabloop remote": "programs/test_remote.py",
    "tabloop retrain": "test_contracts.py",
    "tabloop watch": "programs/test_watch.py",
    "tabloop github": "programs/test_github.py",
    "tabloop --help": "test_docs.py",
    "git checkout": "test_pipeline.py",
    "git push": "test_workflows.py",
    "git pull": "test_workflows.py",
    "git add": "test_workflows.py",
    "git commit": "test_workflows.py",
    "git log": "test_workflows.py",
    "git switch": "test_workflows.py",
    "git merge": "test_update.py",
    "git init": "test_update.py",
    "mlflow server": "programs/test_postgres.py",
    "docker build": "test_container.py",
    "docker run": "test_container.py",
    "bash deploy/release.sh": "test_container.py",
    "kubectl apply": "test_kubernetes.py",
    "kubernetes-validate": "test_kubernetes.py",
    "ray start": "test_ray.py",
    "RAY_ADDRESS": "test_ray.py",
    "gh attestation": "test_supply_chain.py",
}
# No test runs these: they need another machine, an account, or the maintainer's environment.
PARSED = (
    "docker login",
    "docker pull",
    "docker compose",
    "kubectl describe",
    "systemctl",
    "ruff",
    "mypy",
    "pre-commit",
    "playwright",
    "dvc queue",
    "uv run",
    "uv pip",
    "mlflow ui",
    "feast",
    "cd",
)
# By the tests below; by those that run the blocks of a page word for word (tests/test_workflows.py, tests/test_update.py).
BELOW = ("curl", "duckdb", "git clone", "git remote", "git fetch", "sed")
KNOWN = (*ELSEWHERE, *PARSED, *BELOW)


def plain(line: str) -> str:
    """A command without a prompt and what runs it in the environment."""
    return re.sub(r"^(\w+\$\s+)?(uv run (--group \w+ )?)?", "", line.replace("<package>", "fraud_detection"))


@pytest.mark.parametrize(("shown", "file"), ELSEWHERE.items(), ids=ELSEWHERE)
def test_the_named_file_has_the_command(shown: str, file: str) -> None:
    """Its last word, as a test gives it to a process, or in a line of a shell."""
    last = shown.split()[-1].rpartition("/")[2].removeprefix("fraud_detection.")
    assert re.search(rf"(?<![\w-]){re.escape(last)}(?![\w-])", (ROOT / "tests" / file).read_text())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_each_program_takes_what_a_page_shows(page: Path, baked: Path, environment: Path) -> None:
    """Its subcommands, arguments and options, by its own parser; and what is no command is what it says."""
    text = text_of(page, baked)
    for line in shown(text):
        check(line, baked, environment)
    for language, block in blocks(text):
        if language == "python":
            ast.parse(textwrap.dedent(block))
        elif language == "yaml":
            yaml.safe_load(block)
        elif language in SHELL and "<<" in block:
            subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("make trian", "No rule to make target 'trian'"),
        ('make traffic ARGS="--labls 0.9"', "No such option '--labls'"),
        ("uv run tabloop batch in.parquet", "Missing argument 'OUTPUT'"),
        ("uv run tabloop rollout promot", "no command 'promot'"),
        ("uv run --group rays tabloop batch a.parquet b.parquet", "no such group"),
        ("uv sync --grop ray", "unexpected argument '--grop'"),
        ("uv run dvc gc --workspaces", "dvc gc --workspaces: usage"),
        ("git switch --creat longer && git push", "{'--creat'}"),
        ("git psh", "psh"),
        ("kubectl apply --kustomise deploy/production", "unknown flag: --kustomise"),
        ("docker run --rmm image", "unknown flag: --rmm"),
        ("docker compose --profile monitoring upp", "upp"),
        ("curl localhost:8000/metric", "no route"),
        ("curl --silently localhost:8000/metrics", "--silently: is unknown"),
        ("bash deploy/release.sh reconsile staging", "reconsile"),
        ("uv run python notebooks/explorer.py", "explorer.py"),
        ("first$ ray start --heat", "No such option '--heat'"),
        ("cruft updat", "No such command 'updat'"),
        ("frobnicate --all", "no known program"),
    ],
)
def test_a_mistake_in_a_command_is_found(line: str, why: str, baked: Path, environment: Path) -> None:
    with pytest.raises(AssertionError, match=re.escape(why)):
        check(line, baked, environment)


def test_a_block_of_another_language_hides_no_command() -> None:
    text = "```mermaid\nmake no\n```\n\n```\nmake this   # comment\n```\n\n`make that`\n\n```python\nmake = 1\n```\n"
    assert shown(text) == ["make this", "make that"]
    for wrong in ("```console\nmake this\n```\n", "`frobnicate all`"):
        with pytest.raises(ValueError, match=r"console|frobnicate"):
            shown(wrong)


def test_each_command_of_the_pages_runs_here_or_in_a_named_file(
    run: Run, project: Project, quick: Path, baked: Path, tmp_path: Path
) -> None:
    copy = project(quick).rename(tmp_path / "Größe & Umsatz 2026")
    holdout = copy / "data/features/holdout.parquet"
    assert holdout.exists()
    (copy / "transactions.parquet").write_bytes(holdout.read_bytes())
    here: dict[str, int | None] = {
        "make summary": 0,
        "make report": 0,
        "make materialize": 0,
        "uv run dvc metrics diff": 0,
        "uv run dvc plots diff": 0,
        "uv run python -m fraud_detection.evaluate --min-auc 0.9": None,  # few rows may not reach the bar
        "uv run tabloop card champion git_commit": 0,
        "uv run tabloop release show production": 0,
        "uv run tabloop summary": 0,
        "uv run tabloop validate": 0,
        "uv run tabloop batch transactions.parquet scores.parquet": 0,
        "git log -- deploy/production/release.env": 0,
        "uv run dvc gc --workspace --cloud": None,  # it asks, and nobody answers
    }
    pages = [page for page in PAGES if page.parent.name != "benchmarks"]  # theirs take minutes
    lines = {line: page.name for page in pages for line in shown(text_of(page, baked))}
    unknown = {
        line: page
        for line, page in lines.items()
        if plain(line) not in map(plain, here)
        and not any(re.match(rf"{re.escape(known)}(?![\w-])", plain(line)) for known in KNOWN)
    }
    assert not unknown, f"say in ELSEWHERE which test runs these, or run them here: {unknown}"
    assert not here.keys() - lines.keys(), "no page shows these any more"
    idle = {known for known in KNOWN if not any(plain(line).startswith(known) for line in lines)}
    assert not idle, f"no page shows these any more: {idle}"
    for text, code in here.items():
        words = text.replace("make ", f"make UV={UV} ").removeprefix("uv run ").split()
        said = run(copy, *words, code=code)
        assert "Traceback" not in said.stdout + said.stderr, text
    assert (copy / "scores.parquet").exists()


def test_the_service_answers_what_the_pages_ask(serve: Serve, quick: Path) -> None:
    """Each `curl`, by curl; then the query of the log. The explanation has the form that its page shows."""
    texts = {page: text_of(page, quick) for page in PAGES}
    asked = {line for text in texts.values() for line in shown(text) if line.startswith("curl ")}
    assert len(asked) > 8
    (example,) = [block for text in texts.values() for language, block in blocks(text) if language == "json"]
    expected = json.loads(example.replace(", ...", ""))
    with serve(quick) as server:
        for line in asked:
            command = re.sub(r"localhost:\d+|SERVICE", server.url, line)
            done = subprocess.run(
                [*shlex.split(command), "--fail", "--silent", "--show-error"], capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}: {done.stderr}"
            if "/explain" in line:
                found = json.loads(done.stdout)
                assert found.keys() == expected.keys()
                assert found["contributions"][0].keys() == expected["contributions"][0].keys()
        wait_for(lambda: list(server.log.glob("predictions/*/*.parquet")))
        (query,) = {line for text in texts.values() for line in shown(text) if line.startswith("duckdb ")}
        duckdb.sql(shlex.split(query.replace("data/log", str(server.log)))[2])


def test_a_copy_of_the_template_is_published_by_the_lines_of_its_page(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet", "--initial-branch=main", "org/ml-template")
    git(tmp_path / "org/ml-template", "commit", "--quiet", "--allow-empty", "--message", "The template")
    git(tmp_path, "init", "--quiet", "--bare", "acme/ml-template")
    (lines,) = [block for language, block in blocks((ROOT / "docs/publish.md").read_text()) if not language]
    here = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{tmp_path.as_uri()}/.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/",
    }
    (tmp_path / "work").mkdir()
    done = subprocess.run(
        ["bash", "-euc", lines],
        cwd=tmp_path / "work",
        env=clean(**AUTHOR, **here),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pushed = git(tmp_path / "acme/ml-template", "rev-parse", "main")
    assert pushed == git(tmp_path / "work/acme-template", "rev-parse", "HEAD")


def test_adopt_prints_the_table_of_its_page(run: Run, project: Project) -> None:
    copy = project()
    text = (ROOT / "docs/your-data.md").read_text()
    (example,) = [block for language, block in blocks(text) if language == "text"]
    rows, labelled, positive = 10_210, 10_000, 812
    at = pd.Series(range(rows))
    label = (at * 7919 % rows).map(lambda n: "yes" if n < positive else "no" if n < labelled else "")
    pd.DataFrame(
        {
            "returned": label,
            "customer_id": (at * 31 % 1934).map("c{:03d}".format),
            "ordered_at": pd.Timestamp("2026-01-01") + pd.to_timedelta(at * 180 // (rows - 1), unit="D"),
            "order_id": at.map("o{:05d}".format),
            "zip": (at * 17 % 40).map(lambda n: 10115 + n * 1800),
            "refunded": label.map({"yes": "true", "no": "false", "": ""}),
        }
    ).to_csv(copy / "orders.csv", index=False)
    (command,) = [line for line in shown(text) if line.startswith("make adopt DATA")]
    done = run(copy, *shlex.split(command.replace("make ", f"make UV={UV} ")), COLUMNS="80")
    assert done.stdout == example


# Each incident of the table "What if", and the test that makes it happen: here, or in a named file.
WHAT_IF = {
    "a bad model is live": "a_bad_model",
    "a release does not become healthy, or fails under traffic": "test_reconcile.py::test_a_new_release_that_fails_on_live_traffic_is_bad_and_the_last_good_one_runs",
    "drift is reported": "test_monitoring.py::test_drift_and_performance_of_the_served_champion",
    "the gate fails": "a_failing_gate",
    "the log is not written": "test_serving.py::test_a_log_that_can_not_be_written_fails_no_request_and_is_counted",
    "the online store is missing or locked": "a_lost_store",
    "MLflow's server is down while a model is registered": "programs/test_rollout.py::test_a_step_is_finished_once_mlflow_answers_again",
    "the service does not start": "a_lost_champion",
    "the service is not ready": "programs/test_online_store.py::test_it_is_ready_once_every_view_has_a_row",
    "the champion's files are not here": "a_lost_champion",
    "a training or a batch was killed": "programs/test_killed.py::test_a_run_that_is_killed_again_and_again_goes_on_after_its_last_part",
    "a person asks to be forgotten": "programs/test_forget.py::test_a_person_is_removed_and_nobody_else",
}


def a_bad_model(folder: Path, run: Run) -> None:
    for version in ("good", "bad"):
        run(folder, "tabloop", "release", "set", "production", f"MODEL_VERSION={version}")
    done = run(folder, "make", f"UV={UV}", "rollback", "ENV=production")
    assert done.stdout.endswith("Roll back production to good\n") and done.stderr.endswith(
        "git push --set-upstream origin HEAD\n"
    )
    assert run(folder, "tabloop", "release", "show", "production", "MODEL_VERSION").stdout == "good\n"


def a_failing_gate(folder: Path, run: Run) -> None:
    why = run(folder, "python", "-m", "fraud_detection.evaluate", "--min-auc", "0.9999", code=1).stderr
    assert why.count("\n") == 1 and "AUC: 0." in why and "fails the bar: at least 0.9999" in why
    wrong = run(folder, "python", "-m", "fraud_detection.evaluate", "--min-auc", "x", code=2).stderr
    assert wrong == "evaluate: error: argument --min-auc: invalid float value: 'x'\n"
    said = run(folder, "make", f"UV={UV}", "summary").stdout
    assert re.search(r"gate +FAILED: AUC: 0\.\d{4} \[0\.\d{4}, 0\.\d{4}\] fails", said)
    after = said[said.index("Next") :]
    assert "params.yaml" in after and "git commit" not in after and "make serve" not in after


def a_lost_store(folder: Path, run: Run) -> None:
    (folder / "data/online/store.db").unlink()
    run(folder, "make", f"UV={UV}", "materialize")
    assert (folder / "data/online/store.db").exists()


def a_lost_champion(folder: Path, run: Run) -> None:
    shutil.rmtree(folder / "models/champion")
    serve = run(folder, "make", f"UV={UV}", "serve", code=2, PORT=str(free_port()))
    said = serve.stderr.splitlines()[0]
    assert said.startswith("serve: champion: ") and "`uv run dvc pull`" in said
    run(folder, "dvc", "checkout", "models/champion.dvc")  # what `dvc pull` does with what is in the cache
    shutil.rmtree(folder / "models/champion")
    said = run(folder, "tabloop", "rollout", "drop", "champion").stdout
    assert "the next candidate that passes the gate becomes champion. Next: git add " in said
    assert not (folder / "models/champion.dvc").exists()


def test_each_row_of_what_if_happens_here_or_in_a_named_test(run: Run, project: Project, quick: Path) -> None:
    copy = project(quick)
    table = (copy / "README.md").read_text().split("## What if\n")[1].split("\n## ")[0]
    assert re.findall(r"^\| ([^|]+) \|", table, re.M)[1:] == list(WHAT_IF)
    for played in dict.fromkeys(WHAT_IF.values()):
        file, _, test = played.partition("::")
        if test:
            assert f"\ndef {test}(" in (ROOT / "tests" / file).read_text(), played
        else:
            globals()[played](copy, run)
