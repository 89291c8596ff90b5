"""Feast: the point-in-time join, and the online store in which the service looks features up."""

import collections
import contextlib
import logging
import runpy
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tabloop.cli import UserError, one_line, use_utc
from tabloop.params import ROOT, Params, Schema
from tabloop.serving.online_store import OnlineStore, redis_field, redis_index
from tabloop.serving.settings import STORE, load_settings

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
        return write_redis(views, url, settings.online_store_password)
    if lacking := [view for view in views if not (ROOT / f"data/features/{view}.parquet").exists()]:
        raise UserError(
            f"data/features/{lacking[0]}.parquet is missing: run `dvc repro featurize` or `dvc pull`"
        )
    from tabloop.online_file import write_online

    with opened(ROOT) as store:
        values, written, removed = write_online(store)
    return f"{written:,} of {values:,} values written, {removed:,} removed -> data/online"


def redis_hashes(project: str, views: list[str]) -> dict[bytes, dict[bytes, bytes]]:
    """What data/online/store.db holds as Feast's Redis store has it: a hash for each entity.

    Raises:
        UserError: the file is missing, or has no row of a view.
    """
    from google.protobuf.timestamp_pb2 import Timestamp

    store = OnlineStore(str(STORE), project, None, {})
    hashes = collections.defaultdict[bytes, dict[bytes, bytes]](dict)
    for view in views:
        if not STORE.is_file() or not (rows := store.rows(view)):
            raise UserError(f"data/online/store.db has no row of {view}: run `dvc repro` or `dvc pull`")
        for key, column, value, known in rows:
            fields = hashes[key + project.encode()]
            fields[redis_field(view, column)] = value
            fields[redis_field(view, "")] = Timestamp(seconds=known).SerializeToString()
    return hashes


def write_redis(views: list[str], url: str, password: str) -> str:
    """Let Redis hold what data/online/store.db holds; what was written. Only entities that differ are.

    Raises:
        UserError: the file lacks a view; Redis does not answer or refuses.
    """
    from redis import Redis, RedisError

    project = yaml.safe_load((REPO / "feature_store.yaml").read_text())["project"]
    hashes, index, where = redis_hashes(project, views), redis_index(project), url.rpartition("@")[2]
    keys, written = list(hashes), 0
    try:
        client: Any = Redis.from_url(url, password=password or None, socket_timeout=60)
        with client.pipeline() as pipe:  # transactions: an entity's features change at once
            for part in (keys[at : at + 1000] for at in range(0, len(keys), 1000)):
                for key in part:
                    pipe.hgetall(key)
                differing = [k for k, has in zip(part, pipe.execute(), strict=True) if has != hashes[k]]
                for key in differing:
                    pipe.delete(key).hset(key, mapping=hashes[key])
                pipe.sadd(f"{index}:keys", *part).execute()
                written += len(differing)
            gone = [key for key in client.sscan_iter(f"{index}:keys") if key not in hashes]
            for key in gone:
                pipe.delete(key).srem(f"{index}:keys", key)
            pipe.delete(index).sadd(index, *views).execute()
    except (RedisError, ValueError) as error:
        raise UserError(f"ONLINE_STORE={where}: {one_line(error)}") from None
    return f"{written:,} of {len(keys):,} entities written, {len(gone):,} removed -> {where}"


def join(store: "FeatureStore", schema: Schema, db: "DuckDBPyConnection", events: str) -> "DuckDBPyRelation":
    """The events, each with the row of every view that was last known at its `event_timestamp`; nothing is computed yet.

    Args:
        events: DuckDB's SQL, which names nothing that only `db` knows.
    """
    names = [f"{view}:{column}" for view, columns in schema.views.items() for column in columns]
    if store.config.offline_store.type.startswith("tabloop."):
        own: Any = store.get_historical_features(events, names)
        joined: DuckDBPyRelation = own.relation
        return joined
    # Feast's other stores take a frame, whose times have a zone.
    frame = db.sql(f"SELECT * REPLACE (event_timestamp::TIMESTAMPTZ AS event_timestamp) FROM ({events})").df()
    table = store.get_historical_features(frame, names).to_arrow()
    return db.from_arrow(table).project("* REPLACE (event_timestamp::TIMESTAMP AS event_timestamp)")
