"""The last `dvc repro`: metrics, the gate's verdict, the report page, and a prediction by the exported model."""

import json
from typing import Any

from tabloop import roles
from tabloop.card import ModelCard
from tabloop.cli import UserError
from tabloop.onnx_model import FILE, OnnxModel
from tabloop.params import ROOT
from tabloop.report import mermaid


def summary() -> str:
    """The summary as text.

    Raises:
        UserError: nothing was trained yet.
    """
    import pandas as pd

    if not roles.EVALUATION.exists() or not roles.CANDIDATE.exists():
        raise UserError("nothing is trained yet: run `make train`")
    found, card = json.loads(roles.EVALUATION.read_text()), ModelCard.read(roles.CANDIDATE)
    model = OnnxModel(roles.CANDIDATE / FILE, card.schema_)
    probability = float(model.probability(pd.DataFrame([card.example]))[0])
    precision, recall = (number(found[name], 3) for name in ("precision", "recall"))
    return "\n".join(
        [
            "",
            f"model       {card.version} ({card.framework}, {card.rows:,} rows)",
            f"AUC         {found['auc']:.4f}  [{found['auc_low']:.4f}, {found['auc_high']:.4f}]",
            f"precision   {precision}  recall {recall}  at threshold {card.threshold:.3g}",
            f"Brier score {found['brier']:.4f}  average precision {found['average_precision']:.4f}",
            f"gate        {'passed' if found['gate']['passed'] else 'FAILED'}: {verdict(found)}",
            f"report      {(ROOT / 'reports/evaluation.html').as_uri()}",
            f"a row       {json.dumps(card.example, ensure_ascii=False)}",
            f"prediction  {card.schema_.target.name} = {int(probability >= card.threshold)}, "
            f"probability {probability:.4f}",
            "",
            "Next: `make serve`; `git add --all && git commit`, then `uv run dvc push`; `make` lists all commands.",
        ]
    )


def markdown() -> str:
    """The summary for a pull request: metrics beside the champion's, verdict, data, curves.

    Raises:
        UserError: nothing was evaluated yet.
    """
    if not roles.EVALUATION.exists():
        validation = ROOT / "reports/validation.json"
        broken = validation.exists() and not json.loads(validation.read_text())["passed"]
        raise UserError("the data break the schema" if broken else "nothing was evaluated: run `dvc repro`")
    found, card = json.loads(roles.EVALUATION.read_text()), ModelCard.read(roles.CANDIDATE)
    champion = roles.current("champion")
    if champion and champion.version == card.version:
        champion = None
    before = champion.metrics.model_dump() if champion and champion.metrics else {}
    metrics = [
        f"| {name} | {number(found[name])} | {number(before.get(name))} |"
        for name in ("auc", "auc_low", "auc_high", "average_precision", "brier")
    ]
    lines = [
        f"### Model {card.version}",
        "",
        f"{'✅' if found['gate']['passed'] else '❌'} **Gate:** {verdict(found)}",
        "",
        "| | candidate | champion |",
        "|---|---|---|",
        *metrics,
        f"| training rows | {card.rows:,} | {format(champion.rows, ',') if champion else ''} |",
        f"| data | {card.data_hash} | {champion.data_hash if champion else ''} |",
        "",
        *(
            mermaid(name, json.loads((ROOT / f"reports/{name}.json").read_text()))
            for name in ("roc", "calibration")
        ),
    ]
    return "\n".join(lines)


def number(value: float | None, digits: int = 4) -> str:
    """A metric; nothing where it could not be computed."""
    return "" if value is None else f"{value:.{digits}f}"


def verdict(evaluation: dict[str, Any]) -> str:
    """The gate's reason and the comparison with the champion."""
    return f"{evaluation['gate']['reason']}; champion: {evaluation['champion']['verdict']}"
