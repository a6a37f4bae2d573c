"""Checkpoints of a job that several workers share: folders that are there whole or not at all.

Each worker writes what it holds into a folder of another name, which then gets its own in one
rename; only after that the older one is removed.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from tvmerge.training.finetuning.backward_adamw import BackwardAdamW
from tvmerge.training.finetuning.checkpoint_file import Progress

PROGRESS = "progress.json"
PREFIX = "checkpoint-"
PART = ".part"


@dataclass(frozen=True, slots=True)
class ShardedCheckpoints:
    """Those of one running job, in its folder, which all workers see; methods are collectives."""

    work: Path
    optimizer: BackwardAdamW
    rank: int

    def save(self, progress: Progress) -> None:
        """Keep what is reached, and nothing older."""
        name = f"{PREFIX}{progress.step:08d}"
        part = self.work / (name + PART)
        if self.rank == 0:
            for leftover in self.work.glob(f"{PREFIX}*{PART}"):
                shutil.rmtree(leftover)
        torch.distributed.barrier()
        save(self._state(), checkpoint_id=part)
        if self.rank > 0:
            return
        with (part / PROGRESS).open("w", encoding="utf-8") as file:
            file.write(progress.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        older = self._whole()
        part.rename(self.work / name)
        for folder in older:
            shutil.rmtree(folder)

    def load(self) -> Progress:
        """Continue from the latest one; a fresh start where there is none."""
        # All go on from the one that rank 0 sees.
        chosen = [max(self._whole(), default=None) if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(chosen)
        if chosen[0] is None:
            return Progress()
        state = self._state()
        load(state, checkpoint_id=chosen[0])  # into the tensors themselves
        torch.set_rng_state(state[f"random.{self.rank}"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(state[f"random.cuda.{self.rank}"])
        progress = Progress.model_validate_json((chosen[0] / PROGRESS).read_bytes())
        resumed_from = (*progress.resumed_from, progress.step)
        return progress.model_copy(update={"resumed_from": resumed_from})

    def _whole(self) -> list[Path]:
        return [path for path in self.work.glob(f"{PREFIX}*") if path.suffix != PART]

    def _state(self) -> dict[str, Tensor]:
        """What is sharded under its name; what each worker has of its own, with its rank."""
        tensors = {**self.optimizer.state(), "random": torch.get_rng_state()}
        if torch.cuda.is_available():
            tensors["random.cuda"] = torch.cuda.get_rng_state()
        return {
            name if isinstance(tensor, DTensor) else f"{name}.{self.rank}": tensor
            for name, tensor in tensors.items()
        }
