"""The steps of `train` around the estimator: read the features, describe the model, write models/candidate."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tabloop import files, onnx_model, provenance, roles, split
from tabloop.card import ModelCard, Parity
from tabloop.cli import UserError, one_line
from tabloop.params import ROOT, Column, Params, Schema
from tabloop.progress import watched

FEATURES = ROOT / "data/features"
CHECKPOINTS = ROOT / ".checkpoints"  # of a training that was ended; see torch_training
REFERENCE_ROWS = 10_000


def read_features(part: str, schema: Schema | None = None) -> pd.DataFrame:
    """The rows of `train` or `holdout` as featurize wrote them.

    Args:
        schema: if given, columns that no model needs, such as the key, are left out: half of the memory.

    Raises:
        UserError: featurize did not run.
    """
    from pyarrow.parquet import read_table

    if not (path := FEATURES / f"{part}.parquet").exists():
        raise UserError(f"{path.relative_to(ROOT)} is missing: run `make train`")
    columns = None
    if schema and (order := schema.timestamp or schema.entity):  # without either, the whole row has a hash
        judged_by = schema.sensitive if part == "holdout" else {}
        columns = list(dict.fromkeys([order, *schema.features, *judged_by, schema.target.name]))
    return read_table(path, columns=columns).to_pandas(split_blocks=True, self_destruct=True)


def sample_rows(path: Path, columns: list[str], size: int) -> pd.DataFrame:
    """At most so many rows of a Parquet file, in order; the others are not held in memory."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        rows, batches = file.metadata.num_rows, []
        at = np.sort(np.random.default_rng(0).choice(rows, min(size, rows), replace=False))
        first = 0
        for batch in file.iter_batches(columns=columns):
            begin, end = np.searchsorted(at, [first, first + len(batch)])
            batches.append(batch.take(pa.array(at[begin:end] - first)))
            first += len(batch)
    return pa.Table.from_batches(batches).to_pandas()


def in_order(rows: pd.DataFrame, schema: Schema) -> pd.DataFrame:
    """The rows by time; without a timestamp by a hash of the entity (or row). A training may stop by the last ones."""
    key = rows[schema.timestamp].to_numpy() if schema.timestamp else split.hashes(rows, schema)
    return rows if (key[1:] >= key[:-1]).all() else rows.iloc[np.argsort(key, kind="stable")]


def fit_or_explain(
    fit: Callable[..., Any], features: pd.DataFrame, target: np.ndarray, params: Params
) -> Any:
    """The estimator that `fit` returns for (n, columns) features, `in_order`, and (n,) of 0 and 1.

    Raises:
        UserError: an argument under `train` in params.yaml is wrong.
    """
    # Estimators fail at a column without a value. A constant is one that they don't use.
    columns = params.schema_.features
    if empty := [name for name in columns if (features[name].isna() | (features[name] == "")).all()]:
        where = f"no value in any of {len(features):,} training rows"
        print(f"train: {', '.join(empty)}: {where}, so not used", flush=True)
        zeros = {name: np.float32(0) for name in empty if columns[name].numeric}
        features = features.assign(**zeros)
    try:
        with watched(f"train: fitting {len(features):,} rows"):
            return fit(features, target, params.schema_, params.train)
    except (TypeError, ValueError) as error:  # what estimators raise for arguments that they don't take
        raise UserError(f"params.yaml: train: {one_line(error)}") from error


def describe(
    graph: bytes, framework: str, threshold: float, parity: Parity, train: pd.DataFrame, params: Params
) -> ModelCard:
    """The model's card, as far as training knows it."""
    schema = params.schema_
    features = onnx_model.model_inputs(train, schema)
    levels = {n: sorted(set(features[n]) - {""}) for n, c in schema.features.items() if not c.numeric}
    return ModelCard(
        schema=schema,
        version=version_of(graph, threshold, schema),
        inputs=provenance.inputs(),
        data_hash=hash_of(FEATURES / "train.parquet"),
        source_table=params.source_table,
        framework=framework,
        rows=len(train),
        days=_days(train[schema.timestamp]) if schema.timestamp else None,
        categories=levels,
        ranges={n: _range(features[n].to_numpy()) for n, c in schema.features.items() if c.numeric},
        example=example(train, schema),
        parity=parity,
        threshold=threshold,
    )


def hash_of(path: Path) -> str:
    """The first 12 hex digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def version_of(graph: bytes, threshold: float, schema: Schema) -> str:
    """The version of a model: all that decides its answers is in it, and nothing else."""
    declared = schema.model_dump(mode="json", exclude_defaults=True)
    rest = json.dumps({"schema": declared, "threshold": threshold}, sort_keys=True)
    return hashlib.sha256(graph + rest.encode()).hexdigest()[:12]


def _range(values: np.ndarray) -> tuple[float | None, float | None]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if len(known) else (None, None)


def _days(times: "pd.Series[Any]") -> tuple[str, str]:
    return str(times.min().date()), str(times.max().date())


def example(rows: pd.DataFrame, schema: Schema) -> dict[str, Any]:
    """A row to try the model with. It is nobody's: of each column the median, or the most frequent value."""
    return {name: _typical(rows[name].dropna(), column) for name, column in schema.features.items()}


def _typical(known: "pd.Series[Any]", column: Column) -> Any:
    if known.empty:
        return None
    number = column.type in ("number", "integer")
    return column.kind.python(known.quantile(interpolation="lower") if number else known.mode()[0])


def reference(holdout: pd.DataFrame, probability: np.ndarray, schema: Schema) -> pd.DataFrame:
    """Rows that later predictions are compared with: a sample of the holdout and their probabilities, (n,)."""
    rows = holdout[[*schema.features, schema.target.name]].assign(probability=probability)
    return rows.sample(min(REFERENCE_ROWS, len(rows)), random_state=0).sort_index()


@contextmanager
def written(card: ModelCard, graph: bytes, reference: pd.DataFrame) -> Iterator[Path]:
    """The folder that becomes models/candidate at the end, for what else belongs there. If that fails, nothing changes."""
    with files.scratch(roles.CANDIDATE) as part:
        (part / onnx_model.FILE).write_bytes(graph)
        reference.to_parquet(part / "reference.parquet", index=False)
        card.write(part)
        yield part
        files.replace(roles.CANDIDATE, part)
    shutil.rmtree(CHECKPOINTS, ignore_errors=True)
