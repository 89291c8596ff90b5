"""New rows to a challenger: what the workflow `retrain` does."""

from pathlib import Path

from tabloop import files, remote, roles, rollout, summary
from tabloop.card import ModelCard
from tabloop.params import Params


def retrain(params: Params, report: Path) -> str:
    """Take the source's new rows, train, evaluate, and make the candidate the challenger; the title for its commit.

    Empty if the model that came out is the champion or the challenger already: there was nothing new.

    Args:
        report: gets the summary as Markdown; also where the gate does not pass.

    Raises:
        UserError: a stage fails or the gate does not pass.
    """
    roles.EVALUATION.unlink(missing_ok=True)  # `dvc repro` writes it again; an old one must not be reported
    remote.dvc("repro", "--force", "--single-item", "ingest")
    try:
        remote.dvc("repro")
    finally:
        if roles.EVALUATION.exists():
            files.write(report, summary.markdown() + "\n")
    pinned = [model.version for role in roles.ROLES if (model := roles.current(role))]
    return "" if ModelCard.read(roles.CANDIDATE).version in pinned else rollout.challenge(params)
