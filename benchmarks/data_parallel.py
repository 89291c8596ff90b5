"""Seconds of an epoch of PyTorch's data-parallel training, by the size of a batch and the number of processes.

    uv run --with torch benchmarks/data_parallel.py

The example's network in its size (64 and 32 units over bins and embeddings) with DistributedDataParallel over gloo, as
`tabloop.ray_torch` has it, without Ray; each process has one thread, as in `tabloop.torch_training`.
"""

import os
import resource
import time

import torch
from torch import distributed, multiprocessing, nn
from torch.nn.functional import binary_cross_entropy_with_logits as log_loss
from torch.nn.parallel import DistributedDataParallel

ROWS, NUMBERS, CATEGORIES, LEVELS, BINS = 400_000, 6, 3, 20, 8
BATCHES, PROCESSES = (1024, 2048, 4096, 8192, 16_384), (1, 2, 4, 8)


class Network(nn.Module):
    """Numbers (n, d) and codes (n, c) to logits (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Buffer(torch.linspace(-2, 2, BINS))
        self.embedding = nn.Embedding(LEVELS * CATEGORIES, 4)
        width = NUMBERS * BINS + CATEGORIES * 4
        self.layers = nn.Sequential(
            nn.Linear(width, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1)
        )
        self.last = nn.Linear(32, 1)

    def forward(self, numbers: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """The logit of each row."""
        passed = (numbers[:, :, None] - self.edges).clamp(0, 1).flatten(1)
        parts = [passed, self.embedding(codes).flatten(1)]
        return self.last(self.layers(torch.cat(parts, 1))).flatten()


def work(rank: int, size: int, batch: int, port: int) -> None:
    """Train for two epochs; the first process prints what the second one took."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    numbers, codes = torch.randn(ROWS, NUMBERS), torch.randint(0, LEVELS * CATEGORIES, (ROWS, CATEGORIES))
    target = (torch.rand(ROWS) < 0.1).float()
    network: nn.Module = Network()
    if size > 1:
        distributed.init_process_group("gloo", rank=rank, world_size=size)
        network = DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, fused=True)
    for _ in range(2):
        begun, cpu = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
        for whole in torch.randperm(ROWS).split(batch):
            at = whole[rank::size]
            loss = log_loss(network(numbers[at], codes[at]), target[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    used = resource.getrusage(resource.RUSAGE_SELF)
    seconds = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
    if rank == 0:
        wall = time.perf_counter() - begun
        print(f"| {batch:,} | {size} | {wall:.2f} | {seconds * size:.2f} |", flush=True)
    if size > 1:
        distributed.destroy_process_group()


if __name__ == "__main__":
    print("| rows of a batch | processes | seconds | CPU |\n|---|---|---|---|", flush=True)
    for n, batch in enumerate(BATCHES):
        for size in PROCESSES:
            if size <= len(os.sched_getaffinity(0)):
                multiprocessing.spawn(work, (size, batch, 29_600 + 10 * n + size), size)
