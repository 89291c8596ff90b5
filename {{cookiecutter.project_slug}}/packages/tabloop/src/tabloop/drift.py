"""Compare the prediction log's window with the champion's reference data: have the inputs or the score changed?"""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tabloop import files, predictions, roles
from tabloop.card import ModelCard
from tabloop.cli import UserError, one_line
from tabloop.columns import literal, quote
from tabloop.histogram import (
    Counts,
    bins_of,
    chance_of_correlation,
    chance_of_distance,
    chance_of_share,
    count,
    distance,
)
from tabloop.params import ROOT, Column, DriftBars, Params

if TYPE_CHECKING:
    import duckdb

REPORT = ROOT / "reports/drift.html"
SCORE = "probability"
FALSE_ALARMS = (
    0.001  # of all checks of data that did not change: those in which chance alone makes a column drift
)


def check(params: Params, log: str | None = None, since: datetime | None = None) -> dict[str, Any]:
    """Compare all rows of the window with `reference.parquet`; write reports/drift.html and JSON beside it.

    Only the champion's predictions count, by the version that is pinned. `judge` says when a column has drifted. The
    data has drifted if the share of such columns reaches `share`, or if the score has drifted, or if a column is lost:
    half of its values are gone, or `unseen` of them are of a level or type that training never saw.

    Args:
        log: the prediction log; by default the one that PREDICTION_LOG names.
        since: when the window begins; by default `monitoring.window_days` ago.

    Raises:
        UserError: there is no champion here, it has no reference data, or the log can't be read.
    """
    from tabloop.drift_page import write

    champion = roles.required("champion")
    since = since or predictions.window(params)
    result: dict[str, Any] = {
        "version": champion.version,
        "since": since.isoformat(timespec="seconds"),
        "rows": 0,
        "needed": params.monitoring.min_rows,
        "drift": False,
        "reasons": [],
        "columns": {},
        "notes": [],
    }
    try:
        db = predictions.connect(since, log)
    except predictions.NothingLogged as error:
        result["notes"].append(str(error))
    else:
        served = predictions.served(champion.version, "champion")
        query = f"SELECT count(*) FILTER ({served}) AS n, count(*) AS others FROM predictions"
        result["rows"], all_rows = map(int, predictions.table(db, query).iloc[0])
        if result["rows"] >= params.monitoring.min_rows:
            result |= compare(params, db, champion, result["notes"])
        elif others := all_rows - result["rows"]:
            result["notes"].append(f"{others:,} predictions are of other versions, or the challenger's")
    files.write(REPORT.with_suffix(".json"), json.dumps(result, indent=1) + "\n")
    write(params, result, REPORT)
    return result


def reference(db: "duckdb.DuckDBPyConnection") -> "duckdb.DuckDBPyRelation":
    """The champion's reference data: features, target, and the score as `probability`.

    Raises:
        UserError: it can't be read.
    """
    import duckdb

    path = roles.MODELS / "champion/reference.parquet"
    try:
        rows = db.sql(f"FROM read_parquet({literal(path)})")
        rows.aggregate(f"max({SCORE})").fetchall()
    except duckdb.Error as error:
        raise UserError(f"{path} can't be read: {one_line(error)}; promote a model that has it") from None
    return rows


def compare(
    params: Params, db: "duckdb.DuckDBPyConnection", champion: ModelCard, notes: list[str]
) -> dict[str, Any]:
    """Each column's verdict, the drifted ones first, and the verdict on the whole."""
    rows, logged = reference(db), db.view("predictions").columns
    columns = champion.schema_.features | {SCORE: Column(type="number")}
    notes += [f"{name}: not in the reference" for name in columns if name not in rows.columns]
    columns = {name: column for name, column in columns.items() if name in rows.columns}
    own = ", ".join(f"{quote(name)} AS c{i}" for i, name in enumerate(columns))
    names = {name: SCORE if name == SCORE else predictions.feature(name) for name in columns}
    # A column that the log does not have is missing in each row.
    theirs = ", ".join(
        f"{f'predictions.{quote(name)}' if name in logged else 'NULL'} AS c{i}"
        for i, name in enumerate(names.values())
    )
    served = f"SELECT {theirs} FROM predictions WHERE {predictions.served(champion.version, 'champion')}"
    rows.create_view("reference")
    with predictions.errors():
        bins = bins_of(db, f"SELECT {own} FROM reference", columns, champion.categories, SCORE)
        before, after = (count(db, table, bins) for table in (f"SELECT {own} FROM reference", served))
    error = FALSE_ALARMS / (3 * len(columns) + len(before.correlations))
    bars = params.monitoring.drift
    verdicts = {name: judge(bars, before.columns[name], after.columns[name], error) for name in columns}
    for pair, value in after.correlations.items():
        if pair in before.correlations and not any(verdicts[name]["drift"] for name in pair):
            n, m = (min(table.columns[name].present for name in pair) for table in (before, after))
            bar = max(bars.correlation, chance_of_correlation(n, m, error))
            if abs(value - before.correlations[pair]) >= bar:
                change = f"{before.correlations[pair]:+.2f} to {value:+.2f}"
                for name, other in (pair, pair[::-1]):
                    verdicts[name]["why"].append(f"correlation with {other} {change}, bar {bar:.2f}")
    for name, found in verdicts.items():
        found["drift"] = bool(found["why"])
        found |= {"bins": bins[name].labels, "reference": before.columns[name].shares}
        found["current"] = after.columns[name].shares
    order = sorted(verdicts, key=lambda n: (not verdicts[n]["drift"], -verdicts[n]["distance"]))
    return whole(bars, {name: verdicts[name] for name in order})


def judge(bars: DriftBars, reference: Counts, current: Counts, error: float) -> dict[str, Any]:
    """Whether a column has drifted, and why.

    Each bar is the one of params.yaml, or what chance alone reaches with the probability `error` if that is more: with
    few rows, or many bins.
    """
    n, m = current.rows, reference.rows
    both = (current.present + reference.present) / (n + m)
    missing, missing_chance = current.missing - reference.missing, chance_of_share(both, n, m, error)
    far = distance(reference.bins, current.bins)
    far_bar = max(bars.column, chance_of_distance(reference.bins, current.bins, error))
    unseen = current.unseen_share - reference.unseen_share
    known = max(current.present + reference.present, 1)
    chance = chance_of_share(
        (current.unseen + reference.unseen) / known, current.present, reference.present, error
    )
    unseen_bar = max(bars.unseen, chance)
    why = []
    # Half of the values, so that a column that was nearly empty before can be lost, too.
    if gone := missing > missing_chance and current.present * m < reference.present * n / 2:
        why.append(f"{1 - current.present * m / (reference.present * n):.0%} of its values are gone")
    if new := unseen >= unseen_bar:
        why.append(f"{unseen:.1%} more values that training never saw the like of, bar {unseen_bar:.1%}")
    if abs(missing) >= (missing_bar := max(bars.missing, missing_chance)) and not gone:
        why.append(f"missing {reference.missing:.1%} to {current.missing:.1%}, bar {missing_bar:.1%}")
    if far >= far_bar and current.present and reference.present:
        why.append(f"distance {far:.3f}, bar {far_bar:.3f}")
    return {
        "distance": far,
        "distance_bar": far_bar,
        "missing": missing,
        "missing_bar": missing_bar,
        "unseen": unseen,
        "unseen_bar": unseen_bar,
        "lost": gone or new,
        "why": why,
        "drift": bool(why),
    }


def whole(bars: DriftBars, columns: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The verdict on all columns together, and its reasons."""
    features = [found for name, found in columns.items() if name != SCORE]
    drifted = sum(found["drift"] for found in features)
    share = drifted / max(len(features), 1)
    reasons = [f"{name}: {found['why'][0]}" for name, found in columns.items() if found["lost"]]
    if columns[SCORE]["drift"] and not columns[SCORE]["lost"]:
        reasons.append(f"the score has drifted: {'; '.join(columns[SCORE]['why'])}")
    if share >= bars.share:
        reasons.append(f"{drifted} of {len(features)} features have drifted, bar {bars.share:.0%}")
    return {"share": share, "columns": columns, "reasons": reasons, "drift": bool(reasons)}


def head(result: dict[str, Any]) -> str:
    """The verdict in one sentence of Markdown."""
    about = f"{result['rows']:,} predictions of model {result['version']} since {result['since']}"
    if result["columns"]:
        return f"{'⚠️ **Drift**' if result['drift'] else 'No drift'} in {about}."
    return f"Too few for a statement on drift: {about}; {result['needed']:,} are needed."


def text(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [head(result), "", *(f"- {reason}" for reason in [*result["reasons"], *result["notes"]])]
    if columns := result["columns"]:
        lines += ["", "| column | distance | bar | missing | drift |", "|---|---|---|---|---|"]
        for name, each in columns.items():
            cells = [
                name,
                f"{each['distance']:.3f}",
                f"{each['distance_bar']:.3f}",
                f"{each['missing']:+.1%}",
            ]
            lines.append(f"| {' | '.join([*cells, '; '.join(each['why'])])} |")
    return "\n".join(lines).rstrip()
