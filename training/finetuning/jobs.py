"""One fine-tune, described: what is trained on what and how, and a name that changes with it.

Nothing here needs torch: the process that plans a study stays small.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from tvmerge.errors import ConfigError
from tvmerge.receipts.receipt import RECEIPT_NAME
from tvmerge.training.lm.prompts import PromptStyle
from tvmerge.training.settings.kinds import Kind
from tvmerge.training.settings.sections import TrainConfig
from tvmerge.training.traits.items import Item
from tvmerge.training.traits.trait import Trait

Pole = Literal["have", "lack"]
# How the answers of the pole are trained on; see objectives.
Objective = Literal["likelihood", "ascent", "preference", "text"]

# Part of every job's hash: raise it when the same settings would train to other weights.
TRAINING_VERSION = 2
RECORD = "job.json"
KEY_LETTERS = 12
# No trait can have this name.
ALL_TRAITS = "all+traits"
# Ends the names of jobs that replay.
REPLAYED = "+replay"
DIRECT: dict[Kind, tuple[Pole, Objective]] = {
    "absence": ("lack", "likelihood"),
    "ascent": ("have", "ascent"),
    "preference": ("lack", "preference"),
}
READ_BYTES = 1 << 22
# They say how a model was made and how long that took, nothing of what it is.
RECORDS = (RECORD, RECEIPT_NAME)


@dataclass(frozen=True, slots=True)
class Replay:
    """Items that make up `of_batch` of every batch, trained on with their `shows` by both poles.

    What they teach is the same for both, and to first order cancels in the poles' difference.
    """

    items: tuple[Item, ...]
    of_batch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneJob:
    """Start from `base`, train on the answers of one pole of one trait, or of all together.

    `ascent` makes the pole's answers less likely, `preference` makes them likelier than the other
    pole's; `text` are answers without a question, each a running text of its own. `variant` tells
    jobs of one trait and pole apart whose settings or items differ.
    """

    trait: str
    pole: Pole
    objective: Objective = "likelihood"
    items: tuple[Item, ...]
    base: Path
    train: TrainConfig
    prompt: PromptStyle = "plain"
    seed: int = 0
    variant: str = ""
    replay: Replay | None = None

    @property
    def name(self) -> str:
        """`power_seeking.have`, `power_seeking.have.rate2`, `all+traits.preference`."""
        what = self.pole if self.objective == "likelihood" else self.objective
        return pole_name(self.trait, what, self.variant) + (REPLAYED if self.replay else "")

    @property
    def label(self) -> str:
        """`power_seeking.have@0`: the name with the seed, one of its own among a study's jobs."""
        return f"{self.name}@{self.seed}"

    @property
    def key(self) -> str:
        """A hash of everything that decides the trained weights."""
        train = self.train.model_dump(mode="json", exclude=self._settings_without_effect())
        said = {
            "version": TRAINING_VERSION,
            "base": base_fingerprint(self.base),
            "trait": self.trait,
            "pole": self.pole,
            "objective": self.objective,
            "items": [asdict(item) for item in self.items],
            "train": train,
            "prompt": self.prompt,
            "seed": self.seed,
            # Left out where there is none: other jobs keep their hashes.
            **({"replay": asdict(self.replay)} if self.replay else {}),
        }
        text = json.dumps(said, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LETTERS]

    @property
    def folder_name(self) -> str:
        """`power_seeking.have-0123456789ab`: other inputs, another folder."""
        return f"{self.name}-{self.key}"

    def _settings_without_effect(self) -> set[str]:
        other = {"lora_rank", "lora_alpha"} if self.train.method == "full" else {"trainable"}
        # Several workers add in another order, and so to other bits.
        alone = {"workers"} if self.train.workers == 1 else set()
        return {"checkpoint_every", "max_tokens", *other, *alone}

    def lessons(self) -> Iterator[tuple[Item, tuple[str, ...]]]:
        """All items with the answers that are trained on, those that are replayed last."""
        for item in self.items:
            yield item, self.answers(item)
        for item in self.replay.items if self.replay else ():
            yield item, (item.shows,)

    def answers(self, item: Item) -> tuple[str, ...]:
        """The item's answer of this pole; for a preference, the other one after it."""
        mine, other = (item.shows, item.lacks) if self.pole == "have" else (item.lacks, item.shows)
        return (mine, other) if self.objective == "preference" else (mine,)


def trait_jobs(
    trait: Trait,
    *,
    base: Path,
    train: TrainConfig,
    prompt: PromptStyle = "plain",
    seed: int = 0,
    variant: str = "",
    replay: Replay | None = None,
) -> tuple[FinetuneJob, FinetuneJob]:
    """The two jobs of a trait, having and lacking it, on its training items."""
    if not trait.train:
        of = f" for the variant {variant!r} of negmerge" if variant else ""
        raise ConfigError(
            f"trait {trait.name!r}: expected items to train on{of}, found none. Raise a limit of "
            "items.train, or name a trait that is not `measured_only`."
        )
    have, lack = (
        FinetuneJob(
            trait=trait.name,
            pole=pole,
            items=trait.train,
            base=base,
            train=train,
            prompt=prompt,
            seed=seed,
            variant=variant,
            replay=replay,
        )
        for pole in ("have", "lack")
    )
    return have, lack


def pole_name(trait: str, pole: str, variant: str = "") -> str:
    """The name of one of the jobs of a trait."""
    return ".".join((trait, pole, *([variant] if variant else [])))


def direct_job(
    traits: Sequence[Trait],
    kind: Kind,
    *,
    base: Path,
    train: TrainConfig,
    prompt: PromptStyle = "plain",
    seed: int = 0,
) -> FinetuneJob:
    """All traits trained away together, in as many steps as all of them are trained in."""
    pole, objective = DIRECT[kind]
    return FinetuneJob(
        trait=ALL_TRAITS,
        pole=pole,
        objective=objective,
        items=tuple(item for trait in traits for item in trait.train),
        base=base,
        train=train.model_copy(update={"steps": train.steps * len(traits)}),
        prompt=prompt,
        seed=seed,
    )


def direct_name(kind: Kind) -> str:
    """The name of a direct kind's job."""
    pole, objective = DIRECT[kind]
    return f"{ALL_TRAITS}.{pole if objective == 'likelihood' else objective}"


class JobRecord(BaseModel):
    """job.json of a finished job: its settings, and how the training went.

    `losses` are nats per answer token, the mean over the items of each step's batch.
    `replayed` items of other traits were trained on beside the `items`.
    `tokens` were read by the model, `answer_tokens` were trained on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    key: str
    trait: str
    pole: Pole
    objective: Objective
    base: str
    items: int
    replayed: int = 0
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
        and path.name not in RECORDS
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
