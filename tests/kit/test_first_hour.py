"""Whatever a newcomer types first, in whatever order: one line, no traceback, and an exit code that tells the truth."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tabloop.main import tabloop as program

from kit.conftest import PARAMS, Project, Tabloop, begin_history, clean, orders


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of each command of `tabloop`, with a value for each argument and option that it must have."""
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))
        return
    given = []
    for parameter in group.params:
        if parameter.required:
            option = [parameter.opts[0]] if isinstance(parameter, click.Option) else []
            choices = getattr(parameter.type, "choices", None)
            given += [*option, choices[0] if choices else "missing"]
    yield (*path, *given)


# These have nothing to do, or do it, without a model and without a table.
IDLE = {("remote", "push"), ("remote", "fetch"), ("compact",)}


@pytest.mark.parametrize("command", list(commands(program)), ids=" ".join)
def test_each_command_before_all_others_says_one_line_and_fails(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """In a folder that is no project."""
    env = clean(PROJECT_ROOT=str(tmp_path), CI="")
    done = subprocess.run(
        [sys.executable, "-m", "tabloop", *command],
        cwd=tmp_path,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode == 0:
        assert command[:2] in IDLE or command[:1] in IDLE, done.stdout
    else:
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_wrong_arguments_are_one_line(tabloop: Tabloop, tmp_path: Path) -> None:
    done = tabloop(tmp_path, "card", "nobody", code=2)
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith("`tabloop card --help` shows what it takes\n")


def test_ctrl_c_is_one_line_and_exit_code_130(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/table.csv"
        process = subprocess.Popen(
            [sys.executable, "-m", "tabloop", "ingest"],
            cwd=project(data=PARAMS["data"] | {"source": url}),
            env=clean(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent.settimeout(20)
        connection, _ = silent.accept()  # now it waits for the table
        with connection:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "ingest: stopped; the same command goes on or begins again\n")


def test_a_missing_file_of_the_project_is_named(tabloop: Tabloop, project: Project) -> None:
    folder = project(orders(20))
    begin_history(folder)
    done = tabloop(folder, "adopt", "events.csv", "--target", "returned", code=1)
    assert done.stderr.endswith("dvc.yaml is missing\n") and len(done.stderr.splitlines()) == 1


def test_windows_has_no_fcntl_and_no_tzset_and_the_commands_load_all_the_same(tmp_path: Path) -> None:
    names = sorted(
        f"tabloop.{path.relative_to(source).with_suffix('').as_posix().replace('/', '.')}"
        for source in [Path(sys.modules["tabloop"].__path__[0])]
        for path in source.rglob("*.py")
        if "fcntl" in path.read_text()
    )
    code = (
        "import sys, time, importlib; sys.modules['fcntl'] = None; del time.tzset\n"
        f"for name in {names}: importlib.import_module(name)\n"
        "from tabloop.main import tabloop; tabloop(['remote', 'push'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=clean(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
