"""The target's classes: which is positive, which values are no label, and what the owner must know about them."""

import re
import shlex
import sys
from collections import Counter
from math import isfinite
from typing import Any

from duckdb import DuckDBPyRelation

from tabloop.cli import UserError
from tabloop.columns import class_text, literal, quote
from tabloop.facts import Choices
from tabloop.params import Target
from tabloop.table import VALUES, classes

YES = set("+ true t yes y positive pos ja oui sí si sim evet tak да 是 はい".split())  # noqa: SIM905
NO = set("0 -1 - false f no n negative neg none nein non nee nej não nie hayır нет 否 いいえ".split())  # noqa: RUF001, SIM905
NEGATED = re.compile(r"(no|not|non|kein|keine|sin|pas)[ _-]")
UNKNOWN = set("unknown unk undefined undetermined pending tbd missing ? - -- na n/a n.a. nan null".split())  # noqa: SIM905
UNKNOWN |= {"not known", "not available", "unbekannt", "inconnu", "desconocido", "sconosciuto"}
SHOWN = 5  # values that an error lists


def label_sql(table: DuckDBPyRelation, column: str, target: Target) -> str:
    """SQL for the label of each row, 1, 0 or NULL, from the raw column of the target."""
    if target.at_least is not None:
        number = f"NULLIF(TRY_CAST({quote(column)} AS DOUBLE), 'nan'::DOUBLE)"
        return f"({number} >= {target.at_least!r})::TINYINT"
    values: dict[int | None, list[str]] = {0: ["NULL"], 1: ["NULL"], None: []}
    for value in classes(table, column):
        values[target.label(value)].append(literal(value))
    ones, zeros = (f"{quote(column)}::VARCHAR IN ({', '.join(values[label])})" for label in (1, 0))
    zeros = f"{quote(column)} IS NOT NULL" if target.negative == "*" else zeros
    return f"CASE WHEN {ones} THEN 1 WHEN {zeros} THEN 0 END::TINYINT"


def decide(table: DuckDBPyRelation, said: Choices, numeric: bool) -> tuple[dict[str, Any], str, list[str]]:
    """The target of params.yaml without its name; why; and what the owner must know.

    Args:
        numeric: whether the column holds numbers.

    Raises:
        UserError: the labels are not of two classes, and the owner did not say how they become that.
    """
    name = said.target
    if said.at_least is not None:
        if not numeric:
            raise UserError(f"--at-least: TARGET={name} is not a number; give --positive instead")
        if not isfinite(said.at_least):
            raise UserError(f"--at-least: {said.at_least} is not a number")
        found: dict[str, Any] = {"at_least": said.at_least}
        words, warnings = (f"at least {said.at_least:g}", "less"), list[str]()
    else:
        counts: Counter[str] = Counter()
        for text, rows in classes(table, name).values():
            counts[text] += rows
        found, warnings = _by_words(table, counts, said, numeric)
        others = found.get("negative", [text for text in counts if text != found["positive"]])
        words = repr(found["positive"]), "every other" if others == "*" else ", ".join(map(repr, others))
    label = label_sql(table, name, Target(name=name, **found))
    size = dict(table.aggregate(f"{label} AS label, count(*) AS n").fetchall())
    positive, negative, without = (size.get(value, 0) for value in (1, 0, None))
    why = f"{words[0]} is positive ({positive:,} rows), {words[1]} is not ({negative:,})"
    why += f"; {without:,} rows have no label yet" if without else ""
    return found, why, warnings + _sizes(name, positive, negative, without)


def _by_words(
    table: DuckDBPyRelation, counts: Counter[str], said: Choices, numeric: bool
) -> tuple[dict[str, Any], list[str]]:
    """`positive` and, where there are more than two values, `negative`; and warnings."""
    known = [text for text in counts if len(counts) == 2 or text not in UNKNOWN]
    listed = ", ".join(f"{text} {n:,}" for text, n in counts.most_common(SHOWN))
    listed += ", ..." if len(counts) > SHOWN else ""
    positive = None if said.positive is None else class_text(said.positive)
    zero, warnings = [class_text(value) for value in said.negative], list[str]()
    for text in (positive, *zero):
        if text is not None and text not in counts:
            raise UserError(f"TARGET={said.target} has no value {text!r}; it has: {listed}")
    if positive in zero:
        raise UserError(f"--positive {positive} and --negative {positive}: a value can't be both")
    if positive is None and len(counts) > 1:
        if len(known) == 2 and not zero:
            positive, warnings = _positive({text: counts[text] for text in known})
        elif len(left := set(known) - set(zero)) == 1:
            (positive,) = left
    if positive is None or len(counts) < 2:
        many = f"{len(counts):,}{' or more' if len(counts) == VALUES else ''} values ({listed})"
        has = ("no value", f"one value ({listed})", many)[min(len(counts), 2)]
        raise UserError(f"TARGET={said.target} has {has}: {_advice(table, said.target, counts, numeric)}")
    if len(counts) == 2:
        return {"positive": positive}, warnings
    if not zero and len(known) == len(counts):
        others = "of values that `--negative` does not name, rows then have no label"
        note = f"all but {positive!r} is 0; {others}"
        return {"positive": positive, "negative": "*"}, [*warnings, note]
    zero = zero or [text for text in known if text != positive]
    rest = ", ".join(f"{text!r} ({n:,})" for text, n in counts.items() if text not in (positive, *zero))
    if rest:
        warnings = [*warnings, f"rows with {rest} have no label; `--negative` names the values that are 0"]
    return {"positive": positive, "negative": zero}, warnings


def _positive(counts: dict[str, int]) -> tuple[str, list[str]]:
    """Which of two classes is positive; and a warning if that is a guess."""
    rarest_first = sorted(counts, key=lambda text: (counts[text], text))
    affirmative = [text for text in rarest_first if text in YES or (text == "1" and counts.keys() & NO)]
    negated = [text for text in rarest_first if NEGATED.match(text)]
    plain = [t for t in rarest_first if t not in NO and not (len(negated) == 1 and t in negated)]
    positive = (affirmative or plain or rarest_first)[0]
    (other,) = counts.keys() - {positive}
    guess = f"guessed: {positive!r} is positive, because it is rarer; else give `--positive {other}`"
    return positive, [] if affirmative or len(plain) == 1 else [guess]


def _advice(table: DuckDBPyRelation, name: str, counts: Counter[str], numeric: bool) -> str:
    """What to do where the target has not two values: commands that work."""
    if len(counts) < 2:
        return "it must have two; rows of the other class are missing"
    if numeric and len(counts) > 10:
        middle = table.aggregate(f"quantile_disc({quote(name)}, 0.5)").fetchall()[0][0]
        bar = f"{again(f'--at-least={middle:.6g}')} learns which rows are at least the median, or give another bar"
        return f"regression is not supported; {bar}"
    by_size = [text for text, _ in counts.most_common() if text not in UNKNOWN]
    one = next((text for text in by_size if text in YES), by_size[-1])
    pair = f"--positive {shlex.quote(one)} --negative {shlex.quote(next(t for t in by_size if t != one))}"
    rest = f"{again('--positive', one)} learns one against the rest"
    return f"it must have two; {rest}; with `{pair}` the others have no label"


def again(*options: str) -> str:
    """The command that runs, with further options."""
    return f"`{shlex.join(['uv', 'run', 'tabloop', *sys.argv[1:], *options])}`"


def _sizes(name: str, positive: int, negative: int, without: int) -> list[str]:
    """Warnings of few, rare and missing labels.

    Raises:
        UserError: a class has not two rows.
    """
    from tabloop.metrics import MIN_CLASS

    few, which = min((positive, "positive"), (negative, "negative"))
    if few < 2:
        figures = f"{MIN_CLASS} in the holdout for meaningful figures"
        need = f"training and holdout need some each, {figures}"
        raise UserError(f"TARGET={name}: {few} rows are {which}; {need}")
    warnings, labelled = list[str](), positive + negative
    if few < 5 * MIN_CLASS:
        bar = f"with fewer than {MIN_CLASS} of a class in the holdout, AUC has no confidence interval"
        warnings.append(f"{positive:,} positive and {negative:,} negative rows: {bar}")
    if positive < 0.01 * labelled:
        cost = "set evaluate.cost to what a missed one costs"
        warnings.append(f"{positive / labelled:.2%} of the labels are positive: {cost}")
    if without > labelled:
        share = without / (without + labelled)
        warnings.append(f"{share:.0%} of the rows have no label and are not learnt from")
    return warnings
