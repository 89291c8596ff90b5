"""models/candidate to MLflow's registry. The first model, or the first after the champion was given up, is champion."""

import json
from pathlib import Path

from tabloop import files, model_card, registry, roles
from tabloop.onnx_model import FILE
from tabloop.params import ROOT, Params


def register(params: Params, out: Path) -> str:
    """Register the candidate, let the aliases follow git, write MODEL_CARD.md and `out`; what was done.

    Raises:
        UserError: the gate did not pass this candidate, or the champion is pinned but not here.
    """
    card, evaluation = roles.candidate()
    champion = roles.current("champion")
    entry = registry.register(params, card, evaluation, roles.CANDIDATE / FILE)
    if champion is None:
        roles.install("champion", card)
    pinned: dict[str, str | None] = {
        role: model.version if (model := roles.current(role)) else None for role in roles.ROLES
    }
    registry.mirror(params, pinned)

    role = next((role for role, version in pinned.items() if version == card.version), None)
    model_card.write(params, card, evaluation, entry, role, ROOT / "MODEL_CARD.md")
    made = {"name": params.project, "registry_version": entry, "alias": role, "version": card.version}
    files.write(out, json.dumps(made, indent=1) + "\n")
    what = f"is {role}" if role else "is registered; `make challenge` makes it the challenger"
    return f"{params.project} version {entry} ({card.version}) {what}"
