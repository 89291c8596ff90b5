"""Training a network in PyTorch: batches, early stopping, checkpoints, the device.

The network itself is the owner's, in model.py: any module from numbers (n, d) and codes (n, c) to logits (n,).
"""

import hashlib
import inspect
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from tabloop.candidate import CHECKPOINTS
from tabloop.metrics import MIN_CLASS, auc, enough
from tabloop.progress import progress
from tabloop.torch_rows import Rows

SAVE_AFTER = 2.0  # seconds: a shorter training begins anew after a kill
SCORED = 65_536  # rows that are scored at once


class Training(BaseModel, extra="forbid", frozen=True):
    """What the loop takes of `train` in params.yaml. A project's own settings of its network inherit from it.

    Attributes:
        seed: makes weights, batches and dropout the same in every run.
        held_out: the share of rows, the last ones, by whose log loss training stops.
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
            first = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


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


def train(network: nn.Module, rows: Rows, settings: Training) -> None:
    """Minimise the log loss; the network is then on the CPU, with the weights of its best epoch.

    The last rows decide which epoch is the best one and when to stop; see `Training.held_out`. Where they have fewer than
    MIN_CLASS rows of a class, all rows are trained on, for all epochs.

    After each epoch the state goes into a checkpoint, so that the same training goes on there after a kill. Its name is a
    hash of all that decides the result, and each epoch has a seed of its own. So a training that goes on gives, on a CPU,
    the same bytes as one that was never ended.

    Args:
        rows: in the order of time, or of a hash.

    Raises:
        ValueError: there is no such device, or the loss is not finite.
    """
    device, precision = choose_hardware(settings)
    checkpoint = CHECKPOINTS / f"{fingerprint(network, rows, settings)}.pt"
    cut = len(rows) - math.ceil(len(rows) * settings.held_out)
    stopping = enough(rows.target[:cut].numpy()) and enough(rows.target[cut:].numpy())
    held, rows = rows[cut:].to(device), (rows[:cut] if stopping else rows).to(device)
    network.to(device)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=device.type in ("cpu", "cuda"),
    )
    state = State(network, optimizer, checkpoint)
    with one_thread(), progress("train", settings.epochs * len(rows)) as bar:
        bar.update(state.epoch * len(rows))
        while state.epoch < settings.epochs and not (stopping and state.waited >= settings.patience):
            torch.manual_seed(settings.seed << 16 | state.epoch)
            loss = train_epoch(network, optimizer, rows, settings.batch_size, precision, bar.update)
            area = math.nan
            if stopping:
                scores = logits(network, held)
                loss = float(nn.functional.binary_cross_entropy_with_logits(scores, held.target))
                area = auc(held.target.cpu().numpy(), scores.cpu().numpy())
            if not math.isfinite(loss):
                raise ValueError(f"the log loss is {loss} after epoch {state.epoch + 1}: lower learning_rate")
            state.keep(loss, area, better=not stopping or loss < state.loss)
            bar.set_description(f"train: epoch {state.epoch}, log loss {loss:.4f}, AUC {area:.4f}")
    network.load_state_dict(state.weights)
    network.eval().cpu()
    by = f"log loss {state.loss:.4f}, AUC {state.auc:.4f} on the last {len(held):,} rows"
    why = (
        by if stopping else f"fewer than {MIN_CLASS} rows of a class among the last {len(held):,} to stop by"
    )
    taken = f"epoch {state.epoch - state.waited} of {state.epoch}"
    print(f"train: on {device} in {str(precision).split('.')[1]}: {taken}, {why}", flush=True)


def train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: Rows,
    batch_size: int,
    precision: torch.dtype,
    done: Callable[[int], Any],
) -> float:
    """Train on each row once, in random order; the mean log loss.

    It knows of no files and no stopping. So data-parallel workers can run it, each on rows of its own, with a network that
    adds up the gradients (DistributedDataParallel).

    Args:
        done: is told the number of rows after each batch.
    """
    network.train()
    device = rows.target.device
    total = torch.zeros((), device=device)  # asking for its value in each batch would wait for the device
    for batch in torch.randperm(len(rows), device=device).split(batch_size):
        part = rows[batch]
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            scores = network(part.numbers, part.codes)
        loss = nn.functional.binary_cross_entropy_with_logits(scores.float(), part.target)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        total += loss.detach() * len(part)
        done(len(part))
    return float(total) / len(rows)


def logits(network: nn.Module, rows: Rows) -> Tensor:
    """The network's answers in float32, (n,), as the exported graph gives them."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part.numbers, part.codes) for part in rows.parts(SCORED)])


class State:
    """How far a training is; what its checkpoint has.

    Attributes:
        epoch: how many epochs are done.
        waited: how many of them since the best one.
        loss, auc: of the best one.
        weights: of the best one.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer, checkpoint: Path) -> None:
        self.network, self.optimizer, self.checkpoint = network, optimizer, checkpoint
        self.epoch, self.waited, self.loss, self.auc = 0, 0, math.inf, math.nan
        self.weights: dict[str, Tensor] = {}
        self.began = time.monotonic()
        if checkpoint.exists():
            saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
            network.load_state_dict(saved["network"])
            optimizer.load_state_dict(saved["optimizer"])
            self.epoch, self.waited, self.loss, self.auc = saved["so far"]
            self.weights = saved["best"]
            print(f"train: goes on after epoch {self.epoch}, which a checkpoint has", flush=True)

    def keep(self, loss: float, area: float, better: bool) -> None:
        """Count an epoch; write the checkpoint, whole or not at all."""
        self.epoch, self.waited = self.epoch + 1, self.waited + 1
        now = {name: tensor.detach().clone() for name, tensor in self.network.state_dict().items()}
        if better:
            self.waited, self.loss, self.auc, self.weights = 0, loss, area, now
        if time.monotonic() - self.began < SAVE_AFTER:
            return
        self.checkpoint.parent.mkdir(exist_ok=True)
        part = self.checkpoint.with_suffix(".part")
        so_far = (self.epoch, self.waited, self.loss, self.auc)
        whole = {"network": now, "optimizer": self.optimizer.state_dict(), "best": self.weights}
        torch.save(whole | {"so far": so_far}, part)
        part.replace(self.checkpoint)


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: sums of floats depend on their order, and the same inputs must give the same bytes.

    Small networks are hardly faster with more. On an accelerator the CPU has little to do.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
