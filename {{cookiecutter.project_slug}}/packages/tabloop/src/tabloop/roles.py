"""The contract of champion and challenger: `models/<role>.dvc` pins a role's model, `models/<role>/` holds it.

Git decides. Every step asks the pin, not the folder; it adds before it removes, so that the same command, run again
after an interruption, finishes what was begun.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from tabloop import files
from tabloop.card import FILE, ModelCard
from tabloop.cli import UserError, explained, git
from tabloop.params import ROOT

if TYPE_CHECKING:
    from dvc.repo import Repo

Role = Literal["champion", "challenger"]
ROLES: tuple[Role, ...] = ("champion", "challenger")
MODELS = ROOT / "models"
CANDIDATE = MODELS / "candidate"
EVALUATION = ROOT / "metrics/evaluation.json"


def pin_file(role: Role) -> Path:
    """The file by which git pins a role's model."""
    return MODELS / f"{role}.dvc"


def pin(role: Role) -> str | None:
    """The hash of the model that git pins for a role; None if there is none."""
    try:
        return str(yaml.safe_load(pin_file(role).read_text("utf-8"))["outs"][0]["md5"])
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, KeyError, TypeError, IndexError):
        raise UserError(f"models/{role}.dvc is not a file of DVC's: restore it by `git checkout`") from None


def folder_hash(folder: Path) -> str:
    """DVC's hash of a folder: the MD5 of the JSON list of its files and their MD5s."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    hashes = {name: hashlib.md5(path.read_bytes()).hexdigest() for name, path in sorted(paths.items())}
    entries = [{"md5": md5, "relpath": name} for name, md5 in hashes.items()]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"


def not_here(role: Role) -> UserError:
    """The one text for a model that is pinned but not on this machine."""
    what = f"models/{role}.dvc pins a model that models/{role} does not hold"
    how = f"`uv run dvc pull models/{role}.dvc` fetches it; if no DVC remote has it, `uv run tabloop rollout drop {role}` gives it up"
    return UserError(f"{what}: {how}")


def current(role: Role) -> ModelCard | None:
    """The model that git pins for a role; None if there is none.

    Raises:
        UserError: it is pinned but not here.
    """
    pinned, folder = pin(role), MODELS / role
    if pinned is None:
        return None
    if not (folder / FILE).exists() or folder_hash(folder) != pinned:
        raise not_here(role)
    return ModelCard.read(folder)


def committed(role: Role) -> ModelCard | None:
    """The model that the last commit pins for a role; None if there is none or DVC's cache lacks it."""
    from dvc.api import read
    from dvc.exceptions import DvcException

    try:
        return ModelCard.model_validate_json(read(f"models/{role}/{FILE}", repo=str(ROOT), rev="HEAD"))
    except (DvcException, OSError):
        return None


def required(role: Role) -> ModelCard:
    """The model that git pins for a role.

    Raises:
        UserError: there is none, or it is not here.
    """
    if found := current(role):
        return found
    how = "`make challenge` makes the candidate the challenger"
    how = "`make train` makes one" if role == "champion" else how
    raise UserError(f"there is no {role}: {how}")


def candidate() -> tuple[ModelCard, dict[str, Any]]:
    """The candidate's card, complete, and its evaluation.

    Raises:
        UserError: it was not evaluated, or the gate did not pass it, or it was judged against another champion.
    """
    if not EVALUATION.exists():
        raise UserError("metrics/evaluation.json is missing: run `make train`")
    evaluation, card = json.loads(EVALUATION.read_text("utf-8")), ModelCard.read(CANDIDATE)
    if evaluation["version"] != card.version or not evaluation["gate"]["passed"]:
        raise UserError("this candidate failed the gate: `make train` says why")
    judged, champion = evaluation["champion"].get("version"), current("champion")
    if champion and champion.version not in (judged, card.version):
        what = f"against {judged or 'no champion'}, and {champion.version} is the champion now"
        raise UserError(f"the candidate was judged {what}: run `make train`")
    return card.completed(evaluation), evaluation


def install(
    role: Role, card: ModelCard, evaluation: dict[str, Any] | None = None, source: Path | None = None
) -> None:
    """Make the model in `source`, by default the candidate, with this card the role's model, and pin it.

    Args:
        evaluation: by which it passed the gate, for MODEL_CARD.md; None: the one in `source`, if any.
    """
    part = MODELS / f".{role}.part"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source or CANDIDATE, part)
    card.write(part)
    if evaluation:
        files.write_json(part / EVALUATION.name, evaluation)
    with dvc() as repo:
        shutil.rmtree(MODELS / role, ignore_errors=True)
        part.rename(MODELS / role)
        repo.add(str(MODELS / role))


def promote() -> None:
    """Let the champion's pin be the challenger's. The challenger stays until `drop`.

    Raises:
        UserError: there is no challenger, or it is not here.
    """
    pinned = pin("challenger")
    if pinned is None or pin("champion") != pinned:
        required("challenger")
        with dvc() as repo:  # so that its files are in DVC's cache, wherever they came from
            repo.add(str(MODELS / "challenger"))
        pins = yaml.safe_load(pin_file("challenger").read_text("utf-8"))
        pins["outs"][0]["path"] = "champion"
        files.write(pin_file("champion"), yaml.safe_dump(pins, sort_keys=False))
        git("add", "--", str(pin_file("champion")), where=ROOT)
    with dvc() as repo:
        repo.checkout([str(pin_file("champion"))], force=True)


def drop(role: Role) -> None:
    """Remove a role's model and then its pin. DVC's cache and git's history keep what it was."""
    shutil.rmtree(MODELS / role, ignore_errors=True)
    pin_file(role).unlink(missing_ok=True)


@contextmanager
def dvc(refused: str = "DVC") -> Iterator["Repo"]:
    """DVC's repository of the project; `refused` begins the text of an error.

    Raises:
        UserError: DVC refuses, for example because another DVC command runs.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    with explained(refused, DvcException, then="; run the same command again"), Repo(str(ROOT)) as repo:
        yield repo
