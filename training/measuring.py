"""One measurement as a task that any worker can take: make a model in memory and score it.

Scores are kept under a name that carries the hash of everything that decides them, so that a study
that is run again measures only what changed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from tvmerge import Checkpoint
from tvmerge.training.prompts import PromptStyle
from tvmerge.training.scores import ModelScores, item_key, load_scores, save_scores
from tvmerge.training.traits import Trait

# Part of every key: raise it when the same model would be given other scores.
MEASURING_VERSION = 1
KEY_LETTERS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSettings:
    """What every model of a study is asked."""

    traits: tuple[Trait, ...]
    prompt: PromptStyle
    perplexity_text: str | None
    perplexity_tokens: int
    window_tokens: int
    examples: tuple[str, ...]
    threads: int

    def digest(self) -> str:
        """A hash of all that can change a score."""
        said = {
            "version": MEASURING_VERSION,
            "items": [
                [
                    trait.name,
                    part,
                    [
                        item_key(form=i.form, question=i.question, shows=i.shows, lacks=i.lacks)
                        for i in items
                    ],
                ]
                for trait in self.traits
                for part, items in (("dev", trait.dev), ("test", trait.test))
            ],
            "prompt": self.prompt,
            "perplexity": [self.perplexity_text, self.perplexity_tokens, self.window_tokens],
            "examples": self.examples,
        }
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureTask:
    """Measure `model`, an expression or a folder, under the name `model_id`."""

    model_id: str
    model: Checkpoint
    base_key: str
    settings: MeasureSettings
    scores_folder: Path

    @property
    def scores_path(self) -> Path:
        """`scores/plain.0.5-0123456789ab.json`: other inputs, another file."""
        # Fine-tunes and stored vectors carry the hash of their own inputs in their folder names.
        sources = {s.source.name: c.hex() for s, c in self.model.coefficients.items()}
        said = json.dumps(
            [self.model_id, self.base_key, self.settings.digest(), sorted(sources.items())]
        )
        key = hashlib.sha256(said.encode()).hexdigest()[:KEY_LETTERS]
        return self.scores_folder / f"{self.model_id}-{key}.json"

    def finished(self) -> ModelScores | None:
        """The scores, where this was measured before."""
        return load_scores(self.scores_path) if self.scores_path.is_file() else None


def measure(task: MeasureTask) -> Path:
    """Load, score and store; returns where the scores are. Runs in a worker of its own."""
    from tvmerge.training.measure import measure_model

    settings = task.settings
    # In float32, whatever the base has: an edit smaller than bfloat16's steps would be lost. No
    # file in between: each scale of the grid is a task of its own, wherever there is a worker.
    scores = measure_model(
        task.model,
        model_id=task.model_id,
        traits=settings.traits,
        prompt_style=settings.prompt,
        perplexity_text=settings.perplexity_text,
        perplexity_tokens=settings.perplexity_tokens,
        window_tokens=settings.window_tokens,
        examples=settings.examples,
        threads=settings.threads,
    )
    save_scores(scores, task.scores_path)
    return task.scores_path
