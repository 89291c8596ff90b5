"""Progress bars: of what takes longer than a second, and on a terminal only."""

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from tqdm import tqdm

DELAY = 1  # seconds after which a bar appears


def progress(what: str, total: float | None) -> "tqdm[NoReturn]":
    """A bar with the share done and the time left, of what takes more than a second; on a terminal only."""
    from tqdm import tqdm

    shown = "{desc}: {percentage:3.0f}%|{bar}| {remaining} left" if total else "{desc}: {n_fmt}B"
    return tqdm(
        desc=what, total=total, delay=DELAY, leave=False, disable=None, unit_scale=True, bar_format=shown
    )
