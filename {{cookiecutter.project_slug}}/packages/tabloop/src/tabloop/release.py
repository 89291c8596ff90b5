"""The contract of `deploy/<environment>/release.env`: what an environment runs, and its history in git."""

from pathlib import Path

from tabloop import actions, files
from tabloop.cli import UserError, finished, git, one_line
from tabloop.params import ROOT

# Trailers of commit messages: whose release a rollback restored; the commit from which the image was built; the
# workflow's run.
VERSION = "MODEL_VERSION"  # the name of the champion's version in the image
ROLLED_BACK_TO, BUILT_FROM, RUN = "Rolled-back-to", "Built-from", "Run"


def environments() -> list[str]:
    """The names of all environments, sorted."""
    return sorted(path.parent.name for path in (ROOT / "deploy").glob("*/release.env"))


def path_of(environment: str) -> Path:
    """The environment's release.env.

    Raises:
        UserError: there is no such environment; the text lists those that exist.
    """
    path = ROOT / "deploy" / environment / "release.env"
    if not path.is_file():
        known = ", ".join(environments()) or "none"
        raise UserError(f"deploy/{environment}/release.env is missing; there are: {known}")
    return path


def parse(text: str) -> dict[str, str]:
    """The values in the text of a release.env: lines NAME=value, and comments."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def read(environment: str) -> dict[str, str]:
    """What the environment runs by the file as it is.

    Raises:
        UserError: there is no such environment, or the file has the conflict of a merge.
    """
    text = path_of(environment).read_text("utf-8")
    if "<<<<<<< " in text:
        raise UserError(
            f"deploy/{environment}/release.env has the conflict of a merge: correct it, and commit it"
        )
    return parse(text)


def running() -> str:
    """The environments to which a model was deployed, in words; empty if there is none."""
    return " and ".join(name for name in environments() if read(name).get(VERSION) not in (None, "", "none"))


def change(environment: str, **values: str) -> None:
    """Write these values to the file; comments are kept.

    Raises:
        UserError: the file has no such name, or a value contains a line break.
    """
    path = path_of(environment)
    lines = path.read_text("utf-8").splitlines()
    for name, value in values.items():
        at = [i for i, line in enumerate(lines) if line.partition("=")[0].strip() == name]
        if not at:
            known = ", ".join(read(environment))
            raise UserError(f"deploy/{environment}/release.env has no {name}; it has: {known}")
        if len(value.splitlines()) > 1 or value != value.strip():
            raise UserError(f"{name}={value!r}: a value has no line break and no spaces around it")
        lines[at[-1]] = f"{name}={value}"  # of two lines with one name, the last is read
    files.write(path, "\n".join(lines) + "\n")


def set_values(environment: str, built_from: str = "", **values: str) -> str:
    """Write these values and commit them, with the commit from which the image was built as a trailer; what was done.

    Raises:
        UserError: as `change`; or the file has uncommitted changes; or git refuses the commit. The file is as it was.
    """
    path = _committed(environment)
    before, old = path.read_bytes(), read(environment)
    change(environment, **values)
    new = read(environment)
    if new == old:
        path.write_bytes(before)
        return f"{environment} runs {new.get(VERSION, '')} already"
    if any(new.get(name) != old.get(name) for name in ("IMAGE", VERSION)):
        trailer = [f"{BUILT_FROM}: {built_from}"] if built_from else []
        return _commit(path, before, f"Deploy {new.get(VERSION, '')} to {environment}", *trailer)
    pairs = (f"{name}={value}" for name, value in new.items() if old.get(name) != value)
    return _commit(path, before, f"Set {' '.join(pairs)} in {environment}")


def rollback(environment: str, to: str = "") -> str:
    """Commit the release that ran before the present one, or the last one of the model version `to`; what was done.

    A second rollback goes further back, never forward again: the commit's trailer says which release it restored.

    Raises:
        UserError: nothing ran before, or not this version, or the file has changes that are not committed.
    """
    path = _committed(environment)
    before, present = path.read_bytes(), read(environment)
    for target in reversed(history(environment)):
        text = git("show", f"{target}:./{path.name}", where=path.parent) + "\n"
        restored = parse(text)
        # A commit may have changed a comment alone.
        if restored != present and to in ("", restored.get(VERSION, "")):
            break
    else:
        why = f"never ran {to}" if to else "has no earlier release to go back to"
        raise UserError(f"{environment} {why}: `git log deploy/{environment}` lists what it ran")
    files.write(path, text)
    title = f"Roll back {environment} to {restored.get(VERSION, '')}"
    return _commit(path, before, title, f"{ROLLED_BACK_TO}: {target}")


def model_version_of(image: str) -> str:
    """The model version that an image's label says.

    Raises:
        UserError: the image can't be pulled, or was not built by `make image`.
    """
    label = '{{index .Config.Labels "org.opencontainers.image.version"}}'
    for command in (["pull", "--quiet", image], ["image", "inspect", "--format", label, image]):
        done = finished("docker", *command, why="it reads the model version from the image")
        if done.returncode:
            raise UserError(f"{image} can't be pulled: {one_line(done.stderr)[:300]}")
    if not (version := done.stdout.strip()):
        raise UserError(f"{image} has no label with a model version: build it by `make image`")
    return version


def history(environment: str) -> list[str]:
    """The commits whose releases ran, oldest first, without those that were rolled back.

    Raises:
        UserError: the clone is shallow, so that the history is not here.
    """
    if git("rev-parse", "--is-shallow-repository", where=ROOT) == "true":
        raise UserError("this clone has no full history: run `git fetch --unshallow` first")
    form = f"--format=%H %(trailers:key={ROLLED_BACK_TO},valueonly,separator=)"
    path = path_of(environment)

    def log(*options: str) -> list[str]:
        return git("log", "--no-show-signature", *options, "--", path.name, where=path.parent).splitlines()

    # Of this branch: a merge's other side did not run. AM: no deletion of the file. git 2.39 finds nothing by `d`.
    own = "--first-parent", "--diff-filter=AM"
    lines, merges = log("--reverse", *own, form), log("--merges", *own, "--format=%H")
    releases: list[str] = []
    for commit, _, restored in (line.partition(" ") for line in lines):
        if commit in merges:  # the commit of the branch that it merged has the trailer
            commit, _, restored = log("-1", form, commit)[0].partition(" ")
        if restored.strip() in releases:
            del releases[releases.index(restored.strip()) + 1 :]
        else:
            releases.append(commit)
    return releases


def _committed(environment: str) -> Path:
    """The environment's release.env.

    Raises:
        UserError: it has changes that are not committed.
    """
    path = path_of(environment)
    if git("status", "--porcelain", "--", path.name, where=path.parent):
        raise UserError(
            f"deploy/{environment}/{path.name} has uncommitted changes: commit or discard them first"
        )
    return path


def _commit(path: Path, before: bytes, title: str, *trailers: str) -> str:
    """Commit the file alone. If git refuses, restore the content that it had `before`."""
    if run := actions.run_id():
        trailers = (*trailers, f"{RUN}: {run}")
    message = "\n\n".join(filter(None, (title, "\n".join(trailers))))
    try:
        git("commit", "--quiet", "--message", message, "--", path.name, where=path.parent)
    except UserError:
        path.write_bytes(before)
        raise
    return git("log", "-1", "--no-show-signature", "--format=%h %s", where=ROOT)
