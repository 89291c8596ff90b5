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
    verdict = "passed" if found["gate"]["passed"] else "FAILED"
    precision, recall = verdicts.figure(found["precision"]), verdicts.figure(found["recall"])
    return "\n".join(
        [
            "",
            f"model       {card.version} ({card.framework}, {card.rows:,} rows)",
            f"AUC         {found['auc']:.4f}  [{found['auc_low']:.4f}, {found['auc_high']:.4f}]",
            f"precision   {precision}  recall {recall}  at threshold {card.threshold:.3g}",
            f"Brier score {found['brier']:.4f}  average precision {found['average_precision']:.4f}",
            textwrap.fill(f"gate        {verdict}: {verdicts.line(found)}", 100, subsequent_indent=" " * 12),
            textwrap.indent(verdicts.console(found), "  "),
            f"report      {(ROOT / 'reports/evaluation.html').as_uri()}",
            f"a row       {json.dumps(card.example, ensure_ascii=False)}",
            f"prediction  {card.schema_.target.name} = {int(probability >= card.threshold)}, "
            f"probability {probability:.4f}",
            "",
            next_step(card.version, found["gate"]["passed"]),
        ]
    )


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
    return report.render("summary.md.jinja", verdicts=verdicts, **values).removesuffix("\n")
