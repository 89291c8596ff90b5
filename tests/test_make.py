"""The commands that people type."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import COLLECTED, ROOT, UV, Project, Run, know_types


def test_make_demo_from_nothing_to_a_prediction(demo: Path) -> None:
    said = (demo / "said").read_text()
    for line in ("AUC  ", "gate        passed: ", "report      file://", "prediction  is_fraud = "):
        assert f"\n{line}" in said
    setup = said[said.index("setup: installing") : said.index("Running stage")].splitlines()
    assert len(setup) < 5, setup  # and not a line for each package
    hook = demo / "template/demo/fraud-detection/.git/hooks/pre-commit"
    assert "pre-commit" in hook.read_text()


def test_make_train_ends_with_the_summary(run: Run, project: Project, quick: Path, tmp_path: Path) -> None:
    copy = project(quick).rename(tmp_path / "Größe & Umsatz 2026")  # as people call folders
    said = run(copy, "make", f"UV={UV}", "train").stdout
    for line in ("AUC ", "gate        passed: ", "prediction  is_fraud = "):
        assert f"\n{line}" in said
    # But for what is copied whole, a terminal of 100 columns wraps nothing of a summary.
    shown = said[said.index("\nmodel ") :].splitlines()
    assert not [x for x in shown if len(x) > 100 and not x.startswith(("report ", "a row "))]
    report = unquote(said.split("report      file://")[1].splitlines()[0])
    assert Path(report) == copy / "reports/evaluation.html"
    assert Path(report).exists()


def test_before_training_the_summary_names_the_command(run: Run, project: Project) -> None:
    done = run(project(), "make", f"UV={UV}", "summary", code=2)
    assert done.stderr.splitlines()[0] == "summary: nothing is trained yet: run `make train`"


def test_before_training_no_image_is_built(run: Run, project: Project) -> None:
    """Docker is never asked: an image that says no version could not be told from another."""
    said = run(project(), "make", f"UV={UV}", "image", code=2, DOCKER_HOST="tcp://127.0.0.1:1").stderr
    assert said.startswith("card: ") and "`make train` makes a model" in said
    assert "127.0.0.1" not in said and "docker" not in said.lower()


@pytest.mark.parametrize("installed", [True, False])
def test_a_setup_without_a_network_ends_with_a_line_that_says_what_it_needs(
    run: Run, project: Project, tmp_path: Path, installed: bool
) -> None:
    """With uv, and where it has to be installed first: an index that does not answer, and nothing in a cache."""
    nowhere = "http://127.0.0.1:1/simple"
    offline = {
        "UV_DEFAULT_INDEX": nowhere,
        "PIP_INDEX_URL": nowhere,
        "UV_HTTP_RETRIES": "0",
        "PIP_RETRIES": "0",
    }
    own = {
        "UV_CACHE_DIR": str(tmp_path / "cache"),
        "UV_PROJECT_ENVIRONMENT": str(tmp_path / "venv"),
        "UV_NO_SYNC": "0",
    }
    empty = dict.fromkeys(
        ("UV_FIND_LINKS", "PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL", "CI"), ""
    )
    uv = [f"UV={UV}"] if installed else ["UV=.uv/bin/uv"]
    said = run(project(), "make", *uv, "setup", code=2, **offline, **own, **empty).stderr.splitlines()
    assert "see above: " in said[-2] and said[-2].endswith(
        "_INDEX_URL, HTTPS_PROXY)" if not installed else "HTTPS_PROXY)"
    )
    assert said[-1].startswith("make: ***")


def test_make_lint_passes_and_format_has_nothing_to_do(
    run: Run, project: Project, quick: Path, environment: Path
) -> None:
    copy = project(quick)
    know_types(copy, environment)
    run(copy, "make", f"UV={UV}", "lint")
    run(copy, "make", f"UV={UV}", "format")
    assert run(copy, "git", "status", "--porcelain").stdout == ""


def test_make_adopt_takes_names_with_spaces(run: Run, project: Project, tmp_path: Path) -> None:
    copy = project()
    rows = "\n".join(f"{i % 7},{i % 3},{'yes' if i % 7 + i % 3 > 5 else 'no'}" for i in range(300))
    (tmp_path / "my table.csv").write_text(f"Visits,Sites,Bought it\n{rows}\n")
    run(copy, "make", f"UV={UV}", "adopt", f"DATA={tmp_path}/my table.csv", "TARGET=Bought it")
    assert "bought_it" in (copy / "params.yaml").read_text()


def test_no_file_of_tests_imports_what_takes_seconds() -> None:
    """Each of four processes would, before its first test: the tests that need these import them."""
    slow = {"dask", "dvc", "evidently", "feast", "matplotlib", "mlflow", "ray", "scipy", "sklearn", "torch"}
    assert slow & COLLECTED == set()


def test_no_test_of_the_kit_starts_a_process() -> None:
    """But for the service's own writer of its log. The tests that run commands are in tests/programs."""
    starts = re.compile(
        r"\b(subprocess|multiprocessing|pty|forks|execv\w*|posix_spawn\w*|fork)\b|import .*\bgit\b"
    )
    files = sorted((ROOT / "tests/kit").glob("*.py"))
    assert len(files) > 30
    assert [
        f"{file.name}: {line}"
        for file in files
        for line in file.read_text().splitlines()
        if starts.search(line)
    ] == []
