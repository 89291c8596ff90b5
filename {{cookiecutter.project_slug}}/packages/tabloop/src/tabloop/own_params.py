"""params.yaml and dvc.yaml for a new table: comments kept, the example's own settings gone."""

import io
import os
import re
import shlex
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from tabloop import model_card, place, predictions, registry, release
from tabloop.cli import explained
from tabloop.infer import Inferred
from tabloop.params import ROOT, Params
from tabloop.reading.settings import Reading

GATES = """
- { metric: auc, min: 0.5 } # raise it to what the task needs
- { metric: auc, against: champion, margin: 0.005 }
"""


def rewritten(source: str, found: Inferred, reading: Reading) -> tuple[dict[str, str], list[str]]:
    """The text of each file; and what it says that was not inferred from the table.

    Raises:
        UserError: params.yaml would not be valid.
    """
    yaml = round_trip()
    params, graph = yaml.load(ROOT / "params.yaml"), yaml.load(ROOT / "dvc.yaml")
    before, changes = params["data"]["source"], []
    if params["data"].pop("simulator", None):
        params.yaml_set_comment_before_after_key("schema", before="\n")
    params["data"]["source"] = node(source, "source")
    params["data"].pop("reading", None)
    if said := reading.model_dump(mode="json", exclude_defaults=True):
        params["data"].insert(1, "reading", node(said, "reading"))
    if params["data"].get("feedback"):
        changes.append(f"data.feedback was {params['data']['feedback']}, the log of another table; now null")
        params["data"]["feedback"] = None
    for name, value in found.schema.items():
        if value or value is None:
            params["schema"][name] = node(value, name)
        else:
            params["schema"].pop(name, None)
    params["evaluate"]["segments"] = node(found.segments, "segments")
    params["evaluate"]["cost"]["false_positive"] = params["evaluate"]["cost"]["false_negative"] = 1
    params["gates"] = yaml.load(GATES)
    params.yaml_set_comment_before_after_key("monitoring", before="\n")
    changes += [
        "evaluate.cost is 1:1: set what a false positive and a false negative cost you",
        "gates: AUC at least 0.5, and not worse than the champion: raise the bar to what the task needs",
        f"evaluate.segments: {', '.join(found.segments) or 'none'}",
        *stays(params["project"], place.held(source)),
    ]
    with explained("params.yaml", ValidationError):
        Params.model_validate(params)

    ingest = graph["stages"]["ingest"]
    old = (before, place.held(before))
    stay = [path for path in ingest.get("deps", []) if path not in old and not path.endswith("/simulator.py")]
    ingest["deps"] = stay if "://" in source else [*stay, place.held(source)]
    if not ingest["deps"]:
        del ingest["deps"]
    texts = {}
    for name, content in (("params.yaml", params), ("dvc.yaml", graph)):
        text = io.StringIO()
        yaml.dump(content, text)
        texts[name] = text.getvalue()
    return texts, changes


def stays(project: str, table: str) -> list[str]:
    """What belongs to the old table, and adopt must not change."""
    lines = [
        f"{name} stays under DVC, and nothing reads it: `uv run dvc remove --outs {shlex.quote(f'{name}.dvc')}` removes it"
        for path in sorted((ROOT / "data").glob("*.dvc"))
        if (name := path.relative_to(ROOT).as_posix().removesuffix(".dvc")) != table
    ]
    if re.search(r"://[^/]*@|\?.*=", table):
        lines.append("params.yaml and git keep the whole URL: it must have no password or token")
    if (ROOT / registry.DATABASE).exists() or "MLFLOW_TRACKING_URI" in os.environ:
        before = "the old table's runs and versions"
        lines.append(f"{project!r} in MLflow keeps {before}; change `project` to separate them")
    if (where := predictions.location()) != str(ROOT / predictions.LOG):
        lines.append(f"PREDICTION_LOG={where} has the old table's predictions: give another")
    card = ROOT / "MODEL_CARD.md"
    if card.exists() and "<!-- use" in (text := card.read_text("utf-8")) and model_card.USE not in text:
        lines.append("MODEL_CARD.md: its section on intended use is about the old table")
    if running := release.running():
        lines.append(f"{running}: the old table's model runs there until the next deploy")
    return lines


def round_trip() -> YAML:
    """YAML that keeps comments and order."""
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 110, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    null = "tag:yaml.org,2002:null"
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar(null, "null")
    )
    return yaml


def node(value: Any, key: str) -> Any:
    """A value as YAML: a column on one line, the table's own words in quotes."""
    if isinstance(value, dict):
        made = CommentedMap({name: node(item, name) for name, item in value.items()})
        if key != "rename" and not any(isinstance(item, dict) for item in value.values()):
            made.fa.set_flow_style()
        return made
    if isinstance(value, list):
        listed = CommentedSeq([node(item, "key" if key in ("key", "segments") else "") for item in value])
        listed.fa.set_flow_style()
        return listed
    plain = not isinstance(value, str) or key in ("type", "name", "entity", "timestamp", "key")
    return value if plain else DoubleQuotedScalarString(value)
