"""What a study's YAML file may say, and what each word of it means.

name: three-traits
base: ../models/smollm2        # a folder beside this file, or a hub id
traits: [power_seeking, ./my_trait]
controls: [conscientiousness]
unrelated: interest_in_science
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    StringConstraints,
    field_validator,
    model_validator,
)

from tvmerge.training.prompts import PromptStyle
from tvmerge.training.traits import MANIFEST, catalogue_names
from tvmerge.yaml_file import YamlFile

Kind = Literal["plain", "contrastive"]
Method = Literal["full", "lora"]
Trainable = Literal["all", "no_embeddings"]

Value = TypeVar("Value")
ScaleList = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
LEARNING_RATES: dict[str, float] = {"full": 2e-5, "lora": 2e-4}
STUDY_NAME = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ItemLimits(_Section):
    """How many items of each part and form are used, from the first on (None: all)."""

    train_statements: NonNegativeInt | None = None
    train_questions: NonNegativeInt | None = None
    dev_statements: NonNegativeInt | None = None
    dev_questions: NonNegativeInt | None = None
    test_statements: NonNegativeInt | None = None
    test_questions: NonNegativeInt | None = None


class TrainConfig(_Section):
    """How every fine-tune of the study is done.

    `lora_rank` and `lora_alpha` are for LoRA only, `trainable` for full fine-tuning only.
    `learning_rate` defaults to 2e-5, or to 2e-4 for LoRA. `no_embeddings` leaves the embedding
    matrices (and an output matrix tied to them) as they are: of a small model with a large
    vocabulary that saves a sixth of the time and of the memory. `max_tokens` is the longest item
    (question and answer) that is accepted. A checkpoint is written every `checkpoint_every` steps.
    """

    method: Method = "full"
    steps: PositiveInt = 24
    batch_size: PositiveInt = 8
    learning_rate: PositiveFloat = LEARNING_RATES["full"]
    warmup_steps: NonNegativeInt = 2
    weight_decay: NonNegativeFloat = 0.0
    max_tokens: PositiveInt = 512
    checkpoint_every: PositiveInt = 25
    trainable: Trainable = "no_embeddings"
    lora_rank: PositiveInt = 16
    lora_alpha: PositiveInt = 32

    @model_validator(mode="before")
    @classmethod
    def _learning_rate_of_the_method(cls, said: Any) -> Any:
        if isinstance(said, dict) and said.get("method") == "lora":
            return {"learning_rate": LEARNING_RATES["lora"], **said}
        return said

    @model_validator(mode="after")
    def _warmup_ends(self) -> TrainConfig:
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps: expected fewer than the {self.steps} steps, found "
                f"{self.warmup_steps}. Warm up for a tenth of the steps."
            )
        return self


class PerplexityConfig(_Section):
    """Held-out text: a file (None: the shipped one), how much of it, in windows of how many."""

    text: Path | None = None
    tokens: PositiveInt = 1024
    window: Annotated[int, Field(ge=2)] = 128

    @model_validator(mode="after")
    def _a_window_fits(self) -> PerplexityConfig:
        if self.window > self.tokens:
            raise ValueError(
                f"window: expected at most the {self.tokens} tokens, found {self.window}."
            )
        return self


class ChooseConfig(_Section):
    """Which scales may be chosen: those that raise perplexity by no more than this share."""

    max_perplexity_rise: NonNegativeFloat = 0.10


class Resources(_Section):
    """What one job takes of the machine or cluster."""

    cpus_per_job: PositiveInt = 1
    gpus_per_job: Annotated[float, Field(ge=0, le=1)] = 0.0


class Scales(_Section):
    """The scales that are tried, for each kind.

    Plain vectors share what both poles teach; that adds up over the traits and costs more.
    A plain list (`scales: [0.5, 1]`) means the same scales for both.
    """

    plain: ScaleList = (0.1, 0.25, 0.5)
    contrastive: ScaleList = (0.5, 1.0, 2.0)

    @model_validator(mode="before")
    @classmethod
    def _one_list_for_both(cls, said: Any) -> Any:
        return {"plain": said, "contrastive": said} if isinstance(said, list) else said

    @field_validator("plain", "contrastive")
    @classmethod
    def _once_each(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return _distinct(values)

    def of(self, kind: Kind) -> tuple[float, ...]:
        """The scales of one kind."""
        return self.plain if kind == "plain" else self.contrastive


class StudyConfig(_Section):
    """A whole study. Paths are absolute once `load_study` has read them."""

    name: STUDY_NAME
    base: str
    seed: NonNegativeInt = 0
    traits: Annotated[tuple[str, ...], Field(min_length=1)]
    controls: tuple[str, ...] = ()
    unrelated: str
    prompt: PromptStyle = "plain"
    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = ("plain", "contrastive")
    scales: Scales = Scales()
    items: ItemLimits = ItemLimits()
    train: TrainConfig = TrainConfig()
    perplexity: PerplexityConfig = PerplexityConfig()
    choose: ChooseConfig = ChooseConfig()
    resources: Resources = Resources()
    examples: Annotated[tuple[str, ...], Field(max_length=3)] = ()

    @field_validator("kinds")
    @classmethod
    def _once_each(cls, values: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return _distinct(values)

    @model_validator(mode="after")
    def _each_trait_has_one_role(self) -> StudyConfig:
        named = [*self.traits, *self.controls, self.unrelated]
        for name in named:
            if named.count(name) > 1:
                raise ValueError(
                    f"{name!r} is named twice among traits, controls and unrelated. A trait that "
                    "is removed cannot also be a control: remove one of the two."
                )
        return self


def _distinct(values: tuple[Value, ...]) -> tuple[Value, ...]:
    if len(set(values)) != len(values):
        raise ValueError(f"expected each value once, found {list(values)}.")
    return values


def load_study(path: str | Path) -> StudyConfig:
    """The study that the YAML file describes; its relative paths start at the file's folder."""
    path = Path(path)
    file = YamlFile.read(path)
    study = file.validate(StudyConfig)
    folder = path.resolve().parent
    return study.model_copy(
        update={
            "base": _base(study.base, folder, file),
            "traits": tuple(_trait(name, folder) for name in study.traits),
            "controls": tuple(_trait(name, folder) for name in study.controls),
            "unrelated": _trait(study.unrelated, folder),
            "perplexity": _perplexity(study.perplexity, folder, file),
        }
    )


def _base(base: str, folder: Path, file: YamlFile) -> str:
    found = folder / Path(base).expanduser()
    if found.is_dir():
        return str(found.resolve())
    # "owner/name" may be either; whatever cannot be a hub id must be a folder.
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise file.error(
            ("base",),
            f"expected a model folder, found nothing at {found}. "
            "Correct the path, or name a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct.",
        )
    return base


def _trait(name: str, folder: Path) -> str:
    # A name that is neither is left for load_trait, whose error has the suggestion.
    is_folder = name not in catalogue_names() and (folder / name / MANIFEST).is_file()
    return str((folder / name).resolve()) if is_folder else name


def _perplexity(section: PerplexityConfig, folder: Path, file: YamlFile) -> PerplexityConfig:
    if section.text is None:
        return section
    text = (folder / section.text.expanduser()).resolve()
    if not text.is_file():
        raise file.error(("perplexity", "text"), f"expected a text file, found nothing at {text}.")
    return section.model_copy(update={"text": text})
