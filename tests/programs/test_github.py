"""What workflows say on GitHub: the real command as Actions runs it, against a strict stand-in for the API."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import git as run_git
from github_api import BOT, GitHub, Token

from .conftest import Tabloop

HOME, TOKEN = "acme/fraud", "of-the-test"
MARK = "<!-- tabloop -->"


@dataclass
class Step:
    """A step of a workflow: `step("comment", text, "--part", "model")` gives the command's output."""

    github: GitHub
    folder: Path
    tabloop: Tabloop
    git: Callable[..., str]

    @property
    def summary(self) -> str:
        return (self.folder / "summary.md").read_text() if (self.folder / "summary.md").exists() else ""

    @property
    def outputs(self) -> str:
        return (self.folder / "outputs").read_text() if (self.folder / "outputs").exists() else ""

    def __call__(
        self, command: str, text: str | None = None, *options: str, code: int = 0, **variables: str
    ) -> str:
        file = self.folder / f"{command}-{threading.get_ident()}.md"
        file.write_text(text or "")
        arguments = ["github", command, *([file] if text is not None else []), *options]
        done = self.tabloop(self.folder, *arguments, code=code, **(self.variables() | variables))
        said = done.stdout + done.stderr
        assert "Traceback" not in said, said
        assert said.count("\n") <= 1, said
        return said

    def variables(self) -> dict[str, str]:
        return {
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTOR": "jo",
            "GITHUB_API_URL": self.github.url,
            "GITHUB_EVENT_NAME": "push",
            "GITHUB_EVENT_PATH": self.event({}),
            "GITHUB_OUTPUT": str(self.folder / "outputs"),
            "GITHUB_REF_NAME": "main",
            "GITHUB_REPOSITORY": HOME,
            "GITHUB_SHA": self.git("rev-parse", "main"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary.md"),
            "GITHUB_TOKEN": TOKEN,
            "PROJECT_ROOT": str(self.folder),
        }

    def event(self, payload: dict[str, Any]) -> str:
        """The path of an event's payload."""
        path = self.folder / f"event{abs(hash(json.dumps(payload)))}.json"
        path.write_text(json.dumps(payload | {"repository": {"full_name": HOME, "default_branch": "main"}}))
        return str(path)

    def on(self, pull: dict[str, Any]) -> dict[str, Any]:
        """The variables of a pull request's event."""
        return {"GITHUB_EVENT_NAME": "pull_request", "GITHUB_EVENT_PATH": self.event({"pull_request": pull})}


@pytest.fixture
def step(tmp_path: Path, tabloop: Tabloop) -> Iterator[Step]:
    """In a repository with main, topic (one commit ahead) and same (none ahead)."""
    origin, work = tmp_path / "origin.git", tmp_path / "work"

    def git(*arguments: str | Path, where: Path = origin) -> str:
        return run_git(where, *arguments)

    git("init", "--quiet", "--initial-branch=main", work, where=tmp_path)
    workflows = work / ".github/workflows"
    workflows.mkdir(parents=True)
    (workflows / "retrain.yml").write_text("on:\n  workflow_dispatch:\n")
    git("add", "--all", where=work)
    git("commit", "--quiet", "--message", "Begin", where=work)
    git("branch", "same", where=work)
    git("switch", "--quiet", "--create", "topic", where=work)
    git("commit", "--quiet", "--allow-empty", "--message", "A change", where=work)
    git("clone", "--quiet", "--bare", work, origin, where=tmp_path)
    git("symbolic-ref", "HEAD", "refs/heads/main")
    with GitHub(origin, HOME).started() as github:
        yield Step(github, work, tabloop, git)


def bodies(github: GitHub, kind: str = "comments") -> list[str]:
    return [str(thing["body"]) for thing in github.things[kind]]


@pytest.mark.parametrize(
    "missing", ["GITHUB_STEP_SUMMARY", "GITHUB_REPOSITORY", "GITHUB_TOKEN", "GITHUB_API_URL"]
)
def test_outside_a_workflow_one_line_says_which_variable_is_missing(step: Step, missing: str) -> None:
    said = step("issue", "Drift", "--title", "Drift", code=1, **{missing: ""})
    assert said.startswith(f"github: {missing} is not set: ")


def test_a_summary_is_appended_and_cut_where_a_step_may_have_no_more(step: Step) -> None:
    step("summary", "# First")
    step("summary", "```mermaid\n" + "é a line\n" * 200_000 + "```\n")
    assert step.summary.startswith("# First\n\n```mermaid\n")
    assert step.summary.endswith("é a line\n```\n\n*Cut here: this is GitHub's limit.*\n")
    for _ in range(3):
        step("summary", "a line\n" * 100_000)
    assert 900_000 < len(step.summary.encode()) < 1024 * 1024


def test_a_pull_request_has_one_comment_whose_parts_are_replaced(step: Step) -> None:
    pull = step.github.add_pull("topic")
    theirs = step.github.add_comment(pull["number"], f"{MARK}\nI quote the bot", login="jo")
    for number in range(120):
        step.github.add_comment(pull["number"], f"Comment {number}", login="jo")
    others = bodies(step.github)
    said = step("comment", "AUC 0.9", "--part", "model", **step.on(pull))
    assert (
        said == f"comment: https://github.com/{HOME}/pull/{pull['number']}#issuecomment-{step.github.ids}\n"
    )
    step("comment", "90 MB", "--part", "image", **step.on(pull))
    step("comment", "AUC 0.95\n", "--part", "model", **step.on(pull))
    *unchanged, ours = bodies(step.github)
    assert unchanged == others and theirs["body"] == f"{MARK}\nI quote the bot"
    assert re.sub("<!-- (?!tabloop).*-->\n?", "", ours) == f"{MARK}\n\nAUC 0.95\n\n90 MB\n"
    assert step.summary == "AUC 0.9\n\n90 MB\n\nAUC 0.95\n\n"
    # Somebody edits it in the browser, which writes other line ends.
    step.github.things["comments"][-1]["body"] = ours.replace("\n", "\r\n")
    step("comment", "AUC 0.97", "--part", "model", **step.on(pull))
    assert bodies(step.github)[-1] == ours.replace("0.95", "0.97")


def test_an_event_without_a_pull_request_has_a_summary_alone(step: Step) -> None:
    assert "see the step's summary" in step("comment", "AUC 0.9", "--part", "model")
    assert step.summary == "AUC 0.9\n\n" and not step.github.requests


def test_a_comment_that_is_too_long_is_cut_within_its_parts(step: Step) -> None:
    pull = step.github.add_pull("topic")
    for part in ("model", "image"):
        step("comment", f"{part}\n" * 15_000, "--part", part, **step.on(pull))
        (body,) = bodies(step.github)
        assert 60_000 < len(body) <= 65_536
    for part in ("model", "image"):
        (text,) = re.findall(f"<!-- part {part} -->\n(.*)\n<!-- end of {part} -->", body, re.DOTALL)
        assert text.startswith(f"{part}\n{part}\n") and text.endswith("GitHub's limit.*\n")
    assert len(step.summary) > 2 * 15_000 * 6  # all of it
    step("comment", "short", "--part", "model", **step.on(pull))
    assert "short" in bodies(step.github)[0] and bodies(step.github)[0].count("Cut here") == 1


def test_two_jobs_that_comment_at_once_leave_one_comment_with_both_parts(step: Step) -> None:
    pull = step.github.add_pull("topic")
    together = threading.Barrier(2)

    def wait(method: str, path: str) -> None:
        # Each has seen that there is none yet; each deletes the double one.
        if method == "DELETE" or (method == "POST" and path.endswith("comments")):
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(30 if method == "POST" else 1)

    step.github.before = wait
    with ThreadPoolExecutor() as pool:
        jobs = [
            pool.submit(step, "comment", text, "--part", part, **step.on(pull))
            for part, text in (("model", "AUC 0.9"), ("image", "90 MB"))
        ]
        said = [job.result() for job in jobs]
    (body,) = bodies(step.github)
    assert "AUC 0.9" in body and "90 MB" in body
    assert said[0] == said[1]


@pytest.mark.parametrize("kind", ["fork", "deleted fork", "Dependabot"])
def test_a_pull_request_that_may_only_read_is_green_without_a_comment(step: Step, kind: str) -> None:
    pull = step.github.add_pull("topic", fork="" if kind == "Dependabot" else "jo/fraud")
    if kind == "deleted fork":
        pull["head"]["repo"] = None
    step.github.tokens[TOKEN] = Token(permissions={"contents": "read", "pull_requests": "read"})
    actor: dict[str, Any] = {"GITHUB_ACTOR": "dependabot[bot]"} if kind == "Dependabot" else {}
    said = step("comment", "AUC 0.9", "--part", "model", **step.on(pull), **actor)
    assert "only the right to read; see the step's summary" in said
    assert step.summary == "AUC 0.9\n\n" and not bodies(step.github)


def test_a_refusal_is_red_with_githubs_own_message(step: Step) -> None:
    pull = step.github.add_pull("topic")
    options = ("comment", "AUC 0.9", "--part", "model")
    step.github.tokens[TOKEN].permissions = {"pull_requests": "read"}
    said = step(*options, code=1, **step.on(pull))
    assert said.startswith(
        "github: GitHub: Resource not accessible by integration; the job's permissions must "
    )
    assert "pull_requests=write" in said
    assert "GitHub: Bad credentials" in step(*options, code=1, GITHUB_TOKEN="old", **step.on(pull))
    assert "GitHub: Not Found" in step(*options, code=1, **step.on(pull | {"number": 99}))
    assert not bodies(step.github)


@pytest.mark.parametrize(("kind", "seconds"), [("primary", 1800), ("secondary", 60)])
def test_a_rate_limit_is_red_and_says_when_it_ends(step: Step, kind: str, seconds: int) -> None:
    step.github.limited = kind
    said = step("pull-request", "Text", "--title", "Title", "--branch", "topic", code=1)
    assert "rate limit" in said
    (ends,) = re.findall(r"the limit ends at (\d\d:\d\d:\d\d) UTC\n", said)
    near = {f"{datetime.now(UTC) + timedelta(seconds=seconds - ago):%H:%M:%S}" for ago in range(20)}
    assert ends in near and len(step.github.requests) == 1


def at_once(step: Step, *runs: tuple[GitHub, int, list[Any], dict[str, Any]]) -> list[str]:
    """What steps say that run at once, each on a GitHub of its own: the pauses between their attempts are real."""
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        jobs = []
        for github, code, options, variables in runs:
            stack.enter_context(github.started())
            where = {"GITHUB_API_URL": github.url} | variables
            jobs.append(pool.submit(step, *options, code=code, **where))
        return [job.result() for job in jobs]


def test_an_outage_is_tried_again_twice_and_is_then_red(step: Step) -> None:
    options = ["pull-request", "Text", "--title", "Title", "--branch", "topic"]
    cases = [(502, 3), (0, 3), (502, 2), (0, 2)]
    githubs = [GitHub(step.github.origin, HOME) for _ in cases]
    for github, (failure, times) in zip(githubs, cases, strict=True):
        github.failing = [failure] * times
    said = at_once(
        step, *((github, times // 3, options, {}) for github, (_, times) in zip(githubs, cases, strict=True))
    )
    assert "Server Error" in said[0] and "Connection" in said[1]
    assert [len(github.requests) for github in githubs[:2]] == [3, 3]
    for github, text in zip(githubs[2:], said[2:], strict=True):
        (pull,) = github.things["pulls"]
        assert pull["title"] == "Title" and "/pull/" in text


def test_what_github_did_without_an_answer_is_not_done_twice(step: Step) -> None:
    """A gateway gives up (502), or the connection is cut (0), after the work was done."""
    comments, pulls, issues = (GitHub(step.github.origin, HOME) for _ in range(3))
    comments.lost, pulls.lost = [502], [0]
    # The issue; what is written into it by the second attempt; the dispatch.
    issues.lost = [502, 200, 0]
    pull = comments.add_pull("same")
    at_once(
        step,
        (comments, 0, ["comment", "AUC 0.9", "--part", "model"], step.on(pull)),
        (pulls, 0, ["pull-request", "Text", "--title", "Title", "--branch", "topic"], {}),
        (issues, 0, ["issue", "Drift", "--title", "Drift", "--retrain-every", "7"], {}),
    )
    (body,) = bodies(comments)
    assert "AUC 0.9" in body and step.summary.count("AUC 0.9") == step.summary.count("Drift") == 1
    (opened,) = pulls.things["pulls"]
    assert opened["head"]["ref"] == "topic"
    (issue,) = issues.things["issues"]
    assert not issues.lost and len(issues.things["dispatches"]) == 1
    assert "Retrain was dispatched on " in issue["body"]


def test_an_issue_is_made_once_and_brought_up_to_date(step: Step) -> None:
    said = step("issue", "Drift in amount", "--title", "The model has drifted")
    (issue,) = step.github.things["issues"]
    assert said == f"issue: {issue['html_url']}\n" and step.summary == "Drift in amount\n\n"
    assert issue["body"].strip() == "Drift in amount" and [each["name"] for each in issue["labels"]] == [
        "model-drift"
    ]
    step("issue", "x\n" * 40_000, "--title", "The model still drifts")
    (issue,) = step.github.things["issues"]
    assert issue["title"] == "The model still drifts" and len(issue["body"]) <= 65_536
    assert "Cut here" in issue["body"] and not step.github.things["dispatches"]


def test_the_issue_is_found_among_many_others(step: Step) -> None:
    """An open one without a body, older than a hundred closed ones; a pull request has the label, too."""
    ours = step.github.add_issue("Made by hand", labels=("model-drift",), login="jo")
    step.github.add_issue("Another", "Not about drift")
    for _ in range(110):
        step.github.add_issue("Closed", labels=("model-drift",))["state"] = "closed"
    step.github.add_pull("topic", labels=ours["labels"])
    before = len(step.github.things["issues"])
    step("issue", "Drift", "--title", "The model has drifted", "--retrain-every", "7")
    assert len(step.github.things["issues"]) == before
    assert ours["title"] == "The model has drifted" and "Retrain was dispatched on " in ours["body"]
    assert step.github.things["pulls"][0]["title"] == "topic"


def test_retrain_is_dispatched_once_within_the_days_whoever_closes_the_issue(step: Step) -> None:
    options = ("issue", "Drift", "--title", "Drift", "--retrain-every", "7")
    things = step.github.things

    def noted(method: str, path: str) -> None:
        if path.endswith("/dispatches"):  # what a crash now would leave
            assert "<!-- retrain " in things["issues"][-1]["body"]

    step.github.before = noted
    for _ in range(2):
        step(*options)
    (issue,) = things["issues"]
    assert f"dispatched on {datetime.now(UTC):%Y-%m-%d}: not again within 7 days." in issue["body"]
    assert things["dispatches"] == [{"workflow": "retrain.yml", "ref": "main", "inputs": {}}]

    issue["state"] = "closed"
    step(*options)
    _, again = things["issues"]
    assert len(things["dispatches"]) == 1 and "not again within 7 days" in again["body"]
    step("issue", "Drift", "--title", "Drift", "--retrain-every", "0")
    assert len(things["dispatches"]) == 1

    for each in things["issues"]:
        each["body"] = re.sub(r"(?<=retrain )\d{4}", "2020", each["body"])
    for run in things["runs"]:  # else one of this very second is taken for that of this attempt
        run["created_at"] = re.sub(r"^\d{4}", "2020", run["created_at"])
    step(*options)
    assert len(things["dispatches"]) == 2 and "<!-- retrain 2020" not in again["body"]


def test_a_dispatch_that_is_refused_is_red_and_tried_again(step: Step) -> None:
    options = ("issue", "Drift", "--title", "Drift", "--retrain-every", "7")
    step.github.tokens[TOKEN].permissions = {"issues": "write"}
    assert "GitHub: Resource not accessible by integration" in step(*options, code=1)
    (issue,) = step.github.things["issues"]
    assert issue["body"].strip() == "Drift"
    step.github.tokens[TOKEN].permissions = {"issues": "write", "actions": "write"}
    main = step.git("rev-parse", "main")
    step.git("update-ref", "refs/heads/main", step.git("commit-tree", "-m", "Empty", step.git("mktree")))
    assert "GitHub: Not Found" in step(*options, code=1)
    step.git("update-ref", "refs/heads/main", main)
    assert not step.github.things["dispatches"] and issue["body"].strip() == "Drift"
    step(*options)
    assert len(step.github.things["dispatches"]) == 1 and "Retrain was dispatched" in issue["body"]


def test_issues_that_are_off_are_one_line_that_names_the_setting(step: Step) -> None:
    step.github.issues_enabled = False
    said = step("issue", "Drift", "--title", "Drift", "--retrain-every", "7", code=1)
    assert (
        "Issues has been disabled in this repository.; turn on Settings > General > Features > Issues" in said
    )
    assert not step.github.things["dispatches"]


def test_a_pull_request_is_opened_once_and_brought_up_to_date(step: Step) -> None:
    another = step.github.add_pull("same")
    for title in ("Make a the challenger", "Make b the challenger"):
        said = step("pull-request", f"{title}\n", "--title", title, "--branch", "topic")
        _, pull = step.github.things["pulls"]
        assert said == f"pull-request: {pull['html_url']}\n"
        assert (pull["title"], pull["body"], pull["base"]["ref"]) == (title, f"{title}\n", "main")
    pull["state"] = "closed"
    step("pull-request", "x\n" * 40_000, "--title", "Another", "--branch", "topic")
    assert len(step.github.things["pulls"]) == 3 and another["title"] == "same"


def test_a_branch_with_nothing_new_is_green_and_one_that_does_not_exist_is_red(step: Step) -> None:
    said = step("pull-request", "Text", "--title", "Title", "--branch", "same")
    assert said == "pull-request: nothing new on same\n" and not step.github.things["pulls"]
    said = step("pull-request", "Text", "--title", "Title", "--branch", "nowhere", code=1)
    assert "Validation Failed" in said and "head" in said


def test_the_setting_that_forbids_pull_requests_is_named_and_a_bot_token_passes(step: Step) -> None:
    step.github.actions_may_open_pulls = False
    options = ("pull-request", "Text", "--title", "Title", "--branch", "topic")
    said = step(*options, code=1)
    assert "GitHub Actions is not permitted to create or approve pull requests." in said
    assert "Allow GitHub Actions to create and approve pull requests, or set the secret BOT_TOKEN" in said
    step.github.tokens["of-a-user"] = Token("bot-account")
    step(*options, GITHUB_TOKEN="of-a-user")
    assert step.github.things["pulls"][0]["user"]["login"] == "bot-account"


def test_the_run_of_the_merged_pull_request_is_found(step: Step) -> None:
    github, main = step.github, step.git("rev-parse", "main")
    none = "merged-run: no merged pull request has a run with a cache\n"
    assert step("merged-run") == none
    github.add_run(github.add_pull("same")["head"]["sha"])
    assert step("merged-run") == none  # an open pull request whose head was pushed to main, too
    pull = github.add_pull("topic")
    head = pull["head"]["sha"]
    github.merge(pull, main)
    for values in (
        {"conclusion": "failure"},
        {"event": "push"},
        {"expired": True},
        {"artifacts": ("models",)},
    ):
        github.add_run(head, **values)
    github.add_run(main)
    assert step("merged-run") == none and not step.outputs
    run = github.add_run(head)
    github.add_run(head, artifacts=())  # a newer one, of another workflow
    assert step("merged-run") == f"merged-run: {run['id']}\n"
    assert step.outputs == f"run-id={run['id']}\n"


@pytest.mark.parametrize("deleted", [False, True])
def test_the_run_of_a_fork_is_not_trusted(step: Step, deleted: bool) -> None:
    pull = step.github.add_pull("topic", fork="jo/fraud")
    step.github.merge(pull, step.git("rev-parse", "main"))
    step.github.add_run(pull["head"]["sha"])
    if deleted:
        pull["head"]["repo"] = None
    assert "no merged pull request" in step("merged-run") and not step.outputs


def test_the_stand_in_is_strict(step: Step) -> None:
    """What the tests rely on: a mistake in a request is an error here, in GitHub's form."""
    headers = {"authorization": f"Bearer {TOKEN}"}
    step.github.tokens["reads"] = Token(BOT, {"issues": "read"})
    with httpx.Client(base_url=f"{step.github.url}/repos/{HOME}", headers=headers) as client:
        assert client.get("/issues").json() == []
        answer = client.get("/nothing")
        assert answer.status_code == 404
        about = {"documentation_url": "https://docs.github.com/rest", "status": "404"}
        assert answer.json() == {"message": "Not Found"} | about
        assert (
            client.delete("/issues").status_code
            == client.get(f"{step.github.url}/repos/other/one/issues").status_code
            == 404
        )
        for query in ("lables=a", "state=opened", "per_page=0"):
            assert client.get(f"/issues?{query}").status_code == 422
        assert (
            client.post("/issues", content=b"{}", headers={"content-type": "text/plain"}).status_code == 400
        )
        assert (
            client.post("/issues", content=b"{", headers={"content-type": "application/json"}).status_code
            == 400
        )
        for payload in ({}, {"title": "a", "label": "b"}):
            assert client.post("/issues", json=payload).status_code == 422
        answer = client.post("/issues", json={"title": "a", "body": "x" * 65_537})
        assert answer.json()["errors"][0]["message"] == "body is too long (maximum is 65536 characters)"
        assert client.get("/issues", headers={"authorization": ""}).status_code == 401
        answer = client.post("/issues", json={"title": "a"}, headers={"authorization": "Bearer reads"})
        assert answer.status_code == 403 and answer.headers["x-accepted-github-permissions"] == "issues=write"
        for _ in range(130):
            assert client.post("/issues", json={"title": "a", "labels": ["new"]}).status_code == 201
        assert [label["name"] for label in step.github.things["labels"]] == ["new"]
        assert len(client.get("/issues").json()) == 30
        first = client.get("/issues", params={"per_page": 200, "labels": "new"})
        assert len(first.json()) == 100 and 'rel="prev"' not in first.headers["link"]
        second = client.get(first.links["next"]["url"])
        assert len(second.json()) == 30 and set(second.links) == {"prev", "first"}
        pull = {"title": "a", "base": "main"}
        assert client.post("/pulls", json=pull | {"head": "topic"}).status_code == 201
        answer = client.post("/pulls", json=pull | {"head": "topic"})
        assert answer.json()["errors"][0]["message"] == "A pull request already exists for acme:topic."
        runs = client.post("/actions/workflows/retrain.yml/dispatches", json={"ref": "nowhere"})
        assert runs.json()["message"] == "No ref found for: nowhere"
