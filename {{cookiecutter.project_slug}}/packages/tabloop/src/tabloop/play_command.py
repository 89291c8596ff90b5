"""The commands that play on this machine what happens in production: `tabloop traffic` and `tabloop loop`."""

import click


@click.command()
@click.option("--rows", default=5000, show_default=True)
@click.option("--drift", multiple=True, metavar="COLUMN=FACTOR", help="Multiply a numeric column.")
@click.option("--labels", default=1.0, show_default=True, help="The share of rows whose label is reported.")
@click.option("--delay", default=0.0, show_default=True, help="Seconds until the labels are reported.")
@click.option("--seed", default=0, show_default=True)
@click.option("--url", default="http://127.0.0.1:8000", show_default=True)
def traffic(rows: int, drift: tuple[str, ...], labels: float, delay: float, seed: int, url: str) -> None:
    """Send rows of the holdout to the running service, and their labels as feedback."""
    from tabloop.params import load
    from tabloop.traffic import run

    click.echo(f"traffic: {run(load(), url, rows, drift, labels, delay, seed):,} rows answered")


@click.command()
def loop() -> None:
    """Play the whole loop on this machine: drift, retrain, A/B test, promotion, rollback. In a clone of the last commit."""
    from tabloop.apart import main

    main()
