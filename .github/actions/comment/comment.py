"""Write one part of the one comment on a pull request, and the step summary."""

import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

MARK = "<!-- ml-template -->"


def api(method: str, path: str, body: Any = None) -> Any:
    """GitHub's answer."""
    request = urllib.request.Request(
        f"{os.environ['GITHUB_API_URL']}/repos/{os.environ['GITHUB_REPOSITORY']}{path}",
        None if body is None else json.dumps(body).encode(),
        {"authorization": f"Bearer {os.environ['TOKEN']}", "accept": "application/vnd.github+json"},
        method=method,
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def merged(old: str, part: str, text: str) -> str:
    """The comment with this part replaced, or added at the end."""
    new = f"<!-- {part} -->\n{text.strip()}\n<!-- /{part} -->"
    pattern = re.compile(f"<!-- {part} -->.*<!-- /{part} -->", re.DOTALL)
    return pattern.sub(lambda _: new, old) if pattern.search(old) else f"{old.rstrip()}\n\n{new}\n"


def main() -> None:
    part, text, number = os.environ["PART"], Path(os.environ["FILE"]).read_text(), os.environ["NUMBER"]
    with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a") as summary:
        summary.write(text)
    if not number:
        return
    try:
        comments = api("GET", f"/issues/{number}/comments?per_page=100")
        ours = [comment for comment in comments if comment["body"].startswith(MARK)]
        body = {"body": merged(ours[0]["body"] if ours else MARK, part, text)}
        if ours:
            api("PATCH", f"/issues/comments/{ours[0]['id']}", body)
        else:
            api("POST", f"/issues/{number}/comments", body)
    except urllib.error.URLError as error:  # a pull request from a fork may not: the step summary has it all
        print(f"::warning::no comment on the pull request: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
