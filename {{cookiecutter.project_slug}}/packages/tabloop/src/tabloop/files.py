"""Folders and files that are replaced as a whole: a command that fails or is interrupted leaves what was there."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """An empty folder on the same disk as `beside`, to fill; it is removed at the end."""
    part = beside.with_name(f".{beside.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # what an interrupted run left
    part.mkdir(parents=True)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def replace(folder: Path, by: Path) -> None:
    """Replace `folder` by the folder `by`."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():  # by its name: removing it takes longer, and a kill would leave half
        folder.rename(old)
    by.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write(path: Path, text: str) -> None:
    """Write a text file, and its folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, "utf-8", newline="\n")
    part.replace(path)


def write_json(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Write a result as JSON, and return it."""
    write(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return result


def temporary() -> Path:
    """A folder that lasts as long as the process: DuckDB reads a table when it is asked for rows."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
