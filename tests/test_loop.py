"""`make loop`, played through with real parts, beside a project that it must not touch."""

import hashlib
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import UV, Project, Run, wait_for, within
from playwright.sync_api import Page, expect


def files(folder: Path) -> dict[str, str]:
    """The hash of every file, git's and DVC's own among them, but what reading alone writes."""
    rewritten = (".git/index", ".dvc/tmp/", "reports/loop.html")
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in found.items()
        if not name.startswith(rewritten) and "__pycache__" not in name
    }


def inside(folder: Path) -> list[str]:
    """The processes that work in a folder."""

    def cwds() -> Iterator[str]:
        for link in Path("/proc").glob("[0-9]*/cwd"):
            try:
                yield str(link.readlink())
            except OSError:  # it ended meanwhile, or is another user's
                continue

    return [cwd for cwd in cwds() if cwd.startswith(str(folder))]


@pytest.fixture
def folder(project: Project, trained: Path) -> Path:
    """A trained project with a log, and with uncommitted changes by which nothing could run."""
    folder = project(trained)
    log = folder / "data/log/predictions/mine.parquet"
    log.parent.mkdir(parents=True)
    log.write_text("my log")
    (folder / "params.yaml").write_text("half an edit: [")
    (folder / "src/fraud_detection/model.py").write_text("half an edit = [")
    return folder


def test_the_loop_is_closed_and_leaves_the_project_as_it_was(run: Run, folder: Path, page: Page) -> None:
    """Drift, retrain, shadow, A/B test, promotion, a bad challenger withdrawn, rollback: in a clone; then its page."""
    before = files(folder)
    status = run(folder, "git", "status", "--porcelain").stdout
    assert "mlflow.db" in before
    elsewhere = {
        "PREDICTION_LOG": str(folder / "data/log"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "PORT": "80",
    }
    said = run(folder, "make", f"UV={UV}", "loop", **elsewhere).stdout
    titles = re.findall(r"^  commit \w+: Loop: (.*)$", said, re.M)
    first, challenger = titles[3].split()[-1], titles[1].split()[1]
    assert titles == [
        "first champion",
        f"Make {challenger} the challenger, in shadow",
        "A/B test, half of the customers",
        f"Promote {challenger} to champion, after {first}",
        "a bad challenger",
        "Withdraw the challenger bad0bad0bad0",
        "Roll back the promotion",
    ]
    served = re.findall(r"serving champion (\w+)(?:, challenger (\w+) \((\w+)\))?", said)
    assert served[0] == served[-1] == (first, "", "")
    assert list(dict.fromkeys(served)) == [
        (first, "", ""),
        (first, challenger, "shadow"),
        (first, challenger, "ab"),
        (challenger, "bad0bad0bad0", "ab"),
    ]
    for line in (
        "No drift in 5,000",
        "⚠️ **Drift** in 25,000",
        "The candidate is better than the champion: AUC",
        "paired, in shadow",
        "**Promote**",
        "**Withdraw**",
    ):
        assert line in said, line

    assert files(folder) == before
    assert run(folder, "git", "status", "--porcelain").stdout == status
    assert not inside(folder) and not (folder / ".loop.part").exists()
    url = said.strip().split()[-1]
    assert url == (folder / "reports/loop.html").as_uri()

    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: asked.append(str(error)))
    page.goto(url)
    assert asked == [url]
    expect(page).to_have_title("fraud-detection: the loop")
    assert page.locator("li").all_inner_texts() == titles
    picture = page.locator("svg")
    expect(picture.get_by_text(re.compile("^(A/B 50 %|shadow|alone)$"))).to_have_count(len(served))
    expect(picture.locator("rect", has_text=f"challenger {challenger}").first).to_be_visible()
    for verdict, times in (("promote", 2), ("withdraw", 1)):  # shadow and A/B test
        expect(picture.get_by_text(verdict, exact=True)).to_have_count(times)
    heights = [
        float(drawn.get_attribute("height") or 0) for drawn in picture.locator("rect[style*='--']").all()
    ]
    assert len(heights) == 2 and heights[0] < heights[1] / 5  # no drift, drift


def test_a_loop_that_is_stopped_or_killed_leaves_nothing(run: Run, folder: Path, environment: Path) -> None:
    """By Ctrl-C, at once; by kill -9, no process, and the next loop removes the folder."""
    before, part = files(folder), folder / ".loop.part"

    def loop() -> "subprocess.Popen[str]":
        command = [str(environment / "bin/python"), "-m", "tabloop", "loop"]
        pipe, env = subprocess.PIPE, within(folder, environment)
        return subprocess.Popen(command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)

    def played(process: "subprocess.Popen[str]", until: str) -> None:
        assert process.stdout
        assert any(until in line for line in process.stdout), process.communicate()[1]

    killed = loop()
    played(killed, "1. Train")
    assert inside(part)
    assert "another loop is running" in run(folder, "python", "-m", "tabloop", "loop", code=1).stderr
    killed.kill()
    killed.communicate()
    wait_for(lambda: not inside(part))
    assert part.exists()
    (part / "of the killed one").touch()

    stopped = loop()
    played(stopped, "serving champion")
    assert inside(part) and not (part / "of the killed one").exists()
    stopped.send_signal(signal.SIGINT)
    assert stopped.communicate(timeout=30)[1] == "loop: stopped; this project is unchanged\n"
    assert stopped.returncode == 130
    assert not inside(folder) and not part.exists()
    assert files(folder) == before

    run(folder, "git", "rm", "--quiet", "--cached", "models/champion.dvc")
    run(folder, "git", "commit", "--quiet", "--message", "No model")
    error = run(folder, "python", "-m", "tabloop", "loop", code=1).stderr
    assert error == "loop: the last commit has no model: run `make train`, commit, and run this again\n"
