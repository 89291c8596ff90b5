"""The commands that the pages show, each held against the program that it names: its subcommands, arguments and options."""

import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from conftest import ROOT, UV, clean, within
from tabloop.main import tabloop as TABLOOP

PROJECT = ROOT / "{{cookiecutter.project_slug}}"
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    ROOT / "benchmarks/README.md",
    PROJECT / "README.md",
    PROJECT / "AGENTS.md",
    PROJECT / "packages/tabloop/README.md",
    *PROJECT.glob("packages/tabloop/docs/*.md"),
]
SHELL = (
    "",
    "sh",
    "sh server",
    "bash",
)  # of blocks of commands; with a name, a test runs the block word for word
OTHERS = ("python", "yaml", "json", "mermaid", "text", "ini", "cron")
# Their own parsers are asked: with `--help` they do nothing, and yet refuse what they don't know.
ASKED = ("docker", "kubectl", "curl", "systemctl", "ruff", "playwright", "pre-commit", "pip", "cruft", "uv")
# They have no parser that does nothing, or take seconds to import; only the tests that run them know.
RUN = ("feast", "gh", "duckdb", "mypy", "kubernetes-validate", "cd", "sed", "rm")
PROGRAMS = {*ASKED, *RUN, "make", "git", "tabloop", "dvc", "python", "pytest", "bash", "ray", "mlflow"}
PROGRAMS |= {"cookiecutter", "uvx"}
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.S | re.M)


def text_of(page: Path, baked: Path) -> str:
    """A page as its reader has it: those of a project, from the baked one."""
    return (baked / page.relative_to(PROJECT) if page.is_relative_to(PROJECT) else page).read_text()


def blocks(text: str) -> list[tuple[str, str]]:
    """The fenced blocks: language and content."""
    return [(language.strip(), block) for _, language, block in FENCE.findall(text)]


def shown(text: str) -> list[str]:
    """The commands of a page: the lines of its blocks of commands, and what is between backticks.

    Raises:
        ValueError: a block has another language, or something between backticks may be a command of an unknown program.
    """
    found = list[str]()
    for language, block in blocks(text):
        if language in SHELL:
            found += [] if "<<" in block else filter(None, map(str.strip, block.splitlines()))
        elif language not in OTHERS:
            raise ValueError(f"a block's language is {language!r}: {SHELL} have commands, {OTHERS} have none")
    for span in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)):
        word = re.match(r"(?:[A-Z_]+=\S+ )*([a-z][a-z-]*) ", span)
        if word and word[1] in PROGRAMS:
            found.append(span)
        elif re.match(r"[a-z][a-z-]* (--)?[A-Za-z]", span):
            raise ValueError(f"`{span}`: no known program; tests/shown.py knows {sorted(PROGRAMS)}")
    return list(dict.fromkeys(line for text in found if (line := re.sub(r"\s+#.*$", "", text))))


def simple(line: str) -> Iterator[tuple[str, ...]]:
    """The commands of a line of a shell, without prompts, variables and the marks of places and of what is optional."""
    line = re.sub(r"^\w+\$\s+", "", line)
    line = re.sub(r"<[a-z ]+>", "fraud_detection", re.sub(r"(?<=\s)\[([^]]+)\]", r"\1", line))
    for inner in re.findall(r"\$\(([^)]+)\)", line):
        yield from simple(inner)
    tokens = shlex.shlex(re.sub(r"\$\([^)]+\)", "VALUE", line), posix=True, punctuation_chars="&|;")
    tokens.whitespace_split, tokens.commenters = True, ""
    words = list[str]()
    for token in [*tokens, ";"]:
        if not token.strip("&|;"):
            if words:
                yield tuple(words)
            words = []
        elif words or not re.match(r"[A-Z_]+=", token):
            words.append(token)


def check(line: str, project: Path, environment: Path) -> None:
    """Fail where a program does not take what a page shows.

    Raises:
        AssertionError: it does not; the message is the program's.
    """
    for words in simple(line):
        assert words[0] in PROGRAMS, f"{line}: no known program; output has the language `text`"
        CHECKS.get(words[0], asked if words[0] in ASKED else nothing)(words, project, environment)


def nothing(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """What only the tests that run it know."""


@functools.cache
def asked(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """Ask the program, with `--help`."""
    at = 2 if words[:2] == ("docker", "run") else len(words)  # behind the image, options are of its command
    done = answer([*words[:at], "--help", *words[at:]], project, within(project, environment))
    usage = re.search("usage|options", done.stdout, re.I)
    assert done.returncode == 0 and usage, f"{shlex.join(words)}: {done.stdout}{done.stderr}"


def answer(words: list[str], folder: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """What a program prints."""
    return subprocess.run(
        words, cwd=folder, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


@functools.cache
def make(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """Let make print what it would run, in the project or else here; of that, `tabloop` commands are held, too."""
    command = ["make", "--dry-run", f"UV={UV}", "MAKE=:", *words[1:]]
    done = answer(command, project, clean())
    if done.returncode:
        done = answer(command, ROOT, clean())
    assert done.returncode == 0, f"{shlex.join(words)}: {done.stderr}"
    for line in done.stdout.splitlines():
        if found := re.match(rf"{re.escape(str(UV))} run [^|]*?(tabloop [^|]*)", line):
            by_click(next(simple(found[1])), project, environment)


def curl(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """Its options, and whether the service has the route."""
    asked(words, project, environment)
    app = (project / "packages/tabloop/src/tabloop/serving/app.py").read_text()
    for route in re.findall(r"(?:localhost:\d+|SERVICE)(/\S*)", " ".join(words)):
        assert f'"{route}"' in app, f"{shlex.join(words)}: no route {route}"


def git(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """git lists the options of a command."""
    known = answer(["git", words[1], "--git-completion-helper-all"], project, clean())
    assert known.returncode == 0, f"{shlex.join(words)}: {known.stderr}"
    options = {option.rstrip("=") for option in known.stdout.split()} | {"--format"}  # of `log`, not listed
    wrong = {word.partition("=")[0] for word in words if word.startswith("--") and word != "--"} - options
    assert not wrong, f"{shlex.join(words)}: {wrong}"
    if words[1] == "remote":
        assert words[2] in known.stdout, words


def uv(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """uv's own options and groups; then what `uv run` runs."""
    here = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    groups = {*tomllib.loads((project / "pyproject.toml").read_text())["dependency-groups"], *here}
    for option, group in itertools.pairwise(words):
        assert option != "--group" or group in groups, f"{shlex.join(words)}: no such group"
    if words[1] != "run":
        asked(words, project, environment)
        return
    at = 2
    while at < len(words) and words[at].startswith("--"):
        at += 2 if words[at] in ("--group", "--with") else 1
    asked(words[:at], project, environment)
    inner = words[at:]
    if inner and inner[0].endswith(".py"):
        inner = ("python", *inner)
    if inner:
        check(shlex.join(inner), project, environment)


def uvx(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """A program of a package."""
    check(shlex.join(words[1:]), project, environment)


def mlflow(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """To import it takes six seconds; its source names the options."""
    spec = importlib.util.find_spec("mlflow")
    assert spec and spec.submodule_search_locations
    package = Path(spec.submodule_search_locations[0])
    source = (package / "cli/__init__.py").read_text() + (package / "utils/cli_args.py").read_text()
    assert f"\ndef {words[1]}(" in source or f'"{words[1]}"' in source, words
    assert not [word for word in words if word.startswith("--") and f'"{word}"' not in source], words


def python(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """A module of the project or a file."""
    if words[1] == "-X":
        return
    file = f"src/{words[2].replace('.', '/')}.py" if words[1] == "-m" else words[1]
    assert (project / file).exists() or (ROOT / file).exists(), words


def files(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """A script, and for `release.sh` its command; the files of pytest."""
    for word in words[1:]:
        assert "/" not in word or (project / word).exists() or (ROOT / word).exists(), words
    if words[0] == "bash":
        assert re.search(rf"^{words[2]}\(\)", (project / words[1]).read_text(), re.M), words


def by_click(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """Parse as click does; a command without any argument is only named."""
    commands: dict[str, Callable[[], click.Command]] = {
        "tabloop": lambda: TABLOOP,
        "ray": lambda: importlib.import_module("ray.scripts.scripts").cli,  # takes a second
        "cookiecutter": lambda: importlib.import_module("cookiecutter.cli").main,
    }
    parse(commands[words[0]](), list(words[1:]), shlex.join(words))


PLACES = {"ROLE": "champion", "ENVIRONMENT": "production", "N": "2"}


def parse(command: click.Command, words: list[str], line: str) -> None:
    """Parse the words behind a command's name."""
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"{line}: no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    if not words:
        return
    try:
        command.make_context(line, [PLACES.get(word, word) for word in words])
    except click.exceptions.Exit:
        pass  # --help
    except click.UsageError as error:
        raise AssertionError(f"{line}: {error.format_message()}") from error


def dvc(words: tuple[str, ...], project: Path, environment: Path) -> None:
    """DVC's own parser; a command without any argument is only named."""
    from dvc.cli import DvcParserError
    from dvc.cli.parser import get_main_parser

    named = all(re.fullmatch("[a-z]+", word) for word in words)
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            get_main_parser().parse_args([*words[1:], *(["--help"] if named else [])])
        except DvcParserError as error:
            raise AssertionError(f"{shlex.join(words)}: {said.getvalue()}") from error
        except SystemExit as end:
            assert end.code == 0


Check = Callable[[tuple[str, ...], Path, Path], None]
CHECKS: dict[str, Check] = {
    "tabloop": by_click,
    "ray": by_click,
    "cookiecutter": by_click,
    "make": make,
    "curl": curl,
    "git": git,
    "uv": uv,
    "uvx": uvx,
    "dvc": dvc,
    "mlflow": mlflow,
    "python": python,
    "bash": files,
    "pytest": files,
}
