"""models/candidate to MLflow's registry. The first model, or the first after the champion was given up, is champion."""

from pathlib import Path

from tabloop import files, model_card, registry, roles, rollout
from tabloop.params import Params


def register(params: Params, out: Path) -> str:
    """Register the candidate, let aliases and MODEL_CARD.md follow git, write `out`; what was done.

    An experiment of DVC's has its run, and registers nothing: it is a branch that may never be merged.

    Raises:
        UserError: the gate did not pass this candidate, or the champion is pinned but not here.
    """
    card, evaluation = roles.candidate()
    if name := registry.experiment():
        registry.log(params, card, evaluation, roles.CANDIDATE)
        files.write_json(out, {"experiment": name, "version": card.version})
        return f"{card.version} is not registered, as it is the experiment {name}: `dvc exp apply`, then `make train`"
    champion = roles.current("champion")
    entry = registry.register(params, card, evaluation, roles.CANDIDATE)
    if champion is None:
        roles.install("champion", card, model_card.evaluation_to_keep(params, evaluation))
    pinned = rollout.follow(params)

    role = next((role for role, version in pinned.items() if version == card.version), None)
    files.write_json(out, {"name": params.project, "alias": role, "version": card.version})
    what = f"is {role}" if role else "is registered; `make challenge` makes it the challenger"
    return f"{params.project} version {entry} ({card.version}) {what}"
