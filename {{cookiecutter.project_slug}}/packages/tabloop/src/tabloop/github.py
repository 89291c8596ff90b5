"""What workflows say on GitHub: step summary, comment, issue, pull request; and the run of a merged pull request.

Variables of Actions say where, GITHUB_TOKEN as whom. What GitHub refuses is a UserError with GitHub's own message.
"""

import re
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from tabloop import actions
from tabloop.cli import UserError, one_line

T = TypeVar("T")
MARK, LABEL = "<!-- tabloop -->", "model-drift"  # the first line of our comment, the label of our issue
PART = re.compile(r"<!-- part (\S+) -->\n(.*?)\n<!-- end of \1 -->", re.DOTALL)
RETRAIN = re.compile(r"<!-- retrain (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\+00:00) -->")
BODY = 65_000  # bytes: below the 65,536 characters that GitHub takes
SETTINGS = {
    "Issues ": "Settings > General > Features > Issues",
    "not permitted to create": "Settings > Actions > General > Allow GitHub Actions to create and approve"
    " pull requests, or set the secret BOT_TOKEN",
}


def ask(work: Callable[[Any], T]) -> T:
    """What `work` returns, given the workflow's repository.

    After a 5xx or a network failure it is run again, twice at most. GitHub may have done what it was asked although it
    did not answer, so `work` looks first for what is there already.

    Raises:
        UserError: GitHub refuses, or still does not answer.
    """
    from github import Auth, Github, GithubException

    name, token, url = map(actions.variable, ("GITHUB_REPOSITORY", "GITHUB_TOKEN", "GITHUB_API_URL"))
    quick: dict[str, Any] = {"lazy": True, "seconds_between_requests": 0, "seconds_between_writes": 0}
    client = Github(auth=Auth.Token(token), base_url=url, per_page=100, retry=None, **quick)
    pauses = [2, 1]
    while True:
        try:
            return work(client.get_repo(name))
        except (GithubException, OSError) as error:  # OSError: the network, as `requests` says it
            if not pauses or getattr(error, "status", 500) < 500:
                raise UserError(f"GitHub: {reason(error)}") from None
        time.sleep(pauses.pop())


def reason(error: Any) -> str:
    """GitHub's own message, the permission or setting that it is about, and when a rate limit ends."""
    data, headers = getattr(error, "data", None) or {}, getattr(error, "headers", None) or {}
    details = [e.get("message", e) if isinstance(e, dict) else e for e in data.get("errors", ())]
    said = one_line(" ".join(map(str, (data.get("message") or error, *details))))[:600]
    if "not accessible" in said:
        said += f"; the job's permissions must have {headers.get('x-accepted-github-permissions')}"
    wait, left = headers.get("retry-after"), headers.get("x-ratelimit-remaining")
    if wait or left == "0":
        ends = datetime.now().timestamp() + int(wait) if wait else int(headers["x-ratelimit-reset"])
        said += f"; the limit ends at {datetime.fromtimestamp(ends, UTC):%H:%M:%S} UTC"
    return said + "".join(f"; turn on {where}" for text, where in SETTINGS.items() if text in said)


def with_part(body: str, part: str, text: str) -> str:
    """The comment with this part replaced or added; every part may have the same share of what GitHub takes."""
    parts = dict(PART.findall(body.replace("\r", ""))) | {part: text.strip()}
    room = BODY // len(parts) - 200
    shown = {name: actions.cut(said, room) for name, said in parts.items()}
    blocks = [f"<!-- part {name} -->\n{said}\n<!-- end of {name} -->" for name, said in shown.items()]
    return "\n\n".join([MARK, *blocks])


def comment(text: str, part: str) -> str:
    """Write a part of our one comment on the event's pull request.

    Two jobs may do so at once: each reads the comment again until its own part is in it, and of two comments the
    older one stays. Comments of others are not ours, whatever they begin with.
    """
    actions.summarize(text)
    pull = actions.event().get("pull_request")
    if not pull or actions.untrusted():
        return "no comment: there is no pull request, or only the right to read; see the step's summary"
    from github import UnknownObjectException

    number = pull["number"]

    def write(repo: Any) -> str:
        # REST does not tell a workflow's token whose it is.
        me = repo.requester.graphql_query("query { viewer { login } }", {})[1]["data"]["viewer"]["login"]
        thread = repo.get_issue(number)
        ours: list[Any] = []
        for _ in range(4):
            marked = [found for found in thread.get_comments() if found.body.startswith(MARK)]
            ours = [found for found in marked if found.user.login == me] or ours
            body = with_part(ours[0].body if ours else "", part, text)
            if not ours:
                ours = [thread.create_comment(body)]
            elif ours[0].body != body:
                with suppress(UnknownObjectException):  # the other job removed it, as the younger one
                    ours[0].edit(body)
            else:
                break
        for double in ours[1:]:
            with suppress(UnknownObjectException):  # the other job was quicker
                double.delete()
        return str(ours[0].html_url)

    return ask(write)


def issue(text: str, title: str, days: float) -> str:
    """Write the one open issue with our label, and dispatch retrain.yml, not again within so many days (0: never).

    The issue says when it was. It says so before the dispatch, so that no crash dispatches twice; a dispatch that
    fails takes it back. What closed issues say counts, too.
    """
    actions.summarize(text)
    now = datetime.now(UTC).replace(microsecond=0)

    def body(at: datetime | None) -> str:
        again = f": not again within {days:g} days" if days else ""
        note = f"\n\nRetrain was dispatched on {at:%Y-%m-%d}{again}.\n<!-- retrain {at} -->" if at else ""
        return actions.cut(text, BODY - 200) + note

    def write(repo: Any) -> str:
        labelled = repo.get_issues(state="all", labels=[LABEL])
        issues = [found for found in labelled if found.html_url.endswith(f"/issues/{found.number}")]
        stamps = (stamp for found in issues for stamp in RETRAIN.findall(found.body or ""))
        times = map(datetime.fromisoformat, stamps)
        last = max((at for at in times if at != now), default=None)  # now: written by an attempt of this run
        due = days > 0 and (last is None or now - last >= timedelta(days=days))
        if ours := next((found for found in issues if found.state == "open"), None):
            ours.edit(title=title, body=body(now if due else last))
        else:
            ours = repo.create_issue(title, body(now if due else last), labels=[LABEL])
        if due:
            try:
                dispatch(repo.get_workflow("retrain.yml"), now)
            except Exception:
                ours.edit(body=body(last))
                raise
        return str(ours.html_url)

    return ask(write)


def dispatch(workflow: Any, since: datetime) -> None:
    """Start a workflow on the default branch, unless it was started since then."""
    if not any(workflow.get_runs(event="workflow_dispatch", created=f">={since:%Y-%m-%dT%H:%M:%SZ}")):
        workflow.create_dispatch(actions.default_branch(), throw=True)


def pull_request(text: str, title: str, branch: str) -> str:
    """Open the pull request of a pushed branch to the default branch, or bring the open one up to date."""
    base, head = actions.default_branch(), f"{actions.variable('GITHUB_REPOSITORY').split('/')[0]}:{branch}"

    def write(repo: Any) -> str:
        if pull := next(iter(repo.get_pulls(state="open", base=base, head=head)), None):
            pull.edit(title=title, body=actions.cut(text, BODY))
        else:
            pull = repo.create_pull(base, branch, title=title, body=actions.cut(text, BODY))
        return str(pull.html_url)

    try:
        return ask(write)
    except UserError as error:
        if "No commits between" in str(error):
            return f"nothing new on {branch}"
        raise


def merged_run() -> int | None:
    """The run of the pull request that this push merged, if its artifact run-cache is still kept.

    The pull request's branch must be in this repository, and the run must be of the commit that was merged.
    """
    home, sha = actions.variable("GITHUB_REPOSITORY"), actions.variable("GITHUB_SHA")

    def find(repo: Any) -> int | None:
        for pull in repo.get_commit(sha).get_pulls():
            if pull.merged_at and pull.head.repo and pull.head.repo.full_name == home:
                of_head = {"head_sha": pull.head.sha, "event": "pull_request", "status": "success"}
                for run in repo.get_workflow_runs(**of_head):
                    if any(kept.name == "run-cache" and not kept.expired for kept in run.get_artifacts()):
                        return int(run.id)
        return None

    return ask(find)
