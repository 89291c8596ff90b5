"""Which code and parameters trained a model: git's ids of their content, and the commit that has them.

`model.json` keeps the ids, not a commit. They are the same for the same inputs: before and after these are committed, in a
pull request and after its merge, on two machines. The commit is looked up in the history where somebody asks for it.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tabloop.cli import UserError, git
from tabloop.params import ROOT

INPUTS = ("params.yaml", "dvc.yaml", "src", "feature_repo", "packages", "pyproject.toml", "uv.lock")


@dataclass(frozen=True)
class Origin:
    """Where a model's inputs are in git's history.

    Attributes:
        commit: the newest one that brought exactly these inputs; else the one that is checked out. None without git, or
            where this clone has not the whole history.
        dirty: the inputs that differ from that commit; empty if none does.
    """

    commit: str | None
    dirty: list[str]

    def __str__(self) -> str:
        """In words, for the line of a stage."""
        if not self.commit:
            return "code that the history here does not have"
        changes = f"uncommitted changes of {', '.join(self.dirty)} since " if self.dirty else ""
        return f"{changes}commit {self.commit[:7]}"


@contextmanager
def own_index() -> Iterator[None]:
    """Let git commands use an index of their own, which has the commit that is checked out."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GIT_INDEX_FILE"] = f"{folder}/index"
        try:
            git("read-tree", "HEAD", where=ROOT)
            yield
        finally:
            del os.environ["GIT_INDEX_FILE"]


def inputs() -> dict[str, str]:
    """git's id of each input as it is now, committed or not. Empty without git or a commit, or, with a line, if git fails."""
    present = [name for name in INPUTS if (ROOT / name).exists()]
    try:
        git("rev-parse", "--verify", "HEAD", where=ROOT)
    except UserError:
        return {}
    try:
        with own_index():
            git("add", "--all", "--", *present, where=ROOT)
            return _ids(git("write-tree", where=ROOT), present)
    except UserError as error:
        print(f"model.json does not say what trained the model: {error}", file=sys.stderr)
        return {}


def _ids(tree: str, names: list[str]) -> dict[str, str]:
    listed = git("ls-tree", tree, "--", *names, where=ROOT).splitlines()
    return {name: about.split()[2] for about, _, name in (line.partition("\t") for line in listed)}


def origin(inputs: dict[str, str]) -> Origin:
    """The commit of these inputs, or the one that is checked out and what differs from it."""
    if not inputs:
        return Origin(None, [])
    try:
        head = git("rev-parse", "HEAD", where=ROOT)
        brought = git("rev-list", "--full-history", "HEAD", "--", *INPUTS, where=ROOT).split()
    except UserError:
        return Origin(None, [])
    asked = "".join(f"{commit}:./{name}\n" for commit in brought for name in INPUTS)
    answers = iter(git("cat-file", "--batch-check=%(objectname)", where=ROOT, text=asked).splitlines())
    for commit in brought:
        given = [inputs.get(name, f"{commit}:./{name} missing") for name in INPUTS]
        if given == [next(answers) for _ in INPUTS]:
            return Origin(commit, [])
    if git("rev-parse", "--is-shallow-repository", where=ROOT) == "true":
        return Origin(None, [])
    now = _ids("HEAD", list(INPUTS))
    return Origin(head, [name for name in INPUTS if now.get(name) != inputs.get(name)])
