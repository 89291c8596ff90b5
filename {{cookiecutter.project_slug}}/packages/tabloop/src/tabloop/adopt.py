"""Replace the example by your own table: infer its schema, say what was inferred, write it to params.yaml.

Run by `make adopt DATA=my.csv TARGET=churned [ENTITY=customer_id] [TIMESTAMP=date]`.
"""

import argparse
import io
import shutil
import subprocess
from pathlib import Path
from typing import Any

from .params import ROOT, Params, UserError, stage

PACKAGE = Path(__file__).parent
EXAMPLE = [PACKAGE / "simulator.py", ROOT / "tests/test_example.py"]
# What the example, or the table before, left behind; git and DVC keep what was committed.
LEFT_BEHIND = [
    "data/raw",
    "data/features",
    "data/online_store.db",
    "data/registry.db",
    "metrics",
    "reports",
    "dvc.lock",
]
LEFT_BEHIND += [
    f"models/{role}{end}" for role in ("candidate", "champion", "challenger") for end in ("", ".dvc")
]


def refuse_to_lose_changes() -> None:
    """Raises: UserError: git does not hold what is about to be overwritten."""
    paths = ["params.yaml", "dvc.yaml", "feature_repo", *LEFT_BEHIND, *(str(path) for path in EXAMPLE)]
    command = ["git", "status", "--porcelain", "--", *paths]
    changed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    if changed:
        raise UserError(
            f"{changed[0][3:]} has changes that git does not hold, and it would be overwritten: "
            "`git add --all && git commit` first"
        )


def keep(source: str) -> str:
    """Bring a file into the project, under DVC; its path from the project's folder. A URL stays where it is.

    Raises:
        UserError: another file of that name is in the way, or DVC can't take it.
    """
    if "://" in source:
        return source
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    path = Path(source).resolve()
    if not path.is_relative_to(ROOT):
        inside = ROOT / "data" / path.name
        if inside.exists():
            raise UserError(
                f"data/{path.name} exists already: remove it, or adopt it as it is with DATA=data/{path.name}"
            )
        inside.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, inside)
        path = inside
    try:
        Repo(str(ROOT)).add(str(path))
    except DvcException as error:
        if path != Path(source).resolve():
            path.unlink()
        raise UserError(f"{path.relative_to(ROOT)}: DVC can't take it: {error}") from None
    return str(path.relative_to(ROOT))


def rewrite(source: str, schema: dict[str, Any], segments: list[str]) -> None:
    """Write params.yaml and dvc.yaml for the new table, comments kept."""
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 110, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )

    def node(value: Any, key: str) -> Any:
        """As YAML: a column on a line, and in quotes what the table's own words could be taken for otherwise."""
        if isinstance(value, dict):
            made = CommentedMap({name: node(item, name) for name, item in value.items()})
            if not any(isinstance(item, dict) for item in value.values()):
                made.fa.set_flow_style()
            return made
        if isinstance(value, list):
            return yaml.load(f"[{', '.join(value)}]")
        plain = not isinstance(value, str) or key in ("type", "name", "entity", "timestamp")
        return value if plain else DoubleQuotedScalarString(value)

    params = yaml.load(ROOT / "params.yaml")
    if params["data"].pop("simulator", None):
        params.yaml_set_comment_before_after_key("schema", before="\n")
    before = params["data"]["source"]
    params["data"]["source"] = node(source, "source")
    for name, value in schema.items():
        if value or value is None:
            params["schema"][name] = node(value, name)
        else:
            params["schema"].pop(name, None)
    params["evaluate"]["segments"] = node(segments, "segments")
    params["gates"]["min_auc"] = 0.5
    params["gates"].yaml_add_eol_comment("raise it to what the task needs", "min_auc")
    Params.model_validate(params)

    graph = yaml.load(ROOT / "dvc.yaml")
    needs, gone = graph["stages"]["ingest"]["deps"], (f"src/{PACKAGE.name}/simulator.py", before)
    needs[:] = [path for path in needs if path not in gone] + ([] if "://" in source else [source])
    for name, content in (("params.yaml", params), ("dvc.yaml", graph)):
        text = io.StringIO()
        yaml.dump(content, text)
        (ROOT / name).write_text(text.getvalue())


def adopt(source: str, target: str, entity: str | None, timestamp: str | None) -> str:
    """Make the project that of the given table; what was decided, as text.

    Raises:
        UserError: the table can't be read or used, or changes would be lost; the project is as it was.
    """
    from .infer import infer
    from .table import read

    refuse_to_lose_changes()
    print(f"adopt: reading {source} ...", flush=True)
    table = read(source, Path.cwd())
    found = infer(table, target, entity, timestamp)
    kept = keep(source)
    rewrite(kept, found.schema, found.segments)
    for path in [*EXAMPLE, *(ROOT / "feature_repo").glob("*.sql"), *(ROOT / name for name in LEFT_BEHIND)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    width = max(len(name) for name, _, _ in found.decisions)
    lines = [f"  {name:<{width}}  {decision:<9}  {why}" for name, decision, why in found.decisions]
    views = [
        f"  looked up by {found.schema['entity']}: {', '.join(view)}"
        for view in found.schema["views"].values()
    ]
    split = "by time" if timestamp else f"by hash of {entity or 'the row'}"
    facts = [f"  key: {' + '.join(found.schema['key']) or 'none: duplicates are not checked'}; split {split}"]
    return "\n".join(
        [*lines, *views, *facts, "", "params.yaml holds it: read and mend it. Next: `make train`."]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="adopt", description=__doc__)
    parser.add_argument("data", help="CSV or Parquet file or URL")
    parser.add_argument("--target", required=True, help="the column to predict: two values")
    parser.add_argument("--entity", help="whom a row is about: customer_id")
    parser.add_argument("--timestamp", help="when a row happened")
    arguments = parser.parse_args()
    with stage("adopt"):
        if not arguments.data or not arguments.target:
            raise UserError("say which table and what to predict: make adopt DATA=my.csv TARGET=churned")
        print(adopt(arguments.data, arguments.target, arguments.entity, arguments.timestamp))
