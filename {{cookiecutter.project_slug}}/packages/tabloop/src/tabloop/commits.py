"""Commits that go to the remote repository without touching the working tree: proposals and deploys."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tabloop import actions, provenance, release
from tabloop.cli import UserError, finished, git, one_line
from tabloop.params import ROOT

ATTEMPTS = 5
MOVED = r"fetch first|non-fast-forward|stale info|cannot lock ref|failed to update ref|incorrect old value"
WORKFLOWS = (
    "set BOT_TOKEN with the scope `workflow`, or a GitHub App that may write workflows: see docs/updating.md"
)
PROTECTED = "set BOT_TOKEN to a token that may push there, or set DEPLOY_BRANCH: see README.md"


def push(commit: str, branch: str, *options: str) -> bool:
    """Push a commit to a branch; False if the branch has moved meanwhile.

    Raises:
        UserError: it is refused for another reason, which the text gives.
    """
    command = "git", "push", "--quiet", *options, "origin", f"{commit}:refs/heads/{branch}"
    done = finished(*command, why="it pushes commits", cwd=ROOT)
    if done.returncode == 0:
        return True
    if re.search(MOVED, done.stderr):
        return False
    said = one_line(re.sub(r"(?m)^(remote|error|hint):\s?|^To .*$", "", done.stderr))
    cure = WORKFLOWS if "`workflows` permission" in said or "`workflow` scope" in said else PROTECTED
    raise UserError(f"the push to {branch} was refused: {said[:600]}; {cure}")


def tip(branch: str) -> str:
    """The newest commit of the remote's branch, fetched; empty if there is no such branch.

    Raises:
        UserError: git has no remote `origin`, or can't reach it.
    """
    if "origin" not in git("remote", where=ROOT).split():
        raise UserError("git has no remote `origin` to push to: `git remote add origin URL`")
    if not git("ls-remote", "origin", f"refs/heads/{branch}", where=ROOT):
        return ""
    git("fetch", "--quiet", "origin", f"refs/heads/{branch}", where=ROOT)
    return git("rev-parse", "FETCH_HEAD", where=ROOT)


def propose(branch: str, title: str) -> bool:
    """Push what changed here, as one commit on the newest default branch, to `branch`; False if nothing changed.

    What is on the branch is replaced, so that one open pull request always shows the newest proposal. What changed: the
    files that git tracks, and models/*.dvc.

    Raises:
        UserError: the default branch changed the same lines meanwhile, or the push is refused.
    """
    actions.act_as_bot()
    head = git("rev-parse", "HEAD", where=ROOT)
    with provenance.own_index():  # the index of whoever runs this stays as it is
        git("add", "--update", ".", where=ROOT)
        git("add", "--", *map(str, (ROOT / "models").glob("*.dvc")), where=ROOT)
        mine = commit_tree(git("write-tree", where=ROOT), head, title)
    base, before = tip(actions.default_branch()), tip(branch)
    try:
        tree = git("merge-tree", "--write-tree", base, mine, where=ROOT).splitlines()[0]
    except UserError:
        raise UserError("the default branch changed the same lines meanwhile: run this again") from None
    if tree == git("rev-parse", f"{base}^{{tree}}", where=ROOT):
        return False
    if not push(commit_tree(tree, base, title), branch, f"--force-with-lease=refs/heads/{branch}:{before}"):
        raise UserError(f"another run pushed to {branch} at the same time: run this again if it failed")
    return True


def commit_tree(tree: str, parent: str, title: str) -> str:
    """A commit of this tree; no branch points to it yet."""
    return git("commit-tree", tree, "-p", parent, "-m", title, where=ROOT)


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The project's folder in a working tree of its own, at this commit."""
    prefix = git("rev-parse", "--show-prefix", where=ROOT)
    with tempfile.TemporaryDirectory() as folder:
        git("worktree", "add", "--quiet", "--detach", folder, commit, where=ROOT)
        try:
            yield Path(folder) / prefix
        finally:
            git("worktree", "remove", "--force", folder, where=ROOT)


def deploy(
    environment: str, image: str, commit: str, back_to: str | None, branch: str, target: str, attested: bool
) -> str:
    """Commit a change of an environment's release.env on the newest state of a branch, and push it; what was done.

    Args:
        image: by digest; empty means what staging runs.
        commit: what the image was built from; if the environment runs a newer one, nothing is changed. Empty: by hand.
        back_to: None, or roll back: to this model version, or if empty to the release before.
        branch: the branch that servers follow.
        target: where the commit is pushed: that branch, or the branch of a pull request.
        attested: refuse an image that the workflow `image` of this repository did not attest.

    Raises:
        UserError: the change or the push is refused.
    """
    actions.only_from_default_branch()
    version = release.model_version_of(image) if image else ""
    actions.act_as_bot()
    main = actions.default_branch()
    for _ in range(ATTEMPTS):
        base = tip(branch) or tip(main)
        with checked_out(base) as folder:
            if branch != main:
                git("merge", "--quiet", "--no-edit", tip(main), where=folder)
            if (run := actions.run_id()) in trailers(release.RUN, environment, folder):
                return f"run {run} changed {environment} already: nothing to do"
            built = next(iter(trailers(release.BUILT_FROM, environment, folder)), commit)
            # If it is not an ancestor, it is newer, or of a history that was rewritten.
            if commit not in ("", built) and ancestor(commit, built, folder):
                return f"{environment} runs what was built from {built[:7]}, which is newer than {commit[:7]}: nothing to do"
            if back_to is not None:
                done = run_release(folder, "rollback", environment, "--to", back_to)
            else:
                image = image or run_release(folder, "show", "staging", "IMAGE")
                if attested:
                    actions.verify(image)
                version = version or run_release(folder, "show", "staging", "MODEL_VERSION")
                pairs = f"IMAGE={image}", f"MODEL_VERSION={version}"
                done = run_release(folder, "set", environment, *pairs, "--built-from", commit)
            made = git("rev-parse", "HEAD", where=folder)
            lease = [] if target == branch else [f"--force-with-lease=refs/heads/{target}:{tip(target)}"]
            if made == base or push(made, target, *lease):
                return done
    raise UserError(f"{target} moved {ATTEMPTS} times during the push: run this again")


def run_release(folder: Path, *arguments: str) -> str:
    """What a `tabloop release` command prints, run on the project in another folder.

    Raises:
        UserError: it fails.
    """
    command, env = (sys.executable, "-m", "tabloop", "release"), os.environ | {"PROJECT_ROOT": str(folder)}
    done = finished(*command, *arguments, why="it changes a release", cwd=folder, env=env)
    if done.returncode:
        raise UserError(one_line(done.stderr).partition(": ")[2])
    return done.stdout.strip().removeprefix("release: ")


def ancestor(commit: str, of: str, where: Path) -> bool:
    """Whether a commit is in the history of another, in the repository of the folder `where`."""
    asked = finished("git", "merge-base", "--is-ancestor", commit, of, why="it has the history", cwd=where)
    return not asked.returncode


def trailers(key: str, environment: str, folder: Path) -> list[str]:
    """The values of a trailer in the history of the environment's release.env, newest first."""
    form = f"--format=%(trailers:key={key},valueonly)"
    return git("log", form, "--", f"deploy/{environment}/release.env", where=folder).split()
