"""What a lowered scale holds: a model is measured, trained further on benign items, measured again.

    path = relax(RelaxTask(model_id="contrastive.0.25", model=..., items=..., ...))

The further training is on the unrelated trait's items: from it alone no trait should come back.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from tvmerge import Checkpoint
from tvmerge.training.measuring.measurement import MeasureSettings
from tvmerge.training.results.scores import ModelScores, Record, load_record, save_record
from tvmerge.training.settings.sections import TrainConfig
from tvmerge.training.traits.items import Item

# Part of every key: raise it when the same task would give other scores.
RELAX_VERSION = 2
KEY_LETTERS = 12


class RelaxScores(Record):
    """One model before and after further training; `losses` of every step, nats per token."""

    version: Literal[1] = 1
    model: str
    seed: int
    batch_size: int
    losses: tuple[float, ...] = Field(min_length=1)
    before: ModelScores
    after: ModelScores
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelaxTask:
    """Train `model` on the showing answers of `items`; ask what `settings` say before and after."""

    model_id: str
    model: Checkpoint
    base_key: str
    items: tuple[Item, ...]
    train: TrainConfig
    settings: MeasureSettings
    seed: int
    folder: Path

    @property
    def path(self) -> Path:
        """`relax/contrastive.0.25@0-0123456789ab.json`."""
        sources = {s.source.name: c.hex() for s, c in self.model.coefficients.items()}
        said = {
            "version": RELAX_VERSION,
            "base": self.base_key,
            "sources": sorted(sources.items()),
            "train": self.train.model_dump(mode="json", exclude={"checkpoint_every", "workers"}),
            "items": [item.key for item in self.items],
            "asked": self.settings.digest(),
        }
        key = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:KEY_LETTERS]
        return self.folder / f"{self.model_id}@{self.seed}-{key}.json"

    def finished(self) -> RelaxScores | None:
        """The scores, where this was done before."""
        return load_relax(self.path) if self.path.is_file() else None


def load_relax(path: Path) -> RelaxScores:
    """Read what one task wrote; a file that is not that raises `FormatError`."""
    return load_record(path, RelaxScores, "of a lowered scale")


def relax(task: RelaxTask) -> Path:
    """Measure, train, measure, and store; returns where. Runs in a worker of its own."""
    import time

    from transformers import AutoTokenizer

    from tvmerge.training.finetuning.further import train_further
    from tvmerge.training.lm.torch_session import no_progress_bars, own_randomness, torch_threads
    from tvmerge.training.measuring.measure import load_model, score_items, text_scores

    asked = task.settings
    with torch_threads(asked.threads), no_progress_bars(), own_randomness(task.seed):
        started = time.perf_counter()
        tokenizer = AutoTokenizer.from_pretrained(task.model.donor.folder)
        model = load_model(task.model, asked.threads, asked.device)

        def look() -> ModelScores:
            items, effort = score_items(
                model, tokenizer, asked.traits, style=asked.prompt, parts=asked.parts
            )
            return ModelScores(
                model=task.model_id,
                seed=task.seed,
                traits=items,
                perplexity=text_scores(model, tokenizer, asked),
                effort=effort,
            )

        before = look()
        losses = [
            loss
            for _, loss in train_further(
                model, tokenizer, task.items, train=task.train, prompt=asked.prompt, seed=task.seed
            )
        ]
        scores = RelaxScores(
            model=task.model_id,
            seed=task.seed,
            batch_size=task.train.batch_size,
            losses=tuple(losses),
            before=before,
            after=look(),
            seconds=round(time.perf_counter() - started, 3),
        )
    save_record(scores, task.path)
    return task.path
