"""Candidate to challenger to champion, and back: what git pins, and the registry's aliases after it.

python -m <package>.rollout challenge | promote | withdraw
"""

import json
import shutil
import sys

from .params import ROOT, Params, UserError, load, stage
from .pipeline.register import MODELS, install, passed_candidate


def version(role: str) -> str:
    """Raises: UserError: there is none of that role here."""
    card = MODELS / role / "model.json"
    if not card.exists():
        pinned = f"run `dvc pull models/{role}.dvc`" if (MODELS / f"{role}.dvc").exists() else "there is none"
        raise UserError(f"models/{role} is missing: {pinned}")
    return str(json.loads(card.read_text())["version"])


def alias(params: Params, role: str, model: str | None) -> None:
    """Let the registry's alias follow: to the model of this version, or to none."""
    from .pipeline.train import connect

    client = connect(params)
    entries = client.search_model_versions(f"name = '{params.project}'")
    of_model = [int(entry.version) for entry in entries if entry.tags.get("version") == model]
    if of_model:
        client.set_registered_model_alias(params.project, role, str(max(of_model)))
    elif model is None and entries:
        client.delete_registered_model_alias(params.project, role)


def remove(role: str) -> None:
    """Take a role's folder and its pin away; what it was stays in DVC's cache and git's history."""
    shutil.rmtree(MODELS / role, ignore_errors=True)
    (MODELS / f"{role}.dvc").unlink(missing_ok=True)


def challenge(params: Params) -> str:
    """Make the candidate the challenger.

    Raises:
        UserError: it did not pass the gate, or is the champion already.
    """
    model, evaluation = passed_candidate()
    if model["version"] == version("champion"):
        raise UserError(f"the candidate {model['version']} is the champion already")
    install("challenger", model, evaluation)
    alias(params, "challenger", model["version"])
    return f"Make {model['version']} the challenger"


def promote(params: Params) -> str:
    """Make the challenger the champion."""
    from dvc.repo import Repo

    before, after = version("champion"), version("challenger")
    remove("champion")
    shutil.move(MODELS / "challenger", MODELS / "champion")
    remove("challenger")
    Repo(str(ROOT)).add(str(MODELS / "champion"))
    alias(params, "champion", after)
    alias(params, "challenger", None)
    return f"Promote {after} to champion, after {before}"


def withdraw(params: Params) -> str:
    """Take the challenger back."""
    gone = version("challenger")
    remove("challenger")
    alias(params, "challenger", None)
    return f"Withdraw the challenger {gone}"


if __name__ == "__main__":
    with stage("rollout"):
        steps = {"challenge": challenge, "promote": promote, "withdraw": withdraw}
        if len(sys.argv) != 2 or sys.argv[1] not in steps:
            raise UserError(f"say which: {', '.join(steps)}")
        done = steps[sys.argv[1]](load())
        print(done)
        print(f"Next: git add --all models && git commit --message '{done}'", file=sys.stderr)
