"""Progress bars: of what takes longer than a second, and on a terminal only."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

DELAY = 1  # seconds after which a bar appears


def progress(what: str, total: float | None, counted: str = "{n_fmt}B") -> "tqdm[NoReturn]":
    """A bar with the share done and the time left, of what takes more than a second; on a terminal only.

    Args:
        counted: what is shown where there is no total.
    """
    from tqdm import tqdm

    shown = "{desc}: {percentage:3.0f}%|{bar}| {remaining} left" if total else f"{{desc}}: {counted}"
    return tqdm(
        desc=what, total=total, delay=DELAY, leave=False, disable=None, unit_scale=True, bar_format=shown
    )


@contextmanager
def watched(what: str, done: Callable[[], float] | None = None) -> Iterator[None]:
    """A bar of work that says by `done`, from 0 to 100, how far it is; without it the time that it has taken."""
    over = threading.Event()
    with progress(what, 100 if done else None, "{elapsed}") as bar:

        def watch() -> None:
            while not over.wait(0.3):
                bar.update(max(done(), bar.n) - bar.n if done else 0)

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
