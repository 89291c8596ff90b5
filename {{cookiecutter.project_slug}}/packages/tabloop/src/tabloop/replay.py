"""The candidate beside the champion on production's rows: as they were served, with the labels that arrived since."""

from dataclasses import asdict
from typing import Any

import pandas as pd

from tabloop import files, predictions, report, roles, verdicts
from tabloop.card import ModelCard
from tabloop.columns import quote
from tabloop.intervals import Scored, estimate
from tabloop.metrics import MIN_CLASS, enough
from tabloop.onnx_model import FILE, OnnxModel
from tabloop.params import ROOT, Params

REPORT = ROOT / "reports/replay.json"
ROWS = 20_000  # the newest labelled ones; they bound memory and time
METRICS = {"auc": "AUC", "cost_per_row": "cost per row at its threshold"}
ID, AT, LABEL = ".id", ".at", ".label"  # which no feature can be called


def replay(params: Params, candidate: ModelCard, champion: ModelCard) -> dict[str, Any]:
    """Score both models on the same logged rows and write reports/replay.json.

    Rows that are newer than the candidate's training rows decide alone, where they are enough: of the others it may have
    learnt. A column that only the candidate uses and the log does not have is missing in all rows; then nothing is decided.

    Raises:
        UserError: the log can't be read.
    """
    result: dict[str, Any] = {"candidate": candidate.version, "champion": champion.version}
    result |= {"verdict": "none", "refused": False}
    try:
        rows = served(candidate, champion)
    except predictions.NothingLogged as error:
        return files.write_json(REPORT, result | {"note": str(error)})
    last = candidate.days[1] if candidate.days else ""
    newer = rows[rows[AT].dt.strftime("%Y-%m-%d") > last]
    result["learnt"] = 0 if enough(newer[LABEL].to_numpy()) else len(rows) - len(newer)
    rows = rows if result["learnt"] else newer
    target = rows[LABEL].to_numpy()
    result |= {"rows": len(rows), "positives": int(target.sum())}
    if not enough(target):
        few = f"{len(rows):,} labelled rows, {result['positives']:,} of them positive"
        return files.write_json(REPORT, result | {"note": f"{few}: {MIN_CLASS} of each class are needed"})
    own = candidate.schema_.features.keys() - champion.schema_.features.keys()
    result["unknown"] = sorted(name for name in own if rows[name].isna().all())
    models = {
        role: Scored(OnnxModel(roles.MODELS / role / FILE, card.schema_).probability(rows), card.threshold)
        for role, card in {"candidate": candidate, "champion": champion}.items()
    }
    ours, theirs = models["candidate"], models["champion"]
    result["changed_decisions"] = float((ours.acted != theirs.acted).mean())
    pairs = {"candidate": (ours, None), "champion": (theirs, None), "difference": (ours, theirs)}
    cost, confidence = params.evaluate.cost, params.evaluate.confidence
    for metric in METRICS:
        found = {n: estimate(metric, target, *pair, cost, confidence) for n, pair in pairs.items()}
        result[metric] = {name: asdict(each) for name, each in found.items()}
    if not result["unknown"]:
        gap = result["auc"]["difference"]
        worse, better = gap["high"] < 0, gap["low"] > 0
        result["verdict"] = "worse" if worse else "better" if better else "no significant difference"
        result["refused"] = gap["high"] < -margin(params)
    return files.write_json(REPORT, result)


def margin(params: Params) -> float:
    """By how much the candidate's AUC may be significantly lower: as the gate against the champion says, else nothing."""
    gates = (gate for gate in params.gates if gate.metric == "auc" and gate.against and not gate.by)
    return next((gate.margin for gate in gates if gate.margin is not None), 0.0)


def served(candidate: ModelCard, champion: ModelCard) -> pd.DataFrame:
    """The newest labelled rows of the champion's table: features of both models, ID, AT and LABEL.

    Raises:
        NothingLogged: there is no prediction.
        UserError: the log can't be read.
    """
    db = predictions.connect()
    columns = champion.schema_.features | candidate.schema_.features
    own = {"prediction_id": ID, "predicted_at": AT, "label": LABEL}
    listed = [f"{name} AS {quote(alias)}" for name, alias in own.items()] + predictions.select(db, columns)
    # In the shadow both models answered: twice as many rows are read, and one of each prediction is kept.
    newest = (
        f"SELECT {', '.join(listed)} FROM predictions JOIN outcomes USING (prediction_id) "
        f"WHERE {predictions.own(champion.source_table)} "
        f"ORDER BY predicted_at DESC, prediction_id, variant LIMIT {2 * ROWS}"
    )
    rows = predictions.table(db, newest).drop_duplicates(ID).head(ROWS)
    return rows.assign(**{name: None for name in columns if name not in rows})


def head(result: dict[str, Any]) -> str:
    """The result in one sentence."""
    if note := result.get("note"):
        return f"replay: nothing to compare on: {note}"
    pair = f"candidate {result['candidate']}", f"champion {result['champion']}"
    said = f"{pair[0]} is significantly {result['verdict']} than {pair[1]}"
    if unknown := result["unknown"]:
        said = f"nothing is decided between {' and '.join(pair)}, as the log has no {', '.join(unknown)} yet"
    elif result["verdict"] == "no significant difference":
        said = f"no significant difference between {' and '.join(pair)}"
    if result["verdict"] == "worse" and not result["refused"]:
        said += ", within the margin of the gate"
    gap = verdicts.shown(result["auc"]["difference"], signed=True)
    return f"replay: {said}: AUC {gap} on {result['rows']:,} labelled production rows"


def text(result: dict[str, Any]) -> str:
    """The result as Markdown: both models on the same rows."""
    values = {"result": result, "head": head(result), "metrics": METRICS, "shown": verdicts.shown}
    return report.text("replay.md.jinja", **values)
