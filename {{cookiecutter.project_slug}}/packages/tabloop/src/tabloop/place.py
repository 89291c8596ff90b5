"""Where the adopted table is kept, and how it gets there: whole, under DVC, or not at all."""

import filecmp
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from tabloop import predictions, roles
from tabloop.cli import UserError, git, one_line
from tabloop.params import ROOT
from tabloop.reading.source import is_pattern, save

OURS = ("raw", "features", "online", "log")  # in data/


def of(source: str, leaving: list[str]) -> str:
    """Where the table will be, from the project's folder. A URL, a glob or what is in the project stays where it is.

    Args:
        leaving: what adopt removes.

    Raises:
        UserError: adopt would remove it, or something else has its place.
    """
    path = Path(source).resolve()
    if "://" in source:
        return source
    if path.is_relative_to(ROOT):
        name = path.relative_to(ROOT).as_posix()
        if taken := [own for own in (*leaving, predictions.LOG) if Path(name).is_relative_to(own)]:
            raise UserError(f"{name}: the pipeline empties {taken[0]}: move the table first")
        if held(name) in (".", "data"):
            raise UserError(f"{source}: put the files into their own folder, which DVC can track")
        return name
    if held(source) != source:
        raise UserError(f"{source} is outside the project: name the folder instead")
    if path.name in OURS or path.name.endswith(".dvc"):
        raise UserError(f"data/{path.name} belongs to the pipeline: give the table another name")
    kept = ROOT / "data" / path.name
    if kept.exists() and not same(path, kept):
        advice = f"remove it, or adopt it as it is with DATA=data/{path.name}"
        raise UserError(f"data/{path.name} exists already, with other content: {advice}")
    return f"data/{path.name}"


def held(name: str) -> str:
    """The file or folder that DVC holds: of a glob the folder before the first pattern."""
    if not is_pattern(name) or (ROOT / name).exists():
        return name
    return Path(*takewhile(lambda part: not is_pattern(part), Path(name).parts)).as_posix()


def same(one: Path, other: Path) -> bool:
    """Whether two files or folders have the same content."""
    if one.is_file() and other.is_file():
        return filecmp.cmp(one, other, shallow=False)
    names = [{p.relative_to(top) for p in top.rglob("*") if p.is_file()} for top in (one, other)]
    different = filecmp.cmpfiles(one, other, map(str, names[0]), shallow=False)[1:]
    return names[0] == names[1] and not any(different)


@contextmanager
def keep(source: str, kept: str) -> Iterator[None]:
    """Copy the table into the project and put it under DVC, unless git holds it; undone if what follows fails, too.

    Raises:
        UserError: it can't be copied, or DVC refuses it; all is as it was.
    """
    inside = ROOT / held(kept)
    if "://" in source or git("ls-files", "--", held(kept), where=ROOT):
        yield
        return
    about = [inside.with_name(f"{inside.name}.dvc"), inside.with_name(".gitignore")]
    before = [path.read_bytes() if path.exists() else None for path in about]
    copied = not inside.exists()
    part = inside.with_name(f".{inside.name}.part")
    try:
        if copied:
            copy(Path(source).resolve(), part)
            part.rename(inside)
        add(inside)
        yield
    except BaseException as error:
        for path in (part, inside) if copied else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for path, content in zip(about, before, strict=True):
            path.unlink(missing_ok=True) if content is None else path.write_bytes(content)
        if isinstance(error, OSError):
            raise UserError(f"{kept}: it can't be copied: {one_line(error)}") from None
        raise


def copy(source: Path, part: Path) -> None:
    """Copy a file or a folder."""
    part.parent.mkdir(exist_ok=True)
    if source.is_dir():
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        return
    with source.open("rb") as file:
        save(file, part, "copying", source.stat().st_size)


def add(path: Path) -> None:
    """Put a file or folder under DVC.

    Raises:
        UserError: DVC refuses it.
    """
    with roles.dvc(f"{path.relative_to(ROOT)}: DVC refuses it") as repo:
        repo.add(str(path))
