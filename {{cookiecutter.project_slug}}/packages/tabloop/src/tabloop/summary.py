"""What the last `dvc repro` came to: metrics, verdict, report page, and a prediction by the exported model."""

import json
import sys

from .model.graph import Graph
from .params import ROOT, Schema, UserError, stage


def summary() -> str:
    """The text.

    Raises:
        UserError: nothing was trained yet.
    """
    import pandas as pd

    folder, metrics = ROOT / "models/candidate", ROOT / "metrics/evaluation.json"
    if not metrics.exists() or not folder.exists():
        raise UserError("nothing is trained yet: run `make train`")
    found, model = json.loads(metrics.read_text()), json.loads((folder / "model.json").read_text())
    graph = Graph(folder / "model.onnx", Schema.model_validate(model["schema"]))
    probability = graph.probability(pd.DataFrame([model["example"]]))[0]
    answer = probability >= found["threshold"]
    gate = f"{'passed' if found['gate']['passed'] else 'FAILED'}: {found['gate']['reason']}"
    return "\n".join(
        [
            "",
            f"model       {model['version']} ({model['framework']}, {model['rows']:,} rows)",
            f"AUC         {found['auc']:.4f}  [{found['auc_low']:.4f}, {found['auc_high']:.4f}]",
            f"precision   {found['precision']:.3f}  recall {found['recall']:.3f}  at threshold {found['threshold']:.3g}",
            f"Brier score {found['brier']:.4f}  average precision {found['average_precision']:.4f}",
            f"gate        {gate}; champion: {found['champion']['verdict']}",
            f"report      {(ROOT / 'reports/evaluation.html').as_uri()}",
            f"a row       {json.dumps(model['example'], ensure_ascii=False)}",
            f"prediction  {model['schema']['target']['name']} = {int(answer)}, probability {probability:.4f}",
            "",
            "Next: `make serve`; `git add --all && git commit`, `.venv/bin/dvc push`; `make` lists the rest.",
        ]
    )


def markdown() -> str:
    """The same for a pull request: metrics beside the champion's, verdict, data, curves.

    Raises:
        UserError: nothing was evaluated yet.
    """
    metrics, validation = ROOT / "metrics/evaluation.json", ROOT / "reports/validation.json"
    if not metrics.exists():
        broken = validation.exists() and not json.loads(validation.read_text())["passed"]
        raise UserError("the data break the schema" if broken else "nothing was evaluated")
    found = json.loads(metrics.read_text())
    model = json.loads((ROOT / "models/candidate/model.json").read_text())
    champion_card = ROOT / "models/champion/model.json"
    champion = json.loads(champion_card.read_text()) if champion_card.exists() else {}
    if champion.get("version") == model["version"]:
        champion = {}
    before = champion.get("metrics", {})
    lines = [
        f"### Model {model['version']}",
        "",
        f"{'✅' if found['gate']['passed'] else '❌'} **Gate:** {found['gate']['reason']}; champion: {found['champion']['verdict']}",
        "",
        "| | candidate | champion |",
        "|---|---|---|",
    ]
    for name in ("auc", "auc_low", "auc_high", "average_precision", "brier"):
        lines.append(f"| {name} | {found[name]:.4f} | {format(before[name], '.4f') if before else ''} |")
    lines += [
        f"| training rows | {model['rows']:,} | {format(champion['rows'], ',') if champion else ''} |",
        f"| data | {model['data_hash']} | {champion.get('data_hash', '')} |",
        "",
        chart("ROC", "reports/roc.json", "false_positive_rate", "true_positive_rate"),
        chart("Calibration", "reports/calibration.json", "predicted", "observed"),
    ]
    return "\n".join(lines)


def chart(title: str, path: str, x: str, y: str) -> str:
    """One of evaluate's curves as a Mermaid chart, which GitHub draws; at even steps of x."""
    import numpy as np

    points = json.loads((ROOT / path).read_text())
    xs, ys = (np.array([point[name] for point in points], float) for name in (x, y))
    order, steps = np.argsort(xs, kind="stable"), np.linspace(0, xs.max(), 21)
    heights = ", ".join(f"{height:.3f}" for height in np.interp(steps, xs[order], ys[order]))
    axes = f'    x-axis "{x}" 0 --> {xs.max():.3g}\n    y-axis "{y}" 0 --> {ys.max():.3g}'
    return f'```mermaid\nxychart-beta\n    title "{title}"\n{axes}\n    line [{heights}]\n```\n'


if __name__ == "__main__":
    with stage("summary"):
        print(markdown() if sys.argv[1:] == ["--markdown"] else summary())
