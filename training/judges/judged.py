"""A judge's grades of what models said, as it stored them, and what they come to: no torch.

A grade is a scale of 0 to 4 (see rubric). What counts is the expected value over the digits'
probabilities: a judge that wavers between two grades is not made to choose. How far it can be
trusted is measured beside it: the AUC of its grades of shipped statements that are known to show
their trait or to lack it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from tvmerge.training.results.contrasts import groups
from tvmerge.training.results.outcomes import Scores
from tvmerge.training.results.results import Judged, JudgedLevel, Measured, Role, TraitInfo
from tvmerge.training.results.scores import Record, load_record
from tvmerge.training.results.statistics import (
    Array,
    Estimate,
    Resampler,
    auc,
    mean_of,
    of_seeds,
    weighted_mean,
)
from tvmerge.training.settings.kinds import BASE

JUDGED_ROLES: tuple[Role, ...] = ("trait", "control", "composite")
GRADES = 5

Logps = Annotated[tuple[float, ...], Field(min_length=GRADES, max_length=GRADES)]
# (model, seed, question)
Spoken = tuple[str, int | None, str]


class Grade(Record):
    """The log-probabilities (nats) of the digits 0 to 4 after one model's answer."""

    trait: str
    model: str
    seed: int | None
    question: str
    answer: str
    logps: Logps


class GoldGrade(Record):
    """The same after a statement of the catalogue that shows the trait, or lacks it."""

    trait: str
    item: str
    shows: bool
    logps: Logps


class JudgeScores(Record):
    """All grades of one judge, in the order in which it was asked."""

    version: Literal[1] = 1
    judge: str
    judge_digest: str
    rubric: str
    rubric_digest: str
    seed: int
    grades: tuple[Grade, ...] = Field(min_length=1)
    gold: tuple[GoldGrade, ...] = ()
    seconds: float = 0.0


def load_judged(path: Path) -> JudgeScores:
    """Read what a judge stored; a file that is not that raises `FormatError`."""
    return load_record(path, JudgeScores, "of grades")


def expected_grade(logps: Sequence[float]) -> float:
    """sum_d d * p(d) / sum_d p(d).

    >>> expected_grade([-9.0, -9.0, -9.0, math.log(0.2), math.log(0.6)])  # doctest: +ELLIPSIS
    3.7...
    """
    top = max(logps)
    shares = [math.exp(logp - top) for logp in logps]
    return sum(grade * share for grade, share in enumerate(shares)) / sum(shares)


def spoken(scores: Scores) -> dict[Spoken, str]:
    """Everything that models said, by model, seed and question."""
    return {
        (model, one.seed, example.question): example.answer
        for model, each in scores.items()
        for one in each
        for example in one.examples
    }


def judged_files(out: Path, scores: Scores) -> list[Path]:
    """What judges stored under `out` of just these answers."""
    said = spoken(scores)
    return [
        path
        for path in sorted((out / "judged").glob("*.json"))
        if said == {(g.model, g.seed, g.question): g.answer for g in load_judged(path).grades}
    ]


def judged(scores: JudgeScores, traits: Sequence[TraitInfo], resampler: Resampler) -> Judged:
    """Means of the grades by model and trait, and how far the judge can be trusted."""
    graded: dict[tuple[str, str], list[Grade]] = defaultdict(list)
    for grade in scores.grades:
        graded[grade.model, grade.trait].append(grade)
    means = {place: _mean(each, resampler) for place, each in graded.items()}
    gold: dict[str, list[GoldGrade]] = defaultdict(list)
    for one in scores.gold:
        gold[one.trait].append(one)
    agreement = {trait: _agreement(each, trait, resampler) for trait, each in gold.items()}
    mass = [sum(map(math.exp, grade.logps)) for grade in scores.grades]
    return Judged(
        judge=scores.judge,
        rubric=scores.rubric,
        questions=len({grade.question for grade in scores.grades}),
        mass=float(np.mean(mass)),
        levels=tuple(_levels(means, traits)),
        gold_items=max((len(each) for each in gold.values()), default=0),
        gold_auc={trait: Measured.of(found) for trait, found in agreement.items()},
        gold_auc_all=Measured.of(mean_of([*agreement.values()])) if agreement else None,
    )


def _levels(
    means: Mapping[tuple[str, str], Estimate], traits: Sequence[TraitInfo]
) -> Iterator[JudgedLevel]:
    for model in dict.fromkeys(sorted(model for model, _ in means)):
        for what, role, members in groups(traits):
            if role not in JUDGED_ROLES:
                continue
            known = [name for name in members if (model, name) in means and (BASE, name) in means]
            if not known:
                continue
            level = mean_of([means[model, name] for name in known])
            change = level - mean_of([means[BASE, name] for name in known])
            yield JudgedLevel(
                model=model,
                trait=what,
                level=Measured.of(level),
                change=None if model == BASE else Measured.of(change),
            )


def _mean(grades: Sequence[Grade], resampler: Resampler) -> Estimate:
    """Over the questions, for each seed: all models and traits share the resampled questions."""
    by_seed: dict[int | None, list[Grade]] = defaultdict(list)
    for grade in grades:
        by_seed[grade.seed].append(grade)
    found = []
    for seed in sorted(by_seed, key=lambda seed: -1 if seed is None else seed):
        each = sorted(by_seed[seed], key=lambda grade: grade.question)
        values = np.array([expected_grade(grade.logps) for grade in each])
        found.append(weighted_mean(values, resampler.weights("judged", [0] * len(each))))
    return of_seeds(found)


def _agreement(grades: Sequence[GoldGrade], trait: str, resampler: Resampler) -> Estimate:
    """P(a showing statement is graded above a lacking one); statements are drawn in pairs."""
    above, below = (_expected(grades, shows=shows) for shows in (True, False))
    weights = resampler.weights(f"gold/{trait}", [0] * len(above))
    return auc(above, below, weights, weights, n=len(above))


def _expected(grades: Sequence[GoldGrade], *, shows: bool) -> Array:
    chosen = sorted((g for g in grades if g.shows == shows), key=lambda grade: grade.item)
    return np.array([expected_grade(grade.logps) for grade in chosen])
