"""Where a table is and what it is: paths, URLs, globs, folders, archives, and the format by its first bytes."""

import bz2
import gzip
import lzma
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tabloop.cli import UserError, correction, explained, one_line
from tabloop.files import temporary
from tabloop.progress import progress

UNPACK: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
# Of these, none is read.
OTHERS = {b"%PDF-": "PDF", b"SQLite format 3": "SQLite", b"\x89HDF": "HDF5", b"\x89PNG": "PNG"}
OTHERS |= {b"Rar!\x1a": "RAR", b"Obj\x01": "Avro", b"\x28\xb5\x2f\xfd": "zstd", b"\x80\x04\x95": "pickle"}
OTHERS |= {b"\x80\x05\x95": "pickle", b"\x93NUMPY": "NumPy", b"<stata_dta>": "Stata", b"$FL2@(#)": "SPSS"}
OTHERS |= {b"7z\xbc\xaf": "7z", b"<?xml": "XML"}
FORMATS = {b"PAR1": "parquet", b"ARROW1": "arrow", b"\xff\xff\xff\xff": "arrow", b"\xd0\xcf\x11\xe0": "excel"}
BINARY = {".parquet": "Parquet", ".parq": "Parquet", ".pq": "Parquet", ".feather": "Arrow", ".arrow": "Arrow"}
BROKEN = OSError, EOFError, zipfile.BadZipFile, tarfile.TarError, lzma.LZMAError, RuntimeError
SILENCE = 60  # seconds after which a server that sends nothing is given up


@dataclass(frozen=True)
class Source:
    """What is to be read: files of one format. `folder` is where hive partitions (`country=DE/`) begin, if any."""

    name: str
    files: list[Path]
    format: str
    folder: Path | None = None


def locate(source: str, root: Path) -> Source:
    """The files of a path, URL, glob or folder, unpacked.

    Raises:
        UserError: there are none, they are empty, or of several formats.
    """
    folder: Path | None
    if "://" in source:
        paths, folder = [fetched(source)], None
    elif (path := root / source).is_dir():
        paths, folder = sorted(p for p in path.rglob("*") if p.is_file()), path
        paths = [p for p in paths if not any(part[0] in "._" for part in p.relative_to(path).parts)]
    elif is_pattern(source) and not path.exists():
        whole = Path(source) if Path(source).is_absolute() else path
        folder = next(p for p in whole.parents if not is_pattern(str(p)))
        paths = sorted(p for p in folder.glob(str(whole.relative_to(folder))) if p.is_file())
    else:
        paths, folder = [path] if path.is_file() else [], None
    if not paths:
        raise UserError(f"{source}: {'the folder has no file' if folder == path else 'no such file'}")
    if not any(p.stat().st_size for p in paths):
        raise UserError(f"{source} is empty")
    files = [unpacked(p) for p in paths if p.stat().st_size]
    formats = {format_of(p) for p in files}
    if len(formats) > 1:
        listed = ", ".join(sorted(formats))
        raise UserError(f"{source} has files of several formats ({listed}): name one, or {source}/*.csv")
    partitioned = folder and any("=" in part for part in paths[0].relative_to(folder).parts[:-1])
    return Source(source, files, formats.pop(), folder if partitioned else None)


def is_pattern(path: str) -> bool:
    """Whether a path has a sign of patterns. A file's name may have one, too."""
    return any(sign in path for sign in "*?[")


def format_of(path: Path) -> str:
    """The format by the first bytes; text is `csv` unless it is JSON.

    Raises:
        UserError: the name says another one.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"PK"):
        return "excel"
    if found := next((name for magic, name in FORMATS.items() if head.startswith(magic)), None):
        return found
    if (suffix := path.suffix.lower()) in BINARY:
        raise UserError(f"{path.name} can't be read as a table: it is no {BINARY[suffix]} file")
    if other := next((name for magic, name in OTHERS.items() if head.startswith(magic)), None):
        what = f"{path.name} is of the format {other}, which is not read"
        raise UserError(f"{what}: save it as CSV, Parquet or xlsx")
    start = head.lstrip(b"\xef\xbb\xbf \r\n\t")
    if start.startswith(b"<"):
        raise UserError(f"{path.name} is HTML or XML, not a table: save it as CSV or xlsx")
    listed = path.suffix.lower() in (".json", ".jsonl", ".ndjson") or start[1:].lstrip()[:1] == b"{"
    return "json" if start[:1] == b"{" or (start[:1] == b"[" and listed) else "csv"


def unpacked(path: Path) -> Path:
    """The file itself, or the one in the archive.

    Raises:
        UserError: the archive is broken or holds several files.
    """
    import fsspec

    with path.open("rb") as file:
        head = file.read(6)
    target = temporary() / path.stem
    with explained(f"{path.name} can't be unpacked", *BROKEN):
        if head.startswith(b"PK") or tarfile.is_tarfile(path):
            kind = "zip" if head.startswith(b"PK") else "tar"
            archive = fsspec.filesystem(kind, fo=str(path), skip_instance_cache=True)
            names = archive.find("")
            if "[Content_Types].xml" in names or "content.xml" in names:  # a workbook
                return path
            names = [name for name in names if not re.search(r"(^|/)(\.|__)", name)]  # hidden ones
            if len(names) != 1:
                what = f"{len(names)} files ({', '.join(names[:5])})"
                raise UserError(f"{path.name} holds {what}: unpack it and name one")
            with archive.open(names[0]) as packed:
                save(packed, target)
        elif opener := next((o for magic, o in UNPACK.items() if head.startswith(magic)), None):
            with opener(path) as packed:
                save(packed, target)
        elif is_pattern(str(path)):  # which DuckDB would take for a pattern
            target = temporary() / "table"
            target.symlink_to(path.resolve())
        else:
            return path
    return target if target.is_symlink() else unpacked(target)


def save(source: IO[bytes], target: Path, what: str = "unpacking", size: int | None = None) -> None:
    """Write what `source` gives."""
    with progress(what, size) as bar, target.open("wb") as file:
        while part := source.read(1 << 20):
            file.write(part)
            bar.update(len(part))


def fetched(url: str) -> Path:
    """A copy of what a URL gives.

    Raises:
        UserError: it can't be fetched.
    """
    import aiohttp
    import fsspec

    path = temporary() / (Path(url.split("?")[0]).name or "table")
    options: dict[str, Any] = {}
    if url.startswith("http"):  # no limit for all of it: a large table takes long
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE, sock_read=SILENCE)
        options = {"client_kwargs": {"timeout": timeout, "trust_env": True}}
    try:
        with fsspec.open(url, **options) as remote:
            save(remote, path, "fetching", getattr(remote, "size", None))
    except Exception as error:  # each protocol has exceptions of its own
        why = correction(error) or one_line(error.__cause__ or error).replace(url, "").strip(" ,")
        raise UserError(f"{url} can't be fetched: {why or type(error).__name__}") from None
    return path
