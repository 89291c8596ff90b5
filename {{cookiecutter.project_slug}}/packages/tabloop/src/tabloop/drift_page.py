"""The page of a drift check: the verdict, and each column's bins beside the reference's."""

from pathlib import Path
from typing import Any

from tabloop import files
from tabloop.params import Params

WIDTH, HEIGHT = 320, 96  # of a column's picture


def write(params: Params, result: dict[str, Any], path: Path) -> None:
    """Write the page, which opens offline."""
    from jinja2 import Environment, FileSystemLoader

    loader = FileSystemLoader(Path(__file__).parent)
    template = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template(
        "drift.html"
    )
    pictures = {name: bars(column) for name, column in result["columns"].items()}
    page = template.render(params=params, result=result, pictures=pictures, width=WIDTH, height=HEIGHT)
    files.write(path, page + "\n")


def bars(column: dict[str, Any]) -> list[dict[str, Any]]:
    """The bins that have rows on either side: label, shares, and the bars' place and heights."""
    kept = [
        bin
        for bin in zip(column["bins"], column["reference"], column["current"], strict=True)
        if any(bin[1:])
    ]
    top = max((max(shares) for _, *shares in kept), default=1)
    step = WIDTH / max(len(kept), 1)
    return [
        {
            "label": label,
            "shares": (before, after),
            "x": i * step,
            "width": step,
            "heights": [share / top * HEIGHT for share in (before, after)],
        }
        for i, (label, before, after) in enumerate(kept)
    ]
