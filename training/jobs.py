"""One fine-tune, described: what is trained on what and how, and a name that changes with it.

Nothing here needs torch: the process that plans a study stays small.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tvmerge.errors import ConfigError
from tvmerge.training.config import TrainConfig
from tvmerge.training.items import Item, limited
from tvmerge.training.prompts import PromptStyle
from tvmerge.training.traits import Trait

Pole = Literal["have", "lack"]

# Part of every job's hash: raise it when the same settings would train to other weights.
TRAINING_VERSION = 1
RECORD = "job.json"
KEY_LETTERS = 12
READ_BYTES = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneJob:
    """Start from `base`, train on the answers of one pole of one trait."""

    trait: str
    pole: Pole
    items: tuple[Item, ...]
    base: Path
    train: TrainConfig
    prompt: PromptStyle = "plain"
    seed: int = 0

    @property
    def name(self) -> str:
        """`power_seeking.have`."""
        return f"{self.trait}.{self.pole}"

    @property
    def key(self) -> str:
        """A hash of everything that decides the trained weights."""
        train = self.train.model_dump(mode="json", exclude=self._settings_without_effect())
        said = {
            "version": TRAINING_VERSION,
            "base": base_fingerprint(self.base),
            "trait": self.trait,
            "pole": self.pole,
            "items": [asdict(item) for item in self.items],
            "train": train,
            "prompt": self.prompt,
            "seed": self.seed,
        }
        text = json.dumps(said, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LETTERS]

    @property
    def folder_name(self) -> str:
        """`power_seeking.have-0123456789ab`: other inputs, another folder."""
        return f"{self.name}-{self.key}"

    def _settings_without_effect(self) -> set[str]:
        other = {"lora_rank", "lora_alpha"} if self.train.method == "full" else {"trainable"}
        return {"checkpoint_every", "max_tokens", *other}

    def answers(self) -> tuple[tuple[str, str], ...]:
        """(question, answer of this pole) of every item."""
        return tuple(
            (item.question, item.shows if self.pole == "have" else item.lacks)
            for item in self.items
        )


def trait_jobs(
    trait: Trait,
    *,
    base: Path,
    train: TrainConfig,
    prompt: PromptStyle = "plain",
    seed: int = 0,
    statements: int | None = None,
    questions: int | None = None,
) -> tuple[FinetuneJob, FinetuneJob]:
    """The two jobs of a trait, having and lacking it, on its training items within the limits."""
    items = limited(trait.train, statements=statements, questions=questions)
    if not items:
        raise ConfigError(
            f"trait {trait.name!r}: expected items to train on, found none within the limits "
            f"(statements: {statements}, questions: {questions}). Raise a limit."
        )
    have, lack = (
        FinetuneJob(
            trait=trait.name,
            pole=pole,
            items=items,
            base=base,
            train=train,
            prompt=prompt,
            seed=seed,
        )
        for pole in ("have", "lack")
    )
    return have, lack


class JobRecord(BaseModel):
    """job.json of a finished job: its settings, and how the training went.

    `losses` are nats per answer token, the mean over the items of each step's batch.
    `tokens` were read by the model, `answer_tokens` were trained on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    key: str
    trait: str
    pole: Pole
    base: str
    items: int
    prompt: PromptStyle
    seed: int
    train: TrainConfig
    device: str
    threads: int
    shared_prefixes: bool
    losses: tuple[float, ...]
    tokens: int
    answer_tokens: int
    trained_parameters: int
    seconds: float
    resumed_from: tuple[int, ...]
    peak_rss_mib: int
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a running job tells after each step (step 0: the model is loaded)."""

    job: str
    step: int
    steps: int
    loss: float | None
    tokens: int
    pid: int


Report = Callable[[StepReport], Any]


def finished_record(folder: Path) -> JobRecord | None:
    """The record of a finished job's folder; None where there is no such folder."""
    path = folder / RECORD
    return JobRecord.model_validate_json(path.read_bytes()) if path.is_file() else None


def base_fingerprint(base: Path) -> str:
    """A hash of the base's weights, configuration and tokenizer, by content."""
    files = sorted(
        path
        for path in base.iterdir()
        if path.suffix in (".safetensors", ".json", ".jinja", ".model", ".txt")
    )
    if not any(path.suffix == ".safetensors" for path in files):
        raise ConfigError(
            f"{base}: expected a model folder with .safetensors files, found none. "
            "Download the base, or convert it to safetensors."
        )
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(
            f"{path.name}\0{_file_digest(path, status.st_size, status.st_mtime_ns)}\0".encode()
        )
    return digest.hexdigest()


@functools.lru_cache(maxsize=1024)
def _file_digest(path: Path, size_bytes: int, changed_ns: int) -> str:
    """SHA-256; size and time of change are there to forget a digest when the file changes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
