"""Dates as people write them: formats by the shape of a text, and SQL that reads them."""

import re

from tabloop.columns import literal
from tabloop.reading.settings import ReadColumn

FIRST, LAST = 1678, 2261  # years; what lies outside means missing or open, and pandas can't hold it
ISO = r"9{4}[-/]9{1,2}[-/]9{1,2}([T ]9{1,2}:99(:99([.]9+)?)?( ?(Z|UTC|[+-]99(:?99)?))?)?"
ORDERS = {"dayfirst": "%d-%m", "monthfirst": "%m-%d", "yearfirst": ""}
MONTHS = "jan|feb|mar|mär|apr|ma[iyj]|jun|jul|aug|sep|oct|okt|nov|de[cz]|f[eé]v|avr|ao[uû]|déc|ene|abr|ago|dic|gen|mag|giu|lug|set|ott|out"
WORD = rf"(?i:(?:{MONTHS})[^\W\d_]*)"
MONTH, DAY = rf"{WORD}\.?", r"(?:[A-Z][a-z]{2,8},? )?"
TIME = r"(?P<gap>,? |T|:)?(?:(?P<h>9{1,2}):99(?P<s>:99)?(?P<f>[.,]9+)?(?P<p> ?[AaPp][Mm])?(?P<u> Uhr| h)?(?P<z> ?(?:Z|UTC|GMT|[+-]99:?(?:99)?))?)?"
NUMERIC = re.compile(r"(?P<a>9{1,4})(?P<sep>[-/. ]|\. )(?P<b>9{1,2})(?P=sep)(?P<c>9{4}|9{2})" + TIME)
NAMED = re.compile(
    rf"(?P<day>{DAY})(?P<date>9{{1,2}}[-/. ]*{MONTH}[-/., ]*9{{2,4}}|{MONTH}[-/ ]*(?:9{{1,2}},? )?9{{2,4}}|9{{4}}[-/ ]{MONTH}[-/ ]9{{1,2}})"
    + TIME
)
SIGNS = re.compile("9{4}(?:年|년 ?)9{1,2}(?:月|월 ?)9{1,2}[日일]")
DIGITS = {"9" * 8: "%Y%m%d", "9" * 12: "%Y%m%d%H%M", "9" * 14: "%Y%m%d%H%M%S"}
DIGITS |= {"99999999T999999": "%Y%m%dT%H%M%S", "99999999T999999Z": "%Y%m%dT%H%M%SZ"}
DIGITS |= {"9999-99": "%Y-%m", "9999/99": "%Y/%m", "99/9999": "%m/%Y", "99.9999": "%m.%Y"}
EPOCHS = {"epoch_s": 10**9, "epoch_ms": 10**12, "epoch_us": 10**15, "epoch_ns": 10**18}  # in the year 2001
UNITS = dict(zip(EPOCHS, ("seconds", "milliseconds", "microseconds", "nanoseconds"), strict=True))
SIGN_OF_TIME = re.compile(
    r"time|date|day|when|epoch|stamp|created|updated|datum|zeit|fecha|(^|_)(at|ts|on|dt)($|_)", re.I
)


def formats(shape: str) -> dict[str, str]:
    """The strptime formats that a shape (each digit a 9) allows, by the order of day, month and year."""
    if shape in DIGITS:
        return dict.fromkeys(ORDERS, DIGITS[shape])
    if SIGNS.fullmatch(shape):
        year, month, day = re.split("9+", shape)[1:]
        return dict.fromkeys(ORDERS, f"%Y{year}%m{month}%d{day}")
    if found := NUMERIC.fullmatch(shape):
        sep, first, last = found["sep"], len(found["a"]), len(found["c"])
        if first == 3 or first == last == 4:
            return {}
        if first == 4:
            return dict.fromkeys(ORDERS, f"%Y{sep}%m{sep}%d{_time(found)}")
        year = "%Y" if last == 4 else "%y"
        found_orders = {o: f"{d.replace('-', sep)}{sep}{year}{_time(found)}" for o, d in ORDERS.items() if d}
        return found_orders if last == 4 else found_orders | {"yearfirst": f"%y{sep}%m{sep}%d{_time(found)}"}
    if found := NAMED.fullmatch(shape):
        date = re.sub(WORD, lambda m: "%b" if len(m[0]) == 3 else "%B", found["date"])
        date = date.replace("9999", "%Y")
        if "%Y" not in date:
            date = re.sub("99$", "%y", date)
        weekday = re.sub("[A-Za-z]+", lambda m: "%a" if len(m[0]) == 3 else "%A", found["day"])
        return dict.fromkeys(ORDERS, weekday + re.sub("9{1,2}", "%d", date) + _time(found))
    return {}


def _time(found: re.Match[str]) -> str:
    if not found["h"]:
        return found["gap"] or ""
    seconds = (":%S" if found["s"] else "") + (f"{found['f'][0]}%f" if found["f"] else "")
    half = re.sub("[APap][Mm]", "%p", found["p"] or "")
    zone = re.sub(r"\S+", "%z", found["z"] or "")
    return f"{found['gap'] or ''}{'%I' if half else '%H'}:%M{seconds}{half}{found['u'] or ''}{zone}"


def usable(timestamp: str) -> str:
    """SQL: the timestamp, or NULL where the year is one that no table means: 0001, 9999."""
    return f"CASE WHEN year({timestamp}) BETWEEN {FIRST} AND {LAST} THEN {timestamp} END"


def in_utc(timestamp: str, zone: str | None) -> str:
    """SQL: a timestamp of this zone in UTC. Where clocks go back an hour, the later of two times is meant; where they
    go forward, a time that is skipped is an hour later."""
    return f"(({timestamp}) AT TIME ZONE {literal(zone)} AT TIME ZONE 'UTC')" if zone else timestamp


def parsed(text: str, column: ReadColumn, local: str | None = None) -> str:
    """SQL: the timestamp in UTC that a text means; NULL where it means none. `local`: the zone of texts without one."""
    how = [column.format] if isinstance(column.format, str) else column.format or []
    if how and how[0] in EPOCHS:
        micro = {"epoch_s": "* 1000000", "epoch_ms": "* 1000", "epoch_us": "", "epoch_ns": "// 1000"}[how[0]]
        return f"make_timestamp((TRY_CAST({text} AS HUGEINT) {micro})::BIGINT)"
    if not how:
        plain = f"regexp_full_match({text}, {literal(ISO.replace('9', '[0-9]'))})"
        offset = f"regexp_matches({text}, ':.*(Z|UTC|[+-][0-9:]+)$')"
        naive = in_utc(f"TRY_CAST({text} AS TIMESTAMP)", local)
        zone = rf"regexp_replace({text}, ' ?([+-]\d\d):?(\d\d)?$', '\1:\2')"
        zone = f"TRY_CAST(rtrim({zone}, ':') AS TIMESTAMPTZ) AT TIME ZONE 'UTC'"
        return f"CASE WHEN NOT {plain} THEN NULL WHEN {offset} THEN {zone} ELSE {naive} END"
    zoned = any("%z" in one for one in how)
    value = f"regexp_replace({text}, '(Z|UTC|GMT)$', '+00:00')" if zoned else text
    strptime = f"try_strptime({value}, [{', '.join(map(literal, how))}])"
    if not zoned:
        return in_utc(strptime, local)
    strptime = f"({strptime} AT TIME ZONE 'UTC')"
    offset = f"regexp_matches({value}, ':.* ?[+-][0-9:]+$')"
    return f"CASE WHEN {offset} THEN {strptime} ELSE {in_utc(strptime, local)} END" if local else strptime


def empty(text: str) -> str:
    """SQL: whether a text is a date of zeros only: 0000-00-00, 00.00.0000 00:00."""
    return f"regexp_full_match({text}, '0{{1,4}}([-/.]0{{1,4}}){{2}}([T ][0:.]+)?')"
