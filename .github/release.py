"""Release a version of the template: its tag, the tag that projects call (v1), and GitHub's release from CHANGELOG.md.

    uv run .github/release.py 1.2.3

What is done already is left as it is, so that a run that failed can be repeated.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# git asks it for the token, so that no step leaves one on disk.
HELPER = '!f() { echo username=x-access-token; echo "password=$GITHUB_TOKEN"; }; f'


def git(*arguments: str) -> str:
    """The output of a git command."""
    done = subprocess.run(
        ["git", "-c", f"credential.helper={HELPER}", *arguments],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        sys.exit(f"release: git {arguments[0]} failed: {' '.join(done.stderr.split())}")
    return done.stdout.strip()


def notes(version: str) -> str:
    """The section of CHANGELOG.md about this version."""
    sections = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text("utf-8"), flags=re.MULTILINE)
    for section in sections:
        head, _, text = section.partition("\n")
        if head.split(maxsplit=1)[:1] == [version] and text.strip():
            return text.strip()
    sys.exit(
        f"release: CHANGELOG.md has no section '## {version}': say what a project must change, 'nothing' included"
    )


def tag(version: str) -> str:
    """Push the version's tag and move the major version's; the version's commit."""
    name, commit = f"v{version}", git("rev-parse", "HEAD")
    git("fetch", "--quiet", "--tags", "--force", "origin")
    known = git("tag", "--list", "v*.*.*").splitlines()
    if name in known:
        if git("rev-parse", f"{name}^{{commit}}") != commit:
            sys.exit(
                f"release: {name} is another commit already: a version never changes, choose the next one"
            )
    else:
        git("tag", name)
        git("push", "--quiet", "origin", f"refs/tags/{name}")
    numbers = tuple(map(int, version.split(".")))
    same_major = [n for n in (tuple(map(int, k[1:].split("."))) for k in known) if n[0] == numbers[0]]
    if max([*same_major, numbers]) == numbers:  # a fix of an older version must not take projects back
        git("push", "--quiet", "--force", "origin", f"{commit}:refs/tags/v{numbers[0]}")
    return commit


def publish(version: str, text: str) -> str:
    """Write GitHub's release; its address."""
    from github import Auth, Github, GithubException, UnknownObjectException

    token, url = Auth.Token(os.environ["GITHUB_TOKEN"]), os.environ["GITHUB_API_URL"]
    client = Github(auth=token, base_url=url, timeout=30, retry=2, lazy=True)
    latest = "legacy"  # GitHub compares the versions: a fix of an older one is not the latest
    try:
        repository = client.get_repo(os.environ["GITHUB_REPOSITORY"])
        try:
            known = repository.get_release(f"v{version}")
            release = known.update_release(version, text, make_latest=latest)
        except UnknownObjectException:
            release = repository.create_git_release(f"v{version}", version, text, make_latest=latest)
    except (GithubException, OSError) as error:
        data = getattr(error, "data", None) or {}
        sys.exit(f"release: GitHub: {data.get('message') or error}; run this again")
    return str(release.html_url)


def main() -> None:
    version = sys.argv[1] if len(sys.argv) > 1 else ""
    if not re.fullmatch(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}", version):
        sys.exit(f"release: version {version!r}: give it as 1.2.3")
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text("utf-8"))
    default, ref = event["repository"]["default_branch"], os.environ["GITHUB_REF_NAME"]
    if ref != default:
        sys.exit(f"release: this run is of the branch {ref}: run the workflow on {default}")
    text = notes(version)
    commit = tag(version)
    address = publish(version, text)
    with Path(os.environ.get("GITHUB_STEP_SUMMARY", "/dev/stdout")).open("a") as summary:
        summary.write(f"Released {version} ({commit[:7]}): {address}\n")


if __name__ == "__main__":
    main()
