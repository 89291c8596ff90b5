"""A strict stand-in for GitHub's API, as far as workflows use it. What it refuses, it refuses in GitHub's own words.

Where GitHub ignores a mistake, such as an unknown key in a query or a payload, this is an error here. Branches, commits
and workflows are those of a real bare repository. (It cannot be called github.py: PyGithub is `github`.)
"""

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import yaml

Thing = dict[str, Any]
BOT = "github-actions[bot]"
ALL = {"contents": "write", "issues": "write", "pull_requests": "write", "actions": "write"}
LONGEST = 65_536  # characters of a body


class Refusal(Exception):
    """An answer that is an error, in GitHub's form."""

    def __init__(
        self, status: int, message: str, *errors: Thing, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body: Thing = {"message": message} | ({"errors": list(errors)} if errors else {})


def invalid(resource: str, message: str = "", **more: str) -> Refusal:
    """A 422: a rule that is broken, or a field whose value is invalid."""
    error = {"resource": resource} | ({"code": "custom", "message": message} if message else {}) | more
    return Refusal(422, "Validation Failed", error)


@dataclass
class Token:
    """Who has it, and what it may do. A job's token is the bot's; a BOT_TOKEN is a user's."""

    login: str = BOT
    permissions: dict[str, str] = field(default_factory=lambda: dict(ALL))

    def check(self, *needed: str) -> None:
        """Refuse unless it has one of these permissions: `issues=write`."""
        given = {f"{name}={level}" for name, level in self.permissions.items()}
        given |= {f"{name}=read" for name in self.permissions}
        if needed and not given & set(needed):
            kind = "integration" if self.login.endswith("[bot]") else "personal access token"
            headers = {"X-Accepted-GitHub-Permissions": "; ".join(needed)}
            raise Refusal(403, f"Resource not accessible by {kind}", headers=headers)


class GitHub(ThreadingHTTPServer):
    """The server: `with GitHub(origin).started() as github`, then `github.url` is GITHUB_API_URL.

    Attributes:
        things: what there is, oldest first: comments, issues, pulls, dispatches, runs, artifacts, labels, releases.
        tokens: the tokens that are known.
        actions_may_open_pulls: the setting "Allow GitHub Actions to create and approve pull requests".
        issues_enabled: the setting "Issues".
        limited: "primary" or "secondary" while a rate limit is exceeded.
        failing: how the next requests end, one each: a status above 500, or 0 for a connection that is cut.
        lost: how the next requests that change something end after they are done, one each: as in `failing`, or 200.
        before: called with method and path of each request, before it is answered.
        requests: method and path with query of each request.
    """

    daemon_threads = True

    def __init__(
        self,
        origin: Path,
        repository: str = "acme/fraud",
        permissions: dict[str, str] | None = None,
        token: str = "of-the-test",
    ) -> None:
        """Serve one repository.

        Args:
            origin: the bare repository.
            repository: OWNER/NAME.
            permissions: of the job's token; None: all that are used here.
            token: the job's token.
        """
        super().__init__(("127.0.0.1", 0), Handler)
        self.origin, self.repository = origin, repository
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.tokens = {token: Token(permissions=ALL if permissions is None else permissions)}
        kinds = ("comments", "issues", "pulls", "dispatches", "runs", "artifacts", "labels", "releases")
        self.things: dict[str, list[Thing]] = {kind: [] for kind in kinds}
        self.actions_may_open_pulls = self.issues_enabled = True
        self.limited = ""
        self.failing: list[int] = []
        self.lost: list[int] = []
        self.before: Callable[[str, str], object] = lambda method, path: None
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        self.ids = 0

    @contextmanager
    def started(self) -> "Iterator[GitHub]":
        """Answer until the end of the block."""
        with self:
            threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()
            yield self
            self.shutdown()

    def git(self, *arguments: str) -> str:
        """The output of a git command in the bare repository; empty if it fails."""
        done = subprocess.run(["git", *arguments], cwd=self.origin, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    def commit(self, branch: str) -> str:
        """The commit of a branch; empty if there is no such branch."""
        return self.git("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}")

    def new(self, kind: str, path: str, page: str, **values: Any) -> Thing:
        """Add a thing; its number fills the {} in its address and in its page's."""
        self.ids += 1
        now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        thing: Thing = {
            "id": self.ids,
            "url": f"{self.url}/repos/{self.repository}{path.format(self.ids)}",
            "html_url": f"https://github.com/{self.repository}{page.format(self.ids)}",
            "created_at": now,
            "updated_at": now,
        }
        self.things[kind].append(thing | values)
        return self.things[kind][-1]

    def numbered(self, kind: str, path: str, page: str, login: str, **values: Any) -> Thing:
        """Add an issue or a pull request."""
        values = {"body": None, "state": "open", "labels": [], "user": user(login)} | values
        return self.new(kind, path, page, number=self.ids + 1, **values)

    def add_comment(self, number: int, body: str, login: str = BOT) -> Thing:
        """A comment on an issue or a pull request."""
        about = {"body": body, "user": user(login), "issue_url": self.address(f"/issues/{number}")}
        return self.new("comments", "/issues/comments/{}", f"/pull/{number}#issuecomment-{{}}", **about)

    def add_issue(
        self, title: str, body: str | None = None, labels: tuple[str, ...] = (), login: str = BOT
    ) -> Thing:
        """An issue. Labels that do not exist are made."""
        known = {label["name"] for label in self.things["labels"]}
        for name in sorted(set(labels) - known):
            self.new("labels", f"/labels/{name}", f"/labels/{name}", name=name, color="ededed")
        given = [label for label in self.things["labels"] if label["name"] in labels]
        return self.numbered(
            "issues", "/issues/{}", "/issues/{}", login, title=title, body=body, labels=given
        )

    def add_pull(
        self, head: str, base: str = "main", fork: str = "", login: str = BOT, **values: Any
    ) -> Thing:
        """A pull request of a branch, here or in the repository `fork`."""
        values |= {"merged_at": None, "merge_commit_sha": None}
        for side, branch, name in (("head", head, fork or self.repository), ("base", base, self.repository)):
            repository = {"full_name": name, "url": f"{self.url}/repos/{name}"}
            label = f"{name.split('/')[0]}:{branch}"
            values[side] = {"ref": branch, "sha": self.commit(branch), "label": label, "repo": repository}
        return self.numbered("pulls", "/pulls/{}", "/pull/{}", login, **({"title": head} | values))

    def merge(self, pull: Thing, commit: str) -> None:
        """Mark a pull request as merged by a commit."""
        pull.update(state="closed", merged_at=pull["updated_at"], merge_commit_sha=commit)

    def add_run(
        self, head_sha: str, artifacts: tuple[str, ...] = ("run-cache",), expired: bool = False, **values: Any
    ) -> Thing:
        """A workflow's run, with its artifacts."""
        values = {"event": "pull_request", "status": "completed", "conclusion": "success"} | values
        run = self.new("runs", "/actions/runs/{}", "/actions/runs/{}", head_sha=head_sha, **values)
        run["artifacts_url"] = f"{run['url']}/artifacts"
        for name in artifacts:
            about = {"name": name, "expired": expired, "workflow_run": {"id": run["id"]}}
            self.new("artifacts", "/actions/artifacts/{}", "/actions/artifacts/{}", **about)
        return run

    def address(self, path: str) -> str:
        """The address of something in the repository."""
        return f"{self.url}/repos/{self.repository}{path}"


def user(login: str) -> Thing:
    """An account."""
    return {"login": login, "type": "Bot" if login.endswith("[bot]") else "User"}


@dataclass
class Route:
    """An operation: the method of Handler that answers, its documentation, who may, and what the request may say."""

    method: str
    path: str  # below /repos/OWNER/NAME; {n} is a number, {name} a name
    answer: str
    docs: str
    needs: tuple[str, ...] = ()  # one of these permissions
    query: str = ""  # keys; lists know page and per_page besides
    required: str = ""  # fields of the payload
    allowed: str = ""

    def match(self, path: str) -> re.Match[str] | None:
        """The numbers and names in the path."""
        pattern = re.escape(self.path).replace(r"\{n\}", r"(\d+)").replace(r"\{name\}", "([^/]+)")
        return re.fullmatch(pattern, path)


TALK, HEAR = ("issues=write", "pull_requests=write"), ("issues=read", "pull_requests=read")
COMMENTS, ISSUES, PULLS = "issues/comments", "issues/issues", "pulls/pulls"
ROUTES = [
    Route("GET", "/issues/{n}/comments", "list_comments", f"{COMMENTS}#list-issue-comments", HEAR, "since"),
    Route(
        "POST", "/issues/{n}/comments", "add_comment", f"{COMMENTS}#create-an-issue-comment", TALK, "", "body"
    ),
    Route(
        "PATCH",
        "/issues/comments/{n}",
        "edit_comment",
        f"{COMMENTS}#update-an-issue-comment",
        TALK,
        "",
        "body",
    ),
    Route("DELETE", "/issues/comments/{n}", "drop_comment", f"{COMMENTS}#delete-an-issue-comment", TALK),
    Route(
        *("GET", "/issues", "list_issues", f"{ISSUES}#list-repository-issues", HEAR),
        query="state labels sort direction since",
    ),
    Route(
        *("POST", "/issues", "add_issue", f"{ISSUES}#create-an-issue", ("issues=write",)),
        required="title",
        allowed="body labels assignees milestone",
    ),
    Route(
        *("PATCH", "/issues/{n}", "edit_issue", f"{ISSUES}#update-an-issue", TALK),
        allowed="title body state state_reason labels assignees milestone",
    ),
    Route(
        *("GET", "/pulls", "list_pulls", f"{PULLS}#list-pull-requests", ("pull_requests=read",)),
        query="state head base sort direction",
    ),
    Route(
        *("POST", "/pulls", "add_pull", f"{PULLS}#create-a-pull-request", ("pull_requests=write",)),
        required="head base title",
        allowed="body draft maintainer_can_modify",
    ),
    Route(
        *("PATCH", "/pulls/{n}", "edit_pull", f"{PULLS}#update-a-pull-request", ("pull_requests=write",)),
        allowed="title body state base maintainer_can_modify",
    ),
    Route(
        *("GET", "/commits/{name}/pulls", "list_pulls_of_commit"),
        *("commits/commits#list-pull-requests-associated-with-a-commit", ("pull_requests=read",)),
    ),
    Route(
        *("GET", "/releases/tags/{name}", "get_release"),
        *("releases/releases#get-a-release-by-tag-name", ("contents=read",)),
    ),
    Route(
        *("POST", "/releases", "add_release"),
        *("releases/releases#create-a-release", ("contents=write",)),
        required="tag_name",
        allowed="target_commitish name body draft prerelease generate_release_notes make_latest",
    ),
    Route(
        *("PATCH", "/releases/{n}", "edit_release"),
        *("releases/releases#update-a-release", ("contents=write",)),
        allowed="tag_name target_commitish name body draft prerelease make_latest",
    ),
    Route(
        *("GET", "/actions/runs", "list_runs"),
        *("actions/workflow-runs#list-workflow-runs-for-a-repository", ("actions=read",)),
        query="head_sha event status branch",
    ),
    Route(
        *("GET", "/actions/workflows/{name}/runs", "list_runs_of_workflow"),
        *("actions/workflow-runs#list-workflow-runs-for-a-workflow", ("actions=read",)),
        query="event created",
    ),
    Route(
        *("GET", "/actions/runs/{n}/artifacts", "list_artifacts"),
        *("actions/artifacts#list-workflow-run-artifacts", ("actions=read",)),
        query="name",
    ),
    Route(
        *("POST", "/actions/workflows/{name}/dispatches", "dispatch"),
        *("actions/workflows#create-a-workflow-dispatch-event", ("actions=write",)),
        required="ref",
        allowed="inputs",
    ),
]
VALUES = {  # of queries
    "state": "open|closed|all",
    "sort": "created|updated|comments|popularity|long-running",
    "direction": "asc|desc",
    "page": r"[1-9]\d*",
    "per_page": r"[1-9]\d*",
    "since": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
    "created": r">=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
}


class Handler(BaseHTTPRequestHandler):
    """One request. The methods that ROUTES name give the answer's status and body."""

    server: GitHub
    token: Token
    query: dict[str, str]
    given: Thing

    def answer(self) -> None:
        """Answer, unless something is about to fail."""
        path, raw = urlsplit(self.path).path, self.rfile.read(int(self.headers.get("content-length") or 0))
        self.server.requests.append((self.command, self.path))
        self.server.before(self.command, path)
        failure = self.server.failing.pop(0) if self.server.failing else None
        if failure == 0:
            return
        route, about = None, "https://docs.github.com/rest"
        try:
            if failure:
                raise Refusal(failure, "Server Error")
            with self.server.lock:
                self.authenticate()
                if (self.command, path) == ("POST", "/graphql"):
                    self.send(200, self.graphql(self.payload(raw, "query", "variables")))
                    return
                inside = path.removeprefix(f"/repos/{self.server.repository}")
                found = [
                    (each, each.match(inside))
                    for each in ROUTES
                    if each.method == self.command and inside != path
                ]
                route, match = next(((each, match) for each, match in found if match), (None, None))
                if route is None or match is None:
                    raise Refusal(404, "Not Found")
                about = f"{about}/{route.docs}"
                self.token.check(*route.needs)
                self.query = self.queried(route)
                if route.method in ("POST", "PATCH"):
                    self.given = self.payload(raw, route.required, route.allowed)
                answer = getattr(self, route.answer)(*match.groups())
                lost = self.server.lost.pop(0) if route.method != "GET" and self.server.lost else 200
                if lost == 0:
                    return
                if lost != 200:
                    raise Refusal(lost, "Server Error")
                if route.answer.startswith("list"):
                    self.send(200, *self.page(answer))
                else:
                    self.send(
                        {"GET": 200, "POST": 201, "PATCH": 200, "DELETE": 204}[route.method]
                        if answer
                        else 204,
                        answer,
                    )
        except Refusal as refusal:
            body = refusal.body | {"documentation_url": about, "status": str(refusal.status)}
            self.send(refusal.status, body, refusal.headers)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = do_HEAD = answer

    def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        """Send the answer."""
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json; charset=utf-8"} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if status != 204:
            self.wfile.write(json.dumps(body).encode())

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def authenticate(self) -> None:
        """Find out whose token it is, and whether it may ask now."""
        kind, _, token = self.headers.get("authorization", "").partition(" ")
        if not token:
            raise Refusal(401, "Requires authentication")
        if kind.lower() not in ("bearer", "token") or token not in self.server.tokens:
            raise Refusal(401, "Bad credentials")
        self.token = self.server.tokens[token]
        if self.server.limited == "primary":
            headers = {"x-ratelimit-limit": "1000", "x-ratelimit-remaining": "0"}
            headers["x-ratelimit-reset"] = str(int(time.time()) + 1800)
            raise Refusal(403, "API rate limit exceeded for installation ID 7.", headers=headers)
        if self.server.limited == "secondary":
            text = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
            raise Refusal(429, text, headers={"retry-after": "60"})

    def queried(self, route: Route) -> dict[str, str]:
        """The query, if the operation knows its keys and values."""
        query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query, True).items()}
        known = {*route.query.split()} | ({"page", "per_page"} if route.answer.startswith("list") else set())
        for key, value in query.items():
            if key not in known or not re.fullmatch(VALUES.get(key, ".+"), value):
                raise Refusal(422, f"Invalid request.\n\n{key}={value} is no query of this operation.")
        return query

    def payload(self, raw: bytes, required: str, allowed: str) -> Thing:
        """The payload, if it is JSON and has the operation's fields."""
        try:
            given = json.loads(raw)
        except ValueError:
            given = None
        if "application/json" not in self.headers.get("content-type", "") or not isinstance(given, dict):
            raise Refusal(400, "Problems parsing JSON")
        if missing := sorted({*required.split()} - set(given)):
            raise Refusal(422, f'Invalid request.\n\n"{missing[0]}" wasn\'t supplied.')
        if unknown := sorted(set(given) - {*required.split(), *allowed.split()}):
            raise Refusal(422, f'Invalid request.\n\n"{unknown[0]}" is not a permitted key.')
        return given

    def page(self, answer: list[Thing] | tuple[str, list[Thing]]) -> tuple[Any, dict[str, str]]:
        """A page of a list, which some operations wrap, and the links to the others."""
        name, things = answer if isinstance(answer, tuple) else ("", answer)
        size, page = min(int(self.query.get("per_page", 30)), 100), int(self.query.get("page", 1))
        last = max(1, -(-len(things) // size))
        places = {"prev": page - 1, "next": page + 1, "last": last, "first": 1}
        if page == 1:
            del places["prev"], places["first"]
        if page >= last:
            del places["next"], places["last"]
        base = self.server.url + urlsplit(self.path).path
        links = [
            f'<{base}?{urlencode(self.query | {"page": str(to)})}>; rel="{rel}"' for rel, to in places.items()
        ]
        part = things[(page - 1) * size : page * size]
        body = {"total_count": len(things), name: part} if name else part
        return body, {"Link": ", ".join(links)} if links else {}

    def find(self, kind: str, **values: Any) -> Thing:
        """The thing with these values."""
        for thing in self.server.things[kind]:
            if all(thing[name] == value for name, value in values.items()):
                return thing
        raise Refusal(404, "Not Found")

    def sized(self, resource: str) -> str:
        """The payload's body, if it is not too long."""
        body = self.given.get("body") or ""
        if len(body) > LONGEST:
            text = f"ody is too long (maximum is {LONGEST} characters)"
            if resource == "IssueComment":
                raise invalid(resource, f"B{text}", code="unprocessable", field="data")
            raise invalid(resource, f"b{text}", field="body")
        return str(body)

    def edited(self, kind: str, resource: str, **values: Any) -> Thing:
        """The thing with what the payload changes."""
        self.sized(resource)
        thing = self.find(kind, **values)
        thing.update(self.given, updated_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
        return thing

    def graphql(self, given: Thing) -> Thing:
        """The one query that is known: who am I."""
        if "".join(given["query"].split()) not in ("query{viewer{login}}", "{viewer{login}}"):
            return {"errors": [{"type": "undefinedField", "message": "Unknown query here"}]}
        return {"data": {"viewer": {"login": self.token.login}}}

    def talk(self, number: str) -> str:
        """The address that comments on this issue or pull request name."""
        numbers = [thing["number"] for kind in ("issues", "pulls") for thing in self.server.things[kind]]
        if int(number) not in numbers:
            raise Refusal(404, "Not Found")
        return self.server.address(f"/issues/{number}")

    def list_comments(self, number: str) -> list[Thing]:
        """Oldest first."""
        address = self.talk(number)
        return [thing for thing in self.server.things["comments"] if thing["issue_url"] == address]

    def add_comment(self, number: str) -> Thing:
        """As the token's owner."""
        self.talk(number)
        body = self.sized("IssueComment")
        if not body.strip():
            raise invalid("IssueComment", "Body cannot be blank", code="unprocessable", field="data")
        return self.server.add_comment(int(number), body, self.token.login)

    def edit_comment(self, number: str) -> Thing:
        """Anybody's, as GitHub lets whoever may write."""
        return self.edited("comments", "IssueComment", id=int(number))

    def drop_comment(self, number: str) -> None:
        """Gone."""
        self.server.things["comments"].remove(self.find("comments", id=int(number)))

    def list_issues(self) -> list[Thing]:
        """Issues and, as GitHub does, pull requests; newest first."""
        pulls = [
            thing
            | {
                "url": self.server.address(f"/issues/{thing['number']}"),
                "pull_request": {"url": thing["url"]},
            }
            for thing in self.server.things["pulls"]
        ]
        things = [*(self.server.things["issues"] if self.server.issues_enabled else []), *pulls]
        wanted = {label for label in self.query.get("labels", "").split(",") if label}
        return self.sorted(
            thing for thing in things if wanted <= {label["name"] for label in thing["labels"]}
        )

    def sorted(self, things: Iterator[Thing]) -> list[Thing]:
        """Those in the wanted state, in the wanted order."""
        state, key = self.query.get("state", "open"), self.query.get("sort", "created")
        chosen = [thing for thing in things if state in ("all", thing["state"])]
        newest = self.query.get("direction", "desc") == "desc"
        return sorted(chosen, key=lambda thing: (thing[f"{key}_at"], thing["id"]), reverse=newest)

    def add_issue(self) -> Thing:
        """With its labels."""
        if not self.server.issues_enabled:
            raise Refusal(410, "Issues has been disabled in this repository.")
        body, labels = self.sized("Issue"), tuple(self.given.get("labels", ()))
        if not self.given["title"]:
            raise invalid("Issue", code="missing_field", field="title")
        return self.server.add_issue(self.given["title"], body or None, labels, self.token.login)

    def edit_issue(self, number: str) -> Thing:
        """Title, body, state."""
        return self.edited("issues", "Issue", number=int(number))

    def list_pulls(self) -> list[Thing]:
        """Newest first. A head without its owner is ignored, as GitHub does."""
        head, base = self.query.get("head", ""), self.query.get("base")
        return self.sorted(
            thing
            for thing in self.server.things["pulls"]
            if base in (None, thing["base"]["ref"]) and (":" not in head or head == thing["head"]["label"])
        )

    def add_pull(self) -> Thing:
        """If the settings allow it and there is something to merge."""
        server, base, head = self.server, self.given["base"], self.given["head"].rpartition(":")[2]
        if self.token.login == BOT and not server.actions_may_open_pulls:
            raise Refusal(403, "GitHub Actions is not permitted to create or approve pull requests.")
        for name, branch in (("base", base), ("head", head)):
            if not server.commit(branch):
                raise invalid("PullRequest", field=name, code="invalid")
        for pull in server.things["pulls"]:
            if (pull["state"], pull["head"]["ref"], pull["base"]["ref"]) == ("open", head, base):
                raise invalid("PullRequest", f"A pull request already exists for {pull['head']['label']}.")
        if server.git("rev-list", "--count", f"refs/heads/{base}..refs/heads/{head}") == "0":
            raise invalid("PullRequest", f"No commits between {base} and {head}")
        body = self.sized("PullRequest") or None
        return server.add_pull(head, base, login=self.token.login, title=self.given["title"], body=body)

    def edit_pull(self, number: str) -> Thing:
        """Title, body, state."""
        return self.edited("pulls", "PullRequest", number=int(number))

    def get_release(self, tag: str) -> Thing:
        """Of a tag."""
        return self.find("releases", tag_name=tag)

    def add_release(self) -> Thing:
        """Of a tag that exists: GitHub would make the tag, which here is a mistake."""
        tag = self.given["tag_name"]
        if any(release["tag_name"] == tag for release in self.server.things["releases"]):
            raise invalid("Release", code="already_exists", field="tag_name")
        if not self.server.git("rev-parse", "--verify", "--quiet", f"refs/tags/{tag}"):
            raise invalid("Release", code="invalid", field="tag_name")
        return self.server.new("releases", "/releases/{}", f"/releases/tag/{tag}", **self.given)

    def edit_release(self, number: str) -> Thing:
        """Name, text."""
        return self.edited("releases", "Release", id=int(number))

    def list_pulls_of_commit(self, commit: str) -> list[Thing]:
        """Those that it merged, and those that it is the head of."""
        if self.server.git("cat-file", "-t", commit) != "commit":
            raise Refusal(422, f"No commit found for SHA: {commit}")
        pulls = self.server.things["pulls"]
        return [pull for pull in pulls if commit in (pull["merge_commit_sha"], pull["head"]["sha"])]

    def list_runs(self) -> tuple[str, list[Thing]]:
        """Newest first."""
        wanted = {
            key: value for key, value in self.query.items() if key not in ("page", "per_page", "status")
        }
        status = self.query.get("status")
        runs = [
            run
            for run in reversed(self.server.things["runs"])
            if all(run.get(key) == value for key, value in wanted.items())
            and status in (None, run["status"], run["conclusion"])
        ]
        return "workflow_runs", runs

    def list_runs_of_workflow(self, workflow: str) -> tuple[str, list[Thing]]:
        """Newest first, of one event, since a time."""
        path, event, since = f".github/workflows/{workflow}", self.query["event"], self.query["created"][2:]
        runs = [
            run
            for run in reversed(self.server.things["runs"])
            if (run.get("path"), run["event"]) == (path, event) and run["created_at"] >= since
        ]
        return "workflow_runs", runs

    def list_artifacts(self, number: str) -> tuple[str, list[Thing]]:
        """Expired ones, too."""
        run = self.find("runs", id=int(number))
        things = [each for each in self.server.things["artifacts"] if each["workflow_run"]["id"] == run["id"]]
        return "artifacts", [each for each in things if self.query.get("name") in (None, each["name"])]

    def dispatch(self, workflow: str) -> None:
        """If the branch's file of that name has the trigger."""
        ref, inputs = self.given["ref"].removeprefix("refs/heads/"), self.given.get("inputs", {})
        default = self.server.git("symbolic-ref", "--short", "HEAD")
        if not self.server.git("show", f"{default}:.github/workflows/{workflow}"):
            raise Refusal(404, "Not Found")
        if not self.server.commit(ref):
            raise Refusal(422, f"No ref found for: {ref}")
        text = self.server.git("show", f"refs/heads/{ref}:.github/workflows/{workflow}")
        triggers = (yaml.safe_load(text) or {}).get(True) or {}  # YAML's `on` is true
        triggers = (
            triggers
            if isinstance(triggers, dict)
            else dict.fromkeys([triggers] if isinstance(triggers, str) else triggers)
        )
        if "workflow_dispatch" not in triggers:
            raise Refusal(422, "Workflow does not have 'workflow_dispatch' trigger")
        known = (triggers["workflow_dispatch"] or {}).get("inputs") or {}
        if unknown := sorted(set(inputs) - set(known)):
            raise Refusal(422, f"Unexpected inputs provided: {json.dumps(unknown)}")
        self.server.things["dispatches"].append({"workflow": workflow, "ref": ref, "inputs": inputs})
        run = self.server.add_run(self.server.commit(ref), (), event="workflow_dispatch", conclusion=None)
        run["path"] = f".github/workflows/{workflow}"
