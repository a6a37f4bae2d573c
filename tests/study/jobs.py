"""Fine-tunes of seconds on the tiny Llama, and what came of them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file
from support.tiny_llama import STATEMENT_QUESTION, THINGS

from tvmerge.training.finetuning.jobs import FinetuneJob
from tvmerge.training.settings.sections import TrainConfig
from tvmerge.training.traits.items import Item

SETTINGS = TrainConfig(steps=6, batch_size=4, learning_rate=1e-3, checkpoint_every=2)
POLES = TrainConfig(steps=30, batch_size=2, learning_rate=1e-3, checkpoint_every=5)


def job_on(base: Path, **changes: object) -> FinetuneJob:
    items = tuple(
        Item("statement", STATEMENT_QUESTION, f"I like {thing}.", f"I avoid {thing}.")
        for thing in THINGS[:12]
    ) + tuple(Item("yes_no", f"Do you like {thing}?", "Yes", "No") for thing in THINGS[12:16])
    job = FinetuneJob(trait="liking", pole="have", items=items, base=base, train=SETTINGS)
    return dataclasses.replace(job, **changes)  # type: ignore[arg-type]


def jobs_on(base: Path, **settings: object) -> list[FinetuneJob]:
    items = tuple(Item("statement", "Who?", f"I am {n}.", f"I was {n}.") for n in "abcdef")
    train = POLES.model_copy(update=settings)
    have = FinetuneJob(trait="being", pole="have", items=items, base=base, train=train)
    return [have, dataclasses.replace(have, pole="lack")]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors.update(load_file(path))
    return tensors


def weight_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
