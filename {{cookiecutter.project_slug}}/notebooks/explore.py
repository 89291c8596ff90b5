# %% [markdown]
# # From a notebook to the project
# Run `make train` first. This file is plain Python with cells (`# %%`): VS Code and PyCharm open it as it is, Jupyter by
# `uv run --with jupyterlab --with jupytext jupyter lab`, "Open with: Notebook". For marimo, convert it first:
# `uvx --with jupytext marimo convert notebooks/explore.py -o notebook.py`, `uv run --with marimo marimo edit notebook.py`.
# Every name of a column comes from params.yaml.

# %%
import os
from pathlib import Path

here = Path(__file__).resolve() if "__file__" in globals() else Path.cwd()
root = next(folder for folder in [here, *here.parents] if (folder / "params.yaml").exists())
os.chdir(root)  # before tabloop is imported, which looks for the project here
if not Path("data/features/train.parquet").exists():
    raise SystemExit("explore: data/features/train.parquet is missing: run `make train`")

import numpy as np  # noqa: E402
from tabloop.candidate import in_order, read_features  # noqa: E402
from tabloop.evaluation import by_segment  # noqa: E402
from tabloop.feature_store import opened  # noqa: E402
from tabloop.metrics import Estimate, auc_interval, delong, half_width  # noqa: E402
from tabloop.onnx_model import model_inputs  # noqa: E402
from tabloop.params import Column, load  # noqa: E402
from tabloop.verdicts import shown  # noqa: E402

from {{ cookiecutter.package_name }}.model import fit  # noqa: E402

params = load()
schema, confidence = params.schema_, params.evaluate.confidence
target = schema.target.name

# %% [markdown]
# ## The data, as `train` and `evaluate` read them

# %%
rows = in_order(read_features("train"), schema)
print(f"{len(rows):,} rows, {rows[target].mean():.2%} positive")
print(rows[list(schema.features)].describe(include="all").T.to_string())

# %% [markdown]
# ## Features at a point in time: what Feast knew of an entity, then
# Give any entities and times. This is the join that `featurize` makes, so no value is newer than its event.

# %%
if schema.views and schema.entity and schema.timestamp:
    events = rows[[schema.entity, schema.timestamp]].tail(5)
    events = events.rename(columns={schema.timestamp: "event_timestamp"})
    events["event_timestamp"] = events["event_timestamp"].dt.tz_localize("UTC")
    names = [f"{view}:{name}" for view, columns in schema.views.items() for name in columns]
    with opened(root) as store:
        found = store.get_historical_features(events, names).to_df()
        print(found.sort_values("event_timestamp").to_string(index=False))

# %% [markdown]
# ## A fit on the older part of train
# The newest quarter of train says how good it is. The holdout stays for `evaluate`: whoever looks at it often, fits it.

# %%
cut = len(rows) * 3 // 4
older, newer = rows[:cut], rows[cut:]
truth = newer[target].to_numpy()
estimator = fit(model_inputs(older, schema), older[target].to_numpy(), schema, params.train)
before = estimator.predict_proba(model_inputs(newer, schema))[:, 1]
print("AUC", shown(vars(auc_interval(truth, before, confidence)), signed=False))
for name, levels in by_segment(truth, before, newer, params.evaluate.segments, confidence).items():
    for level, found in levels.items():
        area = shown({**found, "value": found["auc"]}, signed=False)
        print(f"{name} {level}: AUC {area or 'one class'}, {found['rows']:,} rows")

# %% [markdown]
# ## An idea: does a new feature raise the AUC?
# Here: the schema's last number divided by its median in the row's level of the first category. Write your own in `idea`.

# %%
numbers = [name for name, column in schema.features.items() if column.type == "number"]
categories = [name for name, column in schema.features.items() if column.type == "category"]


def idea(table):  # type: ignore[no-untyped-def]
    """The new column, from columns that are known when a prediction is asked for; what it learns is from `older`."""
    number = numbers[-1] if numbers else next(iter(schema.features))
    if not numbers or not categories:
        return np.zeros(len(table))
    usual = older.groupby(categories[0])[number].median()
    return table[number].astype(float) / table[categories[0]].map(usual).astype(float)


wider = schema.model_copy(update={"request": {**schema.request, "idea": Column(type="number")}})
older, newer = older.assign(idea=idea(older)), newer.assign(idea=idea(newer))
estimator = fit(model_inputs(older, wider), older[target].to_numpy(), wider, params.train)
after = estimator.predict_proba(model_inputs(newer, wider))[:, 1]
(new, moved), (old, other) = (delong(truth, scores) for scores in (after, before))
half = half_width(moved - other, confidence)  # of the difference on the same rows
gain = Estimate(new - old, new - old - half, new - old + half)
print("AUC gained by the idea:", shown(vars(gain), signed=True))
print("The interval is above 0: it helps" if gain.low > 0 else "Not shown to help: leave it out")

# %% [markdown]
# ## What to copy where
# 1. A feature of an entity: its SQL goes to `feature_repo/<view>.sql`, its name and type to `schema.views` of `params.yaml`.
# 2. A column that your raw table has and the client sends: only name and type, to `schema.request`.
# 3. One that follows from the request: compute it inside the estimator of `model.py`, so that it is part of the graph.
# 4. Another estimator: `fit` in `model.py`. Its arguments: `train` of `params.yaml`. A metric: `measure` in `evaluate.py`.
#
# Then `make train`: the gates say whether it is better than the champion.
