"""PyTorch's data-parallel training on a Ray cluster: Ray Train's TorchTrainer. Each batch is shared by the workers.

https://docs.ray.io/en/latest/train/getting-started-pytorch.html
"""

import io
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tabloop import ray_engine
from tabloop.cli import one_line
from tabloop.torch_rows import Rows
from tabloop.torch_training import Process, Training, learn

SHARE = 1024  # rows of a batch, at least, for each worker; with fewer it is slower than one process: benchmarks/README.md


class Worker(Process):
    """One of the workers; of the first one the checkpoints are kept."""

    def __init__(self, keeper: Any) -> None:
        self.keeper, self.rank, self.size = keeper, distributed.get_rank(), distributed.get_world_size()

    def load(self) -> dict[str, Any]:
        """The state that is kept; else none."""
        import ray

        content = ray.get(self.keeper.read.remote())
        return torch.load(io.BytesIO(content), weights_only=True) if content else {}

    def save(self, state: dict[str, Any]) -> None:
        """Have the state kept."""
        import ray

        if self.rank == 0:
            torch.save(state, content := io.BytesIO())
            ray.get(self.keeper.write.remote(content.getvalue()))

    def connected(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are the mean of those of all workers."""
        return DistributedDataParallel(network)

    def agree(self, *figures: float) -> list[float]:
        """The figures of the first worker: those of another machine may differ in the last digit."""
        distributed.broadcast(said := torch.tensor(figures, dtype=torch.float64), 0)
        return said.tolist()


def work(network: nn.Module, rows: Rows, settings: Training, keeper: Any) -> str:
    """What a worker does; why these settings can't be trained with, if they can't: what is raised, Ray Train tries again."""
    try:
        learn(network, rows, settings, Worker(keeper))
    except ValueError as error:
        return one_line(error)
    return ""


def train_together(
    network: nn.Module, rows: Rows, settings: Training, checkpoint: Path
) -> tuple[int, dict[str, Any]]:
    """Train on the cores of the cluster; how many workers there were, and the state at the end, as `learn` returns it.

    A worker that dies ends the others, and all begin again after the last epoch, whose state `checkpoint` has.

    Raises:
        ValueError: the loss is not finite.
        LostError: the cluster is not there, or workers died again and again.
    """
    checkpoint.parent.mkdir(exist_ok=True)
    Process(checkpoint).load()  # says so where there is one
    own, part = version("tabloop"), partial(work, network, rows, settings)
    with ray_engine.cluster(part) as cluster, TemporaryDirectory() as folder:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchTrainer
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(ray_engine.Keeper)  # type: ignore[call-overload]
        keeper = actor.remote(checkpoint.absolute())
        blocks, workers = cluster.work, min(cluster.cores, settings.batch_size // SHARE)

        def loop() -> Any:
            from tabloop.ray_engine import compute

            return compute(own, blocks, keeper)

        again = RunConfig(storage_path=folder, failure_config=FailureConfig(max_failures=ray_engine.RETRIES))
        scaling = ScalingConfig(num_workers=workers)
        try:
            found: Any = TorchTrainer(loop, scaling_config=scaling, run_config=again).fit()
        except TrainingFailedError as error:
            raise ray_engine.LostError(f"Ray gave up on training: {one_line(error)[:300]}") from None
        if found.return_value:
            raise ValueError(found.return_value)
    return workers, torch.load(checkpoint, weights_only=True)
