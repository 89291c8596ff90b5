"""The command `tabloop tune` and its options."""

import click


@click.command()
@click.option("--trials", default=50, show_default=True, help="That the study shall have in all.")
@click.option("--timeout", default=float("inf"), metavar="SECONDS", help="After which no trial begins.")
@click.option("--metric", type=click.Choice(["auc", "average_precision"]), default="auc", show_default=True)
@click.option("--write/--no-write", default=None, help="Write the best, though it may be chance; or never.")
def tune(trials: int, timeout: float, metric: str, write: bool | None) -> None:
    """Search the arguments under `train` by the ranges under `tune` in params.yaml, and write the best there."""
    from tabloop.tune import tune

    click.echo(f"tune: {tune(trials, timeout, metric, write)}")
