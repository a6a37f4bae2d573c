"""What `results.json` holds: the whole study in numbers, enough to draw the report from alone.

Rows are in long form, one row per model, trait, part and outcome, so that a reader needs no
key to a nested layout. `assemble` computes them; nothing here computes.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tvmerge.training.results.measured_model import Control as Control
from tvmerge.training.results.measured_model import MeasuredModel as MeasuredModel
from tvmerge.training.results.measured_model import ModelRole as ModelRole
from tvmerge.training.results.result_parts import Judged as Judged
from tvmerge.training.results.result_parts import JudgedLevel as JudgedLevel
from tvmerge.training.results.result_parts import Level as Level
from tvmerge.training.results.result_parts import Measured as Measured
from tvmerge.training.results.result_parts import PublicTaskRow as PublicTaskRow
from tvmerge.training.results.result_parts import RawFiles as RawFiles
from tvmerge.training.results.result_parts import RelaxMove as RelaxMove
from tvmerge.training.results.result_parts import RelaxPoint as RelaxPoint
from tvmerge.training.results.result_parts import RelearnContrast as RelearnContrast
from tvmerge.training.results.result_parts import RelearnCurve as RelearnCurve
from tvmerge.training.results.result_parts import Round as Round
from tvmerge.training.results.scores import Part, Record
from tvmerge.training.settings.kinds import Kind
from tvmerge.training.settings.sections import VerdictConfig

Role = Literal["trait", "control", "unrelated", "composite", "capability", "elicited"]
Outcome = Literal[
    "statement_margin",
    "statement_auc",
    "statement_pick_rate",
    "statement_shows",
    "statement_lacks",
    "yes_no_margin",
    "yes_no_auc",
    "pick_rate",
    "yes_bias",
    "valid_mass",
    "choice_margin",
    "choice_pick_rate",
    "dialogue_margin",
    "dialogue_auc",
    "dialogue_pick_rate",
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
    "held",
    "stands",
    "open",
    "flag",
    "note",
]
Doubt = Literal[
    "aggregation",
    "incompetent",
    "shallow",
    "one_suffices",
    "gradient_hacking",
    "brinkmanship",
    "many_ais",
    "direct",
    "false_alarms",
]
ContrastName = Literal[
    "specificity",
    "beyond_unrelated",
    "beyond_random",
    "from_base",
    "beyond_sum",
    "beyond_alone",
    "beyond_direct",
]
TextRole = Literal["limit", "other"]
Scope = Literal["study", "kind", "trait", "aggregation", "doubt", "flag", "caveat"]

RESULTS_VERSION: Literal[1] = 1
ALL_TRAITS = "all traits"
ALL_CONTROLS = "all controls"
ALL_COMPOSITES = "all composites"
ALL_CAPABILITY = "all capability"


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
    seed: int = 0
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
    # One-sided p-value of "the change is not below zero".
    chance: float | None = None


class Contrast(Record):
    """A difference of changes.

    `specificity`: the trait's change minus the mean change of the control traits.
    `beyond_unrelated`, `beyond_random`: the change minus that of the control vector's model.
    `from_base`: the change counted from the base, where the edit started from another model.
    `beyond_sum`: the change under all vectors at once minus the sum of those under each alone.
    `beyond_alone`: that minus the change under the trait's own vector alone.
    `beyond_direct`: the change from the base minus that of a direct attempt (`rival`).
    """

    name: ContrastName
    model: str
    trait: str
    part: Part
    outcome: Outcome
    value: float
    low: float | None
    high: float | None
    chance: float | None = None
    rival: str | None = None


class PerplexityRow(Record):
    """exp of the mean nll on held-out text, and its ratio to the reference's and the base's.

    The text by which scales are limited, or the `other` one.
    """

    model: str
    text: TextRole
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


class FinetuneAudit(Record):
    """What one trait's fine-tunes look like, the mean over seeds; see audit.

    `losses` of every step (nats per answer token), `layers` norms of the vector by layer,
    `agreement` the mean cosine between the vectors of two seeds.
    """

    name: str
    trait: str
    role: Role
    pole: Literal["have", "lack"]
    seeds: int
    losses: tuple[float, ...]
    norm: float
    layers: dict[str, float]
    stable_rank: float | None
    agreement: float | None


class ExampleRow(Record):
    """One question and what each model (by id) said."""

    question: str
    answers: dict[str, str]


class Stage(Record):
    """Seconds one stage took in the run that wrote the results: of what was left to do."""

    name: str
    seconds: float


class Verdict(Record):
    """A judgement in plain words: a few words, then the numbers behind them.

    `chance` is the p-value of a trait's fall from the start model, corrected over the traits.
    """

    scope: Scope
    code: VerdictCode
    headline: str
    detail: str
    kind: Kind | None = None
    trait: str | None = None
    doubt: Doubt | None = None
    chance: float | None = None


class Results(Record):
    """The study.

    `seconds_computed` are those of all fine-tunes, measurements, re-learning, judges and public
    tasks, in whichever run, added up: side by side they took less. Not in them are searches, merges
    and audits.
    """

    version: Literal[1] = RESULTS_VERSION
    name: str
    created: str = ""
    seeds: tuple[int, ...] = (0,)
    draws: int
    primary_outcome: Outcome
    max_perplexity_rise: float
    rules: VerdictConfig = VerdictConfig()
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
    relearning: tuple[RelearnCurve, ...] = ()
    relearn_contrasts: tuple[RelearnContrast, ...] = ()
    relaxed: tuple[RelaxPoint, ...] = ()
    audits: tuple[FinetuneAudit, ...] = ()
    rounds: tuple[Round, ...] = ()
    examples: tuple[ExampleRow, ...] = ()
    judged: tuple[Judged, ...] = ()
    public_tasks: tuple[PublicTaskRow, ...] = ()
    raw: RawFiles = RawFiles()
    stages: tuple[Stage, ...] = ()
    seconds_computed: float = 0.0
    peak_memory_mib: float | None = None
    verdicts: tuple[Verdict, ...] = ()
