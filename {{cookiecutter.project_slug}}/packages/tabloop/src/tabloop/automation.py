"""The commands that only workflows need: what they fetch, keep, check and say on GitHub."""

from pathlib import Path
from typing import TextIO

import click

from tabloop.cli import Commands, params, then_push, write_github_output


@click.group(cls=Commands)
def remote() -> None:
    """Fetch and push data and models, in a workflow. From DVC_REMOTE_URL, with DVC_CREDENTIALS as .dvc/config.local."""


@remote.command()
@click.argument("targets", nargs=-1)
def fetch(targets: tuple[str, ...]) -> None:
    """Fetch data, models and the run cache, or only TARGETS."""
    from tabloop import actions, remote

    actions.note(remote.fetch(targets))


@remote.command()
def push() -> None:
    """Push data, models and the run cache."""
    from tabloop import actions, remote

    actions.note(remote.push())


@remote.command()
@click.argument("archive", type=click.Path(path_type=Path))
def pack(archive: Path) -> None:
    """Write the run cache and the candidate to ARCHIVE. Another machine then need not train again."""
    from tabloop import remote

    click.echo(remote.pack(archive))


@remote.command()
@click.argument("archive", type=click.Path(path_type=Path))
def unpack(archive: Path) -> None:
    """Add an archive of `pack` to DVC's cache."""
    from tabloop import remote

    click.echo(remote.unpack(archive))


@click.command()
@click.argument("report", type=click.Path(path_type=Path))
def retrain(report: Path) -> None:
    """Train on new rows, and make the candidate the challenger. REPORT gets the summary as Markdown."""
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
@click.option("--to", default="", metavar="REVISION", help="The template's. [default: its default branch]")
@click.option("--report", type=click.Path(path_type=Path), help="A file for the changes, as Markdown.")
def update(to: str, report: Path | None) -> None:
    """Merge the template's next version. It is baked with this project's answers, and your changes stay."""
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
    """Write summaries, comments and pull requests, in a workflow."""


@github.command()
@click.argument("branch")
@click.option("--title", required=True, help="The title of the commit.")
def propose(branch: str, title: str) -> None:
    """Push the changes here as one commit to BRANCH. It replaces what was on it, for a pull request."""
    from tabloop import actions, commits

    changed = commits.propose(branch, title)
    actions.note(f"Pushed to {branch}: {title}" if changed else "Nothing changed: nothing to propose.")
    write_github_output(changed=changed)


FILE = click.argument("file", type=click.File(encoding="utf-8"))


@github.command()
@FILE
def summary(file: TextIO) -> None:
    """Append the Markdown in FILE to the step's summary. It is cut to GitHub's limit."""
    from tabloop.actions import summarize

    summarize(file.read())


@github.command()
@FILE
@click.option("--part", required=True, help="The part of the comment that FILE replaces.")
def comment(file: TextIO, part: str) -> None:
    """Write FILE to our comment on the pull request. The step's summary gets it, too."""
    from tabloop.github import comment

    click.echo(f"comment: {comment(file.read(), part)}")


@github.command()
@FILE
@click.option("--title", required=True, help="The title of the issue.")
@click.option("--retrain-every", default=0.0, help="Start retrain.yml, at most once in so many days.")
def issue(file: TextIO, title: str, retrain_every: float) -> None:
    """Write FILE to the one open issue model-drift. The step's summary gets it, too."""
    from tabloop.github import issue

    click.echo(f"issue: {issue(file.read(), title, retrain_every)}")


@github.command()
@FILE
@click.option("--title", required=True, help="The title of the pull request.")
@click.option("--branch", required=True, help="The branch to merge; it is pushed already.")
def pull_request(file: TextIO, title: str, branch: str) -> None:
    """Open or update the pull request of a branch. FILE is its text."""
    from tabloop.github import pull_request

    click.echo(f"pull-request: {pull_request(file.read(), title, branch)}")


@github.command()
def merged_run() -> None:
    """Output the run-id of the merged pull request. Its run has the artifact run-cache."""
    from tabloop.github import merged_run

    if run := merged_run():
        write_github_output(**{"run-id": run})
    click.echo(f"merged-run: {run or 'no merged pull request has a run with a cache'}")
