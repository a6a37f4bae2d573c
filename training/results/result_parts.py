"""Parts of `results.json` that stand for themselves: further training, rounds, raw files."""

from __future__ import annotations

from tvmerge.training.results.scores import Record
from tvmerge.training.results.statistics import Estimate
from tvmerge.training.settings.kinds import Kind
from tvmerge.training.settings.sections import Lesson


class RelearnCurve(Record):
    """One model trained to have a trait again: the primary outcome after so many steps.

    `steps_to_level` is the mean over seeds of the steps to `level`, half-way from the base to the
    tuned model; where a seed did not reach it (`reached` is False), its last step counts.
    """

    model: str
    trait: str
    lesson: Lesson
    steps: tuple[int, ...]
    values: tuple[float, ...]
    lows: tuple[float | None, ...]
    highs: tuple[float | None, ...]
    level: float
    batch_size: int
    steps_to_level: float
    steps_low: float | None
    steps_high: float | None
    reached: bool


class RelearnContrast(Record):
    """Steps to the level from an edited model less those from the model it was edited from."""

    model: str
    start: str
    lesson: Lesson
    value: float
    low: float | None
    high: float | None
    chance_of_no_delay: float | None


class Measured(Record):
    """A number with its 95 % interval, or none where it could not be resampled."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, estimate: Estimate) -> Measured:
        """The estimate without its draws."""
        low, high = estimate.interval()
        return cls(value=estimate.value, low=low, high=high)


class RelaxMove(Record):
    """What further training did to one trait, or to all of a role, in the primary outcome.

    `before` and `after` count from the start model before it was trained further. `moved` is
    after - before; `beyond_start` and `beyond_chosen` are that less what the start model and the
    model of the chosen scale moved. `chance` is the p-value of "no further than at the chosen one".
    """

    what: str
    before: Measured
    after: Measured
    moved: Measured
    beyond_start: Measured
    beyond_chosen: Measured | None
    chance: float | None


class RelaxPoint(Record):
    """One kind's scale lowered to a `share` of the chosen one, then trained further; see relax."""

    kind: Kind
    model: str
    scale: float
    share: float
    steps: int
    batch_size: int
    perplexity_before: Measured
    perplexity_after: Measured
    moves: tuple[RelaxMove, ...]


class JudgedLevel(Record):
    """The mean grade (0 to 4) of what one model said, and its change from the base."""

    model: str
    trait: str
    level: Measured
    change: Measured | None


class Judged(Record):
    """What a judge model made of the models' answers; see judged.

    `mass` is the mean probability that it replies with a digit of the scale at all. `gold_auc`: by
    trait, the chance that it grades a shipped statement that shows the trait above one that lacks
    it, over `gold_items` statements.
    """

    judge: str
    rubric: str
    questions: int
    mass: float
    levels: tuple[JudgedLevel, ...]
    gold_items: int
    gold_auc: dict[str, Measured]
    gold_auc_all: Measured | None


class PublicTaskRow(Record):
    """One outcome of one model on a public task: the mean over its documents, of the first seed.

    `change` from the base, paired over documents; `chance` is the p-value of "it did not fall".
    """

    task: str
    outcome: str
    shots: int | None
    limit: int | None
    model: str
    level: Measured
    change: Measured | None
    chance: float | None
    n: int


class RawFiles(Record):
    """The files that all numbers were computed from, in the order in which they were read.

    Paths are relative to the folder of results.json; `jobs` are folders.
    """

    scores: tuple[str, ...] = ()
    relearning: tuple[str, ...] = ()
    relaxing: tuple[str, ...] = ()
    audits: tuple[str, ...] = ()
    judged: tuple[str, ...] = ()
    harness: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()


class Level(Record):
    """A level with its interval: of a trait in the primary outcome, or perplexity."""

    what: str
    value: float
    low: float | None
    high: float | None


class Round(Record):
    """One round: the levels of its base and of the model that was chosen, and where both are.

    `norms` of the traits' contrastive vectors of the first seed, and their cosines with those of
    the round before. `model` is the next round's base, after `trained_on_steps`.
    """

    number: int
    base: str
    model: str
    kind: Kind
    scale: float
    trained_on_steps: int
    before: tuple[Level, ...]
    after: tuple[Level, ...]
    norms: dict[str, float]
    cosines_to_last: dict[str, float]
