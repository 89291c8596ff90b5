"""Candidate to challenger to champion: what git pins first, MLflow's aliases after it, removal last.

Each step may be interrupted anywhere; the same command, run again, finishes it.
"""

import json

from tabloop import files, registry, roles
from tabloop.card import ModelCard
from tabloop.cli import UserError
from tabloop.params import ROOT, Params

CHAMPION = ROOT / "metrics/champion.json"


def note_champion() -> str:
    """Write which champion the candidate has to be compared with, an input of `evaluate`; what was written.

    None where the candidate is the champion itself: its registration must not make `evaluate` run again.

    Raises:
        UserError: the champion is pinned but not here.
    """
    champion, candidate = roles.current("champion"), ModelCard.read(roles.CANDIDATE)
    version = None if champion is None or champion.version == candidate.version else champion.version
    files.write(CHAMPION, json.dumps({"version": version}) + "\n")
    if champion is None:
        return "there is none yet"
    return f"{champion.version}{'' if version else ', which is the candidate'}"


def challenge(params: Params) -> str:
    """Make the candidate the challenger; the title for the commit.

    Raises:
        UserError: it did not pass the gate, or is the champion already, or there is no champion.
    """
    card, _ = roles.candidate()
    champion = roles.required("champion")
    if card.version == champion.version:
        raise UserError(f"the candidate {card.version} is the champion already")
    roles.install("challenger", card)
    registry.mirror(params, {"champion": champion.version, "challenger": card.version})
    return f"Make {card.version} the challenger"


def promote(params: Params) -> str:
    """Make the challenger the champion; the title for the commit.

    Raises:
        UserError: there is no challenger, or a model is pinned but not here.
    """
    begun = roles.pin("champion") == roles.pin("challenger") is not None
    before = roles.committed("champion") if begun else roles.current("champion")
    roles.promote()
    after = roles.required("champion").version
    registry.mirror(params, {"champion": after, "challenger": None})
    roles.drop("challenger")
    return f"Promote {after} to champion" + (
        f", after {before.version}" if before and before.version != after else ""
    )


def withdraw(params: Params) -> str:
    """Remove the challenger; the title for the commit.

    Raises:
        UserError: there is none, or the champion is pinned but not here.
    """
    if roles.pin("challenger") is None:
        roles.required("challenger")
    try:
        gone = roles.current("challenger")
    except UserError:  # it is not here, or its removal was interrupted: it can go all the same
        gone = roles.committed("challenger")
    champion = roles.current("champion")
    registry.mirror(params, {"champion": champion.version if champion else None, "challenger": None})
    roles.drop("challenger")
    return f"Withdraw the challenger {gone.version}" if gone else "Withdraw the challenger"


def give_up(role: roles.Role) -> str:
    """Remove the pin of a model that no DVC remote has; what was done.

    Raises:
        UserError: nothing is pinned.
    """
    if roles.pin(role) is None:
        raise UserError(f"there is no {role}: models/{role}.dvc is missing")
    roles.drop(role)
    after = "; the next candidate that passes the gate becomes champion" if role == "champion" else ""
    return f"models/{role}.dvc is removed{after}. Next: git add --all models && git commit"
