"""What tells rows apart: ids, the key, the entity, the timestamp, duplicates."""

import re
from datetime import UTC, datetime

from tabloop.cli import UserError
from tabloop.columns import key_of, quote, text_of
from tabloop.facts import LEVELS, Decision, Facts, Survey
from tabloop.metrics import MIN_CLASS
from tabloop.params import EXACT
from tabloop.table import snake

UNIQUE_ROWS = 20  # fewer rows can have another value each by chance
NAMED = re.compile(
    r"(^|_)(id|uuid|guid)_?\d*$|^id_|(user|customer|client|order|account|person|patient|session|row)id$"
)
NUMBERED = re.compile(
    r"(^|_)(key|nr|no|num|number)$|^(index|idx|row|obs|rownames|row_(number|index|names)|unnamed(_\d+)?)$"
)
CODE = re.compile(r"(^|_)(code|zip|zipcode|postcode|postal|plz|phone|sic|naics|icd)(_|$)")


def of(name: str, facts: Facts, kind: str) -> tuple[str, str, list[str]] | None:
    """`id` or what else is decided because the column tells rows apart, why, and warnings; None if it does not."""
    named, numbered = (bool(pattern.search(snake(name))) for pattern in (NAMED, NUMBERED))
    counted = facts.whole and (facts.consecutive or numbered or facts.largest > EXACT)
    counted = counted or named or kind == "category"
    if facts.unique and facts.rows > UNIQUE_ROWS and kind != "boolean" and counted:
        if kind == "category" and facts.longest > 100 and not named:
            return "left out", "free text, a different value in every row", []
        return "id", "a different value in every row", []
    if (named or (numbered and facts.whole)) and facts.distinct > 0.95 * facts.present > UNIQUE_ROWS:
        more = facts.present - facts.distinct
        text = f"an id, but {more:,} rows repeat one and {facts.missing:,} lack it"
        return "left out", text, [f"{text}: not the table's key; are rows doubled?"]
    if named and (facts.distinct > LEVELS or (kind != "category" and not facts.whole)):
        text = f"an id of {facts.distinct:,} distinct values"
        return "left out", text, [f"{text}: `--entity {name}` if rows are about it"]
    if named and kind != "boolean":
        note = f"taken as category: `--entity {name}` if rows are about it"
        return "category", f"an id of {facts.distinct:,} levels", [note]
    return None


def coded(name: str, facts: Facts) -> bool:
    """Whether whole numbers are rather names, by what the column is called."""
    return facts.whole and bool(CODE.search(snake(name)))


def entity(survey: Survey, name: str) -> Decision:
    """The entity.

    Raises:
        UserError: rows lack it, or it is the same in all.
    """
    facts, text = survey.facts[name], text_of(quote(name), survey.facts[name].kind)
    trimmed = key_of(quote(name), facts.kind)
    counts = (
        f"count(*) FILTER ({trimmed} = ''), count(*) FILTER ({text} <> {trimmed}), count(DISTINCT {trimmed})"
    )
    blank, spaced, after = survey.table.aggregate(counts).fetchall()[0]
    survey.refuse_gaps("ENTITY", name, facts.missing + blank)
    if after == 1:
        raise UserError(f"ENTITY={name} is the same in all rows: leave it out")
    warnings = [f"{spaced:,} rows have spaces around it, which are removed"] if spaced else []
    if facts.unique:
        then = "nothing is looked up by it, all features come with requests"
        warnings.append(f"a different value in every row: {then}")
    return Decision(name, "entity", f"{after:,} of them", warnings)


def timestamp(survey: Survey, name: str, holdout: float) -> Decision:
    """The timestamp.

    Args:
        holdout: the share of the newest rows that is held out.

    Raises:
        UserError: rows lack it, or it is no date or time, the same in all rows, or in the future.
    """
    table, facts, column = survey.table, survey.facts[name], quote(name)
    survey.refuse_gaps("TIMESTAMP", name, facts.missing)
    if not facts.dated:
        values = table.project(column)
        bad = values.filter(f"TRY_CAST({column} AS TIMESTAMP) IS NULL") if facts.kind == "VARCHAR" else values
        if found := bad.limit(1).fetchall():
            advice = f"give `--date-format {name}=dayfirst`, `monthfirst` or a format like %d.%m.%Y"
            raise UserError(f"TIMESTAMP={name}: {found[0][0]!r} is no date or time; {advice}")
    time = f"{column}::TIMESTAMP"
    if facts.distinct == 1:
        raise UserError(f"TIMESTAMP={name} is the same in all rows: leave it out")
    late = f"count(*) FILTER (WHERE {time} > TIMESTAMP '{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}')"
    first, last, future = table.aggregate(f"min({time}), max({time}), {late}").fetchall()[0]
    if future:
        advice = "correct them, or say of which zone they are: `--timezone Europe/Berlin`"
        raise UserError(f"TIMESTAMP={name}: {future:,} rows are in the future, up to {last} UTC: {advice}")
    labelled = table.project(f"{survey.label} AS label, {time} AS t").filter("label IS NOT NULL")
    start, oldest = labelled.aggregate(f"quantile_disc(t, {1 - holdout}), min(t)").fetchall()[0]
    if start == oldest:
        what = f"most rows are of {start}, so no row is older than the {holdout:.0%} that are held out"
        raise UserError(f"TIMESTAMP={name}: {what}; leave it out")
    newest = dict(labelled.filter(f"t >= '{start}'").aggregate("label, count(*)").fetchall())
    warnings = [
        f"of the newest {holdout:.0%} of the rows, which are held out, {newest.get(value, 0):,} are {what}"
        for value, what in ((1, "positive"), (0, "negative"))
        if newest.get(value, 0) < MIN_CLASS
    ]
    return Decision(name, "timestamp", f"splits by time, {first:%Y-%m-%d} to {last:%Y-%m-%d}", warnings)


def known_at(survey: Survey, name: str) -> Decision:
    """The column that says when the label was known.

    Raises:
        UserError: it is no date or time, or there is no timestamp, or labels were known before their row happened.
    """
    timestamp = survey.said.timestamp
    if timestamp is None or not survey.facts[name].dated:
        lacking = "it is no date or time" if timestamp else "give TIMESTAMP, the row's time, too"
        raise UserError(f"--known-at {name}: {lacking}")
    labelled = survey.table.filter(f"({survey.label}) IS NOT NULL")
    early, without = labelled.aggregate(_early_and_without(name, timestamp)).fetchall()[0]
    if early:
        raise UserError(f"--known-at {name}: {early:,} labels were known before their row: correct them")
    lack = [f"{without:,} labels lack it: their rows are never in train"] if without else []
    return Decision(name, "known at", "train has only labels known when the holdout begins", lack)


def suggest_known_at(survey: Survey, timestamp: str) -> None:
    """Warn where a date may be when the label was known: with each label, never without one, never before the timestamp."""
    labelled, others = (survey.table.filter(f"({survey.label}) IS {null}") for null in ("NOT NULL", "NULL"))
    for name, found in survey.decisions.items():
        if found.decision != "left out" or not survey.facts[name].dated:
            continue
        after = f"count(*) FILTER ({quote(name)}::TIMESTAMP > {quote(timestamp)}::TIMESTAMP)"
        *wrong, later = labelled.aggregate(f"{_early_and_without(name, timestamp)}, {after}").fetchall()[0]
        unlabelled = others.aggregate(f"count({quote(name)})").fetchall()[0][0]
        if later and not any(wrong) and not unlabelled:
            use = f"`--known-at {name}` keeps labels out of train that came after the holdout begins"
            found.warnings.append(f"is it when the label was known? {use}")


def _early_and_without(name: str, timestamp: str) -> str:
    """SQL of the number of rows where the column's day is before that of the timestamp, and of those without a value."""
    day = f"{quote(name)}::TIMESTAMP::DATE < {quote(timestamp)}::TIMESTAMP::DATE"
    return f"count(*) FILTER ({day}), count(*) - count({quote(name)})"


def key(survey: Survey) -> list[str]:
    """What makes a row unique: what the owner says, an id, or the entity, with the timestamp if there is one; or nothing.

    Raises:
        UserError: rows share the key that the owner gave.
    """
    said, decisions = survey.said.key, survey.decisions
    if said:
        if shared := survey.rows - different(survey, list(said)):
            given = " --key ".join(said)
            raise UserError(f"--key {given}: {shared:,} rows have the same key as another; give more columns")
        for name in said:
            if decisions[name].decision not in ("entity", "timestamp", "target"):
                decisions[name] = Decision(name, "key", "as you said")
    ids = [name for name, found in decisions.items() if found.decision == "id"]
    chosen = list(said) or sorted(ids, key=lambda name: not NAMED.search(snake(name)))[:1]
    for name in ids:
        if name in chosen:
            decisions[name].decision = "key"
        else:
            text = f"a different value in every row, like {chosen[0]!r}"
            note = f"{text}: `--key {name}` makes this one the key"
            decisions[name] = Decision(name, "left out", text, [note])
    roles = [name for name in (survey.said.entity, survey.said.timestamp) if name]
    if chosen or not roles:
        return chosen
    return roles if different(survey, roles) == survey.rows else []


def different(survey: Survey, names: list[str]) -> int:
    """The number of different rows of these columns."""
    hashed = f"count(DISTINCT hash({', '.join(map(quote, names))}))"
    return int(survey.table.aggregate(hashed).fetchall()[0][0])


def duplicates(survey: Survey) -> list[str]:
    """A warning where rows are exact copies of others."""
    copies = survey.rows - different(survey, survey.table.columns)
    text = f"{copies:,} rows are exact copies of others and are kept: are they real?"
    return [text] if copies else []
