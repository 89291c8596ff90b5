"""Candidate to challenger to champion: what git pins first, MLflow's aliases and MODEL_CARD.md after it, removal last.

Each step may be interrupted anywhere; the same command, run again, finishes it.
"""

import json
from contextlib import suppress

from tabloop import files, model_card, registry, roles, terminal
from tabloop.card import ModelCard
from tabloop.cli import UserError, then_push
from tabloop.params import ROOT, Params, load

CHAMPION, REGISTRATION = ROOT / "metrics/champion.json", ROOT / "reports/registration.json"


def note_champion(params: Params) -> str:
    """Write which champion the candidate has to be compared with, an input of `evaluate`; what was written.

    None where the candidate is the champion itself: its registration must not make `evaluate` run again.

    Raises:
        UserError: the champion is pinned but not here.
    """
    champion, candidate = roles.current("champion"), ModelCard.read(roles.CANDIDATE)
    version = None if champion is None or champion.version == candidate.version else champion.version
    files.write(CHAMPION, json.dumps({"version": version}) + "\n")
    applied = REGISTRATION.exists() and "experiment" in json.loads(REGISTRATION.read_text("utf-8"))
    if champion is None or (not registry.experiment() and (applied or undone(params))):
        # It may say that this candidate is the champion, which was given up since, or that it is an experiment, which
        # was applied since; or a commit was undone, which the registry does not know: `register` must run again.
        REGISTRATION.unlink(missing_ok=True)
    if champion is None:
        return "there is none yet"
    return f"{champion.version}{'' if version else ', which is the candidate'}"


def undone(params: Params) -> bool:
    """Whether git pins other models than the registry of this folder says, as after `git revert` of a promotion."""
    try:
        pinned: dict[str, str] = {role: card.version for role in roles.ROLES if (card := roles.current(role))}
    except UserError:  # the challenger is not here, so `register` could not follow
        return False
    return registry.behind(params, pinned)


def follow(params: Params, without: roles.Role | None = None) -> dict[str, str | None]:
    """Let the registry's aliases and MODEL_CARD.md say what git pins now; the version of each role.

    Args:
        without: a role whose model is about to be removed.

    Raises:
        UserError: a model is pinned but not here, or MLflow does not answer.
    """
    pinned = {role: None if role == without else roles.current(role) for role in roles.ROLES}
    versions: dict[str, str | None] = {role: card.version if card else None for role, card in pinned.items()}
    registry.mirror(params, versions)
    model_card.write(params, pinned["champion"], pinned["challenger"])
    return versions


def register(params: Params) -> str:
    """Register the candidate, let aliases and MODEL_CARD.md follow git, write REGISTRATION; what was done.

    The first model, or the first after the champion was given up, becomes the champion. An experiment of DVC's has its
    run, and registers nothing: it is a branch that may never be merged.

    Raises:
        UserError: the gate did not pass this candidate, or the champion is pinned but not here.
    """
    card, evaluation = roles.candidate()
    if name := registry.experiment():
        registry.log(params, card, evaluation, roles.CANDIDATE)
        files.write_json(REGISTRATION, {"experiment": name, "version": card.version})
        return f"{card.version} is not registered, as it is the experiment {name}: `uv run dvc exp apply {name}`, then `make train`"
    champion = roles.current("champion")
    entry = registry.register(params, card, evaluation, roles.CANDIDATE)
    if champion is None:
        roles.install("champion", card, model_card.evaluation_to_keep(params, evaluation))
    pinned = follow(params)
    role = next((role for role, version in pinned.items() if version == card.version), None)
    files.write_json(REGISTRATION, {"name": params.project, "alias": role, "version": card.version})
    what = f"is {role}" if role else "is registered; `make challenge` makes it the challenger"
    return f"{params.project} version {entry} ({card.version}) {what}"


def challenge(params: Params) -> str:
    """Make the candidate the challenger; the title for the commit.

    Raises:
        UserError: it did not pass the gate, or is the champion already, or there is no champion; or it is significantly
            worse than the champion on labelled rows of production, by more than the margin of the gate.
    """
    from tabloop import replay

    card, evaluation = roles.candidate()
    champion = roles.required("champion")
    if card.version == champion.version:
        raise UserError(f"the candidate {card.version} is already the champion: `make train` after a change")
    result = replay.replay(params, card, champion)
    if result["refused"]:
        raise UserError(f"{replay.head(result)}; reports/replay.json has the figures")
    terminal.print_markdown(replay.text(result), err=True)
    roles.install("challenger", card, model_card.evaluation_to_keep(params, evaluation))
    follow(params)
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
    follow(params, without="challenger")
    roles.drop("challenger")
    what = f"Promote {after} to champion"
    return f"{what}, after {before.version}" if before and before.version != after else what


def withdraw(params: Params) -> str:
    """Remove the challenger; the title for the commit.

    Raises:
        UserError: there is none, or the champion is pinned but not here.
    """
    if roles.pin("challenger") is None:
        roles.required("challenger")
    try:
        gone = roles.current("challenger")
    except UserError:  # it is not here, or its removal was interrupted: it can still go
        gone = roles.committed("challenger")
    follow(params, without="challenger")
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
    with suppress(UserError):  # the other model is not here, either
        model_card.write(load(), *map(roles.current, roles.ROLES))
    after = "; the next candidate that passes the gate becomes champion" if role == "champion" else ""
    commit = f"git add --all models MODEL_CARD.md && git commit --message 'Drop the {role}'"
    return f"models/{role}.dvc is removed{after}. Next: {then_push(commit)}"
