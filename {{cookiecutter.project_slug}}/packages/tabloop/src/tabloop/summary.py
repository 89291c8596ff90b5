"""The last `dvc repro`: metrics, the gate's verdict, the report page, and a prediction by the exported model."""

import json
import textwrap

from tabloop import report, roles, verdicts
from tabloop.card import ModelCard
from tabloop.cli import UserError, then_push
from tabloop.params import ROOT
from tabloop.serving.served_model import ServedModel


def summary() -> str:
    """The summary as text.

    Raises:
        UserError: nothing was trained yet.
    """
    if not roles.EVALUATION.exists() or not roles.CANDIDATE.exists():
        raise UserError("nothing is trained yet: run `make train`")
    found, card = json.loads(roles.EVALUATION.read_text("utf-8")), ModelCard.read(roles.CANDIDATE)
    model = ServedModel("candidate", roles.CANDIDATE)
    probability = float(model.probability(model.inputs({n: [v] for n, v in card.example.items()}))[0])
    passed = found["gate"]["passed"]
    verdict = f"gate        {'passed' if passed else 'FAILED'}: {verdicts.line(found)}"
    values = {
        "gate": textwrap.fill(verdict, 100, subsequent_indent=" " * 12),
        "checks": textwrap.indent(verdicts.console(found), "  "),
        "page": (ROOT / "reports/evaluation.html").as_uri(),
        "example": json.dumps(card.example, ensure_ascii=False),
        "next_step": next_step(card.version, passed),
    }
    return report.text("summary.txt.jinja", card=card, result=found, probability=probability, **values)


def next_step(version: str, passed: bool) -> str:
    """The commands that follow, unless a gate failed. The first model is the champion already; a later one is the candidate until it challenges."""
    if not passed:
        return "Next: change the data, the model or a bar in params.yaml, then `make train`; the report shows where it fails."
    keep = "  " + then_push("git add --all && git commit --message 'Train a model' && uv run dvc push")
    try:
        champion = roles.current("champion")
    except UserError as error:  # it is pinned, and not here
        return f"Next: {error}"
    if champion and champion.version != version and roles.pin("challenger") is None:
        return f"The champion is still {champion.version}; {version} is the candidate. Next:\n  make challenge\n{keep}"
    return f"Next (`make` lists all commands):\n  make serve\n{keep}"


def markdown() -> str:
    """The summary for a pull request: verdict, gates, metrics beside the champion's on the same rows, data, curves.

    Raises:
        UserError: nothing was evaluated yet.
    """
    if not roles.EVALUATION.exists():
        validation = ROOT / "reports/validation.json"
        broken = validation.exists() and not json.loads(validation.read_text("utf-8"))["passed"]
        raise UserError("the data break the schema" if broken else "nothing was evaluated: run `make train`")
    found, card = json.loads(roles.EVALUATION.read_text("utf-8")), ModelCard.read(roles.CANDIDATE)
    rows, data = "", ""
    if "metrics" in (champion := found["champion"]):
        rows, data = f"{champion['training_rows']:,}", champion["data_hash"]
    origin = [["training rows", f"{card.rows:,}", rows, ""], ["data", card.data_hash, data, ""]]
    movers = [
        f"{one['feature']} {one['value']:.3f}" for one in found.get("importance", [])[:5] if one["low"] > 0
    ]
    paths = {name: ROOT / f"reports/{name}.json" for name in ("roc", "calibration")}
    curves = [report.mermaid(name, json.loads(path.read_text("utf-8"))) for name, path in paths.items()]
    values = {"card": card, "result": found, "origin": origin, "movers": movers, "curves": curves}
    return report.text("summary.md.jinja", verdicts=verdicts, **values)
