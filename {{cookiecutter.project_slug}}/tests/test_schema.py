"""params.yaml and what derives from it: the contract between data, model and service."""

import json
from pathlib import Path

import pytest

from {{ cookiecutter.package_name }}.params import ROOT, UserError, load

MODELS = [path for path in sorted((ROOT / "models").glob("*")) if (path / "model.json").exists()]


def test_params_are_valid() -> None:
    params = load()
    assert params.schema_.features
    assert params.schema_.target.name not in params.schema_.features


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("min_auc:", "min_acu:", "gates.min_acu"),
        ("target:", "target: {name: a, nmae: b} #", "schema.target.nmae"),
        ("holdout:", "holdout: 2 #", "split.holdout"),
    ],
)
def test_a_mistake_in_params_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace(old, new))
    with pytest.raises(UserError, match=named):
        load(path)


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_a_model_answers_for_its_example(folder: Path) -> None:
    import pandas as pd

    from {{ cookiecutter.package_name }}.model.graph import Graph
    from {{ cookiecutter.package_name }}.params import Schema

    model = json.loads((folder / "model.json").read_text())
    graph = Graph(folder / "model.onnx", Schema.model_validate(model["schema"]))
    row = pd.DataFrame([model["example"]])
    empty = row.astype(object).where(row.isna(), None)
    unseen = row.assign(**dict.fromkeys(model["categories"], "never seen"))
    for rows in (row, empty, unseen):
        (probability,) = graph.probability(rows)
        assert 0 <= probability <= 1
