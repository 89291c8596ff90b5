"""The next version of the template, merged: the branch `template` has what each version bakes, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabloop import actions, commits
from tabloop.cli import UserError, finished, git, one_line
from tabloop.params import ROOT

FILE, BRANCH, PACKAGES = ".template.json", "template", "packages"


@dataclass(frozen=True)
class Update:
    """What was done: one line; the commit's title and what a pull request says, empty if nothing was."""

    text: str
    title: str = ""
    markdown: str = ""


def update(to: str) -> Update:
    """Bake a version of the template with this project's answers and merge it.

    The merge has the bake before as its base, also where an update was merged by squash and git no longer knows it.

    Args:
        to: a branch, tag or commit of the template; empty: its default branch.

    Raises:
        UserError: there are changes that are not committed; the template can't be baked; or both changed the same
            lines, and the conflicts are in the files, as git writes them.
    """
    actions.act_as_bot()
    refuse_unfinished()
    known = recorded("HEAD")
    base = baked_before(known)
    made = bake(known, to)
    if without := not (ROOT / PACKAGES).exists():  # tabloop comes from an index: no file of it comes back
        made = without_packages(made)
    new = recorded(made)
    version = f"{new['version'] or new['commit'][:7]} of the template"
    title = f"Update to {version}"
    ignored = (f":!{FILE}", *([f":!{PACKAGES}"] if without else []))
    same = new["answers"] == recorded(base)["answers"]
    if same and not git("diff", "--name-only", base, made, "--", ".", *ignored, where=ROOT):
        return Update(f"{version} changes nothing")
    try:
        if not commits.ancestor(base, "HEAD", ROOT):
            merge(base, "Record what the template's last update brought", "--strategy=ours")
        conflicts = merge(on_branch(tree(made), base, title), title)
    except UserError:  # a hook refused, or a signature failed
        with suppress(UserError):  # where the merge had not begun
            git("merge", "--abort", where=ROOT)
        raise
    lines = [f"{name} = {value!r}" for name, value in new["answers"].items() if name not in known["answers"]]
    asked = f"; new answers in {FILE}: {', '.join(lines)}" if lines else ""
    if conflicts:
        raise UserError(
            f"you and the template changed the same lines of {', '.join(conflicts)}{asked}: correct them, `git add` them, "
            "`git commit`; or `git merge --abort`"
        )
    text = f"{title}{lock()}{asked}; CHANGELOG.md of the template says what a project must do"
    files = git("diff", "--stat=100", "HEAD^1", "HEAD", where=ROOT)
    return Update(text, title, f"{text}.\n\n```\n{files}\n```\n")


def refuse_unfinished() -> None:
    """Refuse where the merge would meet other changes, or be on no branch of the owner's, or the branch `template` is theirs.

    Raises:
        UserError: it would, or the project is not a repository of its own.
    """
    if folder := git("rev-parse", "--show-prefix", where=ROOT).rstrip("/"):
        raise UserError(
            "the project is a folder of a larger repository, into which git can't merge it alone: in that repository "
            f"`git subtree split --prefix={folder} --rejoin --branch=alone`, `git clone --branch alone . ../alone`, update there, "
            f"then `git subtree pull --prefix={folder} ../alone alone`"
        )
    if (branch := git("branch", "--show-current", where=ROOT)) in ("", BRANCH):
        raise UserError(f"HEAD is on {branch or 'no branch'}: `git switch` to yours first")
    newest = git("for-each-ref", "--format=%(objectname)", f"refs/heads/{BRANCH}", where=ROOT)
    if (
        newest and git("rev-list", "-1", newest, "--", FILE, where=ROOT) != newest
    ):  # each bake changes the file
        raise UserError(
            f"the branch {BRANCH} has commits of yours: `git branch --move {BRANCH} NAME`, then run this again"
        )
    if changed := git("status", "--porcelain", "--untracked-files=no", where=ROOT):
        names = ", ".join(line[3:] for line in changed.splitlines()[:3])
        raise UserError(f"uncommitted changes ({names}): commit or stash them first")


def recorded(commit: str) -> dict[str, Any]:
    """What .template.json says at a commit: template, commit, version, answers.

    Raises:
        UserError: it is missing or broken.
    """
    try:
        found: dict[str, Any] = json.loads(git("show", f"{commit}:{FILE}", where=ROOT))
        if not all(found[name] for name in ("template", "commit", "answers")):
            raise UserError(f"{FILE} does not name the template's commit")
        return found
    except (UserError, ValueError, KeyError) as error:
        why = error if FILE in str(error) else f"{FILE}: {type(error).__name__} {one_line(error)}"
        raise UserError(f"{one_line(why)}; see docs/updating.md of the template") from None


def baked_before(known: dict[str, Any]) -> str:
    """The commit with what the project's present version of the template baked: on `template`, or baked again."""
    for ref in filter(exists, (BRANCH, f"origin/{BRANCH}")):
        for commit in git("rev-list", ref, "--", FILE, where=ROOT).split():
            if recorded(commit)["commit"] == known["commit"]:
                return commit
    return bake(known, known["commit"])


def bake(known: dict[str, Any], revision: str) -> str:
    """The first commit of a project baked with the recorded answers, fetched.

    Raises:
        UserError: the template can't be fetched, has no such revision, or refuses the answers.
    """
    with tempfile.TemporaryDirectory() as folder:
        clone, out, template = Path(folder) / "template", Path(folder) / "out", known["template"]
        git("clone", "--quiet", template, str(clone), where=ROOT)
        if revision:
            for ref in (revision, f"origin/{revision}"):
                with suppress(UserError):
                    git("checkout", "--quiet", "--detach", ref, where=clone)
                    break
            else:
                raise UserError(f"{template} has no branch, tag or commit {revision!r}")
        answers = [f"{name}={value}" for name, value in known["answers"].items()]
        command = [sys.executable, "-m", "cookiecutter", "--no-input", "--default-config", "-o", str(out)]
        env = os.environ | {"TABLOOP_UPDATE": "1"}
        done = finished(*command, str(clone), *answers, why="it bakes the template", env=env)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            raise UserError(f"{template} refuses the answers in {FILE}: {said[0] if said else 'no reason'}")
        (project,) = out.iterdir()
        git("fetch", "--quiet", "--no-tags", str(project), BRANCH, where=ROOT)
    return git("rev-parse", "FETCH_HEAD", where=ROOT)


def without_packages(commit: str) -> str:
    """A commit with the same tree but for packages/."""
    entries = git("ls-tree", commit, where=ROOT).splitlines()
    kept = "".join(f"{entry}\n" for entry in entries if not entry.endswith(f"\t{PACKAGES}"))
    return git("commit-tree", git("mktree", where=ROOT, text=kept), "-m", "Bake", where=ROOT)


def on_branch(made: str, base: str, title: str) -> str:
    """The newest commit of the branch `template`, which has this tree from now on."""
    # Where the branch is not there, or is of another clone, it begins with the base.
    tip = BRANCH if exists(BRANCH) and commits.ancestor(base, BRANCH, ROOT) else base
    if tree(tip) != made:
        tip = git("commit-tree", made, "-p", tip, "-m", title, where=ROOT)
    git("branch", "--quiet", "--force", BRANCH, tip, where=ROOT)  # no other worktree may have it
    return tip


def merge(commit: str, title: str, *options: str) -> list[str]:
    """Merge a commit; the files with conflicts, in which case it is not committed.

    What the template changed in a file that the project removed is no conflict: the file stays removed. Nor is an answer
    that the owner changed in .template.json: the bake was made by it.

    Raises:
        UserError: git refuses.
    """
    try:
        options = "--allow-unrelated-histories", "--no-ff", "--no-verify", "-m", title, *options
        git("merge", "--quiet", *options, commit, where=ROOT)
        return []
    except UserError:
        removed = [name for state, name in unmerged() if state == "DU"]
        if not unmerged():
            raise
    if removed:
        git("rm", "--quiet", "--", *removed, where=ROOT)
    if any(name == FILE for _, name in unmerged()):
        git("checkout", commit, "--", FILE, where=ROOT)
    if conflicts := sorted({name for _, name in unmerged()}):
        return conflicts
    git("commit", "--quiet", "--no-verify", "--no-edit", where=ROOT)
    return []


def unmerged() -> list[tuple[str, str]]:
    """The files that a merge left to be resolved, each with the two letters that git gives it."""
    lines = git("status", "--porcelain", "-z", "--untracked-files=no", where=ROOT).split("\0")
    return [(line[:2], line[3:]) for line in lines if line[:2] in ("DD", "AU", "UD", "UA", "DU", "AA", "UU")]


def lock() -> str:
    """Add to the merge what it changes in uv.lock; what to do where that can't be done, else empty."""
    if not (ROOT / "uv.lock").exists():
        return ""
    uv = shutil.which("uv") or os.environ.get("UV") or str(ROOT / ".uv/bin/uv")
    try:
        subprocess.run([uv, "lock", "--quiet"], cwd=ROOT, check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.SubprocessError):
        return "; uv.lock is unchanged: run `uv lock` and commit it"
    if git("status", "--porcelain", "uv.lock", where=ROOT):
        git("commit", "--quiet", "--no-verify", "--amend", "--no-edit", "uv.lock", where=ROOT)
    return ""


def tree(commit: str) -> str:
    """The tree of a commit."""
    return git("rev-parse", f"{commit}^{{tree}}", where=ROOT)


def exists(ref: str) -> bool:
    """Whether git knows a commit of this name."""
    return bool(git("for-each-ref", f"refs/heads/{ref}", f"refs/remotes/{ref}", where=ROOT))
