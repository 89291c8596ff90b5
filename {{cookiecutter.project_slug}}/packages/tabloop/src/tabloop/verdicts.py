"""How an evaluation reads: the same words and figures on its page, in a pull request, in MODEL_CARD.md, on the console."""

import textwrap
from typing import TYPE_CHECKING, Any

from tabloop.cli import one_line
from tabloop.gates import Gate
from tabloop.terminal import WIDTH

if TYPE_CHECKING:
    from tabloop.metrics import Estimate

TITLES = {"auc": "AUC", "brier": "Brier score"}
# Of the numbers in evaluation.json, those that are no metric of one model.
OTHER = {"rows", "positives", "auc_low", "auc_high"}


def name_of(metric: str) -> str:
    """A metric's name for people."""
    return TITLES.get(metric, metric.replace("_", " "))


def title(gate: Gate, level: str | None = None) -> str:
    """What a gate, or its check of a level, is about."""
    where = "" if gate.by is None else f" by {gate.by}" if level is None else f", {gate.by} {one_line(level)}"
    return name_of(gate.metric) + where + (", against the champion" if gate.against else "")


def rule(gate: Gate) -> str:
    """The bar, and what is compared with it."""
    bar = f"at {'least' if gate.higher else 'most'} {gate.bar:g}"
    bar = f"worse by at most {gate.margin:g}" if gate.against else bar
    return bar if gate.end == "value" else f"{bar}, at the interval's {gate.end.replace('_', ' ')}"


def failure(check: dict[str, Any]) -> str:
    """Why a check failed, in a clause."""
    return f"{check['name']}: {shown(check, bool(check['against'])) or check['note']} fails the bar: {check['rule']}"


def shown(found: dict[str, Any], signed: bool) -> str:
    """A figure with its interval: value, low, high."""
    form = "+z.4f" if signed else "z.4f"
    value, low, high = ("" if found[n] is None else f"{found[n]:{form}}" for n in ("value", "low", "high"))
    return f"{value} [{low}, {high}]" if low else value


def compared(gap: "Estimate") -> str:
    """The candidate beside the champion, by the difference in AUC, in a sentence."""
    figure = f"AUC {shown(vars(gap), signed=True)}"
    if gap.low > 0:
        return f"The candidate is better than the champion: {figure}"
    if gap.high < 0:
        return f"The candidate is worse than the champion: {figure}"
    return f"The candidate does not differ significantly from the champion: {figure}"


def checks(result: dict[str, Any]) -> list[list[str]]:
    """The table of the gates: what, value with interval, bar, verdict.

    Args:
        result: evaluation.json, here and below.
    """
    words = {True: "passed", False: "failed", None: "not judged"}
    table = []
    for check in result["gate"]["checks"]:
        verdict = ": ".join(filter(None, (words[check["passed"]], check["note"])))
        table.append([check["name"], shown(check, bool(check["against"])), check["rule"], verdict])
    return table


def metrics(result: dict[str, Any]) -> list[list[str]]:
    """The table of the metrics: name, candidate, champion, difference with interval, all on the same rows."""
    champion, table = result["champion"], []
    theirs = champion.get("metrics", {})
    gaps = {gap["metric"]: shown(gap, signed=True) for gap in champion.get("differences", [])}
    for name, value in result.items():
        if name not in OTHER and (value is None or type(value) in (int, float)):
            their = figure(theirs[name]) if name in theirs else ""
            table.append([name_of(name), figure(value), their, gaps.get(name, "")])
    return table


def figure(value: float | None) -> str:
    """A metric with four digits."""
    return "undefined" if value is None else f"{value:.4f}"


def line(result: dict[str, Any]) -> str:
    """The verdict in a line."""
    return f"{result['gate']['reason']}, on {result['rows']:,} rows. {result['champion']['verdict']}"


def console(result: dict[str, Any]) -> str:
    """Each check of the gates as text: its verdict, then what was found and the bar, at most WIDTH characters a line."""
    lines = []
    for name, found, rule, verdict in checks(result):
        word, _, note = verdict.partition(": ")
        about = f"{word:12}{name}: {', '.join(filter(None, (found, note)))} (bar: {rule})"
        lines += textwrap.wrap(about, WIDTH, subsequent_indent=" " * 12)
    return "\n".join(lines)


def gates(result: dict[str, Any]) -> str:
    """The table of the gates as Markdown."""
    return markdown(["gate", "found", "bar", "verdict"], checks(result))


def beside(result: dict[str, Any], more: list[list[str]] | None = None) -> str:
    """The table of the metrics as Markdown, with more rows."""
    return markdown(["", "candidate", "champion", "difference"], metrics(result) + (more or []))


def markdown(head: list[str], table: list[list[str]]) -> str:
    """A table as Markdown."""
    rows = [map(cell, row) for row in table]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def cell(text: str) -> str:
    """Any text, for example a level, in a cell of a Markdown table."""
    signs = str.maketrans({"|": "\\|", "\n": " ", "<": "&lt;"})
    return text.translate(signs)
