"""What the last `dvc repro` came to: metrics, verdict, report page, and a prediction by the exported model."""

import json

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


if __name__ == "__main__":
    with stage("summary"):
        print(summary())
