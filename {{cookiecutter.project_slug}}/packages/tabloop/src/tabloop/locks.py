"""POSIX's locks of files. Windows has none: there a lock stops with one line, and all that needs none works."""

from tabloop.cli import UserError

try:
    import fcntl
except ImportError:

    class fcntl:  # type: ignore[no-redef]
        """What stands for fcntl on Windows."""

        LOCK_EX = LOCK_NB = LOCK_UN = 0

        @staticmethod
        def flock(*_: object) -> None:
            """Refuse."""
            raise UserError("Windows does not lock files as this needs it: run this in WSL 2")

        lockf = flock


__all__ = ["fcntl"]
