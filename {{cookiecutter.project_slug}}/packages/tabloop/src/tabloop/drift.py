"""Compare the prediction log's window with the champion's reference data: have the inputs or the score changed?"""

from datetime import datetime
from typing import Any

import duckdb

from tabloop import files, histogram, predictions, report, roles
from tabloop.card import ModelCard
from tabloop.cli import UserError, explained
from tabloop.columns import literal, quote
from tabloop.histogram import Counts
from tabloop.params import ROOT, Column, DriftBars, Params

REPORT = ROOT / "reports/drift.html"
SCORE = "probability"
FALSE_ALARMS = 0.001  # the share of checks in which chance alone may make a column drift
LOST = 50  # values that a column should have, so that it is no chance if it has less than half of them


def check(params: Params, since: datetime | None = None) -> dict[str, Any]:
    """Compare all rows of the window with `reference.parquet`; write reports/drift.html and JSON beside it.

    Only the champion's predictions count, by the version that is pinned. `judge` says when a column has drifted. The
    data has drifted if the share of such columns reaches `share`, or if the score has drifted, or if a column is lost:
    half of its values are gone, or `unseen` of them are of a level or type that training did not have.

    Args:
        since: when the window begins; by default `monitoring.window_days` ago.

    Raises:
        UserError: there is no champion here, it has no reference data, or the log can't be read.
    """
    champion, needed = roles.required("champion"), params.monitoring.min_rows
    since = since or predictions.window(params)
    result: dict[str, Any] = {"version": champion.version, "since": since.isoformat(timespec="seconds")}
    result |= {"rows": 0, "needed": needed, "drift": False, "reasons": [], "notes": [], "columns": {}}
    try:
        db = predictions.connect(since)
    except predictions.NothingLogged as error:
        result["notes"].append(str(error))
    else:
        served = predictions.served(champion.version, "champion")
        query = f"SELECT count(*) FILTER ({served}) AS own, count(*) AS n FROM predictions"
        result["rows"], rows = map(int, predictions.table(db, query).iloc[0])
        if result["rows"] >= needed:
            result |= compare(params, db, champion, result["notes"])
        elif others := rows - result["rows"]:
            result["notes"].append(f"{others:,} predictions are of other versions, or the challenger's")
        predictions.mark_checked()
    for earlier in REPORT.parent.glob("evidently_*.html"):
        earlier.unlink()
    files.write_json(REPORT.with_suffix(".json"), result)
    files.write(REPORT, report.render("drift.html", params=params, result=result))
    return result


def reference(db: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyRelation:
    """The champion's reference data: features, target, and the score as `probability`.

    Raises:
        UserError: it can't be read.
    """
    path = roles.MODELS / "champion/reference.parquet"
    with explained(f"{path} can't be read", duckdb.Error, then="; promote a model that has it"):
        rows = db.sql(f"FROM read_parquet({literal(path)})")
        scored = rows.aggregate(f"count({SCORE})").fetchall()[0][0]
    if not scored:
        raise UserError(f"{path} can't be read: it has no score; promote a model that has it")
    return rows


def compare(
    params: Params, db: duckdb.DuckDBPyConnection, champion: ModelCard, notes: list[str]
) -> dict[str, Any]:
    """Each column's verdict, the drifted ones first, and the verdict on the whole."""
    rows, logged = reference(db), db.view("predictions").columns
    columns = champion.schema_.features | {SCORE: Column(type="number")}
    notes += [f"{name}: not in the reference" for name in columns if name not in rows.columns]
    columns = {name: column for name, column in columns.items() if name in rows.columns}
    own = [f"reference.{quote(name)}" for name in columns]
    names = [SCORE if name == SCORE else predictions.feature(name) for name in columns]
    # A column that the log does not have is missing in each row.
    theirs = [f"predictions.{quote(name)}" if name in logged else "NULL" for name in names]
    left, right = (", ".join(f"{v} AS c{i}" for i, v in enumerate(values)) for values in (own, theirs))
    rows.create_view("reference")
    served = predictions.served(champion.version, "champion")
    tables = (f"SELECT {left} FROM reference", f"SELECT {right} FROM predictions WHERE {served}")
    with predictions.errors():
        bins = histogram.bins_of(db, tables[0], columns, champion.categories, SCORE)
        before, after = (histogram.count(db, table, bins) for table in tables)
        known, correlations = (histogram.correlations(db, table, bins) for table in tables)
    bars, error = params.monitoring.drift, FALSE_ALARMS / (3 * len(columns) + len(known))
    found = {name: judge(bars, before[name], after[name], error) for name in columns}
    chance = histogram.mean_by_chance(1, before[SCORE].rows, after[SCORE].rows, error)
    bar = max(bars.correlation, chance)
    for pair, value in correlations.items():
        if pair in known and not any(found[name]["why"] for name in pair):
            for name, other in (pair, pair[::-1]) if abs(value - known[pair]) >= bar else ():
                change = f"correlation with {other} {known[pair]:+.2f} to {value:+.2f}, bar {bar:.2f}"
                found[name]["correlations"].append(change)
    for name, column in found.items():
        column["why"] += column.pop("correlations")
        shares = [(c[name].bins / max(c[name].bins.sum(), 1)).round(6).tolist() for c in (before, after)]
        drawn = [*map(list, zip(bins[name].labels, *shares, strict=True))]
        column |= {"drift": bool(column["why"]), "bins": drawn}
    order = sorted(found, key=lambda name: (not found[name]["drift"], -found[name]["distance"]))
    return whole(bars, {name: found[name] for name in order})


def judge(bars: DriftBars, reference: Counts, current: Counts, error: float) -> dict[str, Any]:
    """How far a column is from the reference, and why that is drift, if it is.

    Each bar is the one of params.yaml, or what chance alone reaches with the probability `error` if that is more: with
    few rows, or many bins.
    """
    far = histogram.distance(reference.bins, current.bins)
    far_bar = max(bars.column, histogram.distance_by_chance(reference.bins, current.bins, error))
    gaps = [(counts.rows - counts.present, counts.rows) for counts in (reference, current)]
    missing, missing_bar = moved(bars.missing, gaps, error)
    new = [(counts.unseen, counts.present) for counts in (reference, current)]
    unseen, unseen_bar = moved(bars.unseen, new, error)
    expected = reference.present * current.rows / reference.rows
    lost, why = [], []
    if expected >= LOST and current.present < expected / 2:
        lost.append(f"{1 - current.present / expected:.0%} of its values are gone")
    elif abs(missing) >= missing_bar:
        before, after = (lacking / rows for lacking, rows in gaps)
        why.append(f"missing {before:.1%} to {after:.1%}, bar {missing_bar:.1%}")
    if unseen >= unseen_bar:
        which = f"of a level or type that training did not have, bar {unseen_bar:.1%}"
        lost.append(f"{unseen:.1%} more new values, {which}")
    if far >= far_bar and reference.present and current.present:
        why.append(f"distance {far:.3f}, bar {far_bar:.3f}")
    found: dict[str, Any] = {"distance": far, "distance_bar": far_bar}
    found |= {"missing": missing, "missing_bar": missing_bar}
    found |= {"unseen": unseen, "unseen_bar": unseen_bar}
    return found | {"lost": lost, "why": lost + why, "correlations": []}


def moved(bar: float, shares: list[tuple[int, int]], error: float) -> tuple[float, float]:
    """How much more the second share is than the first, each given as rows and of how many; and its bar."""
    (some, n), (more, m) = shares
    pooled = (some + more) / max(n + m, 1)
    difference = more / max(m, 1) - some / max(n, 1)
    return difference, max(bar, histogram.mean_by_chance(pooled * (1 - pooled), n, m, error))


def whole(bars: DriftBars, columns: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The verdict on all columns together, and its reasons."""
    features = [found for name, found in columns.items() if name != SCORE]
    drifted = sum(found["drift"] for found in features)
    share = drifted / max(len(features), 1)
    reasons = [f"{name}: {reason}" for name, found in columns.items() for reason in found["lost"]]
    if (score := columns[SCORE])["drift"] and not score["lost"]:
        most = [f"{name} {found['distance']:.3f}" for name, found in columns.items() if name != SCORE][:3]
        reasons.append(f"the score has drifted: {'; '.join(score['why'])}; most moved: {', '.join(most)}")
    if share >= bars.share:
        reasons.append(f"{drifted} of {len(features)} features have drifted, bar {bars.share:.0%}")
    return {"share": share, "columns": columns, "reasons": reasons, "drift": bool(reasons)}


def text(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    return report.text("drift.md.jinja", result=result)
