"""One measurement as a task that any worker can take: make a model in memory and score it.

Scores are kept under a name that carries the hash of everything that decides them, so that a study
that is run again measures only what changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from tvmerge import Checkpoint
from tvmerge.training.lm.prompts import PromptStyle
from tvmerge.training.results.results import Role
from tvmerge.training.results.scores import PARTS, ModelScores, Part, load_scores, save_scores
from tvmerge.training.traits.trait import Trait

# Part of every key: raise it when the same model would be given other scores.
MEASURING_VERSION = 2
KEY_LETTERS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSettings:
    """What a model of a study is asked; `roles` says of each trait what it is asked for."""

    traits: tuple[Trait, ...]
    roles: tuple[Role, ...]
    parts: tuple[Part, ...] = PARTS
    prompt: PromptStyle
    perplexity_text: str | None
    other_text: str | None
    perplexity_tokens: int
    window_tokens: int
    examples: tuple[str, ...]
    threads: int
    device: str = "cpu"

    def only(self, roles: Collection[Role]) -> MeasureSettings:
        """The same, asked for traits of these roles alone."""
        kept = [
            (trait, role)
            for trait, role in zip(self.traits, self.roles, strict=True)
            if role in roles
        ]
        return replace(
            self,
            traits=tuple(trait for trait, _ in kept),
            roles=tuple(role for _, role in kept),
        )

    def digest(self) -> str:
        """A hash of all that can change a score."""
        said = {
            "version": MEASURING_VERSION,
            "items": [
                [trait.name, part, [item.key for item in trait.items(part)]]
                for trait in self.traits
                for part in self.parts
            ],
            "prompt": self.prompt,
            "perplexity": [
                self.perplexity_text,
                self.other_text,
                self.perplexity_tokens,
                self.window_tokens,
            ],
            "examples": self.examples,
        }
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureTask:
    """Measure `model`, an expression or a folder, under the name `model_id`, of one seed."""

    model_id: str
    seed: int | None = None
    model: Checkpoint
    base_key: str
    settings: MeasureSettings
    scores_folder: Path

    @property
    def scores_path(self) -> Path:
        """`scores/plain.0.5@1-0123456789ab.json` (of seed 1): other inputs, another file."""
        # Fine-tunes and stored vectors carry the hash of their own inputs in their folder names.
        sources = {s.source.name: c.hex() for s, c in self.model.coefficients.items()}
        said = json.dumps(
            [self.model_id, self.base_key, self.settings.digest(), sorted(sources.items())]
        )
        key = hashlib.sha256(said.encode()).hexdigest()[:KEY_LETTERS]
        seed = "" if self.seed is None else f"@{self.seed}"
        return self.scores_folder / f"{self.model_id}{seed}-{key}.json"

    def finished(self) -> ModelScores | None:
        """The scores, where this was measured before."""
        return load_scores(self.scores_path) if self.scores_path.is_file() else None


def measure(task: MeasureTask) -> Path:
    """Load, score and store; returns where the scores are. Runs in a worker of its own."""
    from tvmerge.training.measuring.measure import measure_model

    settings = task.settings
    # In float32, whatever the base has: an edit smaller than bfloat16's steps would be lost. No
    # file in between: each scale of the grid is a task of its own, wherever there is a worker.
    scores = measure_model(
        task.model,
        model_id=task.model_id,
        seed=task.seed,
        parts=settings.parts,
        traits=settings.traits,
        prompt_style=settings.prompt,
        perplexity_text=settings.perplexity_text,
        other_text=settings.other_text,
        perplexity_tokens=settings.perplexity_tokens,
        window_tokens=settings.window_tokens,
        examples=settings.examples,
        threads=settings.threads,
        device=settings.device,
    )
    save_scores(scores, task.scores_path)
    return task.scores_path
