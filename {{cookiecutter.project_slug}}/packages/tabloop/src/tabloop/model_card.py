"""MODEL_CARD.md: what the registered model is, what it was trained on, how good it is. People write its intended use."""

import re
from pathlib import Path
from typing import Any

from tabloop import files, release, verdicts
from tabloop.card import ModelCard
from tabloop.columns import literal, quote
from tabloop.params import ROOT, Params

USE = """<!-- use: this section is kept -->
## Intended use

Who decides what with this model, about whom, and what must it not be used for? Fill in.
<!-- /use -->"""
LEVELS = 20  # levels of a category that are listed


def write(
    params: Params, card: ModelCard, evaluation: dict[str, Any], entry: int, role: str | None, path: Path
) -> None:
    """Write the page from model_card.md.jinja; the section on intended use stays as it was.

    The headings follow Mitchell et al., "Model Cards for Model Reporting" (2019).

    Args:
        evaluation: metrics/evaluation.json.
        entry: the registry's version.
        role: champion, challenger or None.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    kept = re.search(r"<!-- use.*?<!-- /use -->", path.read_text(), re.DOTALL) if path.exists() else None
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"digits": digits, "cell": cell}
    text = environment.get_template("model_card.md.jinja").render(
        params=params,
        card=card,
        result=evaluation,
        line=verdicts.line(evaluation),
        gates=verdicts.gates(evaluation),
        metrics=verdicts.beside(evaluation),
        entry=entry,
        role=role,
        use=kept[0] if kept else USE,
        window=window(params.schema_.timestamp),
        images=release.environments_of(card.version),
        features=card.schema_.features,
        origin={name: view for view, columns in card.schema_.views.items() for name in columns},
        seen=lambda name: seen(card, name),
    )
    files.write(path, text)


def digits(value: float | None) -> str:
    """A metric with four digits."""
    return "undefined" if value is None else f"{value:.4f}"


def cell(text: str) -> str:
    """A text in a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


def seen(card: ModelCard, name: str) -> str:
    """The levels or the range of a column in the training rows."""
    if name in card.categories:
        levels = card.categories[name]
        more = f" and {len(levels) - LEVELS:,} more" if len(levels) > LEVELS else ""
        return ", ".join(levels[:LEVELS]) + more
    low, high = card.ranges[name]
    return "always missing" if low is None or high is None else f"{low:g} to {high:g}"


def window(timestamp: str | None) -> tuple[str, str] | None:
    """The first and last day of the training rows."""
    rows = ROOT / "data/features/train.parquet"
    if not timestamp or not rows.exists():
        return None
    import duckdb

    time = quote(timestamp)
    days = f"SELECT min({time})::DATE::VARCHAR, max({time})::DATE::VARCHAR FROM {literal(rows)}"
    first, last = duckdb.connect().sql(days).fetchall()[0]
    return first, last
