"""How every command ends: exit codes, one-line errors, outputs of a workflow's step, git."""

import gc
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tabloop.params import Params

# How the operating system, Arrow and DuckDB say that nothing more can be written: for want of room, a quota, a limit.
FULL = "No space left on device", "Disk quota exceeded", "File too large", "max_temp_directory_size"
IDENTIFIED = "commit", "commit-tree", "merge"  # what git does by somebody's name
FOUND = 3  # exit code of a check that worked and found what it looks for: drift, a model that is worse


class UserError(Exception):
    """A mistake that the user can correct. The text names the file, field or value, and the correction."""


class Commands(click.Group):
    """A group whose commands end with one line on stderr, and 1, or 2 for wrong arguments, or 130 after Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        set_credentials()
        with command(lambda: (not ctx.parent and ctx.invoked_subcommand) or str(ctx.info_name)):
            return super().invoke(ctx)


@contextmanager
def command(name: str | Callable[[], str]) -> Iterator[None]:
    """Run a command: a UserError ends it with one line on stderr and exit code 1, without a traceback."""
    begin()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        sys.exit(failed(name if isinstance(name, str) else name(), error))


def failed(name: str, error: BaseException) -> int:
    """Print what the user can do about an error. The exit code: 130 after Ctrl-C, 2 for wrong arguments, else 1.

    Raises:
        BaseException: the error itself, where the user can do nothing.
    """
    if (text := correction(error)) is None:
        raise error
    if isinstance(error, UserError) and "params.yaml" not in text and (where := outside()):
        text += f"; {where}"
    print(f"{name}: {text}", file=sys.stderr)
    return 130 if interrupted(error) else getattr(error, "exit_code", 1)


def interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C caused an error: during an import it may become any, for example that a package is broken."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return bool(error)


def correction(error: BaseException) -> str | None:
    """What the user can do about an error; None where that is nothing.

    DuckDB's errors are known by their names, as commands that don't need it don't import it.
    """
    if isinstance(error, UserError):
        return str(error)
    if interrupted(error):
        return "stopped; the same command continues or starts again"
    if isinstance(error, click.UsageError) and not isinstance(error, click.exceptions.NoArgsIsHelpError):
        path = error.ctx.command_path if error.ctx else "tabloop"
        said = one_line(error.format_message())
        return f"{said}{'' if said.endswith(('.', '?')) else '.'} `uv run {path} --help` shows what it takes"
    if isinstance(error, ImportError) and isinstance(cause := error.__cause__, ImportError):  # fsspec's
        return f"run `uv add {cause.name}`"
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} is missing"
    text = one_line(error)
    if any(words in text for words in FULL):
        return f"the disk is full: make room where it writes, in the project's folder or OUTPUT's, and in TMPDIR ({tempfile.gettempdir()})"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} can't be used: {error.strerror}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryException":
        return "out of memory: add memory, or set DuckDB's limit by TABLOOP_MEMORY, in GB"
    return None


def outside() -> str:
    """Where to run it, if the working directory is in no project and the environment names none; else empty."""
    from tabloop.params import MISSING, ROOT

    file = ROOT / "params.yaml"
    return "" if "PROJECT_ROOT" in os.environ or file.exists() else MISSING.format(file)


def begin() -> None:
    """Set what this process shares: garbage collection, the time zone, what is printed where a terminal lacks a letter."""
    # Imports make many objects and few cycles; MLflow's take a third less time.
    gc.set_threshold(100_000, 50, 50)
    use_utc()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # Windows' pipes have its code page, a bare container ASCII


def use_utc() -> None:
    """Let this process work in UTC: libraries take the machine's zone for times that have one, and for Feast's."""
    os.environ["TZ"] = "UTC"
    if hasattr(time, "tzset"):  # not on Windows
        time.tzset()


def write_github_output(**outputs: object) -> None:
    """Set the outputs of a GitHub Actions step. Outside a workflow, do nothing."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        with Path(path).open("a", encoding="utf-8") as file:
            for name, value in outputs.items():
                file.write(f"{name}={str(value).lower() if isinstance(value, bool) else value}\n")


def set_credentials() -> None:
    """Set the environment variables that LOG_CREDENTIALS lists as lines NAME=value; a workflow then hides the values.

    GitHub itself hides a secret of several lines only as a whole.
    """
    for line in os.environ.pop("LOG_CREDENTIALS", "").splitlines():
        name, _, value = line.partition("=")
        if name.strip() and value:
            os.environ[name.strip()] = value
            if "GITHUB_ACTIONS" in os.environ:
                print(f"::add-mask::{value}", file=sys.stderr)


def git(*arguments: str, where: Path, text: str = "") -> str:
    """The output of a git command run in the folder `where`, with `text` as its input.

    Raises:
        UserError: git is not installed or the command fails.
    """
    done = finished("git", *arguments, why="install it and run this again", cwd=where, input=text)
    if done.returncode and arguments[0] in IDENTIFIED and not identified(where):
        how = "`git config --global user.name NAME`, then user.email, then run this again"
        raise UserError(f"git does not know who you are: {how}")
    if done.returncode:
        raise UserError(f"git {arguments[0]} failed: {' '.join((done.stderr or done.stdout).split())}")
    return done.stdout.rstrip("\n")


def params() -> "Params":
    """params.yaml; what reads it is imported first now, so that `tabloop --help` does not wait for it."""
    from tabloop.params import load

    return load()


def then_push(command: str = "", also: str = "") -> str:
    """The command, and what pushes the present branch after it: without a remote on a line of its own, as URL is to be filled in.

    Args:
        also: another branch that is pushed with it.
    """
    from tabloop.params import ROOT

    why = "it keeps the project's versions"
    asked = [("remote",), ("rev-parse", "--symbolic-full-name", "@{upstream}")]
    remotes, upstream = (finished("git", *words, why=why, cwd=ROOT).stdout for words in asked)
    push = "git push" if upstream and not also else f"git push --set-upstream origin HEAD {also}"
    between = " && " if remotes else "\n  git remote add origin URL && "
    return f"{command}{between}{push}".removeprefix(" && ").strip()


def finished(*command: str, why: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """What a program answered. `options` are those of subprocess.run.

    Raises:
        UserError: it is not installed; the text ends with `why` it is needed.
    """
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", **options)
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed: {why}") from None


def identified(where: Path) -> bool:
    """Whether git has a name and an email for a commit in the folder `where`."""
    asked = ["git", "var", "GIT_COMMITTER_IDENT"]
    return not subprocess.run(asked, cwd=where, capture_output=True).returncode


@contextmanager
def explained(what: str, *errors: type[Exception], then: str = "") -> Iterator[None]:
    """Raise, in place of these errors or of any, a UserError: what can't be done, why, and what to do `then`."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, errors) if errors else isinstance(error, UserError):
            raise
        why = correction(error) or getattr(error, "strerror", "") or one_line(error)[:300]
        if (name := str(getattr(error, "filename", ""))) in what:
            why = why.removeprefix(f"{name} can't be used: ")
        raise UserError(f"{what}: {why or type(error).__name__}{then}") from None


def one_line(error: object) -> str:
    """The text of any error as one line; of pydantic's the first field that is wrong, and why."""
    if isinstance(error, ValueError) and hasattr(error, "error_count"):
        # A misspelt name comes before the field that it leaves missing.
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")  # type: ignore[attr-defined]
        text = first["msg"].removeprefix("Value error, ")
        return ": ".join(filter(None, (".".join(map(str, first["loc"])), text)))
    return " ".join(str(error).split())
