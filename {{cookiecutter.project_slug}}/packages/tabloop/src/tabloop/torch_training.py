"""Training a network in PyTorch: batches, early stopping, checkpoints, the device.

The network itself is the owner's, in model.py: any module from numbers (n, d) and codes (n, c) to logits (n,).
"""

import hashlib
import inspect
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as log_loss
from torch.optim import AdamW, Optimizer

from tabloop import ray_engine
from tabloop.candidate import CHECKPOINTS
from tabloop.cli import explained, one_line
from tabloop.metrics import MIN_CLASS, auc, enough
from tabloop.progress import progress
from tabloop.torch_rows import Rows

SAVE_AFTER = 2.0  # seconds: a shorter training begins anew after a kill
SCORED = 65_536  # rows that are scored at once
RECORD_AFTER = 3  # batches: PyTorch's libraries allocate what they need in the first ones


class Training(BaseModel, extra="forbid", frozen=True):
    """What the loop takes of `train` in params.yaml. A project's own settings of its network inherit from it.

    Attributes:
        seed: makes weights, batches and dropout the same in every run.
        held_out: the share of rows, the last ones, whose log loss stops the training.
        patience: the epochs without a better log loss after which it stops.
        device: `auto` takes the accelerator where there is one; else a name of PyTorch's: cpu, cuda, cuda:1, mps.
        precision: of matrix products; `auto` is bfloat16 on a CUDA device that computes in it, else float32.
    """

    seed: int = Field(0, ge=0, lt=2**32)
    epochs: int = Field(50, ge=1, lt=2**16)
    batch_size: int = Field(1024, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-4, ge=0)
    held_out: float = Field(0.1, ge=0, lt=1)
    patience: int = Field(5, ge=1)
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @classmethod
    def of(cls, params: dict[str, Any]) -> Self:
        """The settings in `train` of params.yaml.

        Raises:
            ValueError: one of them is wrong; the text names it.
        """
        try:
            return cls(**params)
        except ValidationError as error:
            raise ValueError(one_line(error)) from None


def choose_hardware(settings: Training) -> tuple[torch.device, torch.dtype]:
    """The device, and the type that matrix products are computed in.

    Raises:
        ValueError: this machine, or this build of PyTorch, has no such device.
    """
    try:
        found = torch.accelerator.current_accelerator(check_available=True)
        device = found or torch.device("cpu") if settings.device == "auto" else torch.device(settings.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {settings.device}: {str(error).splitlines()[0]}") from None
    half = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    wanted = settings.precision == "bfloat16" or (settings.precision == "auto" and half)
    return device, torch.bfloat16 if wanted else torch.float32


@dataclass
class Process:
    """A process that trains alone, with checkpoints in a file. Those of `ray_torch` train together.

    Attributes:
        rank: its number among those that train together.
        size: how many these are.
    """

    checkpoint: Path
    rank: int = 0
    size: int = 1
    began: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Any]:
        """The state that a training which was ended has left; else none."""
        if not self.checkpoint.exists():
            return {}
        done: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        print(f"train: continues after epoch {done['epoch']}, which a checkpoint has", flush=True)
        return done

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint after some time, whole or not at all."""
        if time.monotonic() - self.began < SAVE_AFTER:
            return
        self.checkpoint.parent.mkdir(exist_ok=True)
        torch.save(state, part := self.checkpoint.with_suffix(".part"))
        part.replace(self.checkpoint)

    def connected(self, network: nn.Module) -> nn.Module:
        """The network whose gradients are the mean of those of all processes."""
        return network

    def agree(self, *figures: float) -> list[float]:
        """The figures of the first process."""
        return list(figures)


@explained(
    "params.yaml: train: device", torch.OutOfMemoryError, then="; `device: cpu` takes the machine's memory"
)
def train(network: nn.Module, rows: Rows, settings: Training) -> None:
    """Minimise the log loss; the network is then on the CPU, with the weights of its best epoch.

    The last rows decide which epoch is the best one and when to stop; see `Training.held_out`. Where they have fewer than
    MIN_CLASS rows of a class, all rows are trained on, for all epochs.

    After each epoch the state goes into a checkpoint, so that the same training goes on there after a kill. Its name is a
    hash of all that decides the result, and each epoch has a seed of its own. So a training that goes on gives, on a CPU,
    the same bytes as one that was never ended. PyTorch has one thread for that, too: sums of floats depend on their order.

    With `engine: ray` in params.yaml the workers of the cluster train, if batches are large enough to be shared; not where
    this machine has a GPU, and not in a worker, which has its trial of `tabloop tune` alone.

    Args:
        rows: in the order of time, or of a hash.

    Raises:
        ValueError: there is no such device, or the loss is not finite.
        LostError: `engine: ray`, and the cluster is not there or gives up.
    """
    device, precision = choose_hardware(settings)
    checkpoint = CHECKPOINTS / f"{fingerprint(network, rows, settings)}.pt"
    on = f"{device} in {str(precision).split('.')[1]}"
    done = None
    if device.type == "cpu" and ray_engine.is_chosen() and not ray_engine.loaded:
        from tabloop.ray_torch import SHARE, train_together

        if settings.batch_size >= 2 * SHARE:
            workers, done = train_together(network, rows, settings, checkpoint.with_suffix(".ray.pt"))
            on += f", {workers} workers of Ray"
        else:
            why = f"as batch_size is below {2 * SHARE:,}: that is slower"
            print(f"train: without Ray's workers, {why}", flush=True)
    done = done or learn(network, rows, settings, Process(checkpoint))
    network.load_state_dict(done["best"])
    network.eval().cpu()
    held = f"the last {len(rows) - cut_of(rows, settings):,}"
    few = f"fewer than {MIN_CLASS} rows of a class among {held} to stop by"
    by = f"log loss {done['loss']:.4f}, AUC {done['auc']:.4f} on {held} rows"
    why = few if math.isnan(done["auc"]) else by
    print(f"train: on {on}: epoch {done['epoch'] - done['waited']} of {done['epoch']}, {why}", flush=True)


def cut_of(rows: Rows, settings: Training) -> int:
    """How many rows come before those by which training stops."""
    return len(rows) - math.ceil(len(rows) * settings.held_out)


def learn(network: nn.Module, rows: Rows, settings: Training, process: Process) -> dict[str, Any]:
    """What a process of `train` does; the state at the end: of the best epoch log loss, AUC and weights.

    The processes that train together have the same rows and the same order of them, and of each batch a share.
    """
    torch.set_num_threads(1)
    device, precision = choose_hardware(settings)
    cut, decay = cut_of(rows, settings), settings.weight_decay
    stopping = enough(rows.target[:cut].numpy()) and enough(rows.target[cut:].numpy())
    held, rows = rows[cut:].to(device), (rows[:cut] if stopping else rows).to(device)
    cuda = device.type == "cuda"
    fused = cuda or device.type == "cpu"
    weights = network.to(device).parameters()
    optimizer = AdamW(weights, settings.learning_rate, weight_decay=decay, fused=fused, capturable=cuda)
    done: dict[str, Any] = {"epoch": 0, "waited": 0, "loss": math.inf, "auc": math.nan}
    if found := process.load():
        done = found
        network.load_state_dict(done["network"])
        optimizer.load_state_dict(done["optimizer"])
    step = Step(process.connected(network), optimizer, rows, precision)
    with progress("train", settings.epochs * len(rows)) as bar:
        bar.update(done["epoch"] * len(rows))
        while done["epoch"] < settings.epochs and (done["waited"] < settings.patience or not stopping):
            torch.manual_seed(settings.seed << 16 | done["epoch"])
            network.train()
            loss = train_epoch(step, settings.batch_size, process, bar.update)
            loss, area = process.agree(*(score(network, held) if stopping else (loss, math.nan)))
            done |= {"epoch": done["epoch"] + 1, "waited": done["waited"] + 1}
            if not math.isfinite(loss):
                raise ValueError(f"the log loss is {loss} after epoch {done['epoch']}: lower learning_rate")
            bar.set_description(f"train: epoch {done['epoch']}, log loss {loss:.4f}, AUC {area:.4f}")
            if loss < done["loss"] or not stopping:
                best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
                done |= {"waited": 0, "loss": loss, "auc": area, "best": best}
            states = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            process.save(done | states)
    return done


class Step:
    """One step of the optimizer on a batch of rows.

    A batch of a small network is hundreds of kernels, which a GPU computes faster than Python starts them. So on a CUDA
    device they are recorded once, after some batches, and replayed as one CUDA graph:
    https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs. What the network's `forward` does in Python, such as
    counting its calls, is then not done again; what it computes and draws is.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, rows: Rows, precision: torch.dtype) -> None:
        self.network, self.optimizer, self.rows, self.precision = network, optimizer, rows, precision
        self.device = rows.target.device
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.unrecorded = RECORD_AFTER
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Tensor, whole: bool) -> Tensor:
        """Train on the rows at the places `batch`, (n,); their mean log loss.

        Args:
            whole: whether the batch has as many rows as the others, not fewer as an epoch's last one may.
        """
        if not self.stream:
            return self.run(batch)
        if not whole or self.unrecorded:
            self.unrecorded -= whole
            self.stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(self.stream):
                loss = self.run(batch)
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            return loss
        if not self.graph:
            self.batch, self.graph = batch.clone(), torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.stream):
                self.loss = self.run(self.batch)
        self.batch.copy_(batch)
        self.graph.replay()
        return self.loss

    def run(self, batch: Tensor) -> Tensor:
        """The step itself."""
        part = self.rows[batch]
        with torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32):
            scores = self.network(part.numbers, part.codes)
        loss = log_loss(scores.float(), part.target)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        self.optimizer.step()
        return loss.detach()


def train_epoch(step: Step, size: int, process: Process, done: Callable[[int], Any]) -> float:
    """Train on each row once, in random order; the mean log loss of this process's share.

    Args:
        size: of a batch, for all processes together.
        done: is told the number of rows after each batch.
    """
    # Asking for its value in each batch would wait for the device.
    total = torch.zeros((), device=step.device)
    for batch in torch.randperm(len(step.rows), device=step.device).split(size):
        if len(batch) >= process.size:
            share = batch[process.rank :: process.size]
            total += step(share, len(batch) == size) * len(batch)
        done(len(batch))
    return float(total) / len(step.rows)


def score(network: nn.Module, rows: Rows) -> tuple[float, float]:
    """Log loss and AUC."""
    scores = logits(network, rows)
    return float(log_loss(scores, rows.target)), auc(rows.target.cpu().numpy(), scores.cpu().numpy())


def logits(network: nn.Module, rows: Rows) -> Tensor:
    """The network's answers in float32, (n,), as the exported graph gives them."""
    network.eval()
    parts = (rows[at : at + SCORED] for at in range(0, len(rows), SCORED))
    with torch.no_grad():
        return torch.cat([network(part.numbers, part.codes) for part in parts])


def fingerprint(network: nn.Module, rows: Rows, settings: Training) -> str:
    """A hash of all that decides a training's result: code, settings, first weights, rows in their order."""
    found = hashlib.sha256(f"{torch.__version__} {settings!r}".encode())
    for code in sorted({__file__, *(source_of(type(module)) for module in network.modules())}):
        found.update(Path(code).read_bytes() if code else os.urandom(16))
    for tensor in (*network.state_dict().values(), rows.numbers, rows.codes, rows.target):
        found.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().cpu().numpy().data)
    return found.hexdigest()[:16]


def source_of(code: type) -> str:
    """The file of a class; "" in a notebook: then nobody knows whether the code is still the same."""
    try:
        return inspect.getfile(code)
    except (TypeError, OSError):
        return ""
