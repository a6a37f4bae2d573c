"""Which lowered scales are trained further, and what each of them held."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tvmerge import Checkpoint
from tvmerge.training.measuring.measurement import MeasureSettings
from tvmerge.training.measuring.relax import RelaxScores, RelaxTask
from tvmerge.training.results.contrasts import groups
from tvmerge.training.results.measured_model import MeasuredModel
from tvmerge.training.results.outcomes import ScoreTable
from tvmerge.training.results.results import (
    Measured,
    Outcome,
    RelaxMove,
    RelaxPoint,
    Role,
    ScaleChoice,
    TraitInfo,
)
from tvmerge.training.results.scores import ModelScores
from tvmerge.training.results.statistics import Estimate, Resampler
from tvmerge.training.settings.config import StudyConfig
from tvmerge.training.settings.kinds import start_of
from tvmerge.training.study.vectors import StudyVectors
from tvmerge.training.traits.items import Item

ROLES: tuple[Role, ...] = ("trait", "control")
# What a model's name carries, among scores, once it was trained further.
FURTHER = " further"


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxing:
    """The tasks of a study whose scales are chosen; `items` are what is trained on."""

    config: StudyConfig
    out: Path
    vectors: Sequence[StudyVectors]
    settings: MeasureSettings
    items: tuple[Item, ...]
    base_key: str

    def tasks(self, choices: Sequence[ScaleChoice]) -> list[RelaxTask]:
        """Each trains one model further; kinds that start from the same one share its task."""
        return [*{task.path: task for task in self._tasks(choices)}.values()]

    def _tasks(self, choices: Sequence[ScaleChoice]) -> Iterator[RelaxTask]:
        steps = self.config.relax.steps
        if not steps:
            return
        train = self.config.train.lasting(steps)
        settings = relax_settings(self.settings)
        for vectors, seed in zip(self.vectors, self.config.seeds, strict=True):
            for model_id, model in self._models(vectors, choices):
                yield RelaxTask(
                    model_id=model_id,
                    model=model,
                    base_key=self.base_key,
                    items=self.items,
                    train=train,
                    settings=settings,
                    seed=seed,
                    folder=self.out / "relax",
                )

    def _models(
        self, vectors: StudyVectors, choices: Sequence[ScaleChoice]
    ) -> Iterator[tuple[str, Checkpoint]]:
        for choice in choices:
            yield start_of(choice.kind), vectors.start(choice.kind)
            yield choice.model, vectors.negated(choice.kind, choice.scale)
            for share in self.config.relax.shares:
                scale = share * choice.scale
                yield f"{choice.kind}.{scale:g}", vectors.negated(choice.kind, scale)


def relax_settings(settings: MeasureSettings) -> MeasureSettings:
    """What is asked before and after: the test items of the traits and of their controls."""
    return replace(settings.only(ROLES), parts=("test",), examples=())


def planned_relaxations(config: StudyConfig) -> int:
    """How many models are trained further: the starts, and each kind's scales."""
    if not config.relax.steps:
        return 0
    starts = len({start_of(kind) for kind in config.kinds})
    scales = len(config.kinds) * (1 + len(config.relax.shares))
    return len(config.seeds) * (starts + scales)


def relax_points(
    scores: Sequence[RelaxScores],
    resampler: Resampler,
    outcome: Outcome,
    choices: Sequence[ScaleChoice],
    traits: Sequence[TraitInfo],
) -> Iterator[RelaxPoint]:
    """Every kind's chosen scale, the lowered ones, and the start, each before and after."""
    by_model: dict[str, list[RelaxScores]] = defaultdict(list)
    for one in scores:
        by_model[one.model].append(one)
    measured: dict[str, list[ModelScores]] = {}
    for model, each in by_model.items():
        measured[model] = [one.before for one in each]
        measured[model + FURTHER] = [one.after for one in each]
    table = ScoreTable(measured, resampler)
    members = {name: found for name, role, found in groups(traits) if role in ROLES}
    for choice in choices:
        start = start_of(choice.kind)
        lowered = {
            scale: model for model in by_model if (scale := _scale_of(model, choice)) is not None
        }
        for scale, model in sorted(lowered.items(), reverse=True):
            yield RelaxPoint(
                kind=choice.kind,
                model=model,
                scale=scale,
                share=scale / choice.scale,
                steps=len(by_model[model][0].losses),
                batch_size=by_model[model][0].batch_size,
                perplexity_before=_perplexity(table, model),
                perplexity_after=_perplexity(table, model + FURTHER),
                moves=tuple(_moves(table, members, outcome, model, start, choice.model)),
            )


def _scale_of(model: str, choice: ScaleChoice) -> float | None:
    """The scale of a model of the choice's kind, 0 of its start, None of any other."""
    if model == start_of(choice.kind):
        return 0.0
    told = MeasuredModel.from_id(model)
    return told.scale if told.kind == choice.kind and told.role == "negated" else None


def _moves(
    table: ScoreTable,
    members: Mapping[str, Sequence[str]],
    outcome: Outcome,
    model: str,
    start: str,
    chosen: str,
) -> Iterator[RelaxMove]:
    for what, names in members.items():

        def change(of: str, reference: str, names: Sequence[str] = names) -> Estimate:
            return table.pooled_changes(of, reference, names, "test")[outcome]

        if outcome not in table.pooled(model, names, "test"):
            continue
        moved, at_start, at_chosen = (change(one + FURTHER, one) for one in (model, start, chosen))
        beyond = moved - at_chosen
        yield RelaxMove(
            what=what,
            before=Measured.of(change(model, start)),
            after=Measured.of(change(model + FURTHER, start)),
            moved=Measured.of(moved),
            beyond_start=Measured.of(moved - at_start),
            beyond_chosen=None if model == chosen else Measured.of(beyond),
            chance=None if model == chosen else (beyond * -1.0).chance_of_no_fall(),
        )


def _perplexity(table: ScoreTable, model: str) -> Measured:
    nll = table.mean_nll(model)
    assert nll is not None  # every model is measured on that text
    return Measured.of(nll.exp())
