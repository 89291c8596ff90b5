"""Feast: the point-in-time join, and the online store in which the service looks features up."""

import contextlib
import logging
import runpy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabloop.cli import UserError, one_line, use_utc
from tabloop.params import ROOT, Params, Schema
from tabloop.serving.settings import load_settings

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection, DuckDBPyRelation
    from feast import FeatureStore

REPO = ROOT / "feature_repo"


def import_feast() -> "tuple[type[FeatureStore], Callable[..., Any]]":
    """Feast's FeatureStore and load_repo_config, imported in a third of the time.

    Feast rewrites its own classes at import to check the types of its calls, as `python -O` would not.
    """
    import typeguard

    checked = typeguard.typechecked
    typeguard.typechecked = lambda target: target  # type: ignore[assignment]
    try:
        from feast import FeatureStore
        from feast.repo_config import load_repo_config
    finally:
        typeguard.typechecked = checked
    return FeatureStore, load_repo_config


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
    FeatureStore, load_repo_config = import_feast()
    warnings.filterwarnings("ignore", category=DeprecationWarning, module="ibis")
    logging.getLogger("feast").setLevel(logging.ERROR)
    use_utc()  # Feast's SQLite store would keep the times of this machine's zone as if they were UTC
    here = base / "feature_repo"
    for folder in (here, base / "data/online"):
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(here):
        try:
            # An import would leave bytecode in feature_repo.
            definitions = runpy.run_path(str(REPO / "definitions.py"))
            store = FeatureStore(str(here), load_repo_config(here, REPO / "feature_store.yaml"))
            store.apply([definitions["entity"], *definitions["views"]])
        # Feast's exceptions have no common base, and the definitions are the owner's code.
        except Exception as error:
            raise UserError(f"feature_repo: {type(error).__name__}: {one_line(error)[:300]}") from None
        yield store


def materialize(params: Params) -> str:
    """Write the newest features to the store that ONLINE_STORE names; what was written.

    The stage `featurize` only ever writes data/online: a branch that is not merged changes nothing shared.

    Raises:
        UserError: data/features or data/online lacks a view: `dvc repro` or `dvc pull` makes it. Or Redis refuses.
    """
    views, settings = list(params.schema_.views), load_settings()
    if not views:
        return "the schema has no views: nothing is looked up"
    if "://" in (url := str(settings.online_store)):
        from tabloop.redis_copy import write_redis

        return write_redis(views, url, settings.online_store_password)
    from tabloop.online_file import write_online
    from tabloop.views import require_files

    require_files(views, ROOT / "data/features")

    with opened(ROOT) as store:
        values, written, removed = write_online(store)
    return f"{written:,} of {values:,} values written, {removed:,} removed -> data/online"


def join(store: "FeatureStore", schema: Schema, db: "DuckDBPyConnection", events: str) -> "DuckDBPyRelation":
    """The events, each with the row of every view that was last known at its `event_timestamp`; nothing is computed yet.

    Args:
        events: DuckDB's SQL, which names nothing that only `db` knows.
    """
    names = [f"{view}:{column}" for view, columns in schema.views.items() for column in columns]
    if store.config.offline_store.type.startswith("tabloop."):
        own: Any = store.get_historical_features(events, names)
        return own.relation
    # Feast's other stores take a frame, whose times have a zone.
    frame = db.sql(f"SELECT * REPLACE (event_timestamp::TIMESTAMPTZ AS event_timestamp) FROM ({events})").df()
    table = store.get_historical_features(frame, names).to_arrow()
    return db.from_arrow(table).project("* REPLACE (event_timestamp::TIMESTAMP AS event_timestamp)")
