"""What `results.json` holds: the whole study in numbers, enough to draw the report from alone.

Rows are in long form, one row per model, trait, part and outcome, so that a reader needs no
key to a nested layout. `assemble` computes them; nothing here computes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tvmerge.training.config import Kind
from tvmerge.training.measured_model import Control as Control
from tvmerge.training.measured_model import MeasuredModel as MeasuredModel
from tvmerge.training.scores import Part, Record

Role = Literal["trait", "control", "unrelated"]
Outcome = Literal[
    "statement_margin",
    "statement_auc",
    "statement_shows",
    "statement_lacks",
    "yes_no_margin",
    "yes_no_auc",
    "pick_rate",
    "yes_bias",
    "valid_mass",
    "choice_margin",
    "choice_pick_rate",
]
VerdictCode = Literal[
    "reduced",
    "side_effects",
    "not_specific",
    "not_below_base",
    "untested",
    "did_not_fall",
    "too_costly",
    "wrong_way",
    "worked",
    "partly",
    "failed",
    "flag",
    "note",
]
ContrastName = Literal["specificity", "beyond_unrelated", "beyond_random", "from_base"]
Scope = Literal["study", "kind", "trait", "aggregation", "flag", "caveat"]

RESULTS_VERSION: Literal[1] = 1
ALL_TRAITS = "all traits"
ALL_CONTROLS = "all controls"


class TraitInfo(Record):
    """A trait that was measured, and in what role."""

    name: str
    role: Role
    title: str = ""
    description: str = ""
    rationale: str = ""
    source: str = ""
    licence: str = ""
    train_items: int | None = None


class BaseInfo(Record):
    """The model that everything started from."""

    name: str
    parameters: int | None = None
    tensors: int | None = None
    dtype: str = ""
    digest: str = ""
    source: str = ""
    licence: str = ""


class JobSummary(Record):
    """One fine-tune; losses are nats per answer token."""

    name: str
    trait: str
    pole: Literal["have", "lack"]
    items: int | None = None
    steps: int
    seconds: float
    tokens: int
    first_loss: float | None = None
    last_loss: float | None = None


class VectorSet(Record):
    """Norms of one kind's vectors and the cosines between them, `names` in order."""

    kind: Kind
    names: tuple[str, ...]
    norms: tuple[float, ...]
    cosines: tuple[tuple[float, ...], ...]


class OutcomeRow(Record):
    """One outcome of one model on one trait (or on all of a role), with its change."""

    model: str
    trait: str
    role: Role
    part: Part
    outcome: Outcome
    value: float
    low: float | None
    high: float | None
    n: int
    change: float | None = None
    change_low: float | None = None
    change_high: float | None = None


class Contrast(Record):
    """A difference of changes.

    `specificity`: the trait's change minus the mean change of the control traits.
    `beyond_unrelated`, `beyond_random`: the change minus that of the control vector's model.
    `from_base`: the change counted from the base, where the edit started from another model.
    """

    name: ContrastName
    model: str
    trait: str
    part: Part
    outcome: Outcome
    value: float
    low: float | None
    high: float | None


class PerplexityRow(Record):
    """exp of the mean nll on held-out text, and its ratio to the reference's and the base's."""

    model: str
    value: float
    low: float | None
    high: float | None
    windows: int
    tokens: int
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    base_ratio: float | None = None
    base_ratio_low: float | None = None
    base_ratio_high: float | None = None


class ScaleCandidate(Record):
    """What one scale did on the development items."""

    model: str
    scale: float
    change: float
    low: float | None
    high: float | None
    perplexity_rise: float


class ScaleChoice(Record):
    """The scale that development items chose for one kind, and why."""

    kind: Kind
    model: str
    scale: float
    within_share: bool
    reason: str
    candidates: tuple[ScaleCandidate, ...]


class ExampleRow(Record):
    """One question and what each model (by id) said."""

    question: str
    answers: dict[str, str]


class Stage(Record):
    """Seconds one stage of the study took."""

    name: str
    seconds: float


class Verdict(Record):
    """A judgement in plain words: a few words, then the numbers behind them."""

    scope: Scope
    code: VerdictCode
    headline: str
    detail: str
    kind: Kind | None = None
    trait: str | None = None


class Results(Record):
    """The study."""

    version: Literal[1] = RESULTS_VERSION
    name: str
    created: str = ""
    seed: int = 0
    draws: int
    primary_outcome: Outcome
    max_perplexity_rise: float
    config: dict[str, Any] = Field(default_factory=dict)
    base: BaseInfo
    versions: dict[str, str] = Field(default_factory=dict)
    traits: tuple[TraitInfo, ...]
    jobs: tuple[JobSummary, ...] = ()
    vectors: tuple[VectorSet, ...] = ()
    models: tuple[MeasuredModel, ...]
    choices: tuple[ScaleChoice, ...] = ()
    rows: tuple[OutcomeRow, ...]
    contrasts: tuple[Contrast, ...] = ()
    perplexity: tuple[PerplexityRow, ...]
    examples: tuple[ExampleRow, ...] = ()
    stages: tuple[Stage, ...] = ()
    peak_memory_mib: float | None = None
    verdicts: tuple[Verdict, ...] = ()
