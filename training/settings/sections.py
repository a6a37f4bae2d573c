"""The sections of a study's YAML file, and what each word of them means."""

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
    field_validator,
    model_validator,
)

from tvmerge.training.settings.kinds import KINDS, Kind

Lesson = Literal["same", "other_form", "benign"]
Method = Literal["full", "lora"]
Trainable = Literal["all", "no_embeddings"]

Value = TypeVar("Value")
LEARNING_RATES: dict[str, float] = {"full": 2e-5, "lora": 2e-4}


def distinct(values: tuple[Value, ...]) -> tuple[Value, ...]:
    """The values; ValueError where one stands there twice."""
    if len(set(values)) != len(values):
        raise ValueError(f"expected each value once, found {list(values)}.")
    return values


class Section(BaseModel):
    """A mapping of the YAML file: it knows no other keys and cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FormLimits(Section):
    """How many items of each form are used, from the first on (None: all, 0: not this form)."""

    statement: NonNegativeInt | None = None
    yes_no: NonNegativeInt | None = None
    choice: NonNegativeInt | None = None
    dialogue: NonNegativeInt | None = None


class ItemLimits(Section):
    """The limits of each part."""

    train: FormLimits = FormLimits()
    dev: FormLimits = FormLimits()
    test: FormLimits = FormLimits()


class TrainConfig(Section):
    """How every fine-tune of the study is done.

    `lora_rank` and `lora_alpha` are for LoRA only, `trainable` for full fine-tuning only.
    `learning_rate` defaults to 2e-5, or to 2e-4 for LoRA. `no_embeddings` leaves the embedding
    matrices (and an output matrix tied to them) as they are: of a small model with a large
    vocabulary that saves a sixth of the time and of the memory. `max_tokens` is the longest item
    (question and answer) that is accepted. A checkpoint is written every `checkpoint_every` steps.
    `workers` share one fine-tune, its weights and each of its batches; see sharded_job.
    """

    method: Method = "full"
    steps: PositiveInt = 24
    batch_size: PositiveInt = 8
    learning_rate: PositiveFloat = LEARNING_RATES["full"]
    warmup_steps: NonNegativeInt = 2
    weight_decay: NonNegativeFloat = 0.0
    max_tokens: PositiveInt = 512
    checkpoint_every: PositiveInt = 25
    workers: PositiveInt = 1
    trainable: Trainable = "no_embeddings"
    lora_rank: PositiveInt = 16
    lora_alpha: PositiveInt = 32

    def lasting(self, steps: int) -> TrainConfig:
        """The same for so many steps, the warmup no longer than before the last of them."""
        warmup_steps = min(self.warmup_steps, steps - 1)
        return self.model_copy(update={"steps": steps, "warmup_steps": warmup_steps})

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

    @model_validator(mode="after")
    def _workers_have_work(self) -> TrainConfig:
        if self.workers > 1 and self.method == "lora":
            raise ValueError(
                f"workers: expected 1 with `method: lora`, found {self.workers}. "
                "Only full fine-tuning is shared among workers."
            )
        if self.workers > self.batch_size:
            raise ValueError(
                f"workers: expected at most the {self.batch_size} items of a batch (batch_size), "
                f"found {self.workers}."
            )
        return self


class PerplexityConfig(Section):
    """Held-out texts: files (None: those shipped), how much of each, in windows of how many tokens.

    `text` limits the choice of scales; `other_text`, of another kind, is only reported.
    """

    text: Path | None = None
    other_text: Path | None = None
    tokens: PositiveInt = 1024
    window: Annotated[int, Field(ge=2)] = 128

    @model_validator(mode="after")
    def _a_window_fits(self) -> PerplexityConfig:
        if self.window > self.tokens:
            raise ValueError(
                f"window: expected at most the {self.tokens} tokens, found {self.window}."
            )
        return self


class ChooseConfig(Section):
    """Which scales may be chosen: those that raise perplexity by no more than this share."""

    max_perplexity_rise: NonNegativeFloat = 0.10


class Resources(Section):
    """What one job takes of the machine or cluster, or each worker of a job that has several."""

    cpus_per_job: PositiveInt = 1
    gpus_per_job: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def device(self) -> str:
        """Where a job's models are, as torch calls it."""
        return "cuda" if self.gpus_per_job > 0 else "cpu"


class Checks(Section):
    """Measurements beside the negation of all traits at once; see docs/study.md.

    `aggregation` negates each trait alone, and all but it, in `aggregation_kinds` (none named: all
    that are a sum over the traits). `together` adds all traits at once, and with `pairs` every two,
    to see what they do to the composites. `shots` examples of a trait are shown before each of its
    test statements, to see whether that brings it back (0: not measured).
    """

    aggregation: bool = True
    aggregation_kinds: tuple[Kind, ...] = ()
    together: bool = True
    pairs: bool = False
    shots: NonNegativeInt = 4

    @model_validator(mode="after")
    def _kinds_are_asked_for(self) -> Checks:
        if self.aggregation_kinds and not self.aggregation:
            raise ValueError(
                "aggregation_kinds: expected aggregation: true beside them, found false. Remove "
                "one of the two."
            )
        return self

    def one_by_one(self, kind: Kind) -> bool:
        """Whether the traits are negated alone and left out, in this kind."""
        named = kind in self.aggregation_kinds if self.aggregation_kinds else KINDS[kind].by_trait
        return self.aggregation and named


class RelearnConfig(Section):
    """How quickly traits come back; see relearn. 0 steps: not measured.

    `traits`: those that are learned again (none named: all). `lessons`: what from. Batch size and
    rate are those of `train`. Started from are the base, the start models and the kinds' chosen
    models.
    """

    steps: NonNegativeInt = 16
    every: PositiveInt = 4
    lessons: Annotated[tuple[Lesson, ...], Field(min_length=1)] = ("same",)
    traits: tuple[str, ...] = ()


class RelaxConfig(Section):
    """What lowered scales hold when training goes on; see relax. 0 steps: not measured.

    Each kind's chosen scale is lowered to these `shares` of it. The chosen scale itself and its
    start model, which is the share 0, are measured too: they are what the others are compared with.
    """

    steps: NonNegativeInt = 0
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.5, 0.25)

    @field_validator("shares")
    @classmethod
    def _once_each(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return distinct(values)


class TrainOnConfig(Section):
    """What the chosen model is trained on before the next round, and after the last (0 steps: not).

    Either `text`, a file of running text, or `instructions`, JSON lines of question and answer.
    """

    steps: NonNegativeInt = 0
    text: Path | None = None
    instructions: Path | None = None
    learning_rate: PositiveFloat | None = None

    @model_validator(mode="after")
    def _one_source(self) -> TrainOnConfig:
        if self.steps and (self.text is None) == (self.instructions is None):
            raise ValueError(
                "train_on: expected either `text` or `instructions`. Name one of the two."
            )
        return self


class RoundsConfig(Section):
    """How often the whole is done, each time from the last round's chosen model of `kind`.

    None: the last of `kinds`.
    """

    count: PositiveInt = 1
    kind: Kind | None = None
    train_on: TrainOnConfig = TrainOnConfig()


class VerdictConfig(Section):
    """The rules that verdicts go by, written before the run and quoted in the report.

    A trait counts as reduced where the chance of no fall, corrected over the traits of its kind
    (Holm), is below `alpha`, so is that of falling no further than under the unrelated vector and
    than the control traits, and perplexity rose by no more than choose.max_perplexity_rise.
    """

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
