"""MODEL_CARD.md: what the champion is, what it was trained on, how good it is. People write its intended use."""

import json
import re
from typing import Any

from tabloop import files, provenance, report, roles, verdicts
from tabloop.card import ModelCard
from tabloop.params import ROOT, Params

USE = """<!-- use: this section is kept -->
## Intended use

Who decides what with this model, about whom, and what must it not be used for? Fill in.
<!-- /use -->"""
LEVELS = 20  # levels of a category that are listed


def evaluation_to_keep(params: Params, evaluation: dict[str, Any]) -> dict[str, Any]:
    """What is kept with a model of metrics/evaluation.json: all, and the settings by which it was measured."""
    return evaluation | {"evaluate": params.evaluate.model_dump(mode="json")}


def write(params: Params, champion: ModelCard | None, challenger: ModelCard | None) -> None:
    """Write the page from model_card.md.jinja; the section on intended use stays as it was.

    It is about the champion, by what models/champion holds: a new candidate does not change it. The headings follow
    Mitchell et al., "Model Cards for Model Reporting" (2019).
    """
    path, judged = ROOT / "MODEL_CARD.md", roles.MODELS / "champion" / roles.EVALUATION.name
    before = path.read_text("utf-8") if path.exists() else ""
    kept = re.search(r"<!-- use.*?<!-- /use -->", before, re.DOTALL)
    text = report.render(
        "model_card.md.jinja",
        params=params,
        card=champion,
        challenger=challenger,
        result=json.loads(judged.read_text(encoding="utf-8")) if champion and judged.exists() else None,
        verdicts=verdicts,
        use=kept[0] if kept else USE,
        views={n: v for v, names in champion.schema_.views.items() for n in names} if champion else {},
        origin=provenance.origin(champion.inputs) if champion else None,
        seen=seen,
    )
    files.write(path, text)


def seen(card: ModelCard, name: str) -> str:
    """The levels or the range of a column in the training rows."""
    if name in card.categories:
        levels = card.categories[name]
        more = f" and {len(levels) - LEVELS:,} more" if len(levels) > LEVELS else ""
        return ", ".join(levels[:LEVELS]) + more
    low, high = card.ranges[name]
    return "always missing" if low is None or high is None else f"{low:g} to {high:g}"
