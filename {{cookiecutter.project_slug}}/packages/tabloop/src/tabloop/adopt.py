"""Replace the example by the owner's table: infer its schema, print each decision, write it to params.yaml."""

import io
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabloop import files
from tabloop.cli import UserError, git, one_line
from tabloop.params import ROOT, Params

if TYPE_CHECKING:
    from ruamel.yaml import YAML

    from tabloop.infer import Inferred

# Results of the example or of the table before; git and DVC keep what was committed.
RESULTS = ["data/raw", "data/features", "data/online", "metrics", "reports", "dvc.lock"]
RESULTS += [f"models/{role}{end}" for role in ("candidate", "champion", "challenger") for end in ("", ".dvc")]


def adopt(source: str, target: str, entity: str | None, timestamp: str | None) -> str:
    """Make the project one for the given table; the decisions as text.

    Raises:
        UserError: the table can't be read or used, or changes would be lost; the project is as it was.
    """
    from tabloop.infer import infer
    from tabloop.table import read

    example = [
        *ROOT.glob("src/*/simulator.py"),
        ROOT / "tests/test_example.py",
        *ROOT.glob("feature_repo/*.sql"),
    ]
    leaving = [*example, *(ROOT / name for name in RESULTS)]
    refuse_to_lose_changes(leaving)
    print(f"adopt: reading {source} ...", flush=True)
    found = infer(read(source, Path.cwd()).relation, target, entity, timestamp)
    kept = place(source)
    texts = rewritten(kept, found)
    keep(source, kept)
    for name, text in texts.items():
        files.write(ROOT / name, text)
    for path in leaving:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return report(found, entity, timestamp)


def refuse_to_lose_changes(leaving: list[Path]) -> None:
    """Raises: UserError: git does not hold what is about to be changed or removed."""
    paths = ["params.yaml", "dvc.yaml", "feature_repo", *map(str, leaving)]
    if changed := git("status", "--porcelain", "--", *paths, where=ROOT):
        raise UserError(
            f"{changed.splitlines()[0][2:].strip()} has changes that git does not hold, and it would be overwritten: "
            "`git add --all && git commit` first"
        )


def place(source: str) -> str:
    """Where the table will be, from the project's folder. A URL or a file in the project stays where it is.

    Raises:
        UserError: another file of that name is in the way.
    """
    path = Path(source).resolve()
    if "://" in source:
        return source
    if path.is_relative_to(ROOT):
        return path.relative_to(ROOT).as_posix()
    if (ROOT / "data" / path.name).exists():
        raise UserError(
            f"data/{path.name} exists already: remove it, or adopt it as it is with DATA=data/{path.name}"
        )
    return f"data/{path.name}"


def keep(source: str, kept: str) -> None:
    """Copy the table into the project and put it under DVC.

    Raises:
        UserError: DVC refuses; the copy is removed.
    """
    if "://" in source:
        return
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    inside, copied = ROOT / kept, not (ROOT / kept).exists()
    if copied:
        inside.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, inside)
    try:
        with Repo(str(ROOT)) as repo:
            repo.add(str(inside))
    except DvcException as error:
        if copied:
            inside.unlink()
        raise UserError(f"{kept}: DVC refuses it: {one_line(error)}") from None


def rewritten(source: str, found: "Inferred") -> dict[str, str]:
    """params.yaml and dvc.yaml for the new table, comments kept.

    Raises:
        UserError: params.yaml would not be valid.
    """
    from pydantic import ValidationError

    yaml = round_trip()
    params, graph = yaml.load(ROOT / "params.yaml"), yaml.load(ROOT / "dvc.yaml")
    before = params["data"]["source"]
    if params["data"].pop("simulator", None):
        params.yaml_set_comment_before_after_key("schema", before="\n")
    params["data"]["source"] = node(yaml, source, "source")
    for name, value in found.schema.items():
        if value or value is None:
            params["schema"][name] = node(yaml, value, name)
        else:
            params["schema"].pop(name, None)
    params["evaluate"]["segments"] = node(yaml, found.segments, "segments")
    params["gates"]["min_auc"] = 0.5
    params["gates"].yaml_add_eol_comment("raise it to what the task needs", "min_auc")
    try:
        Params.model_validate(params)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"params.yaml: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None

    ingest = graph["stages"]["ingest"]
    stay = [path for path in ingest.get("deps", []) if path != before and not path.endswith("/simulator.py")]
    ingest["deps"] = stay if "://" in source else [*stay, source]
    if not ingest["deps"]:
        del ingest["deps"]
    texts = {}
    for name, content in (("params.yaml", params), ("dvc.yaml", graph)):
        text = io.StringIO()
        yaml.dump(content, text)
        texts[name] = text.getvalue()
    return texts


def round_trip() -> "YAML":
    """YAML that keeps comments and order."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 110, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    null = "tag:yaml.org,2002:null"
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar(null, "null")
    )
    return yaml


def node(yaml: "YAML", value: Any, key: str) -> Any:
    """A value as YAML: a column on one line, the table's own words in quotes."""
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        made = CommentedMap({name: node(yaml, item, name) for name, item in value.items()})
        if key != "rename" and not any(isinstance(item, dict) for item in value.values()):
            made.fa.set_flow_style()
        return made
    if isinstance(value, list):
        return yaml.load(f"[{', '.join(value)}]")
    plain = not isinstance(value, str) or key in ("type", "name", "entity", "timestamp")
    return value if plain else DoubleQuotedScalarString(value)


def report(found: "Inferred", entity: str | None, timestamp: str | None) -> str:
    """Every decision, a line each."""
    width = max(len(name) for name, _, _ in found.decisions)
    lines = [f"  {name:<{width}}  {decision:<9}  {why}" for name, decision, why in found.decisions]
    views = [
        f"  looked up by {found.schema['entity']}: {', '.join(view)}"
        for view in found.schema["views"].values()
    ]
    by = "by time" if timestamp else f"by hash of {entity or 'the row'}"
    key = " + ".join(found.schema["key"]) or "none, so duplicates are not checked"
    end = "params.yaml has the schema: read and correct it. Next: `make train`."
    return "\n".join([*lines, *views, f"  key: {key}; split {by}", "", end])
