"""What GitHub Actions tells a step about its event; outside a workflow, what git says."""

import json
import os
import re
from pathlib import Path
from typing import Any

from tabloop.cli import UserError, finished, git, one_line
from tabloop.params import ROOT

SUMMARY = 1_000_000  # bytes: below the 1 MiB that GitHub takes from a step
BOT = {"NAME": "github-actions[bot]", "EMAIL": "41898282+github-actions[bot]@users.noreply.github.com"}
# git asks it for the token, so that no step leaves one on disk.
HELPER = '!f() { echo username=x-access-token; echo "password=$GITHUB_TOKEN"; }; f'


def event_name() -> str:
    """`push`, `pull_request`, ...; empty outside a workflow."""
    return os.environ.get("GITHUB_EVENT_NAME", "")


def event() -> dict[str, Any]:
    """The event's payload; empty outside a workflow."""
    path = os.environ.get("GITHUB_EVENT_PATH")
    return dict(json.loads(Path(path).read_text("utf-8"))) if path else {}


def untrusted() -> bool:
    """Whether this is a pull request of a fork or of Dependabot: GitHub gives it no secret and a token that only reads."""
    if event_name() != "pull_request":
        return False
    head = (event()["pull_request"].get("head") or {}).get("repo") or {}  # null: the fork was deleted
    ours = head.get("full_name", "") == os.environ["GITHUB_REPOSITORY"]
    return not ours or os.environ.get("GITHUB_ACTOR") == "dependabot[bot]"


def default_branch() -> str:
    """The branch on which what is merged stands."""
    known = (event().get("repository") or {}).get("default_branch")
    return str(known or git("symbolic-ref", "--short", "HEAD", where=ROOT))


def only_from_default_branch() -> None:
    """Refuse a workflow that was dispatched from another branch.

    Raises:
        UserError: it was.
    """
    ref, default = os.environ.get("GITHUB_REF_NAME"), default_branch()
    if ref and ref != default:
        raise UserError(f"this run is of the branch {ref}: run the workflow on {default}")


def verify(image: str) -> None:
    """Ask GitHub, by its program `gh`, whether the workflow `image` that this project calls has attested an image.

    Raises:
        UserError: it has not, or that can't be asked.
    """
    texts = (path.read_text("utf-8") for path in (ROOT / ".github/workflows").glob("*.yml"))
    signers = {found for text in texts for found in re.findall(r"uses: (\S+/image\.yml)@", text)}
    if len(signers) != 1:
        raise UserError(".github/workflows must call image.yml of exactly one repository")
    about = ["--repo", os.environ.get("GITHUB_REPOSITORY", ""), "--signer-workflow", *signers]
    command = "gh", "attestation", "verify", f"oci://{image}", *about
    done = finished(*command, why="it verifies the image's attestation")
    if done.returncode:
        raise UserError(f"the attestation of {image} was not verified: {one_line(done.stderr)[:400]}")


def act_as_bot() -> None:
    """In a workflow let git commit as GitHub's bot and push with GITHUB_TOKEN."""
    if "GITHUB_ACTIONS" in os.environ:
        for role in ("AUTHOR", "COMMITTER"):
            os.environ |= {f"GIT_{role}_{part}": value for part, value in BOT.items()}
        server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")  # no other one gets the token
        config = {"GIT_CONFIG_KEY_0": f"credential.{server}.helper", "GIT_CONFIG_VALUE_0": HELPER}
        os.environ |= config | {"GIT_CONFIG_COUNT": "1"}


def run_id() -> str:
    """The run of the workflow, which keeps its number when it is repeated; empty outside a workflow."""
    return os.environ.get("GITHUB_RUN_ID", "")


def cut(text: str, limit: int) -> str:
    """The text, or those of its lines that fit into so many bytes, with a note that says so."""
    if len(data := text.encode()) <= limit:
        return text
    kept = data[: max(limit - 80, 0)].decode(errors="ignore").rpartition("\n")[0]
    return kept + "\n```" * (kept.count("```") % 2) + "\n\n*Cut here: this is GitHub's limit.*\n"


def variable(name: str) -> str:
    """The value of a variable that Actions sets, or of GITHUB_TOKEN.

    Raises:
        UserError: it is not set, as this is no workflow.
    """
    if not (value := os.environ.get(name)):
        raise UserError(f"{name} is not set: run this in GitHub Actions, with GITHUB_TOKEN in the step's env")
    return value


def summarize(text: str) -> None:
    """Append Markdown to the step's summary, cut where a step may have no more."""
    with Path(variable("GITHUB_STEP_SUMMARY")).open("a", encoding="utf-8") as file:
        file.write(cut(f"{text.rstrip()}\n\n", SUMMARY - file.tell()))


def note(text: str) -> None:
    """Say it in the log and, in a workflow, in the step's summary."""
    print(text)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        summarize(text)
