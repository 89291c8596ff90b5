"""The commands that only workflows need: what they fetch, keep, check and say on GitHub."""

from pathlib import Path
from typing import TextIO

import click

from tabloop.cli import Commands, params, then_push, write_github_output


@click.group(cls=Commands)
def remote() -> None:
    """Get and send data and models: DVC_REMOTE_URL says where, DVC_CREDENTIALS is the text of .dvc/config.local."""


@remote.command()
@click.argument("targets", nargs=-1)
def fetch(targets: tuple[str, ...]) -> None:
    """Get data, models and the run cache, or TARGETS alone."""
    from tabloop import actions, remote

    actions.note(remote.fetch(targets))


@remote.command()
def push() -> None:
    """Send data, models and the run cache."""
    from tabloop import actions, remote

    actions.note(remote.push())


@remote.command()
@click.argument("archive", type=click.Path(path_type=Path))
def pack(archive: Path) -> None:
    """Write run cache and candidate to ARCHIVE, so that another machine need not train it again."""
    from tabloop import remote

    click.echo(remote.pack(archive))


@remote.command()
@click.argument("archive", type=click.Path(path_type=Path))
def unpack(archive: Path) -> None:
    """Add what `pack` wrote to DVC's cache."""
    from tabloop import remote

    click.echo(remote.unpack(archive))


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
def retrain(report: Path) -> None:
    """Take new rows, train, make the candidate the challenger. REPORT gets the summary as Markdown."""
    from tabloop import actions
    from tabloop.retrain import retrain

    if not (title := retrain(params(), report)):
        actions.note("Nothing new: the model that came out is known already.")
    write_github_output(title=title)


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
def watch(report: Path) -> None:
    """Check drift and performance. REPORT gets both as Markdown."""
    from tabloop.watch import watch

    found = watch(params(), report)
    click.echo(report.read_text("utf-8"))
    write_github_output(**found)


@click.command()
@click.option("--to", default="", metavar="REVISION", help="Of the template. Empty: its default branch.")
@click.option("--report", type=click.Path(path_type=Path), help="Gets what changed, as Markdown.")
def update(to: str, report: Path | None) -> None:
    """Merge the template's next version, baked with this project's answers; your own changes are kept."""
    from tabloop.update import update

    done = update(to)
    click.echo(f"update: {done.text}")
    if done.title:
        click.echo(f"Next: {then_push('make setup test train', also='template')}", err=True)
    if report:
        report.write_text(done.markdown, "utf-8")
    write_github_output(title=done.title)


@click.group(cls=Commands)
def github() -> None:
    """Say it on GitHub, from a workflow."""


@github.command()
@click.argument("branch")
@click.option("--title", required=True, help="Of the commit.")
def propose(branch: str, title: str) -> None:
    """Push what changed here as one commit to BRANCH, for a pull request; what was on it is replaced."""
    from tabloop import actions, commits

    changed = commits.propose(branch, title)
    actions.note(f"Pushed to {branch}: {title}" if changed else "Nothing changed: nothing to propose.")
    write_github_output(changed=changed)


FILE = click.argument("file", type=click.File(encoding="utf-8"))


@github.command()
@FILE
def summary(file: TextIO) -> None:
    """Append the Markdown in FILE to the step's summary, cut where a step may have no more."""
    from tabloop.actions import summarize

    summarize(file.read())


@github.command()
@FILE
@click.option("--part", required=True, help="The part of the comment that FILE replaces.")
def comment(file: TextIO, part: str) -> None:
    """Write FILE to the step's summary and, on a pull request, to our one comment there."""
    from tabloop.github import comment

    click.echo(f"comment: {comment(file.read(), part)}")


@github.command()
@FILE
@click.option("--title", required=True, help="The title of the issue.")
@click.option("--retrain-every", default=0.0, help="Dispatch retrain.yml, not again within so many days.")
def issue(file: TextIO, title: str, retrain_every: float) -> None:
    """Write FILE to the step's summary and to the one open issue with the label model-drift."""
    from tabloop.github import issue

    click.echo(f"issue: {issue(file.read(), title, retrain_every)}")


@github.command()
@FILE
@click.option("--title", required=True, help="The title of the pull request.")
@click.option("--branch", required=True, help="The branch to merge; it is pushed already.")
def pull_request(file: TextIO, title: str, branch: str) -> None:
    """Open the pull request of a branch, or bring the open one up to date, with FILE as its text."""
    from tabloop.github import pull_request

    click.echo(f"pull-request: {pull_request(file.read(), title, branch)}")


@github.command()
def merged_run() -> None:
    """Output run-id: the run of the pull request that this push merged, whose artifact is run-cache."""
    from tabloop.github import merged_run

    if run := merged_run():
        write_github_output(**{"run-id": run})
    click.echo(f"merged-run: {run or 'no merged pull request has a run with a cache'}")
