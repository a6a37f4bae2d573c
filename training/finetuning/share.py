"""Which part of every batch a worker computes, and how the parts' losses make up the whole's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Share:
    """Worker `rank` of `workers`."""

    rank: int
    workers: int

    def of(self, batch: Sequence[Item]) -> Sequence[Item]:
        """This worker's items: every so manieth. Empty where there are more workers than items."""
        return batch[self.rank :: self.workers]

    def weight(self, batch: Sequence[Item]) -> float:
        """Times the mean over this worker's items, summed over workers: the mean over the batch."""
        return len(self.of(batch)) / len(batch)

    def total(self, value: float, device: torch.device) -> float:
        """The sum over all workers, the same number on each; a collective."""
        if self.workers == 1:
            return value
        summed = torch.tensor(value, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(summed)
        return float(summed)


ALL = Share(rank=0, workers=1)
