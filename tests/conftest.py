"""Bake once for each set of answers, build one environment, train once; every test works on its own copy.

The tests run in four processes (pytest-xdist). What takes long is made by the one that needs it first; see `once`.
"""

import contextlib
import fcntl
import functools
import gc
import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bytecode_cache  # noqa: F401 - before the others

# isort: split
import duckdb
import httpx
import pandas as pd
import pytest
import yaml
from cookiecutter.main import cookiecutter
from forks import COMMANDS, Forks, install
from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROOT = Path(__file__).parents[1]
PROCESS = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
MYPY = ROOT / f".cache/mypy-{PROCESS}"  # the cache of the mypy that this process runs in projects
PYTHON = f"3.{min(sys.version_info.minor, 13)}"  # whatever runs the tests runs the projects
UV = os.environ.get("UV") or shutil.which("uv")  # `uv run` says where it is
# Four processes share two cores: a training with threads of its own would take more of them, not less time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that runs the tests in the background ignores Ctrl-C, and what they start would, too.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# What is garbage here a fork leaves alone: a DuckDB among it waits, when it ends, for threads that no fork has.
os.register_at_fork(after_in_child=gc.freeze)

Bake = Callable[..., Path]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
Project = Callable[..., Path]


# A process takes a group of tests at a time: a file, whose tests share fixtures, or one of these. The tests of a group
# use the same containers and ports, or tell a story.
GROUPS = {
    "test_from_the_first_push_to_a_rollback": "story",
    "test_production_by_dispatch_and_back": "story",
    "test_a_pull_request_changes_nothing_shared_and_is_not_trained_again_after_the_merge": "pull request",
    "test_drift_opens_one_issue_and_retrains_once_and_the_challenger_is_judged": "watched",
    "test_make_demo_from_nothing_to_a_prediction": "demo",
    # These import MLflow and DVC, Feast, scikit-learn, or Evidently, which take seconds: one process does.
    "test_watch.py": "test_drift",
    "test_registry.py": "test_rollout",
    "test_postgres.py": "test_rollout",
    "test_roles.py": "test_rollout",
    "test_tune.py": "test_rollout",
    "test_columns.py": "test_featurize",
    "test_timezones.py": "test_featurize",
    "test_offline_store.py": "test_featurize",
    "test_metrics.py": "test_export",
    "test_intervals.py": "test_export",
    "test_round_trip.py": "test_export",
}
# The longest groups start first, so that at the end no process waits for the other; one of the first needs no project.
LONGEST = (
    "story",
    "test_pipeline",
    "pull request",
    "test_rollout",
    "test_owner",
    "watched",
    "test_torch",
    "test_ray",
    "demo",
    "test_reconcile",
    "test_alerts",
    "test_monitoring",
    "test_loop",
    "test_features",
    "test_adopt",
    "test_object_store",
    "test_online_store",
    "test_bake",
    "test_serving",
    "test_update",
    "test_container",
    "test_supply_chain",
    "test_workflows",
)


def group_of(nodeid: str) -> str:
    """The group of a test, by its id: `tests/test_x.py::test_y[case]`."""
    file, _, test = nodeid.partition("::")
    return GROUPS.get(test.partition("[")[0]) or GROUPS.get(Path(file).name) or Path(file).stem


class Groups(LoadScopeScheduling):
    """Give each process a group of tests at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Schedule by groups. (`--dist loadgroup` of pytest-xdist 3.8 does nothing under pytest 9.2.)"""
    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the groups, the longest first."""
    place = {group: at for at, group in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(group_of(item.nodeid), len(place)))


# What is imported when the tests are collected: by each process, whichever tests it will run.
COLLECTED = set[str]()


def pytest_collection_finish() -> None:
    """Note it, for tests/test_make.py."""
    COLLECTED.update(sys.modules)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for. It is free again when this process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """The folder that the first process to ask for it makes, by `make(folder)`; the others wait for it."""
    done = folder.with_name(f"{folder.name}.done")
    with locked(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def bake(shared: Path) -> Bake:
    """`bake(framework="torch")`: the folder of a project baked with these answers; don't write into it."""

    def bake(**answers: str) -> Path:
        answers = {"python_version": PYTHON} | answers
        name = hashlib.sha256(repr(sorted(answers.items())).encode()).hexdigest()[:12]

        def make(folder: Path) -> None:
            options = {"no_input": True, "default_config": True, "extra_context": answers}
            with pytest.MonkeyPatch.context() as patch:
                if answers.keys() & {
                    "framework",
                    "license",
                }:  # one of many: uv.lock by what is in the cache, or none
                    patch.setenv("UV_OFFLINE", "1")
                cookiecutter(str(ROOT), output_dir=str(folder), **options)

        (project,) = once(shared / f"bake-{name}", make).iterdir()
        return project

    return bake


@pytest.fixture(scope="session")
def baked(bake: Bake) -> Path:
    """The project as it is by default; don't write into it."""
    return bake()


@pytest.fixture(scope="session")
def environment(baked: Path) -> Path:
    """The folder of the one virtual environment, of all that a default project needs but the project itself."""
    return environment_of(baked, "environment")


def environment_of(project: Path, name: str) -> Path:
    """The virtual environment of a project's dependencies, kept between runs of the tests under `name`.

    It has a copy of tabloop, for the `tabloop` command; by PYTHONPATH the command then uses a project's own.
    """
    assert UV, "run the tests by `make test`"
    folder = ROOT / ".cache" / name
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        for path in [project / "pyproject.toml", *sorted((project / "packages").rglob("*.*"))]:
            copy = folder / path.relative_to(project)
            if path.is_file() and not (copy.exists() and copy.read_bytes() == path.read_bytes()):
                copy.parent.mkdir(
                    parents=True, exist_ok=True
                )  # only what differs: the other process may run it
                shutil.copy(path, copy)
        sync = [UV, "sync", "--quiet", "--no-install-project", "--python", PYTHON]
        subprocess.run(sync, cwd=folder, check=True, env=clean())
        share_bytecode(folder / ".venv")
        install(folder / ".venv")
    return folder / ".venv"


def torch_environment_of(project: Path) -> Path:
    """`environment_of` a project with PyTorch."""
    with pytest.MonkeyPatch.context() as patch:
        for wheel in Path(os.environ.get("UV_FIND_LINKS") or "nowhere").glob("torch-*.whl"):
            # It is at hand: a folder with its address stands in for PyTorch's index, which may be out of reach.
            index = ROOT / ".cache/torch-index"
            (index / "torch").mkdir(parents=True, exist_ok=True)
            (index / "torch/index.html").write_text(f'<a href="{wheel.as_uri()}">{wheel.name}</a>')
            patch.setenv("UV_INDEX", f"pytorch={index.as_uri()}")
        return environment_of(project, "environment-torch")


def share_bytecode(environment: Path) -> None:
    """Give a virtual environment the bytecode of the packages that it has in common with that of most tests.

    To compile what a training imports takes 15 s of CPU. Python compiles again where a source is not the same.
    """
    ours = str(ROOT / ".cache/environment/.venv")
    for folder, _, names in os.walk(ours):
        there = Path(str(environment) + folder.removeprefix(ours))
        if there.name != "__pycache__" or environment == Path(ours) or not there.parent.is_dir():
            continue
        there.mkdir(exist_ok=True)
        for name in names:
            if name.endswith(".pyc"):  # not the temporary file of a process that compiles now
                with contextlib.suppress(FileExistsError, FileNotFoundError):
                    os.link(f"{folder}/{name}", there / name)


@pytest.fixture(scope="session")
def run(environment: Path) -> Run:
    """`run(project, "dvc", "repro")`: the finished command, run in that project with the shared environment.

    `code` is the exit status that it must have (None: any); further keywords are environment variables. `dvc`, `tabloop`,
    `pytest`, `python -m` and `python -c` are forks of a program that has imported their libraries (tests/forks.py), unless
    `fork` is False; so are `dvc` and `tabloop` where the command starts them.
    """
    return runner(environment)


def runner(environment: Path) -> Run:
    """`run` for an environment."""

    def run(
        project: Path, *command: str | Path, code: int | None = 0, fork: bool = True, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        env = within(project, environment) | variables
        if fork and "PATH" not in variables:  # who gives one chooses a Python
            env |= {"PATH": f"{COMMANDS}{os.pathsep}{env['PATH']}", "FORKS": forks_of(environment).path}
            if command[:2] in (("python", "-m"), ("python", "-c")):
                command = (f"python{command[1]}", *command[2:])
        done = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True)
        assert code is None or done.returncode == code, (
            f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
        return done

    return run


@functools.cache
def forks_of(environment: Path) -> Forks:
    """What runs `dvc` and `tabloop` as forks, for an environment; it ends with this process."""
    return Forks(environment / "bin/python", clean(OMP_NUM_THREADS="1"))


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(condition: Callable[[], Any], seconds: float = 40) -> None:
    """Wait until the condition holds; fail after so many seconds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"still not so after {seconds:g} s"
        time.sleep(0.05)


# How the variables begin that would reach into a project: of git, Python, MLflow, DVC, Feast.
REACHING = ("GIT_", "PYTHON", "MLFLOW_", "DVC_", "PROMETHEUS_")


def clean(**variables: str) -> dict[str, str]:
    """This process's environment without what would reach into a project; nor what says that uv or make run it."""
    reaching = (*REACHING, "VIRTUAL_ENV", "UV_RUN", "MAKE", "MFLAGS")
    return {k: v for k, v in os.environ.items() if not k.startswith(reaching)} | variables


AUTHOR = {f"GIT_{r}_{p}": "test@example.com" for r in ("AUTHOR", "COMMITTER") for p in ("NAME", "EMAIL")}


def git(folder: Path, *arguments: str | Path) -> str:
    """What a git command prints, run as the author of the tests; it must succeed."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=clean(**AUTHOR), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def within(project: Path, environment: Path) -> dict[str, str]:
    """The variables with which a command in `project` finds the shared environment and the project's own code."""
    return clean(
        PATH=f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=os.pathsep.join(str(project / part) for part in ("src", "packages/tabloop/src")),
        # `uv run`, in the project's Makefile, takes the environment as it is.
        UV_PROJECT_ENVIRONMENT=str(environment),
        UV_NO_SYNC="1",
        SHELL=str(ROOT / "tests/no_shell"),
        MYPY_CACHE_DIR=str(MYPY),
        **AUTHOR,
    )


def know_types(project: Path, environment: Path) -> None:
    """Give this process's mypy what it knows of the libraries: they are read once, which takes 15 s of CPU."""
    known = ROOT / ".cache/mypy"
    with locked(ROOT / ".cache/mypy.lock"):
        if not known.exists():
            part = known.with_name("mypy.part")
            env = within(project, environment) | {"MYPY_CACHE_DIR": str(part)}
            subprocess.run(["mypy"], cwd=project, env=env, capture_output=True)  # a test says if it fails
            part.rename(known)
        if not MYPY.exists():
            shutil.copytree(known, MYPY)


@pytest.fixture
def project(baked: Path, tmp_path: Path) -> Project:
    """`project()` or `project(trained)`: the folder of a fresh copy, history included, to do anything with."""

    def project(source: Path = baked) -> Path:
        return shutil.copytree(
            source, tmp_path / f"copy{len(list(tmp_path.iterdir()))}" / source.name, symlinks=True
        )

    return project


@pytest.fixture(scope="session")
def demo(shared: Path) -> Path:
    """A folder with a copy of this repository in which `make demo` ran, as on a new machine, and what it said."""

    def make(folder: Path) -> None:
        out = shutil.ignore_patterns(".git", ".venv", ".uv", ".cache", "demo", "__pycache__", "uv.lock")
        shutil.copytree(ROOT, folder / "template", ignore=out)
        with (folder / "said").open("w") as said:
            subprocess.run(
                ["make", "demo"],
                cwd=folder / "template",
                env=clean(CI=""),
                stdout=said,
                stderr=subprocess.STDOUT,
                check=True,
            )

    return once(shared / "demo", make)


@pytest.fixture(scope="session")
def trained(demo: Path, baked: Path, run: Run, shared: Path) -> Path:
    """The project that `make demo` trained, committed; don't write into it, copy it with `project(trained)`."""

    def make(folder: Path) -> None:
        out = shutil.ignore_patterns(".venv", "hooks")  # the hooks ask for packages of that environment
        made = demo / "template/demo" / baked.name
        project = shutil.copytree(made, folder / baked.name, symlinks=True, ignore=out)
        run(project, "git", "add", "--all")
        run(project, "git", "commit", "--quiet", "--message", "First model")

    return once(shared / "trained", make) / baked.name


@pytest.fixture(scope="session")
def quick(baked: Path, run: Run, shared: Path) -> Path:
    """As `trained`, on a few rows: for tests of the flow, not of the model. Don't write into it, copy it."""
    return trained_quickly(baked, run, shared / "quick")


def trained_quickly(baked: Path, run: Run, folder: Path) -> Path:
    """`quick` for a baked project."""

    def make(folder: Path) -> None:
        project = shutil.copytree(baked, folder / baked.name, symlinks=True)
        few_rows(project)
        # Each Python process begins a list of what it imports.
        (folder / "imports").write_text(run(project, "dvc", "repro", PYTHONPROFILEIMPORTTIME="1").stderr)
        run(project, "git", "add", "--all")
        run(project, "git", "commit", "--quiet", "--message", "First model, on a few rows")

    return once(folder, make) / baked.name


def few_rows(project: Path, transactions: int = 5000, users: int = 200, max_iter: int = 50) -> None:
    """Let the simulator make fewer rows, and train in fewer rounds.

    There is no gate of the cost then: a threshold that is chosen by some hundred positives is chance.
    """

    def change(params: Any) -> None:
        params["data"]["simulator"].update(transactions=transactions, users=users)
        few = {"epochs": 5, "batch_size": 128} if "epochs" in params["train"] else {"max_iter": max_iter}
        params["train"].update(few)
        params["gates"] = [gate for gate in params["gates"] if gate["metric"] == "auc"]

    edit(project, change)


def lines_of_readme(project: Path, name: str) -> str:
    """The Python in the project's README or its guides that gives `name` a value."""
    pages = [project / "README.md", *(project / "packages/tabloop/docs").glob("*.md")]
    text = "".join(page.read_text() for page in pages)
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", text, re.S | re.M)
    (found,) = (textwrap.dedent(block) for block in blocks if f"{name} = " in block)
    return found


def edit(folder: Path, change: Callable[[Any], None]) -> None:
    """Change params.yaml in place."""
    params = yaml.safe_load((folder / "params.yaml").read_text())
    change(params)
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


STAGES = ["ingest", "validate", "featurize", "train", "champion", "evaluate", "register"]


def ran(output: str) -> list[str]:
    """The stages that a `dvc repro` ran, by its output."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


@dataclass
class Server:
    """A running service."""

    process: "subprocess.Popen[str]"
    url: str
    log: Path
    client: httpx.Client

    def metric(self, name: str) -> float:
        """A metric's value, summed over its labels."""
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        return sum(map(float, found))

    def stop(self) -> str:
        """End it as an orchestrator does; what it said on stderr."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=30)[1]

    def logged(self, table: str = "predictions") -> pd.DataFrame:
        """A table of its prediction log."""
        return duckdb.read_parquet(f"{self.log}/{table}/date=*/*.parquet").df()


Serve = Callable[..., "contextlib.AbstractContextManager[Server]"]


@pytest.fixture(scope="session")
def registry() -> Iterator[str]:
    """The address of a container registry: RIG_REGISTRY, else a container."""
    if given := os.environ.get("RIG_REGISTRY"):
        yield given
        return

    def docker(*arguments: str) -> str:
        return subprocess.run(
            ["docker", *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    name = docker("run", "--detach", "--rm", "--publish", "127.0.0.1::5000", "registry:3")
    yield docker("port", name, "5000/tcp").splitlines()[0]
    docker("rm", "--force", name)


@pytest.fixture
def serve(environment: Path, tmp_path: Path) -> Serve:
    """`with serve(project, CHALLENGER_MODE="ab") as server`: started, ready, and ended."""

    @contextlib.contextmanager
    def serve(project: Path, **variables: str) -> Iterator[Server]:
        port = free_port()
        log = tmp_path / f"log{port}"
        chosen = {"PORT": str(port), "PREDICTION_LOG": str(log), "PREDICTION_LOG_SECONDS": "0.5"} | variables
        command = ["python", "-m", "fraud_detection.app"]
        env = within(project, environment) | chosen
        process = subprocess.Popen(command, cwd=project, env=env, stderr=subprocess.PIPE, text=True)
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=url, timeout=30) as client:
                server = Server(process, url, log, client)
                wait_for(lambda: process.poll() is not None or answers(client))
                assert process.poll() is None, process.communicate()[1]
                yield server
        finally:
            process.kill()
            process.wait()

    return serve


def answers(client: httpx.Client, path: str = "/health/ready") -> bool:
    """Whether the service is ready; with `/health/live`, whether its process answers."""
    try:
        return client.get(path).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def page() -> "Iterator[Page]":
    """A page of a browser that reaches nothing but 127.0.0.1."""
    from playwright.sync_api import sync_playwright  # not by the tests of every process

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which(
                "chromium"
            ),  # None: Playwright's own, by `playwright install chromium`
            args=[
                "--no-sandbox",
                "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ],
        )
        yield browser.new_context().new_page()
        browser.close()
