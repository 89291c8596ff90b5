"""The `tabloop` command: every subcommand, its options, and the function that does the work.

Functions import what they need themselves, so that `tabloop --help` takes a fraction of a second.
"""

import json
import sys
from typing import Any, Literal

import click

from tabloop.automation import github, remote, retrain, update, watch
from tabloop.cli import FOUND, Commands, UserError, explained, params, then_push, write_github_output
from tabloop.commands import adopt, compact, forget, loop, traffic, tune
from tabloop.terminal import print_markdown

MODEL = click.Choice(["candidate", "champion", "challenger"])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="tabloop")
def tabloop() -> None:
    """Run this project's stages and checks, and move its models. Works in any folder of the project."""


@tabloop.command()
def ingest() -> None:
    """Stage: read data.source, or simulate, into data/raw."""
    from tabloop.ingest import ingest

    click.echo(f"ingest: {ingest(params())} -> data/raw")


@tabloop.command()
def validate() -> None:
    """Stage: check data/raw against the schema."""
    from tabloop.params import ROOT
    from tabloop.validate import validate

    click.echo(f"validate: {validate(params(), ROOT / 'data/raw', ROOT / 'reports/validation.json')}")


@tabloop.command()
def featurize() -> None:
    """Stage: data/raw to data/features and data/online. It joins point-in-time and splits by time."""
    from tabloop.featurize import featurize
    from tabloop.params import ROOT

    click.echo(f"featurize: {featurize(params(), ROOT / 'data/raw')} -> data/features, data/online")


@tabloop.command()
def materialize() -> None:
    """Write the newest features to the online store. ONLINE_STORE names it: data/online, or Redis."""
    from tabloop.feature_store import materialize

    click.echo(f"materialize: {materialize(params())}")


@tabloop.command()
def champion() -> None:
    """Stage: write the pinned champion to metrics/champion.json. This makes evaluate run for a new one."""
    from tabloop.rollout import note_champion

    click.echo(f"champion: {note_champion(params())}")


@tabloop.command()
def register() -> None:
    """Stage: register the candidate in MLflow. The first one becomes the champion."""
    from tabloop.rollout import register

    click.echo(f"register: {register(params())}")


@tabloop.command(context_settings={"allow_interspersed_args": False})
@click.argument("module")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(module: str, arguments: tuple[str, ...]) -> None:
    """Run src/PACKAGE/MODULE.py of this folder. In dvc.yaml it runs `train` and `evaluate`."""
    from tabloop import owner

    owner.run(module, arguments)


@tabloop.command()
@click.option("--markdown", is_flag=True, help="Print it as pull requests show it.")
def summary(markdown: bool) -> None:
    """Show the results of the last `dvc repro`. It shows metrics, the gate's verdict, the report page, a prediction."""
    from tabloop import summary

    click.echo(summary.markdown() if markdown else summary.summary())


@tabloop.command()
@click.argument("role", type=MODEL)
@click.argument("field", required=False)
def card(role: str, field: str | None) -> None:
    """Print models/ROLE/model.json, or one FIELD. Git tells git_commit and dirty."""
    from tabloop import provenance
    from tabloop.card import ModelCard
    from tabloop.params import ROOT

    found = ModelCard.read(ROOT / "models" / role)
    values = found.as_dict()
    if field not in values:
        origin = provenance.origin(found.inputs)
        values |= {"git_commit": origin.commit, "dirty": origin.dirty}
    if field and field not in values:
        raise UserError(f"model.json has no field {field}; it has: {', '.join(values)}")
    value = values[field] if field else values
    click.echo(value if isinstance(value, str) else json.dumps(value, indent=1, ensure_ascii=False))


@tabloop.command()
@click.option("--evidently", is_flag=True, help="Also write Evidently's pages: reports/evidently_*.html.")
def drift(evidently: bool) -> None:
    """Compare the prediction log with the reference data. Exit code 3: drift."""
    from tabloop.drift import check, text

    found = check(own := params())
    print_markdown(f"{text(found)}\n\nreports/drift.html shows each column beside its reference")
    if evidently:
        from tabloop.evidently_pages import write

        write(own, found)
    write_github_output(drift=found["drift"])
    sys.exit(FOUND if found["drift"] else 0)


@tabloop.command()
def performance() -> None:
    """Measure the served models on labelled outcomes. Exit code 3: significantly below the gate."""
    from tabloop.performance import check, text

    found = check(params())
    print_markdown(text(found))
    write_github_output(worse=found["worse"])
    sys.exit(FOUND if found["worse"] else 0)


@tabloop.command()
@click.argument("environment", default="production")
def experiment(environment: str) -> None:
    """Print the verdict on ENVIRONMENT's challenger. It is promote, withdraw or keep going."""
    from tabloop.experiment import run, text

    found = run(params(), environment)
    print_markdown(text(found))
    write_github_output(verdict=found["verdict"])


@tabloop.group(cls=Commands)
def rollout() -> None:
    """Move candidate, challenger and champion. Commit each step."""


def _step(name: str) -> None:
    from tabloop import rollout

    done = getattr(rollout, name)(params())
    click.echo(done)
    commit = f"git add --all models MODEL_CARD.md && git commit --message '{done}'"
    click.echo(f"Next: {then_push(f'{commit} && uv run dvc push')}", err=True)


@rollout.command()
def challenge() -> None:
    """Make the candidate the challenger."""
    _step("challenge")


@rollout.command()
def promote() -> None:
    """Make the challenger the champion."""
    _step("promote")


@rollout.command()
def withdraw() -> None:
    """Remove the challenger."""
    _step("withdraw")


@rollout.command()
@click.argument("role", type=click.Choice(["champion", "challenger"]))
def drop(role: Literal["champion", "challenger"]) -> None:
    """Give up a pinned model that no DVC remote has. The next candidate takes a champion's place."""
    from tabloop.rollout import give_up

    click.echo(give_up(role))


@tabloop.group(cls=Commands)
def release() -> None:
    """Read and change what an environment runs. It is in deploy/ENVIRONMENT/release.env."""


@release.command()
@click.argument("environment")
@click.argument("name", required=False)
def show(environment: str, name: str | None) -> None:
    """Print ENVIRONMENT's release.env, or only the value of NAME."""
    from tabloop.release import read

    values = read(environment)
    if name and name not in values:
        raise UserError(f"deploy/{environment}/release.env has no {name}; it has: {', '.join(values)}")
    click.echo(values[name] if name else "\n".join(f"{key}={value}" for key, value in values.items()))


@release.command("set")
@click.argument("environment")
@click.argument("values", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--built-from", default="", help="The commit that the image was built from.")
def set_(environment: str, values: tuple[str, ...], built_from: str) -> None:
    """Write values to ENVIRONMENT's release.env and commit them."""
    from tabloop.release import set_values
    from tabloop.serving.settings import Settings

    pairs = dict(value.split("=", 1) for value in values if "=" in value)
    if bad := [value for value in values if "=" not in value]:
        raise UserError(f"{bad[0]!r}: give it as NAME=VALUE")
    known: dict[str, Any] = {name.lower(): value for name, value in pairs.items()}
    with explained("the service takes no such value", ValueError):
        Settings(**{name: value for name, value in known.items() if name in Settings.model_fields})
    click.echo(f"release: {set_values(environment, built_from, **pairs)}")
    click.echo(f"Next: {then_push()}", err=True)


@release.command()
@click.argument("environment")
@click.option("--to", default="", metavar="VERSION", help="The model version to go back to.")
def rollback(environment: str, to: str) -> None:
    """Commit ENVIRONMENT's previous release. A second rollback goes further back."""
    from tabloop.release import rollback

    click.echo(f"release: {rollback(environment, to)}")
    click.echo(f"Next: {then_push()}", err=True)


@release.command()
@click.argument("environment")
@click.option("--image", default="", help="By digest. [default: what staging runs]")
@click.option("--built-from", default="", help="The image's commit. Nothing changes if a newer one runs.")
@click.option("--rollback", is_flag=True, help="Roll back instead: to the previous release, or to --to.")
@click.option("--to", default="", metavar="VERSION", help="The model version to go back to.")
@click.option("--branch", default="", help="The branch that servers follow. [default: git's]")
@click.option("--pull-request", is_flag=True, help="Push to the branch deploy/ENVIRONMENT instead.")
@click.option("--attested", is_flag=True, help="Refuse an image without GitHub's attestation.")
def deploy(
    environment: str,
    image: str,
    built_from: str,
    rollback: bool,
    to: str,
    branch: str,
    pull_request: bool,
    attested: bool,
) -> None:
    """Commit and push what ENVIRONMENT must run. That is another image, or what it ran before."""
    from tabloop import actions, commits

    branch = branch or actions.default_branch()
    target = f"deploy/{environment}" if pull_request else branch
    done = commits.deploy(environment, image, built_from, to if rollback else None, branch, target, attested)
    actions.note(f"release: {done}")
    write_github_output(branch=target, title=done.partition(" ")[2])


@tabloop.command()
@click.argument("input_", metavar="INPUT")
@click.argument("output")
@click.option("--model", default="champion", type=MODEL, show_default=True)
def batch(input_: str, output: str, model: Literal["champion", "challenger", "candidate"]) -> None:
    """Score a table. INPUT is a path, folder, glob or URL; OUTPUT x.parquet or a folder. Exit code 3: refused rows."""
    from tabloop.batch import batch

    done, refused = batch(input_, output, model)
    click.echo(f"batch: {done}")
    write_github_output(refused=refused)
    sys.exit(FOUND if refused else 0)


for command in (adopt, compact, forget, github, remote, retrain, watch, tune, traffic, loop, update):
    tabloop.add_command(command)
