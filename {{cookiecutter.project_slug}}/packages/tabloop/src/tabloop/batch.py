"""Batch scoring: any table in, Parquet out; rows that the service would refuse go into a file of their own.

Parts are written into a hidden folder beside the output, which appears as a whole at the end. A run that was interrupted
goes on after its last part if model, input, views and settings are the same.
"""

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tabloop import files, ray_engine
from tabloop.batch_score import Scorer
from tabloop.batch_source import BatchTable, look_up, open_table
from tabloop.cli import UserError, explained
from tabloop.locks import alone
from tabloop.progress import progress
from tabloop.roles import MODELS, pin, required
from tabloop.serving.served_model import ServedModel
from tabloop.serving.settings import cores

BLOCK = 1 << 15  # rows that a thread scores at once
PART = 1 << 20  # rows of a part, the most that an interrupted run loses

Role = Literal["champion", "challenger", "candidate"]
Scored = tuple[pa.Table, pa.Table]  # rows that were scored, and that were refused


def batch(source: str, output: str, role: Role) -> tuple[str, int]:
    """Score the table at `source`; what was done, and how many rows were refused.

    Args:
        output: a path: one file if it ends with .parquet, a folder of parts if it has no ending.

    Raises:
        UserError: the model, the input or a view is missing or wrong, all rows are refused, or the output can't be
            written. The output is as it was.
    """
    target = Path(output).absolute()
    model = load_model(role)
    table = open_table(source, model.schema)
    refuse_to_overwrite(target, output, table.files)
    problem = f"{output} can't be written"
    with explained(problem, OSError, duckdb.Error), working_folder(target, output) as folder:
        begin(folder, f"Arrow {model.version} {PART} {table.digest()}")
        if table.views:
            table = look_up(table, model.schema, folder / "looked_up.parquet")
        rows, refused = score_parts(table, Scorer(model, table.keys, table.looked_up), folder)
        left = publish(folder, target, refused == rows)
    why = f"{refused:,} refused -> {left}" if refused else "none refused"
    if refused == rows:
        raise UserError(f"no row of {source} can be scored: all {why}")
    return f"{rows - refused:,} rows scored by the {role} {model.version} -> {output}, {why}", refused


def load_model(role: Role) -> ServedModel:
    """The model that has this role here: in an image the folder, elsewhere what git pins.

    Raises:
        UserError: there is none, or it is pinned but not here.
    """
    if role != "candidate" and (pin(role) or not (MODELS / role).exists()):
        required(role)
    return ServedModel(role, MODELS / role)


def refuse_to_overwrite(target: Path, output: str, inputs: list[Path]) -> None:
    """Raises: UserError: the output is no path, has another ending, is or holds the input, or is a folder of other files."""
    if "://" in output:
        raise UserError(f"{output} is not a path: write to a file or folder, then copy it")
    resolved = target.resolve()
    if any(path.resolve() == resolved or resolved in path.resolve().parents for path in inputs):
        raise UserError(f"{output} is the input or contains it: name another output")
    if target.is_dir() and (
        target.suffix == ".parquet" or any(not is_part(path) for path in target.iterdir())
    ):
        raise UserError(f"{output} is a folder with other files: name another output, or a new folder in it")
    ending = target.suffix[1:].isalpha() and not target.is_dir()  # there is none in scores-2026.11
    # A folder would replace what is none, as a file or a device.
    if target.suffix != ".parquet" and (ending or (target.exists() and not target.is_dir())):
        raise UserError(f"{output}: name a file that ends with .parquet, or a folder without an ending")


def is_part(path: Path) -> bool:
    """Whether a file is one that `publish` made."""
    return path.name.startswith("part-") and path.suffix == ".parquet"


@contextmanager
def working_folder(target: Path, output: str) -> Iterator[Path]:
    """The hidden folder beside the output in which it is made, locked as long as this process lives.

    Raises:
        UserError: another process works in it, or it can't be made.
    """
    folder = target.with_name(f".{target.name}.batch")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # without the name of the folder, which nobody gave
        raise UserError(f"{output} can't be written: {error.strerror}") from None
    with alone(folder, f"another batch writes {output}: wait until it ends"):
        yield folder


def begin(folder: Path, run: str) -> None:
    """Keep what an interrupted run of the same left in the folder, or start again; say which."""
    state, parts = folder / "run.json", len(list(folder.glob("*.refused")))
    if state.exists() and json.loads(state.read_text("utf-8")) == run:
        if parts:
            print(f"batch: continues after {parts:,} parts of an interrupted run", flush=True)
        return
    if state.exists():
        print("batch: starts again: the model, the input, a view or a setting changed", flush=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    files.write(state, json.dumps(run))


def score_parts(table: BatchTable, scorer: Scorer, folder: Path) -> tuple[int, int]:
    """Write `<n>.scored` and then `<n>.refused`, Arrow both, of each part that is not there yet; rows, refused rows."""
    done = len(list(folder.glob("*.refused")))
    total = table.relation.aggregate("count(*)").fetchall()[0][0]
    with progress("scoring", total) as bar, workers(scorer) as (submit, most):
        bar.update(done * PART)
        for part, blocks in groupby(
            cut(table.blocks(done * PART, BLOCK), done * PART), lambda block: block[0] // PART
        ):
            scored = ahead(lambda block: submit(block[1], block[0]), blocks, 2 * most)
            write_part(folder, part, scored, bar.update)
    return total, sum(map(rows_of, folder.glob("*.refused")))


@contextmanager
def workers(scorer: Scorer) -> Iterator[tuple[Callable[..., Any], int]]:
    """What gives a block to a thread here, or to a worker of the Ray cluster, and how many there are."""
    if ray_engine.is_chosen():
        with ray_engine.cluster(scorer) as cluster:
            yield cluster.submit, cluster.cores
    else:
        with ThreadPoolExecutor(cores()) as pool:
            yield lambda *block: pool.submit(scorer, *block), cores()


def cut(blocks: Iterable[pa.RecordBatch], first: int) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The blocks with the number of their first row, none of them in two parts."""
    for block in blocks:
        while block.num_rows:
            rows = min(block.num_rows, PART - first % PART)
            yield first, block[:rows]
            first, block = first + rows, block[rows:]


def ahead(submit: Callable[[Any], Any], items: Iterable[Any], most: int) -> Iterator[Any]:
    """The results in order, at most so many computed before they are taken."""
    waiting = deque[Any]()
    for item in items:
        waiting.append(submit(item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def write_part(folder: Path, part: int, blocks: Iterable[Scored], written: Callable[[int], Any]) -> None:
    """Write both files of a part; the second says that it is complete."""
    names = [folder / f"{part:05}.{what}" for what in ("scored", "refused")]
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    writers = list[pa.ipc.RecordBatchFileWriter]()
    try:
        for tables in blocks:
            if not writers:
                writers = [
                    pa.ipc.new_file(f"{p}.part", t.schema, options=options)
                    for p, t in zip(names, tables, strict=True)
                ]
            for writer, rows in zip(writers, tables, strict=True):
                if len(rows):
                    writer.write_table(rows)
            written(sum(map(len, tables)))
    finally:
        for writer in writers:
            writer.close()
    for path in names:
        Path(f"{path}.part").replace(path)


def publish(folder: Path, target: Path, all_refused: bool) -> Path:
    """Give the refused rows and, if there are others, the output their names; the name of the refused ones."""
    left = target.with_name(f"{target.stem if target.suffix == '.parquet' else target.name}.refused.parquet")
    refused, scored = (sorted(folder.glob(f"*.{what}")) for what in ("refused", "scored"))
    if any(map(rows_of, refused)):
        together(refused, folder / "refused").replace(left)
    else:
        left.unlink(missing_ok=True)
    if not all_refused and target.suffix == ".parquet":
        together(scored, folder / "output").replace(target)
    elif not all_refused:
        made = folder / "output"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        for path in scored:
            together([path], made / f"part-{path.stem}.parquet")
        files.replace(target, made)
    shutil.rmtree(folder)
    return left


def rows_of(part: Path) -> int:
    """The number of rows in a file that `write_part` wrote."""
    return sum(batch.num_rows for batch in batches(part))


def batches(part: Path) -> Iterator[pa.RecordBatch]:
    """The rows of a file that `write_part` wrote."""
    with pa.memory_map(str(part)) as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


def together(parts: list[Path], made: Path) -> Path:
    """One Parquet file of all parts, in order."""
    with pa.memory_map(str(parts[0])) as file:
        schema = pa.ipc.open_file(file).schema
    with pq.ParquetWriter(made, schema) as writer:
        for part in parts:
            for batch in batches(part):
                writer.write_batch(batch)
    return made
