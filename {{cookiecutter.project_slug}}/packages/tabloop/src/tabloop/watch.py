"""Drift and performance in one report: what the workflow `drift` does."""

from pathlib import Path

from tabloop import drift, files, performance, predictions, release
from tabloop.cli import UserError
from tabloop.params import Params


def watch(params: Params, report: Path) -> dict[str, bool]:
    """Write to `report` what both checks say of one window; whether the data drifted, and the outcomes are worse.

    Where the data drifted, Evidently's pages are written, too.

    Raises:
        UserError: the log can't be read, or has nothing although an environment runs a model. Then it is not known.
    """
    since = predictions.window(params)
    try:
        predictions.connect(since)
    except predictions.NothingLogged as error:
        if running := release.running():
            raise UserError(f"{error}; {running} runs a model: is PREDICTION_LOG right?") from None
    drifted, measured = drift.check(params, since=since), performance.check(params, since=since)
    if drifted["drift"]:
        from tabloop.evidently_pages import write

        write(params, drifted)
    files.write(report, f"{drift.text(drifted)}\n\n{performance.text(measured)}\n")
    return {"drift": drifted["drift"], "worse": measured["worse"]}
