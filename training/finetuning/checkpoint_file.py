"""The checkpoint of a running job: one file that is either the old one or the new one, never half.

Weights, optimizer state, random numbers and progress stand in one safetensors file, which is
written beside the old one, flushed and renamed onto it.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import safe_open
from safetensors.torch import save_file

from tvmerge.training.finetuning.backward_adamw import BackwardAdamW

PROGRESS = "progress"


class Progress(BaseModel):
    """How far a job has come."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int = 0
    losses: tuple[float, ...] = ()
    tokens: int = 0
    answer_tokens: int = 0
    seconds: float = 0.0
    resumed_from: tuple[int, ...] = ()


def save_checkpoint(path: Path, optimizer: BackwardAdamW, progress: Progress) -> None:
    """Replace the checkpoint at `path` in one rename."""
    tensors = {**optimizer.state(), "random": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={PROGRESS: progress.model_dump_json()})
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def load_checkpoint(path: Path, optimizer: BackwardAdamW) -> Progress:
    """Continue from the checkpoint at `path`; a fresh start where there is none."""
    if not path.is_file():
        return Progress()
    with safe_open(path, framework="pt") as file:
        progress = Progress.model_validate_json(file.metadata()[PROGRESS])
        optimizer.load(file.get_tensor)
        torch.set_rng_state(file.get_tensor("random"))
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(file.get_tensor("random.cuda"))
    resumed_from = (*progress.resumed_from, progress.step)
    return progress.model_copy(update={"resumed_from": resumed_from})
