"""A command that is a fork (tests/forks.py) is seen from outside as the process that it stands for."""

import json
import os
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from forks import COMMANDS, Forks, install
from kit.conftest import clean

from .test_processes import running

# What a process knows of itself. Its arguments and its input have bytes that no text has.
STATE = """
import json, os, signal, sys
own = ("FORKS", "FORKS_PATH", "FORKS_PYTHON", "PATH", "_", "LC_CTYPE")
mask = os.umask(0)
os.umask(mask)
print(json.dumps({
    "argv": sys.argv, "cwd": os.getcwd(), "umask": mask, "input": sys.stdin.buffer.read().hex(),
    "env": {name: value for name, value in os.environ.items() if name not in own},
    "path": sys.path, "python": sys.executable, "name": __name__,
    "terminal": [os.isatty(end) for end in range(3)], "seek": sys.stdout.seekable(),
    "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGCHLD)],
    "threads": __import__("threading").active_count(), "main": list(vars(sys.modules["__main__"]))[:4],
}))
"""


@pytest.fixture(scope="module")
def own() -> Iterator[Forks]:
    """A program that forks for the tests of this file alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_TESTRUNUID", raising=False)
        program = Forks()
    yield program
    program.process.kill()


def begin(forks: Forks | None, *command: str | Path, **options: Any) -> "subprocess.Popen[str]":
    """`python -m` or `python -c`, or another command: as a fork, or as a process of its own."""
    env = options.pop("env", None) or clean()
    if forks:
        words = [f"python{command[1]}", *command[2:]] if command[0] == sys.executable else command
        env |= {"FORKS": forks.path, "PATH": f"{COMMANDS}{os.pathsep}{env['PATH']}"}
        command = (COMMANDS / words[0], *words[1:])
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, env=env, **pipes | options)


def without_source(err: str) -> str:
    """What was said, without the lines of source that Python 3.13 shows of `python -c`."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("    "))


def both(forks: Forks, *command: str | Path, given: str = "", **options: Any) -> tuple[int, str, str]:
    """The exit code, output and errors of a command, the same for a fork and a process."""
    ended = []
    for each in (None, forks):
        process = begin(each, *command, **options)
        out, err = process.communicate(given, timeout=30)
        ended.append((out, without_source(err), process.returncode))
    assert ended[0] == ended[1]
    out, err, code = ended[1]
    return code, out, err


def test_it_has_the_same_arguments_folder_variables_umask_input_and_search_path(
    own: Forks, tmp_path: Path
) -> None:
    (folder := tmp_path / "Größe 1").mkdir()
    (folder / "state.py").write_text(STATE)
    env = clean(PYTHONPATH=f"{folder}{os.pathsep}{tmp_path}", EMPTY="", LINES="a\nb=c", ODD="\udcff")
    words = ("", "a b", "--x=ü", "\udcfe", "line\n")
    for begun in (("-m", "state"), ("-c", STATE)):
        _, out, _ = both(
            own,
            sys.executable,
            *begun,
            *words,
            given="x\n\x00y",
            cwd=folder,
            env=dict(env),
            umask=0o027,
        )
        state = json.loads(out)
        assert state["umask"] == 0o027 and state["cwd"] == str(folder) and state["input"] == "780a0079"
        assert state["argv"][1:] == list(words) and state["env"]["LINES"] == "a\nb=c"


ENDS = {
    "its last line": "print('a')",
    "an exit code": "import sys; sys.exit(3)",
    "an exit code of two bytes": "import sys; sys.exit(300)",
    "an exit code below zero": "import sys; sys.exit(-1)",
    "true": "import sys; sys.exit(True)",
    "no exit code": "import sys; sys.exit()",
    "a text": "import sys; sys.exit('a text')",
    "an object": "import sys; sys.exit([1])",
    "an error": "def f():\n    raise ValueError('x')\nf()",
    "an error of two": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise ValueError('x') from e",
    "its own way to say an error": "import sys; sys.excepthook = lambda *e: print('oh', e[1]); raise ValueError('x')",
    "a syntax error": "1 +",
    "Ctrl-C": "raise KeyboardInterrupt",
    "at once": "import os; print('lost', end=''); os._exit(7)",
    "a signal": "import os; os.kill(os.getpid(), 15)",
    "being killed": "import os; os.kill(os.getpid(), 9)",
    "an abort": "import os; os.abort()",
    "a last function": "import atexit; atexit.register(print, 'last')",
    "a last function after an error": "import atexit; atexit.register(print, 'last'); 1 / 0",
    "a thread": "import threading; threading.Timer(0.1, print, ['thread']).start()",
    "bytes": "import sys; sys.stdout.buffer.write(b'\\xff\\n'); sys.stderr.write('\\udcff')",
    "what no terminal has": "print('\\udcff')",
}


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_in_the_same_way_and_says_the_same(own: Forks, end: str, tmp_path: Path) -> None:
    both(own, sys.executable, "-c", ENDS[end], cwd=tmp_path, errors="backslashreplace")


def test_a_module_that_is_not_there_fails(own: Forks, tmp_path: Path) -> None:
    for forks in (None, own):
        process = begin(forks, sys.executable, "-m", "no_such_module", cwd=tmp_path)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 1 and "No module named no_such_module" in err.splitlines()[-1]


WAITS = """
import os, signal, sys, time
def ended(number, frame):
    os.write(1, b"ended by %d" % number)  # print might be at work
    sys.exit(5)
for number in map(int, sys.argv[1:]):
    signal.signal(number, ended)
print(os.getpid(), flush=True); time.sleep(60)
"""


HANDLED = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
SIGNALS = [
    *((number, True) for number in HANDLED),
    *((number, False) for number in (*HANDLED, signal.SIGKILL)),
]


@pytest.mark.parametrize(("number", "handled"), SIGNALS)
def test_a_signal_ends_it_as_it_ends_a_process(own: Forks, number: signal.Signals, handled: bool) -> None:
    ended = []
    for forks in (None, own):
        process = begin(forks, sys.executable, "-c", WAITS, *([str(int(number))] if handled else []))
        assert process.stdout
        pid = int(process.stdout.readline())
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        ended.append((process.returncode, out, without_source(err)))
        wait_for(lambda pid=pid: not running(pid), 5)  # type: ignore[misc]
    assert ended[0] == ended[1] and ended[0][0] == (5 if handled else -number)


def test_a_fork_that_is_killed_is_a_command_that_was(own: Forks) -> None:
    process = begin(own, sys.executable, "-c", WAITS)
    assert process.stdout
    os.kill(int(process.stdout.readline()), signal.SIGKILL)
    assert (*process.communicate(timeout=20), process.returncode) == ("", "", -signal.SIGKILL)


def test_it_runs_the_source_as_it_is_now(own: Forks, tmp_path: Path) -> None:
    for text in ("one", "number two"):
        (tmp_path / "part.py").write_text(f"TEXT = {text!r}")
        assert (
            both(own, sys.executable, "-c", "import part; print(part.TEXT)", cwd=tmp_path)[1] == f"{text}\n"
        )


def test_two_run_at_once(own: Forks, tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; me, other = sys.argv[1:]; Path(me).touch()\n"
        "while not Path(other).exists(): time.sleep(0.01)\n"
        "print(me)"
    )
    pair = [
        begin(own, sys.executable, "-c", code, *names, cwd=tmp_path) for names in (("a", "b"), ("b", "a"))
    ]
    assert [process.communicate(timeout=30)[0] for process in pair] == ["a\n", "b\n"]


def test_what_only_a_new_python_reads_gets_one(own: Forks) -> None:
    """Such as the seed of hashes, by which a test asks whether results depend on the order of a set."""
    code = "import sys; print(hash('a'), sys.flags.hash_randomization)"
    said = {both(own, sys.executable, "-c", code, env=clean(PYTHONHASHSEED=seed))[1] for seed in ("1", "2")}
    assert len(said) == 2


@pytest.fixture
def hooked(tmp_path: Path) -> Path:
    """The Python of an environment with the hook. `tabloop` is there what says its state."""
    venv.create(tmp_path / "environment", symlinks=True, with_pip=False)
    install(tmp_path / "environment")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/tabloop.py").write_text(STATE)
    return tmp_path / "environment/bin/python"


def test_a_python_with_the_hook_is_a_fork_with_its_own_search_path(own: Forks, hooked: Path) -> None:
    ended = []
    for forks in ({}, {"FORKS": own.path}):
        env = clean(PYTHONPATH=str(hooked.parents[2] / "source")) | forks
        done = subprocess.run([hooked, "-m", "tabloop", "a b"], env=env, input=b"x", capture_output=True)
        ended.append((done.returncode, json.loads(done.stdout), done.stderr))
    assert ended[0] == ended[1]
    other = [str(hooked), "-c", "print(1)"]
    said = subprocess.run(other, env=clean(FORKS=own.path), capture_output=True, text=True)
    assert (said.stdout, said.stderr) == ("1\n", "")


def test_where_the_program_is_gone_the_command_itself_runs(hooked: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTEST_XDIST_TESTRUNUID", raising=False)
        gone = Forks()
    gone.process.kill()
    gone.process.wait()
    assert both(gone, sys.executable, "-c", "import sys; print(sys.argv)", "x")[1] == "['-c', 'x']\n"
    both(gone, sys.executable, "-c", "import sys; sys.exit(3)")
    done = gone.run(["--help"], tmp_path, clean())
    assert done.returncode == 0 and "Usage: " in done.stdout and not done.stderr
    env = clean(PYTHONPATH=str(tmp_path / "source"), FORKS=gone.path)
    said = subprocess.run(
        [hooked, "-m", "tabloop", "a b"], env=env, stdin=subprocess.DEVNULL, capture_output=True
    )
    state = json.loads(said.stdout)
    assert state["argv"][1:] == ["a b"] and state["python"] == str(hooked) and not said.stderr
