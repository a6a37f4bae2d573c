"""Raw scores of one measured model, as `measure` writes and `outcomes` reads them: no torch.

One JSON file per model: log-probabilities of every item's two answers, the held-out text's
windows, and what the model says. Everything in the report is computed from these files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tvmerge.errors import FormatError
from tvmerge.training.traits.items import Form

Part = Literal["dev", "test"]

PARTS: tuple[Part, ...] = ("dev", "test")

SCORES_VERSION: Literal[1] = 1


AnyRecord = TypeVar("AnyRecord", bound="Record")


class Record(BaseModel):
    """A value that cannot change and knows no other fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ItemScore(Record):
    """One item: summed log-probability (nats) of each answer, and how many tokens it has."""

    item: str
    form: Form
    shows_logp: float
    shows_tokens: int = Field(ge=1)
    lacks_logp: float
    lacks_tokens: int = Field(ge=1)
    valid_mass: float | None = None
    shows_is_yes: bool | None = None

    @model_validator(mode="after")
    def _yes_no_says_which_is_yes(self) -> ItemScore:
        if self.form == "yes_no" and (self.valid_mass is None or self.shows_is_yes is None):
            raise ValueError("a yes_no item needs valid_mass and shows_is_yes")
        return self


class PerplexityScores(Record):
    """Mean negative log-likelihood (nats per token) of each window of held-out text."""

    window_nll: tuple[float, ...] = Field(min_length=1)
    window_tokens: tuple[int, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _one_count_per_window(self) -> PerplexityScores:
        if len(self.window_nll) != len(self.window_tokens):
            raise ValueError(
                f"{len(self.window_nll)} windows but {len(self.window_tokens)} token counts"
            )
        return self


class Example(Record):
    """What the model says to a question, decoded greedily."""

    question: str
    answer: str


class Effort(Record):
    """What one measurement cost."""

    seconds: float = 0.0
    tokens: int = 0
    scoring: Literal["shared prefixes", "one by one"] = "shared prefixes"


class ModelScores(Record):
    """All raw scores of one model: traits by name, then part, then items in order."""

    version: Literal[1] = SCORES_VERSION
    model: str
    seed: int | None = None
    traits: dict[str, dict[Part, tuple[ItemScore, ...]]]
    perplexity: PerplexityScores
    other_perplexity: PerplexityScores | None = None
    examples: tuple[Example, ...] = ()
    effort: Effort = Effort()


def save_scores(scores: ModelScores, path: Path) -> None:
    """Write the scores as JSON, whole or not at all."""
    save_record(scores, path)


def save_record(record: Record, path: Path) -> None:
    """Write a record as JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def load_scores(path: Path) -> ModelScores:
    """Read one model's scores; a file that is not one raises `FormatError`."""
    return load_record(path, ModelScores, "of raw scores")


def load_record(path: Path, kind: type[AnyRecord], what: str) -> AnyRecord:
    """Read what `save_record` wrote; a file that is not `what` raises `FormatError`."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the top level"
        raise FormatError(
            f"{path}: not a file {what}: {first['msg']} at {where} (found "
            f"{error.error_count()} such faults). Delete the file and run the study again."
        ) from error
