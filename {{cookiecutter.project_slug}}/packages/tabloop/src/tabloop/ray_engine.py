"""Ray: blocks of work on the workers of a cluster, where params.yaml says `engine: ray`.

Only this process reads and writes files. Workers get their blocks and the project's own code through Ray's object store, so
they need the same packages and nothing else. Ray runs a block again if its worker died.
"""

import logging
import os
import pickle
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tabloop.cli import UserError, one_line
from tabloop.params import ROOT, load

RETRIES = 10  # of a block whose worker died: one that ends each worker, by its memory, is not tried forever
PATIENCE = 3.0  # seconds in which a cluster must take a connection

loaded = dict[str, Callable[..., Any]]()  # in a worker: the work that it has


def is_chosen() -> bool:
    """Whether params.yaml says `engine: ray`; an image has none."""
    return (path := ROOT / "params.yaml").exists() and load(path).engine == "ray"


class LostError(UserError):
    """The cluster, not the work, is at fault."""


class Job:
    """A block that a worker has or will have."""

    def __init__(self, ref: Any) -> None:
        self.ref = ref

    def result(self) -> Any:
        """What the work gave.

        Raises:
            LostError: workers died again and again, or one has other packages. Else what the work raised.
        """
        import ray

        try:
            return ray.get(self.ref)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ModuleNotFoundError):
                raise LostError(
                    f"a worker of the Ray cluster lacks a package: {one_line(cause)}; see docs/ray.md of the template"
                ) from None
            raise cause from None
        except ray.exceptions.RayError as error:
            raise LostError(f"Ray gave up on a block of work: {one_line(error)[:300]}") from None


class Cluster:
    """Workers that have one piece of work; a Cluster gives them blocks of it.

    Attributes:
        cores: of all workers.
    """

    def __init__(self, work: Callable[..., Any], cores: int) -> None:
        import ray
        from ray import cloudpickle

        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(f"{ROOT / 'src'}{os.sep}"):
                cloudpickle.register_pickle_by_value(sys.modules[name])  # the owner's code goes with the work
        self.cores, self.work = cores, [ray.put(cloudpickle.dumps(work))]

        def call(own: str, work: list[Any], *block: Any) -> Any:
            from tabloop.ray_engine import compute

            return compute(own, work, *block)

        self.call = ray.remote(num_cpus=1, max_retries=RETRIES)(call)

    def submit(self, *block: Any) -> Job:
        """Give a block to a worker."""
        return Job(self.call.remote(version("tabloop"), self.work, *block))

    def first(self, jobs: Iterable[Job]) -> Job:
        """Wait for the first of the jobs that is done."""
        import ray

        by_ref = {job.ref: job for job in jobs}
        return by_ref[ray.wait(list(by_ref))[0][0]]


class Keeper:
    """An actor on the command's machine, which alone has the project's folder: it keeps the checkpoint there.

    It is here, as its process then need not import PyTorch.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def read(self) -> bytes:
        """The checkpoint; empty: there is none."""
        return self.file.read_bytes() if self.file.exists() else b""

    def write(self, content: bytes) -> None:
        """Replace the checkpoint."""
        part = self.file.with_suffix(".part")
        part.write_bytes(content)
        part.replace(self.file)


def compute(own: str, work: list[Any], *block: Any) -> Any:
    """Do the work on a block, in a worker, which keeps the work for the next one.

    Raises:
        LostError: the worker's tabloop is of another version.
    """
    import ray

    if own != version("tabloop"):
        raise LostError(f"a worker of the Ray cluster has tabloop {version('tabloop')}, and here is {own}")
    if (name := work[0].hex()) not in loaded:
        loaded.clear()
        loaded[name] = pickle.loads(ray.get(work[0]))
    return loaded[name](*block)


@contextmanager
def cluster(work: Callable[..., Any]) -> Iterator[Cluster]:
    """The cluster at RAY_ADDRESS, as long as it is used.

    Raises:
        LostError: Ray is not installed, or the cluster is not there, has no cores, or is of another version.
    """
    if not find_spec("ray"):
        raise LostError("Ray is not installed: run `uv sync --group ray`, or set `engine: local`")
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or "/" in address:
        raise LostError(
            f"RAY_ADDRESS is {address or 'not set'}: give the host:port that `ray start --head` prints"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PATIENCE) as connection:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            # SETTINGS is what gRPC sends first; Ray itself waits forever.
            if connection.recv(4)[3:] != b"\x04":
                raise ConnectionError("what answers there is not Ray")
    except (OSError, OverflowError) as error:
        raise LostError(f"no Ray cluster answers at {address}: {one_line(error)}") from None
    # The first silences a warning. Under `uv run` Ray would send the project's folder, and workers install its packages anew.
    os.environ |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    import ray

    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray's have no common base
        raise LostError(f"the Ray cluster at {address} can't be used: {one_line(error)[:300]}") from None
    try:
        if not (cores := int(ray.cluster_resources().get("CPU", 0))):
            raise LostError(f"the Ray cluster at {address} has no cores")
        print(f"engine: ray at {address}, {cores} cores", flush=True)
        yield Cluster(work, cores)
    finally:
        ray.shutdown()
