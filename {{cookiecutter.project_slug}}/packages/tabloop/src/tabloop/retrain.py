"""New rows to a challenger: what the workflow `retrain` does."""

import json
from pathlib import Path

from tabloop import files, remote, replay, roles, rollout, summary
from tabloop.card import ModelCard
from tabloop.params import Params


def retrain(params: Params, report: Path) -> str:
    """Take the source's new rows, train, evaluate, and make the candidate the challenger; the title for its commit.

    Empty if the model that came out is the champion or the challenger already: there was nothing new.

    Args:
        report: gets the summary and the replay as Markdown; also where one of them does not let it pass.

    Raises:
        UserError: a stage fails or the gate does not pass.
    """
    for old in (roles.EVALUATION, replay.REPORT):  # what is not written again must not be reported
        old.unlink(missing_ok=True)
    remote.dvc("repro", "--force", "--single-item", "ingest")
    try:
        remote.dvc("repro")
    finally:
        if roles.EVALUATION.exists():
            files.write(report, summary.markdown() + "\n")
    pinned = [model.version for role in roles.ROLES if (model := roles.current(role))]
    if ModelCard.read(roles.CANDIDATE).version in pinned:
        return ""
    try:
        return rollout.challenge(params)
    finally:
        if replay.REPORT.exists():
            shown = replay.text(json.loads(replay.REPORT.read_text("utf-8")))
            files.write(report, f"{summary.markdown()}\n\n### On production's rows\n\n{shown}\n")
