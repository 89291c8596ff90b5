"""What workflows say on GitHub: see action.yml, whose inputs arrive in the environment."""

import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

MARK = "<!-- ml-template -->"
LABEL = "model-drift"


def api(method: str, path: str, body: Any = None) -> Any:
    """GitHub's answer; None where it has no content."""
    request = urllib.request.Request(
        f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}{path}",
        None if body is None else json.dumps(body).encode(),
        {"authorization": f"Bearer {os.environ['TOKEN']}", "accept": "application/vnd.github+json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")


def merged(old: str, part: str, text: str) -> str:
    """The comment with this part replaced, or added at the end."""
    new = f"<!-- {part} -->\n{text.strip()}\n<!-- /{part} -->"
    pattern = re.compile(f"<!-- {part} -->.*<!-- /{part} -->", re.DOTALL)
    return pattern.sub(lambda _: new, old) if pattern.search(old) else f"{old.rstrip()}\n\n{new}\n"


def comment(text: str, env: Mapping[str, str]) -> str:
    """On the pull request of this event, if it is one."""
    if not (number := env["NUMBER"]):
        return ""
    comments = api("GET", f"/issues/{number}/comments?per_page=100")
    ours = [comment for comment in comments if comment["body"].startswith(MARK)]
    body = {"body": merged(ours[0]["body"] if ours else MARK, env["PART"], text)}
    if ours:
        return str(api("PATCH", f"/issues/comments/{ours[0]['id']}", body)["html_url"])
    return str(api("POST", f"/issues/{number}/comments", body)["html_url"])


def issue(text: str, env: Mapping[str, str]) -> str:
    """The open issue of our label, made or brought up to date; retrain is dispatched unless that was done lately."""
    issues = api("GET", f"/issues?state=open&labels={LABEL}&per_page=1")
    dispatched = re.search(r"<!-- retrain (\S+) -->", issues[0]["body"]) if issues else None
    now, days = datetime.now(UTC), float(env["RETRAIN_EVERY"])
    last = datetime.fromisoformat(dispatched[1]) if dispatched else None
    if days and (last is None or now - last >= timedelta(days=days)):
        api("POST", "/actions/workflows/retrain.yml/dispatches", {"ref": env["GITHUB_REF_NAME"]})
        last = now
        text += "\n\nRetrain was dispatched.\n"
    elif last:
        text += f"\n\nRetrain was dispatched on {last:%Y-%m-%d}: not again within {days:g} days.\n"
    body = {"title": env["TITLE"], "body": text + (f"\n<!-- retrain {last.isoformat()} -->" if last else "")}
    if issues:
        return str(api("PATCH", f"/issues/{issues[0]['number']}", body)["html_url"])
    return str(api("POST", "/issues", body | {"labels": [LABEL]})["html_url"])


def pull_request(text: str, env: Mapping[str, str]) -> str:
    """Of a branch that is pushed already."""
    body = {"title": env["TITLE"], "head": env["BRANCH"], "base": env["GITHUB_REF_NAME"], "body": text}
    return str(api("POST", "/pulls", body)["html_url"])


def main() -> None:
    env, text = os.environ, Path(os.environ["FILE"]).read_text()
    with Path(env["GITHUB_STEP_SUMMARY"]).open("a") as summary:
        summary.write(text + "\n")
        try:
            done = {"comment": comment, "issue": issue, "pull-request": pull_request}[env["DO"]](text, env)
        except urllib.error.URLError as error:
            # A pull request from a fork may not comment: the step summary has it all.
            print(f"::warning::{env['DO']}: {error}")
            sys.exit(env["DO"] != "comment")
        if done:
            summary.write(f"\n{env['DO']}: {done}\n")


if __name__ == "__main__":
    main()
