"""The target's classes: which is positive, which values are no label, and what the owner must know about them."""

import re
import shlex
import sys
from collections import Counter
from typing import Any

import duckdb

from tabloop.cli import UserError
from tabloop.columns import class_text, literal, quote
from tabloop.metrics import MIN_CLASS
from tabloop.params import Target
from tabloop.table import classes

YES = set("true t yes y positive pos ja oui sí si sim evet tak да 是 はい".split())  # noqa: SIM905
NO = set("0 -1 false f no n negative neg none nein non nee nej não nie hayır нет 否 いいえ".split())  # noqa: RUF001, SIM905
NEGATED = re.compile(r"(no|not|non|kein|keine|sin|pas)[ _-]")
UNKNOWN = set("unknown unk undefined undetermined pending tbd missing ? - -- na n/a n.a. nan null".split())  # noqa: SIM905
UNKNOWN |= {"not known", "not available", "unbekannt", "inconnu", "desconocido", "sconosciuto"}
SHOWN = 5  # values that an error lists


def label_sql(table: duckdb.DuckDBPyRelation, column: str, target: Target) -> str:
    """SQL for the label of each row, 1, 0 or NULL, from the raw column of the target."""
    if target.at_least is not None:
        number = f"NULLIF(TRY_CAST({quote(column)} AS DOUBLE), 'nan'::DOUBLE)"
        return f"({number} >= {target.at_least!r})::TINYINT"
    values: dict[int | None, list[str]] = {0: [], 1: [], None: []}
    for value in classes(table, column):
        values[target.label(value)].append(literal(value))
    cases = [
        f"WHEN {quote(column)}::VARCHAR IN ({', '.join(values[n])}) THEN {n}" for n in (0, 1) if values[n]
    ]
    return f"CASE {' '.join(cases) or 'WHEN false THEN 0'} END::TINYINT"


def decide(
    table: duckdb.DuckDBPyRelation, name: str, said: dict[str, Any], numeric: bool
) -> tuple[dict[str, Any], str, list[str]]:
    """The target of params.yaml without its name; why; and what the owner must know.

    Args:
        said: `positive`, `negative` and `at_least`, where the owner gave them.
        numeric: whether the column holds numbers.

    Raises:
        UserError: the labels are not of two classes, and the owner did not say how they become that.
    """
    warnings: list[str] = []
    if said.get("at_least") is not None:
        if not numeric:
            raise UserError(f"--at-least: TARGET={name} is no number; give --positive instead")
        found: dict[str, Any] = {"at_least": said["at_least"]}
    else:
        counts: Counter[str] = Counter()
        for text, rows in classes(table, name).values():
            counts[text] += rows
        found = _by_words(name, counts, said, numeric, table, warnings)
    target = Target(name=name, **found)
    label = label_sql(table, name, target)
    by_label = dict(table.aggregate(f"{label} AS label, count(*) AS n").fetchall())
    return found, _text(target, by_label, warnings, table, name), warnings


def _by_words(
    name: str,
    counts: "Counter[str]",
    said: dict[str, Any],
    numeric: bool,
    table: duckdb.DuckDBPyRelation,
    warnings: list[str],
) -> dict[str, Any]:
    """`positive` and, where there are more than two values, `negative`."""
    known = (
        {text: n for text, n in counts.items() if text not in UNKNOWN} if len(counts) > 2 else dict(counts)
    )
    negative = [class_text(value) for value in said.get("negative", ())]
    positive = class_text(said["positive"]) if said.get("positive") is not None else None
    listed = ", ".join(f"{text} {n:,}" for text, n in counts.most_common(SHOWN)) + (
        ", ..." if len(counts) > SHOWN else ""
    )
    for option, value in (("--positive", positive), *(("--negative", text) for text in negative)):
        if value is not None and value not in counts:
            raise UserError(f"{option} {value}: TARGET={name} has no such value; it has: {listed}")
    if len(known) == 2 and positive is None and not negative:
        positive, guess = _positive(known)
        warnings += [guess] if guess else []
    elif positive is None and len(negative) == len(known) - 1:
        (positive,) = known.keys() - set(negative)
    if positive is None or len(counts) < 2:
        raise UserError(
            f"TARGET={name} has {len(counts)} values ({listed}): {_advice(counts, numeric, table, name)}"
        )
    if positive in negative:
        raise UserError(f"--positive {positive} and --negative {positive}: a value can't be both")
    others = [text for text in known if text != positive]
    if negative or (len(known) < len(counts) and len(others) <= 20):
        rest = {text: counts[text] for text in counts if text not in (positive, *(negative or others))}
        if rest:
            without = ", ".join(f"{text!r} ({n:,})" for text, n in rest.items())
            warnings.append(f"rows with {without} have no label; `--negative` names the values that are 0")
        return {"positive": positive, "negative": negative or others} if rest else {"positive": positive}
    if len(counts) > 2:
        warnings.append(
            f"{len(counts) - 1} values are 0, all but {positive!r}; `--negative` names some, others have no label then"
        )
        return {"positive": positive, "negative": "*"}
    return {"positive": positive}


def _positive(counts: dict[str, int]) -> tuple[str, str]:
    """Which of two classes is positive; and a warning if that is a guess."""
    rarest_first = sorted(counts, key=lambda text: (counts[text], text))
    affirmative = [text for text in rarest_first if text in YES]
    if "1" in counts and not affirmative and counts.keys() & NO:
        affirmative = ["1"]
    negated = [text for text in rarest_first if NEGATED.match(text)]
    not_negative = [
        text for text in rarest_first if text not in NO and text not in (negated if len(negated) == 1 else ())
    ]
    positive = (affirmative or not_negative or rarest_first)[0]
    (other,) = counts.keys() - {positive}
    if affirmative or len(not_negative) == 1:
        return positive, ""
    return (
        positive,
        f"guessed: {positive!r} is positive, as it is rarer; `--positive {other}` is the other way",
    )


def _advice(counts: "Counter[str]", numeric: bool, table: duckdb.DuckDBPyRelation, name: str) -> str:
    """What to do where the target has not two values: commands that work."""
    if len(counts) < 2:
        return "it must have two; rows of the other class are missing"
    if numeric and len(counts) > 10:
        middle = table.aggregate(f"quantile_disc({quote(name)}, 0.5)").fetchall()[0][0]
        bar = f"{again(f'--at-least={middle:.6g}')} learns which are at least the median, or give another bar"
        return f"a number itself can't be learnt; {bar}"
    by_size = [text for text, _ in counts.most_common() if text not in UNKNOWN]
    one = next((text for text in by_size if text in YES), by_size[-1])
    rest = again("--positive", one)
    pair = f"--positive {shlex.quote(one)} --negative {shlex.quote(next(t for t in by_size if t != one))}"
    return f"it must have two; {rest} learns one against the rest; with `{pair}` the others have no label"


def again(*options: str) -> str:
    """The command that runs, with further options."""
    return f"`{shlex.join(['uv', 'run', 'tabloop', *sys.argv[1:], *options])}`"


def _text(
    target: Target,
    rows: dict[int | None, int],
    warnings: list[str],
    table: duckdb.DuckDBPyRelation,
    name: str,
) -> str:
    """What the labels are, in a sentence; warnings of few, rare and missing ones are added."""
    positive, negative, without = (rows.get(label, 0) for label in (1, 0, None))
    if min(positive, negative) < 2:
        few = "positive" if positive < negative else "negative"
        raise UserError(
            f"TARGET={name}: {min(positive, negative)} rows are {few}; training and holdout need some each, "
            f"{MIN_CLASS} at least in the holdout for figures that mean something"
        )
    if min(positive, negative) < 5 * MIN_CLASS:
        warnings.append(
            f"{positive:,} positive and {negative:,} negative rows: with fewer than {MIN_CLASS} of a class in "
            "the holdout, AUC has no confidence interval"
        )
    if (share := positive / (positive + negative)) < 0.01:
        warnings.append(
            f"{share:.2%} of the labels are positive: set evaluate.cost to what a missed one costs"
        )
    if without > positive + negative:
        warnings.append(
            f"{without / (without + positive + negative):.0%} of the rows have no label and are not learnt from"
        )
    one = f"at least {target.at_least:g}" if target.at_least is not None else repr(target.positive)
    zero = "less" if target.at_least is not None else "every other" if target.negative == "*" else None
    if zero is None:
        zero = ", ".join(
            dict.fromkeys(repr(text) for text, _ in classes(table, name).values() if target.label(text) == 0)
        )
    unlabelled = f"; {without:,} rows have no label yet" if without else ""
    return f"{one} is positive ({positive:,} rows), {zero} is not ({negative:,}){unlabelled}"
