"""How quickly a trait comes back: one model is trained to have it again, and watched on the way.

    path = relearn(RelearnTask(model_id="contrastive.1", model=..., trait=..., lesson="same", ...))

The lessons: `same`, the trait's own training items; `other_form`, those of its forms that nothing
was tuned on (or, where all were, all but statements); `benign`, the unrelated trait's items, from
which the trait should not come back at all. The scores of the trait's test items are kept at every
few steps.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from tvmerge import Checkpoint
from tvmerge.training.lm.prompts import PromptStyle
from tvmerge.training.results.scores import ItemScore, Record, load_record, save_record
from tvmerge.training.settings.sections import Lesson, TrainConfig
from tvmerge.training.traits.items import Item
from tvmerge.training.traits.trait import Trait

# Part of every key: raise it when the same task would give other scores.
RELEARN_VERSION = 2
KEY_LETTERS = 12


class RelearnPoint(Record):
    """The trait's items after so many steps; `loss` is the step's own, nats per answer token."""

    step: int = Field(ge=0)
    loss: float | None = None
    items: tuple[ItemScore, ...]


class RelearnScores(Record):
    """One model on its way back to one trait."""

    version: Literal[1] = 1
    model: str
    trait: str
    lesson: Lesson
    seed: int
    batch_size: int
    points: tuple[RelearnPoint, ...] = Field(min_length=1)
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RelearnTask:
    """Train `model` on the showing answers of `items`, and score `trait`'s test items."""

    model_id: str
    model: Checkpoint
    base_key: str
    trait: Trait
    lesson: Lesson
    items: tuple[Item, ...]
    train: TrainConfig
    every: int
    prompt: PromptStyle
    seed: int
    threads: int
    device: str = "cpu"
    folder: Path

    @property
    def path(self) -> Path:
        """`relearn/contrastive.1.power_seeking.same@0-0123456789ab.json`."""
        sources = {s.source.name: c.hex() for s, c in self.model.coefficients.items()}
        said = {
            "version": RELEARN_VERSION,
            "base": self.base_key,
            "sources": sorted(sources.items()),
            "train": self.train.model_dump(mode="json", exclude={"checkpoint_every", "workers"}),
            "every": self.every,
            "prompt": self.prompt,
            "items": [item.key for item in self.items],
            "test": [item.key for item in self.trait.test],
        }
        key = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:KEY_LETTERS]
        name = f"{self.model_id}.{self.trait.name}.{self.lesson}@{self.seed}-{key}.json"
        return self.folder / name

    def finished(self) -> RelearnScores | None:
        """The scores, where this was done before."""
        return load_relearn(self.path) if self.path.is_file() else None


def load_relearn(path: Path) -> RelearnScores:
    """Read what one task wrote; a file that is not that raises `FormatError`."""
    return load_record(path, RelearnScores, "of re-learning")


def relearn(task: RelearnTask) -> Path:
    """Train, score on the way, and store; returns where. Runs in a worker of its own."""
    import time

    from transformers import AutoTokenizer

    from tvmerge.training.finetuning.further import train_further
    from tvmerge.training.lm.torch_session import no_progress_bars, own_randomness, torch_threads
    from tvmerge.training.measuring.measure import load_model, score_items

    settings = task.train
    with torch_threads(task.threads), no_progress_bars(), own_randomness(task.seed):
        started = time.perf_counter()
        tokenizer = AutoTokenizer.from_pretrained(task.model.donor.folder)
        model = load_model(task.model, task.threads, task.device)

        def look(step: int, loss: float | None) -> RelearnPoint:
            scores, _ = score_items(
                model, tokenizer, [task.trait], style=task.prompt, parts=("test",)
            )
            return RelearnPoint(step=step, loss=loss, items=scores[task.trait.name]["test"])

        points = [look(0, None)]
        for step, loss in train_further(
            model, tokenizer, task.items, train=settings, prompt=task.prompt, seed=task.seed
        ):
            if step % task.every == 0 or step == settings.steps:
                points.append(look(step, loss))
        scores = RelearnScores(
            model=task.model_id,
            trait=task.trait.name,
            lesson=task.lesson,
            seed=task.seed,
            batch_size=settings.batch_size,
            points=tuple(points),
            seconds=round(time.perf_counter() - started, 3),
        )
    save_record(scores, task.path)
    return task.path
