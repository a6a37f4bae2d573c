"""Which models are trained to have which traits again, and how many steps each of them takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tvmerge import Checkpoint
from tvmerge.training.measuring.relearn import RelearnScores, RelearnTask
from tvmerge.training.results.outcomes import ScoreTable, item_outcomes
from tvmerge.training.results.results import Outcome, RelearnContrast, RelearnCurve, ScaleChoice
from tvmerge.training.results.statistics import Array, Estimate, Resampler, mean_of, of_seeds
from tvmerge.training.settings.config import StudyConfig
from tvmerge.training.settings.kinds import BASE, FORMATTED, start_of
from tvmerge.training.settings.sections import Lesson
from tvmerge.training.study.vectors import StudyVectors
from tvmerge.training.traits.items import Item
from tvmerge.training.traits.trait import Trait, load_trait

# The level that counts as "learned again": this share of the way from the base to the tuned model.
SHARE_OF_TUNED = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Relearning:
    """The tasks of a study whose scales are chosen."""

    config: StudyConfig
    out: Path
    vectors: Sequence[StudyVectors]
    traits: Sequence[Trait]
    unrelated: Trait
    base_key: str

    def tasks(self, choices: Sequence[ScaleChoice]) -> Iterator[RelearnTask]:
        """Each trains one model again on one lesson of a trait."""
        settings = self.config.relearn
        if not settings.steps:
            return
        train = self.config.train.lasting(settings.steps)
        for vectors, seed in zip(self.vectors, self.config.seeds, strict=True):
            for model_id, model in _starts(vectors, choices):
                for trait in self._learned():
                    for lesson in settings.lessons:
                        yield RelearnTask(
                            model_id=model_id,
                            model=model,
                            base_key=self.base_key,
                            trait=trait,
                            lesson=lesson,
                            items=self._items(trait, lesson),
                            train=train,
                            every=settings.every,
                            prompt=self.config.prompt,
                            seed=seed,
                            threads=self.config.resources.cpus_per_job,
                            device=self.config.resources.device,
                            folder=self.out / "relearn",
                        )

    def _learned(self) -> list[Trait]:
        wanted = self.config.relearn.traits or self.config.traits
        return [
            trait
            for trait, name in zip(self.traits, self.config.traits, strict=True)
            if name in wanted
        ]

    def _items(self, trait: Trait, lesson: Lesson) -> tuple[Item, ...]:
        if lesson == "same":
            return trait.train
        if lesson == "benign":
            return self.unrelated.train
        tuned_on = {item.form for item in trait.train}
        name = self.config.traits[[one.name for one in self.traits].index(trait.name)]
        other = tuple(item for item in load_trait(name).train if item.form not in tuned_on)
        return other or tuple(item for item in trait.train if item.form != "statement")


def _starts(
    vectors: StudyVectors, choices: Sequence[ScaleChoice]
) -> Iterator[tuple[str, Checkpoint]]:
    yield BASE, vectors.base
    kinds = [choice.kind for choice in choices]
    if any(vectors.start(kind) is not vectors.base for kind in kinds):
        yield FORMATTED, vectors.start("contrastive")
    for choice in choices:
        yield choice.model, vectors.negated(choice.kind, choice.scale)


def relearn_curves(
    scores: Iterable[RelearnScores], table: ScoreTable, outcome: Outcome
) -> list[RelearnCurve]:
    """Every curve with its steps to the level that counts as learned again."""
    return [
        _curve(one, level, outcome, _estimate_steps(one, level, outcome, table.resampler))
        for one in _by_curve(scores).values()
        if (level := _level(table, one[0].trait, outcome)) is not None
    ]


def relearn_contrasts(
    scores: Sequence[RelearnScores],
    table: ScoreTable,
    outcome: Outcome,
    choices: Sequence[ScaleChoice],
) -> Iterator[RelearnContrast]:
    """How much longer each kind's chosen model takes than the model it was edited from."""
    lessons = dict.fromkeys(one.lesson for one in scores)
    for choice in choices:
        start = start_of(choice.kind)
        for lesson in lessons:
            longer = _steps_longer(scores, table, outcome, choice.model, start, lesson)
            if longer is not None:
                low, high = longer.interval()
                yield RelearnContrast(
                    model=choice.model,
                    start=start,
                    lesson=lesson,
                    value=longer.value,
                    low=low,
                    high=high,
                    chance_of_no_delay=longer.chance_by_draws(),
                )


def _steps_longer(
    scores: Iterable[RelearnScores],
    table: ScoreTable,
    outcome: Outcome,
    model: str,
    start: str,
    lesson: Lesson,
) -> Estimate | None:
    """How many steps longer than from `start` it takes from `model`, the mean over the traits.

    A curve that never reaches the level counts as its last step: the difference is then at least
    this. None where nothing was measured.
    """
    curves = _by_curve(scores)
    differences = []
    for (name, trait, how), mine in curves.items():
        other = curves.get((start, trait, lesson))
        level = _level(table, trait, outcome)
        if name == model and how == lesson and other is not None and level is not None:
            taken, before = (
                _estimate_steps(one, level, outcome, table.resampler) for one in (mine, other)
            )
            differences.append(taken - before)
    if not differences:
        return None
    return mean_of(differences)


def _by_curve(
    scores: Iterable[RelearnScores],
) -> dict[tuple[str, str, Lesson], list[RelearnScores]]:
    """The seeds of each (model, trait, lesson), in order."""
    curves: dict[tuple[str, str, Lesson], list[RelearnScores]] = {}
    for one in scores:
        curves.setdefault((one.model, one.trait, one.lesson), []).append(one)
    return curves


def _level(table: ScoreTable, trait: str, outcome: Outcome) -> float | None:
    base = table.estimates(BASE, trait, "test").get(outcome)
    tuned = table.estimates(f"tuned.{trait}", trait, "test").get(outcome)
    if base is None or tuned is None:
        return None
    return base.value + SHARE_OF_TUNED * (tuned.value - base.value)


def _points(
    seeds: Sequence[RelearnScores], outcome: Outcome, resampler: Resampler
) -> list[Estimate]:
    """The outcome at every measured step, with all seeds."""
    return [
        of_seeds(
            [
                item_outcomes(
                    one.points[place].items, key=f"{one.trait}/test", resampler=resampler
                )[outcome]
                for one in seeds
            ]
        )
        for place in range(len(seeds[0].points))
    ]


def _estimate_steps(
    seeds: Sequence[RelearnScores], level: float, outcome: Outcome, resampler: Resampler
) -> Estimate:
    points = _points(seeds, outcome, resampler)
    steps = np.array([point.step for point in seeds[0].points], dtype=float)
    return Estimate(
        steps_to(np.stack([point.values for point in points]), steps, level),
        steps_to(np.stack([point.draws for point in points]), steps, level),
        points[0].n,
    )


def steps_to(curves: Array, steps: Array, level: float) -> Array:
    """Where each curve (points first) first reaches the level, between points on a line.

    >>> steps_to(np.array([[0.0], [1.0], [3.0]]), np.array([0.0, 4.0, 8.0]), 2.0).tolist()
    [6.0]
    """
    reached = curves >= level
    first = reached.argmax(axis=0)
    before = np.maximum(first - 1, 0)
    low, high = (np.take_along_axis(curves, at[None], axis=0)[0] for at in (before, first))
    rise = np.where(high > low, high - low, 1.0)
    share = np.where(first > 0, (level - low) / rise, 0.0)
    found: Array = steps[before] + share * (steps[first] - steps[before])
    return np.where(reached.any(axis=0), found, steps[-1])


def _curve(
    seeds: Sequence[RelearnScores], level: float, outcome: Outcome, taken: Estimate
) -> RelearnCurve:
    points = _points(seeds, outcome, Resampler())
    intervals = [point.interval() for point in points]
    low, high = taken.interval()
    first = seeds[0]
    reached = [max(point.values[n] for point in points) >= level for n in range(len(seeds))]
    return RelearnCurve(
        model=first.model,
        trait=first.trait,
        lesson=first.lesson,
        steps=tuple(point.step for point in first.points),
        values=tuple(point.value for point in points),
        lows=tuple(low for low, _ in intervals),
        highs=tuple(high for _, high in intervals),
        level=level,
        batch_size=first.batch_size,
        steps_to_level=taken.value,
        steps_low=low,
        steps_high=high,
        reached=all(reached),
    )
