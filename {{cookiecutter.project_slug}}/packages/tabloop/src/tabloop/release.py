"""The contract of `deploy/<environment>/release.env`: what an environment runs, and its history in git."""

from dataclasses import dataclass
from pathlib import Path

from tabloop.cli import UserError, git
from tabloop.params import ROOT

ROLLED_BACK_TO = "Rolled-back-to"  # the trailer of a rollback's commit message: whose release it restored


def path_of(environment: str) -> Path:
    """The environment's release.env.

    Raises:
        UserError: there is no such environment; the text lists those that exist.
    """
    path = ROOT / "deploy" / environment / "release.env"
    if not path.is_file():
        known = sorted(file.parent.name for file in (ROOT / "deploy").glob("*/release.env"))
        raise UserError(
            f"deploy/{environment}/release.env is missing; there are: {', '.join(known) or 'none'}"
        )
    return path


@dataclass(frozen=True)
class Release:
    """What one environment runs."""

    values: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> "Release":
        """The release that the text of a release.env describes: lines NAME=value, and comments."""
        lines = (line.strip() for line in text.splitlines())
        pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
        return cls({name.strip(): value.strip() for name, _, value in pairs})

    @property
    def image(self) -> str:
        """The container image, by digest once it was deployed."""
        return self.values.get("IMAGE", "")

    @property
    def model_version(self) -> str:
        """The version of the champion in the image."""
        return self.values.get("MODEL_VERSION", "")

    @property
    def challenger_mode(self) -> str:
        """`off`, `shadow` or `ab`."""
        return self.values.get("CHALLENGER_MODE", "off")

    @property
    def challenger_share(self) -> float:
        """The share of entities that the challenger answers; 0 unless the mode is `ab`."""
        return float(self.values.get("CHALLENGER_SHARE") or 0) if self.challenger_mode == "ab" else 0.0


def read(environment: str) -> Release:
    """What the environment runs by the file as it is."""
    return Release.parse(path_of(environment).read_text())


def environments_of(model_version: str) -> dict[str, str]:
    """The image of each environment that runs this model version."""
    files = sorted((ROOT / "deploy").glob("*/release.env"))
    releases = {file.parent.name: Release.parse(file.read_text()) for file in files}
    return {
        name: release.image for name, release in releases.items() if release.model_version == model_version
    }


def change(environment: str, **values: str) -> bool:
    """Write these values to the file, comments kept; whether that changed it.

    Raises:
        UserError: the file has no such name, or a value contains a line break.
    """
    path = path_of(environment)
    lines = path.read_text().splitlines()
    for name, value in values.items():
        at = [i for i, line in enumerate(lines) if line.partition("=")[0] == name]
        if not at:
            known = ", ".join(read(environment).values)
            raise UserError(f"deploy/{environment}/release.env has no {name}; it has: {known}")
        if "\n" in value or "\r" in value:
            raise UserError(f"{name}: the value contains a line break")
        lines[at[0]] = f"{name}={value}"
    return _write(path, "\n".join(lines) + "\n")


def set_values(environment: str, **values: str) -> str:
    """Write these values and commit them; what was done.

    Raises:
        UserError: as `change`, or git refuses the commit; the file is then as it was.
    """
    path = path_of(environment)
    before = path.read_text()
    change(environment, **values)
    version = read(environment).model_version
    if not git("status", "--porcelain", "--", str(path), where=ROOT):
        return f"{environment} runs {version} already"
    return _commit(path, before, f"Deploy {version} to {environment}")


def rollback(environment: str) -> str:
    """Commit the release that ran before the present one; what was done.

    A second rollback goes further back, never forward again: the commit's trailer says which release it restored.

    Raises:
        UserError: nothing ran before, or the file has changes that are not committed.
    """
    path = path_of(environment)
    if git("status", "--porcelain", "--", str(path), where=ROOT):
        raise UserError(
            f"deploy/{environment}/release.env has uncommitted changes: commit or discard them first"
        )
    releases = history(environment)
    if len(releases) < 2:
        raise UserError(f"{environment} was never changed: there is no earlier release")
    target, before = releases[-2], path.read_text()
    name = path.relative_to(ROOT).as_posix()
    _write(path, git("show", f"{target}:./{name}", where=ROOT) + "\n")
    title = f"Roll back {environment} to {read(environment).model_version}"
    return _commit(path, before, title, f"{ROLLED_BACK_TO}: {target}")


def history(environment: str) -> list[str]:
    """The commits whose releases ran, oldest first, without those that were rolled back.

    Raises:
        UserError: the clone is shallow, so that the history is not here.
    """
    if git("rev-parse", "--is-shallow-repository", where=ROOT) == "true":
        raise UserError("this clone has no full history: run `git fetch --unshallow` first")
    form = f"--format=%H %(trailers:key={ROLLED_BACK_TO},valueonly,separator=)"
    lines = git("log", "--reverse", form, "--", str(path_of(environment)), where=ROOT).splitlines()
    releases: list[str] = []
    for commit, _, restored in (line.partition(" ") for line in lines):
        if restored.strip() in releases:
            del releases[releases.index(restored.strip()) + 1 :]
        else:
            releases.append(commit)
    return releases


def _write(path: Path, text: str) -> bool:
    """Write the file, whole or not at all; whether that changed it."""
    if path.read_text() == text:
        return False
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)
    return True


def _commit(path: Path, before: str, *message: str) -> str:
    """Commit the file alone. If git refuses, restore its text `before`."""
    paragraphs = [part for text in message for part in ("--message", text)]
    try:
        git("commit", "--quiet", *paragraphs, "--", str(path), where=ROOT)
    except UserError:
        _write(path, before)
        raise
    return git("log", "-1", "--format=%h %s", where=ROOT)
