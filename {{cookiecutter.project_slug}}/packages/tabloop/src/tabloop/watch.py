"""Drift and performance in one report: what the workflow `drift` does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tabloop import drift, files, performance, predictions, release
from tabloop.cli import UserError
from tabloop.params import Params

CHECKS: list[tuple[Callable[[Params], dict[str, Any]], Callable[[dict[str, Any]], str]]] = [
    (drift.check, drift.text),
    (performance.check, performance.text),
]


def watch(params: Params, report: Path) -> dict[str, bool]:
    """Write to `report` what both checks say; whether the data drifted, and whether the outcomes are worse.

    Raises:
        UserError: the log can't be read, or has nothing although an environment runs a model. Then it is not known.
    """
    try:
        predictions.connect(predictions.window(params))
    except predictions.NothingLogged as error:
        if running := release.running():
            raise UserError(
                f"{error}; {running} runs a model: is PREDICTION_LOG right, does it still log?"
            ) from None
    found: dict[str, Any] = {}
    texts = []
    for check, text in CHECKS:
        result = check(params)
        found |= result
        texts.append(text(result))
    files.write(report, "\n\n".join(texts) + "\n")
    return {"drift": found["drift"], "worse": found["worse"]}
