"""Rows as PyTorch's tensors: numbers, and codes of categories."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from tabloop.params import Schema


@dataclass(frozen=True)
class Rows:
    """Rows as tensors: 4 bytes a value.

    Attributes:
        numbers: (n, d) float32; NaN is missing.
        codes: (n, c) int32: the place of each category's level in its list from 1; 0 for any other level.
        target: (n,) float32 of 0 and 1.
    """

    numbers: Tensor
    codes: Tensor
    target: Tensor

    @classmethod
    def of(
        cls, features: pd.DataFrame, levels: dict[str, list[str]], target: np.ndarray | None = None
    ) -> "Rows":
        """Rows as `model_inputs` gives them; all columns but those of `levels` are numbers."""
        names = [name for name in features if name not in levels]
        numbers = np.empty((len(features), len(names)), np.float32)
        codes = np.empty((len(features), len(levels)), np.int32)
        for i, name in enumerate(names):
            numbers[:, i] = features[name]
        for i, (name, known) in enumerate(levels.items()):
            codes[:, i] = pd.Categorical(features[name], categories=known).codes + 1
        labels = torch.tensor(np.zeros(len(features)) if target is None else target, dtype=torch.float32)
        return cls(torch.from_numpy(numbers), torch.from_numpy(codes), labels)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, at: "slice | Tensor") -> "Rows":
        return Rows(self.numbers[at], self.codes[at], self.target[at])

    def to(self, device: torch.device) -> "Rows":
        """The same rows on a device."""
        return Rows(self.numbers.to(device), self.codes.to(device), self.target.to(device))


def levels_of(features: pd.DataFrame, schema: Schema) -> dict[str, list[str]]:
    """The sorted levels of each category; "" is the missing value, where there is one."""
    return {n: sorted(features[n].astype(str).unique()) for n, c in schema.features.items() if not c.numeric}
