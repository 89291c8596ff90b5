"""Whatever a newcomer types first, in whatever order: one line, no traceback, and an exit code that tells the truth."""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import duckdb
import pytest
from forks import Forks
from kit.conftest import PARAMS, TEMPLATE, Project, clean, orders
from tabloop.cli import correction, then_push
from tabloop.main import tabloop as program

from .conftest import Tabloop, begin_history


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
    command: tuple[str, ...], tmp_path: Path, forks: Forks
) -> None:
    """In a folder that is no project."""
    env = clean(PROJECT_ROOT=str(tmp_path), CI="")
    done = forks.run(command, tmp_path, env)
    assert "Traceback" not in done.stderr, done.stderr
    if done.returncode == 0:
        assert command[:2] in IDLE or command[:1] in IDLE, done.stdout
    else:
        assert len(done.stderr.splitlines()) == 1, done.stderr


# What DuckDB takes for Jupyter, in whose kernel the progress bars need ipywidgets, or a statement fails.
JUPYTER = """
import sys, types
del sys.modules["__main__"].__file__
sys.modules["IPython"] = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(config={"IPKernelApp": {}}))
from tabloop.database import connect
print(connect().execute("SELECT current_setting('TimeZone')").fetchone())
"""


def test_tables_are_read_in_jupyter(tmp_path: Path) -> None:
    (tmp_path / "cell.py").write_text(JUPYTER)
    done = subprocess.run([sys.executable, tmp_path / "cell.py"], capture_output=True, text=True)
    assert done.stdout == "('UTC',)\n", done.stderr


def test_outside_of_a_project_each_command_says_so(tmp_path: Path, forks: Forks) -> None:
    for command in ("summary", "loop", "update", "card champion", "drift", "release show staging"):
        said = forks.run(command.split(), tmp_path, clean(CI=""))
        assert said.returncode == 1 and said.stderr.count("\n") == 1
        assert f"{tmp_path}/params.yaml is missing: run this in the project's folder" in said.stderr


@pytest.fixture
def read_only(tmp_path: Path) -> list[str]:
    """The beginning of a command that has the folder read-only, for root, too."""
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && cd "$0" && exec "$@"'
    begun = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(tmp_path)]
    if not shutil.which("unshare") or subprocess.run([*begun, "true"], capture_output=True).returncode:
        pytest.skip("this machine mounts nothing for its users")
    return begun


def test_in_a_folder_that_is_read_only_each_command_is_one_line(
    project: Project, tabloop: Tabloop, read_only: list[str]
) -> None:
    folder = project(orders())
    begin_history(folder)
    tabloop(folder, "ingest")
    for command in ("ingest", "validate", "featurize", "loop", "update", "release rollback staging"):
        python = [*read_only, sys.executable, "-m", "tabloop", *command.split()]
        done = subprocess.run(python, env=clean(PROJECT_ROOT=str(folder)), capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith(command.split()[0])


def test_where_a_folder_should_be_is_a_file(project: Project, tabloop: Tabloop) -> None:
    folder = project(orders())
    tabloop(folder, "ingest")
    (folder / "reports").write_text("")
    said = tabloop(folder, "validate", code=1).stderr
    assert said.startswith(f"validate: {folder}/reports") and said.count("\n") == 1


def test_a_disk_that_is_full_is_said_as_such() -> None:
    """By a device that is, and in the words of a quota and of a limit, as Arrow and DuckDB repeat them."""
    with pytest.raises(OSError) as full, Path("/dev/full").open("w") as device:
        device.write("x" * 100_000)
    for error in (
        full.value,
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        OSError(errno.EFBIG, "File too large"),
    ):
        said = (
            "the disk is full: make room where it writes, in the project's folder or OUTPUT's, and in TMPDIR"
        )
        assert (correction(error) or "").startswith(said)


def test_wrong_arguments_are_one_line(tabloop: Tabloop, tmp_path: Path) -> None:
    done = tabloop(tmp_path, "card", "nobody", code=2)
    assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.stderr.endswith(". `uv run tabloop card --help` shows what it takes\n")
    for wrong in ("--trials=-3", "--timeout=-1", "--timeout=nan", "--timeout=0"):
        said = tabloop(tmp_path, "tune", wrong, code=2).stderr
        assert "is not in the range" in said or "'nan' is not a valid integer" in said
    unknown = tabloop(tmp_path, "trian", code=2).stderr
    assert (
        unknown
        == "tabloop: No such command 'trian'. Did you mean 'retrain'? `uv run tabloop --help` shows what it takes\n"
    )


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
    assert (process.returncode, said) == (
        130,
        "ingest: stopped; the same command continues or starts again\n",
    )


# What Python, NumPy and pandas make of a Ctrl-C that breaks off their import.
BROKEN = """
try:
    try:
        raise KeyboardInterrupt
    except BaseException as error:
        raise RuntimeError("Error calling __set_name__") from error
except RuntimeError as error:
    raise ImportError("Unable to import required dependencies: numpy") from error
"""


def test_ctrl_c_during_an_import_is_the_same_line(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    program = "from tabloop.cli import command\nwith command('drift'):\n    import broken"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    said = "drift: stopped; the same command continues or starts again\n"
    assert (done.returncode, done.stderr) == (130, said)


SCRIPT = tomllib.loads((TEMPLATE / "packages/tabloop/pyproject.toml").read_text())["project"]["scripts"][
    "tabloop"
]


@pytest.mark.parametrize(
    "program",
    [
        ["-m", "tabloop"],
        [
            "-c",
            "import sys; from {} import {}; sys.exit({}())".format(*SCRIPT.split(":"), SCRIPT.split(":")[1]),
        ],
    ],
    ids=["python -m", "script"],
)
def test_ctrl_c_before_the_command_is_known_is_one_line(program: list[str], tmp_path: Path) -> None:
    """While its first libraries are imported, which takes a tenth of a second."""
    (tmp_path / "click.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    done = subprocess.run(
        [sys.executable, *program, "summary"],
        cwd=tmp_path,
        env=clean(PYTHONPATH=str(tmp_path)),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (130, "tabloop: stopped\n")


def test_the_next_step_pushes_whatever_git_lacks_for_it(
    project: Project, tabloop: Tabloop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No remote, a remote without this branch, then both; each command is run as it was printed."""
    folder = project(orders(20))
    begin_history(folder)
    release = folder / "deploy/staging/release.env"
    release.parent.mkdir(parents=True)
    release.write_text("IMAGE=none\nMODEL_VERSION=none\n")
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@b"]
    subprocess.run([*git, "add", "--all"], cwd=folder, check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "Release"], cwd=folder, check=True)
    bare = folder.parent / "bare.git"
    subprocess.run(["git", "init", "--quiet", "--bare", bare], check=True)
    again = "git push --set-upstream origin HEAD"
    for version, step in (("1", f"git remote add origin URL && {again}"), ("2", again), ("3", "git push")):
        done = tabloop(folder, "release", "set", "staging", f"MODEL_VERSION={version}")
        assert done.stderr == f"Next: {step}\n"
        if version == "2":
            subprocess.run(["git", "remote", "remove", "origin"], cwd=folder, check=True)
            step = f"git remote add origin {bare} && {step}"
        subprocess.run(
            step.replace("URL", str(bare)), shell=True, cwd=folder, check=True, capture_output=True
        )
        if version == "1":
            subprocess.run(["git", "branch", "--unset-upstream"], cwd=folder, check=True)
    monkeypatch.setattr("tabloop.params.ROOT", folder)
    subprocess.run(["git", "branch", "template"], cwd=folder, check=True)
    subprocess.run(then_push(also="template"), shell=True, cwd=folder, check=True, capture_output=True)
    pushed = subprocess.run(["git", "branch", "--list"], cwd=bare, capture_output=True, text=True).stdout
    assert "  template\n" in pushed  # though the present branch has an upstream


def test_a_deploy_without_a_remote_says_how_to_add_one(project: Project, tabloop: Tabloop) -> None:
    folder = project(orders(20))
    begin_history(folder)
    said = tabloop(folder, "release", "deploy", "staging", code=1).stderr
    assert said.count("\n") == 1 and "`git remote add origin URL`" in said and "fatal" not in said


def test_a_missing_file_of_the_project_is_named(tabloop: Tabloop, project: Project) -> None:
    folder = project(orders(20))
    begin_history(folder)
    done = tabloop(folder, "adopt", "events.csv", "--target", "returned", code=1)
    assert done.stderr.endswith("dvc.yaml is missing\n") and len(done.stderr.splitlines()) == 1


WINDOWS = """
import os, signal, sys, time
sys.modules["fcntl"] = None
for module, names in {os: ["fork", "killpg", "getuid"], signal: ["SIGHUP", "SIGKILL"], time: ["tzset"]}.items():
    for name in names:
        delattr(module, name)
real = os.open
def opened(path, *rest, **options):
    if os.path.isdir(path) and "dir_fd" not in options:
        raise PermissionError(path)
    return real(path, *rest, **options)
os.open = opened
"""


def test_what_windows_lacks_is_one_line_and_the_commands_load_all_the_same(project: Project) -> None:
    folder, source = project(), Path(sys.modules["tabloop"].__path__[0])
    lacking = re.compile(r"fcntl|tzset|SIGHUP|SIGKILL|killpg|fork|getuid")
    paths = [path for path in source.rglob("*.py") if lacking.search(path.read_text())]
    names = [
        f"tabloop.{path.relative_to(source).with_suffix('').as_posix().replace('/', '.')}" for path in paths
    ]
    assert len(names) > 8
    loading = f"import importlib\nfor name in {names}: importlib.import_module(name)\n"
    for command, code, said in (
        (["remote", "push"], 0, "DVC_REMOTE_URL"),
        (["loop"], 1, "loop: this needs file locks that Windows lacks: run it in WSL 2\n"),
    ):
        program = f"{WINDOWS}{loading}from tabloop.main import tabloop\ntabloop({command})"
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=folder, env=clean(), capture_output=True, text=True
        )
        assert done.returncode == code and said in done.stdout + done.stderr, done.stderr
        assert len(done.stderr.splitlines()) == code


def test_a_machine_whose_code_page_is_not_utf_8_reads_and_prints_all_the_same(
    project: Project,
) -> None:
    """As Windows' cp1252, or a container without a locale. A letter that the terminal does not have is `?`."""
    events = orders(60).assign(country="不正")
    schema = {"request": {"grösse": {"type": "number"}}}
    folder = project(events.rename(columns={"amount": "grösse"}), schema=schema, project="Détection")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "cp1252"}

    def tabloop(*arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """In a new Python, which reads these variables when it starts."""
        command = [sys.executable, "-m", "tabloop", *arguments]
        done = subprocess.run(command, cwd=folder, env=clean(**plain), capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done

    tabloop("ingest")
    assert "60 events" in tabloop("validate").stdout
    raw = folder / "data/raw/events.parquet"
    assert duckdb.read_parquet(str(raw)).unique("country").fetchall() == [("不正",)]
    wrong = tabloop("card", "candidate", "größe 不正", code=1)
    assert "Traceback" not in wrong.stderr
    params = folder / "params.yaml"
    params.write_text(params.read_text("utf-8").replace("gates:", "不正: 1\ngates:"), "utf-8")
    assert tabloop("validate", code=1).stderr.startswith("validate: params.yaml: ??: ")


def test_the_root_is_the_nearest_folder_with_params(tmp_path: Path, tabloop: Tabloop) -> None:
    (tmp_path / "params.yaml").write_text("x: 1\n")
    (tmp_path / "a/b").mkdir(parents=True)
    assert "params.yaml: x: " in tabloop(tmp_path / "a/b", "ingest", code=1).stderr
    assert "is missing" in tabloop(tmp_path, "ingest", code=1, PROJECT_ROOT=str(tmp_path / "a")).stderr
