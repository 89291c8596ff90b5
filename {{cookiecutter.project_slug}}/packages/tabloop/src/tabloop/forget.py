"""Remove a person from the prediction log, data/raw, data/features and the online store, and say what else holds them.

Each file is replaced as a whole, so no reader sees half. Labels leave before the predictions that they name: a run that was
killed is finished by the next one.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tabloop import compaction, database, ingest, locks, predictions, redis_copy, report
from tabloop.cli import UserError, explained, one_line
from tabloop.columns import key_of, literal, quote
from tabloop.params import ROOT, Params
from tabloop.serving.online_store import entity_key, redis_index
from tabloop.serving.settings import STORE, load_settings

FOLDERS = ("data/raw", "data/features", "data/online")
ROUNDS = 3  # rows that are written meanwhile, or files that are compacted, are found by the next one
# What has rows of the person: how many, and what removes them.
Places = dict[str, tuple[int, Callable[[], None]]]


def forget(params: Params, entity: str, agreed: Callable[[str], bool]) -> tuple[str, bool]:
    """Remove an entity; what was done, and whether it came again meanwhile.

    Args:
        entity: its key; of a NUL, which a command's argument can't have, \\x00.
        agreed: asks whether to remove what it is shown.

    Raises:
        UserError: there is nothing of this entity; it was not agreed; another one is at work; a store can't be read or written.
    """
    name, entity = params.schema_.entity, entity.replace(r"\x00", "\0").strip()
    if not name:
        raise UserError("params.yaml: the schema has no entity")
    with locks.alone(ROOT / "params.yaml", "another forget is running: try again when it has ended"):
        if not (places := found(params, name, entity)):
            everywhere = "the log, data/raw, data/features and the store"
            raise UserError(f"there is nothing of {name} {entity!r} in {everywhere}")
        listed = "\n".join(f"  {rows:>9,}  {place}" for place, (rows, _) in places.items())
        if not agreed(f"rows of {name} {entity!r}:\n{listed}"):
            raise UserError("nothing was removed: answer y, or give --yes without a terminal")
        for folder in (ROOT / name for name in FOLDERS):  # what runs and stages left that were killed
            for part in folder.rglob("*.part"):
                part.unlink()
            for end in ("part", "old"):
                shutil.rmtree(folder.with_name(f".{folder.name}.{end}"), ignore_errors=True)
        for _ in range(ROUNDS):
            for _, remove in places.values():
                remove()
            if not (places := found(params, name, entity)):
                break
        done = report.text("forget.txt.jinja", source=source(params, name, entity), places=list(places))
        return done, bool(places)


def found(params: Params, name: str, entity: str) -> Places:
    """All places that have rows of the entity, in the order in which they are to be removed."""
    settings, places = load_settings(), Places()
    logs = {predictions.location()}
    if params.data.feedback:
        logs.add(predictions.log_of(params.data.feedback))
    logs |= {str(path) for path in predictions.set_aside()}
    for log in sorted(logs):
        places |= in_log(log, entity)
    db = database.connect()
    for path in (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.parquet"))):
        with predictions.errors():
            table = db.read_parquet(str(path))
            if name in table.columns:
                kind = str(table.types[table.columns.index(name)])
                own = table.filter(f"{key_of(quote(name), kind)} = {literal(entity)}").project(quote(name))
                if rows := len(own):
                    values = own.distinct().to_arrow_table()[name].combine_chunks()
                    remove = partial(remove_rows, [str(path)], name, values)
                    places[path.relative_to(ROOT).as_posix()] = rows, remove
    key = entity_key(name, entity)
    if "://" in (url := str(settings.online_store)):
        places |= in_redis(url, settings.online_store_password, key)
        url = str(STORE)
    for file in sorted({STORE, Path(url)}):
        places |= in_file(file, key)
    return places


def in_log(log: str, entity: str) -> Places:
    """The labels of the entity's predictions, and the predictions, in all files of the log: those that do not count, too."""
    db, places = database.connect(), Places()
    with explained(f"{log} can't be read"):
        files = {}
        for table in ("predictions", "feedback"):
            fs, folder = fsspec.url_to_fs(f"{log}/{table}")
            fs.invalidate_cache()
            paths = fs.find(folder) if fs.exists(folder) else []
            files[table] = [path if "file" in fs.protocol else fs.unstrip_protocol(path) for path in paths]
        if "file" not in fs.protocol:
            db.register_filesystem(fs)
    values = [entity]
    for table, column in (("predictions", "entity"), ("feedback", "prediction_id")):
        if not (parquet := [path for path in files[table] if path.endswith(".parquet")]) or not values:
            break
        with predictions.errors():  # one statement: each asks an object store anew
            paths, among = (", ".join(map(literal, texts)) for texts in (parquet, values))
            rows = f"read_parquet([{paths}], union_by_name = true, filename = true)"
            query = f"SELECT filename, prediction_id FROM {rows} WHERE {quote(column)} IN ({among})"
            own = db.sql(query).fetchall()
        if having := sorted({path for path, _ in own}):
            remove = partial(remove_rows, having, column, pa.array(values))
            places[f"{table} in {log}, in {len(having):,} files"] = len(own), remove
        values = list(dict.fromkeys(key for _, key in own))
    return dict(reversed(places.items()))


def remove_rows(paths: list[str], column: str, values: pa.Array) -> None:
    """Write Parquet files again without the rows that have one of these values in a column."""
    for path in paths:
        fs, inside = fsspec.url_to_fs(path)
        with suppress(FileNotFoundError), fs.open(inside) as file:  # a compaction removed it
            source = pq.ParquetFile(file)
            schema = source.schema_arrow
            gone = values.cast(schema.field(column).type)
            kept = (
                pa.Table.from_batches([batch.filter(pc.invert(pc.is_in(batch[column], gone)))])
                for batch in source.iter_batches(compaction.GROUP)
            )
            compaction.write(fs, inside, schema, kept, replace=True)


def in_file(path: Path, key: bytes) -> Places:
    """The entity's values in an SQLite store. The file is replaced, as it may be DVC's, and has what was deleted in it."""
    if not path.is_file():
        return {}
    with (
        explained(str(path), sqlite3.Error),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db,
    ):
        named = "SELECT m.name FROM sqlite_master m, pragma_table_info(m.name) c WHERE c.name = 'entity_key'"
        tables = [quote(row[0]) for row in db.execute(f"{named} AND m.type = 'table'")]
        count = "SELECT count(*) FROM {} WHERE entity_key = ?"
        rows = sum(db.execute(count.format(table), [key]).fetchone()[0] for table in tables)

    def remove() -> None:
        part = path.with_name(f"{path.name}.part")
        shutil.copyfile(path, part)
        with closing(sqlite3.connect(part)) as db:
            for table in tables:
                db.execute(f"DELETE FROM {table} WHERE entity_key = ?", [key])
            db.commit()
            db.execute("VACUUM")
        part.replace(path)

    place = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
    return {place: (rows, remove)} if rows else {}


def in_redis(url: str, password: str, key: bytes) -> Places:
    """The entity's hash in Redis."""
    with redis_copy.connected(url, password) as (client, project):
        own = key + project.encode()
        rows = client.hlen(own)

    def remove() -> None:
        client.delete(own)
        client.srem(f"{redis_index(project)}:keys", own)

    return {f"ONLINE_STORE={url.rpartition('@')[2]}": (rows, remove)} if rows else {}


def source(params: Params, name: str, entity: str) -> str:
    """Whether the next ingest brings the entity back, and what prevents that."""
    from tabloop.reading.read import read

    table, raw = params.data.source, params.schema_.rename.get(name, name)
    if table == "simulator":
        return "data.source is the simulator: the next ingest makes the same rows again"
    try:
        rows = read(table, ROOT, ingest.expected(params.schema_, params.data.reading)).relation
        kind = str(rows.types[rows.columns.index(raw)])
        count = len(rows.filter(f"{key_of(quote(raw), kind)} = {literal(entity)}"))
    except (UserError, ValueError) as error:
        return f"Does data.source still have this person? It can't be read: {one_line(error)}"
    if not count:
        return f"{table} has no row of this person: the next `make train` makes data and models without them"
    held = f" and run `uv run dvc add {table}`" if (ROOT / f"{table}.dvc").exists() else ""
    return f"{table} STILL HAS {count:,} ROWS of this person, and the next ingest brings them back: remove them there{held}"
