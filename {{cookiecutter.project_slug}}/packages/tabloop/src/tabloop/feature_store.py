"""Feast: the point-in-time join, and the online store in which the service looks features up."""

import contextlib
import io
import logging
import runpy
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tabloop.cli import UserError, one_line
from tabloop.params import ROOT, Params, Schema

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

REPO = ROOT / "feature_repo"


@contextlib.contextmanager
def opened(base: Path) -> Iterator["FeatureStore"]:
    """Feast's store with the definitions of feature_repo applied.

    Args:
        base: the folder whose `data/features/` holds the views and whose `data/online/` gets the online store. The
            paths in feature_repo are relative, so a stage can give a scratch folder until it has succeeded. Feast takes
            some from its repository's folder and some from the working directory, which is therefore set to it.

    Raises:
        UserError: feature_repo is wrong.
    """
    from feast import FeatureStore
    from feast.repo_config import load_repo_config

    warnings.filterwarnings("ignore", category=DeprecationWarning, module="ibis")
    logging.getLogger("feast").setLevel(logging.ERROR)
    here = base / "feature_repo"
    for folder in (here, base / "data/online"):
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(here):
        try:
            definitions = runpy.run_path(
                str(REPO / "definitions.py")
            )  # an import would leave bytecode in feature_repo
            store = FeatureStore(str(here), load_repo_config(here, REPO / "feature_store.yaml"))
            store.apply([definitions["entity"], *definitions["views"]])
        except (
            Exception
        ) as error:  # Feast's exceptions have no common base, and the definitions are the owner's code
            raise UserError(f"feature_repo: {type(error).__name__}: {one_line(error)[:300]}") from None
        yield store


def write_online(store: "FeatureStore") -> None:
    """Write the newest row of every entity to the online store."""
    with contextlib.redirect_stdout(io.StringIO()):  # a page of Feast's own
        store.materialize(datetime(1970, 1, 1, tzinfo=UTC), datetime.now(UTC))


def materialize(params: Params) -> str:
    """Write the newest features of data/features to the online store; what was written.

    Raises:
        UserError: data/features lacks a view: `dvc repro` or `dvc pull` makes it.
    """
    views = list(params.schema_.views)
    if lacking := [view for view in views if not (ROOT / f"data/features/{view}.parquet").exists()]:
        raise UserError(
            f"data/features/{lacking[0]}.parquet is missing: run `dvc repro featurize` or `dvc pull`"
        )
    if not views:
        return "the schema has no views: nothing is looked up"
    with opened(ROOT) as store:
        write_online(store)
    return f"{', '.join(views)} -> the online store"


def join(events: "pd.DataFrame", schema: Schema, store: "FeatureStore") -> "pd.DataFrame":
    """The events, each with the row of every view that was last known at its `event_timestamp`."""
    events = events.assign(event_timestamp=events.event_timestamp.dt.tz_localize("UTC"))
    names = [f"{view}:{column}" for view, columns in schema.views.items() for column in columns]
    joined = store.get_historical_features(entity_df=events, features=names).to_df()
    return joined.assign(event_timestamp=joined.event_timestamp.dt.tz_localize(None))
