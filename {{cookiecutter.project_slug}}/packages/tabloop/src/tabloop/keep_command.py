"""The commands by which the prediction log is kept, and people are removed."""

import sys

import click

from tabloop.cli import FOUND


@click.command()
def compact() -> None:
    """Put the prediction log's files together, one an hour; remove days older than monitoring.keep_days. It may be killed."""
    from tabloop.compaction import compact, remove_old
    from tabloop.params import load
    from tabloop.predictions import location, log_of

    params, log = load(), location()
    if days := params.monitoring.keep_days:
        done = remove_old(log, days)
        trains = params.data.feedback and log_of(params.data.feedback) == log and "labelled" in done
        click.echo(f"compact: {done}{'; the next ingest takes no labels of them' if trains else ''}")
    click.echo(f"compact: {compact(log)}")


@click.command()
@click.argument("entity")
@click.option("--yes", is_flag=True, help="Do not ask.")
def forget(entity: str, yes: bool) -> None:
    """Remove ENTITY from the log, data/raw, data/features and the store; say what else holds it. Exit code 3: it came again."""
    from tabloop.forget import forget
    from tabloop.params import load

    def agreed(listed: str) -> bool:
        click.echo(f"forget: {listed}")
        return yes or (sys.stdin.isatty() and click.confirm("Remove them?"))

    done, again = forget(load(), entity, agreed)
    click.echo(f"forget: {done}")
    sys.exit(FOUND if again else 0)
