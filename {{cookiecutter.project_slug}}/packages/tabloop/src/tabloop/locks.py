"""POSIX's locks of files. Windows has none: there a lock stops with one line, and all that needs none works."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tabloop.cli import UserError

try:
    import fcntl

    opened: Any = os.open
except ImportError:

    class fcntl:  # type: ignore[no-redef]
        """What stands for fcntl on Windows."""

        LOCK_EX = LOCK_NB = LOCK_UN = 0

        @staticmethod
        def flock(*_: object) -> None:
            """Refuse."""
            raise UserError("this needs file locks that Windows lacks: run it in WSL 2")

        lockf = flock

    opened = fcntl.flock  # Windows opens no folder


@contextmanager
def alone(path: Path, why: str) -> Iterator[None]:
    """Hold the lock of a file or folder: none stays when this process is killed.

    Raises:
        UserError: another process holds it; the text is `why`.
    """
    lock = opened(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.fstat(lock).st_ino == path.stat().st_ino  # the one before may have removed it
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise UserError(why)
        yield
    finally:
        os.close(lock)


__all__ = ["alone", "fcntl"]
