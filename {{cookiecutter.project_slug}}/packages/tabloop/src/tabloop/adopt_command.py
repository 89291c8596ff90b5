"""The `tabloop adopt` command and its options."""

from typing import Any

import click

from tabloop.cli import UserError

FEATURE_TYPES = ("number", "integer", "boolean", "category", "days")
# How the reader takes what is then a feature of this type.
READER = ("encoding", "delimiter", "sheet", "header", "bad_rows", "timezone")  # options of the reader alone
READ = {"category": "text", "days": "timestamp"}


@click.command()
@click.argument("data")
@click.option("--target", required=True, help="The column to predict; it has two values.")
@click.option("--entity", help="The column that says whom a row is about, for example customer_id.")
@click.option("--timestamp", help="The column that says when a row happened.")
@click.option("--known-at", metavar="COLUMN", help="The column that says when the label was known.")
@click.option("--key", multiple=True, metavar="COLUMN", help="A column of the key that makes a row unique.")
@click.option("--drop", multiple=True, metavar="COLUMN", help="Leave the column out.")
@click.option("--type", "types", multiple=True, metavar="COLUMN=TYPE", help=f"{', '.join(FEATURE_TYPES)}.")
@click.option("--positive", help="The target's value that is 1.")
@click.option("--negative", multiple=True, help="A value that is 0; rows with others have no label.")
@click.option("--at-least", type=float, help="Of a number: the least target that is 1.")
@click.option(
    "--date-format", multiple=True, metavar="[COLUMN=]FORMAT", help="dayfirst, monthfirst or %d/%m/%Y."
)
@click.option("--timezone", help="Of times without an offset, for example Europe/Berlin; else they are UTC.")
@click.option("--encoding", help="Of a text file, for example cp1251.")
@click.option("--delimiter", help="Between the cells of a text file.")
@click.option("--sheet", help="Of an Excel file.")
@click.option("--header/--no-header", default=None, help="Whether the first line has the names.")
@click.option(
    "--bad-rows", type=click.Choice(["refuse", "skip"]), help="Rows with too few or too many cells."
)
@click.option("--dry-run", is_flag=True, help="Show the decisions, change nothing.")
@click.option("--json", "as_json", is_flag=True, help="The decisions for machines.")
def adopt(data: str, dry_run: bool, as_json: bool, **said: Any) -> None:
    """Replace the example by your own table DATA, a file, folder or URL."""
    from tabloop.adopt import adopt
    from tabloop.facts import Choices
    from tabloop.reading.result import Overrides

    if not data or not said["target"]:
        raise UserError("say which table and what to predict: make adopt DATA=my.csv TARGET=churned")
    types = dict(pair("--type", text) for text in said.pop("types"))
    for name, kind in types.items():
        if kind not in FEATURE_TYPES:
            raise UserError(f"--type {name}={kind}: give one of {', '.join(FEATURE_TYPES)}")
    dates = {name or None: how for name, _, how in (text.rpartition("=") for text in said.pop("date_format"))}
    read = {name: READ.get(kind, kind) for name, kind in types.items()}
    read |= {name: "timestamp" for name in (said["known_at"],) if name}
    overrides = Overrides(
        dates=dates, types=read, timestamp=said["timestamp"], **{name: said.pop(name) for name in READER}
    )
    click.echo(adopt(data, Choices(types=types, **said), overrides, dry_run, as_json))


def pair(option: str, text: str) -> tuple[str, str]:
    """Column and value of `COLUMN=VALUE`; the column's name may have an equals sign.

    Raises:
        UserError: there is none.
    """
    name, separator, value = text.rpartition("=")
    if not separator:
        raise UserError(f"{option} {text}: give COLUMN=VALUE")
    return name, value
