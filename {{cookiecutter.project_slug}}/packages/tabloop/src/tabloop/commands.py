"""The commands that people call when they need them: their own table, the search, the loop, what the log keeps."""

import sys
from importlib.util import find_spec
from typing import Any

import click

from tabloop.cli import FOUND, UserError, params
from tabloop.columns import TYPES

FEATURE_TYPES = (*TYPES, "days")
# How the reader takes what is then a feature of this type.
READER = ("encoding", "delimiter", "sheet", "header", "bad_rows", "timezone")  # options of the reader alone
READ = {"category": "text", "days": "timestamp"}


@click.command()
@click.argument("data")
@click.option("--target", required=True, help="The column to predict.")
@click.option("--entity", help="The column that names whom a row is about, such as customer_id.")
@click.option("--timestamp", help="The column with the time of a row.")
@click.option("--known-at", metavar="COLUMN", help="The column with the time of the label.")
@click.option("--key", multiple=True, metavar="COLUMN", help="A column that makes a row unique. Repeatable.")
@click.option("--drop", multiple=True, metavar="COLUMN", help="Leave this column out. Repeatable.")
@click.option("--type", "types", multiple=True, metavar="COLUMN=TYPE", help=f"{', '.join(FEATURE_TYPES)}.")
@click.option("--positive", help="The target's value that counts as 1.")
@click.option("--negative", multiple=True, help="A value that counts as 0; others are no label.")
@click.option("--at-least", type=float, help="Count a numeric target as 1 from here on.")
@click.option("--date-format", multiple=True, metavar="[COLUMN=]FORMAT", help="Such as dayfirst or %d/%m/%Y.")
@click.option("--timezone", help="Of times without an offset, such as Europe/Berlin. [default: UTC]")
@click.option("--encoding", help="The encoding of a text file, such as cp1251.")
@click.option("--delimiter", help="The delimiter of a text file.")
@click.option("--sheet", help="The sheet of an Excel file.")
@click.option("--header/--no-header", default=None, help="Does the first line have the names?")
@click.option("--bad-rows", type=click.Choice(["refuse", "skip"]), help="Of rows with too few or many cells.")
@click.option("--dry-run", is_flag=True, help="Show the decisions and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the decisions as JSON.")
def adopt(data: str, dry_run: bool, as_json: bool, **said: Any) -> None:
    """Replace the example by your own table. DATA is a file, folder or URL."""
    from tabloop.adopt import adopt
    from tabloop.facts import Choices
    from tabloop.reading.result import Overrides

    if not data or not said["target"]:
        raise UserError("say which table and what to predict: make adopt DATA=my.csv TARGET=churned")
    types = dict(map(pair, said.pop("types")))
    for name, kind in types.items():
        if kind not in FEATURE_TYPES:
            raise UserError(f"--type {name}={kind}: give one of {', '.join(FEATURE_TYPES)}")
    dates = {name or None: how for name, _, how in (text.rpartition("=") for text in said.pop("date_format"))}
    read = {name: READ.get(kind, kind) for name, kind in types.items()}
    read |= {name: "timestamp" for name in (said["known_at"],) if name}
    options = {name: said.pop(name) for name in READER}
    overrides = Overrides(dates=dates, types=read, timestamp=said["timestamp"], **options)
    click.echo(adopt(data, Choices(types=types, **said), overrides, dry_run, as_json))


def pair(text: str) -> tuple[str, str]:
    """Column and type of `COLUMN=TYPE`; the column's name may have an equals sign.

    Raises:
        UserError: there is none.
    """
    name, separator, value = text.rpartition("=")
    if not separator:
        raise UserError(f"--type {text}: give COLUMN=VALUE")
    return name, value


@click.command()
@click.option("--trials", type=click.IntRange(1), default=50, show_default=True, help="Trials of the study.")
@click.option("--timeout", type=click.IntRange(1), help="Begin no trial after so many seconds.")
@click.option("--metric", type=click.Choice(["auc", "average_precision"]), default="auc", show_default=True)
@click.option("--write/--no-write", default=None, help="Write the best always; or never.")
def tune(trials: int, timeout: int | None, metric: str, write: bool | None) -> None:
    """Search better arguments for `train`. A significant gain goes into params.yaml, which has the ranges."""
    if not find_spec("optuna"):
        raise UserError("Optuna is not installed: run `make tune`, or `uv sync --group tune` first")
    from tabloop.tune import tune

    click.echo(f"tune: {tune(trials, timeout or float('inf'), metric, write)}")


@click.command()
@click.option("--rows", default=5000, show_default=True)
@click.option("--drift", multiple=True, metavar="COLUMN=FACTOR", help="Multiply a numeric column.")
@click.option("--labels", default=1.0, show_default=True, help="The share of rows whose label is reported.")
@click.option("--delay", default=0.0, show_default=True, help="Seconds until the labels are reported.")
@click.option("--seed", default=0, show_default=True)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
def traffic(rows: int, drift: tuple[str, ...], labels: float, delay: float, seed: int, url: str) -> None:
    """Send rows of the holdout to the running service. Their labels follow as feedback."""
    from tabloop.traffic import run

    click.echo(f"traffic: {run(params(), url, rows, drift, labels, delay, seed):,} rows answered")


@click.command()
def loop() -> None:
    """Play the whole loop in a clone of the last commit. It plays drift, retraining, A/B test, promotion, rollback."""
    from tabloop.apart import main

    main()


@click.command()
def compact() -> None:
    """Merge the prediction log's files into one per hour. Remove days older than monitoring.keep_days. You may kill it."""
    from tabloop.compaction import compact, remove_old
    from tabloop.predictions import location, log_of

    own, log = params(), location()
    if days := own.monitoring.keep_days:
        done = remove_old(log, days)
        trains = own.data.feedback and log_of(own.data.feedback) == log and "labelled" in done
        click.echo(f"compact: {done}{'; the next ingest skips their labels' if trains else ''}")
    click.echo(f"compact: {compact(log)}")


@click.command()
@click.argument("entity")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(entity: str, yes: bool) -> None:
    """Remove all rows of ENTITY. In the log, data/raw, data/features and the store. Exit code 3: it came again."""
    from tabloop.forget import forget

    def agreed(listed: str) -> bool:
        click.echo(f"forget: {listed}")
        return yes or (sys.stdin.isatty() and click.confirm("Remove them?"))

    done, again = forget(params(), entity, agreed)
    click.echo(f"forget: {done}")
    sys.exit(FOUND if again else 0)
