"""What public tasks of lm-eval gave for each document, as stored, and what it comes to.

No torch, and no lm_eval: see harnessing for what runs it.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from tvmerge.training.finetuning.jobs import base_fingerprint
from tvmerge.training.results.results import Measured, PublicTaskRow
from tvmerge.training.results.scores import Record, load_record
from tvmerge.training.results.statistics import Resampler, weighted_mean
from tvmerge.training.settings.kinds import BASE


class TaskOutcome(Record):
    """One outcome that is a mean over a task's documents: the value of each of them, by its hash.

    `name` is the harness' own: the metric, and its filter where there is one (`acc`,
    `exact_match,strict-match`).
    """

    task: str
    version: str
    name: str
    documents: tuple[str, ...] = Field(min_length=1)
    values: tuple[float, ...] = Field(min_length=1)


class HarnessScores(Record):
    """What one model, of weights of that digest, did on one task or on the tasks of one group.

    `shots` examples before each document (None: as the task says), of the first `limit` documents.
    """

    version: Literal[1] = 1
    harness: str
    model: str
    digest: str
    task: str
    shots: int | None
    limit: int | None
    outcomes: tuple[TaskOutcome, ...] = Field(min_length=1)
    seconds: float = 0.0


def load_harness(path: Path) -> HarnessScores:
    """Read what one model did on one task; a file that is not that raises `FormatError`."""
    return load_record(path, HarnessScores, "of a public task")


def harness_files(out: Path, folders: Mapping[str, Path]) -> list[Path]:
    """What is stored under `out` of these models (folders by id) as they are now."""
    current = functools.cache(base_fingerprint)
    return [
        path
        for path in sorted((out / "harness").glob("*.json"))
        if (one := load_harness(path)).model in folders
        and current(folders[one.model]) == one.digest
    ]


def public_task_rows(
    scores: Sequence[HarnessScores], resampler: Resampler
) -> Iterator[PublicTaskRow]:
    """Every outcome of every model with its change from the base, paired over documents."""
    asked: dict[tuple[int | None, int | None, str, str], dict[str, TaskOutcome]]
    asked = defaultdict(dict)
    for one in scores:
        for outcome in one.outcomes:
            asked[one.shots, one.limit, outcome.task, outcome.name][one.model] = outcome
    for (shots, limit, task, name), models in asked.items():
        base = models.get(BASE)
        for model, outcome in models.items():
            weights = resampler.weights(f"{task}/{name}", [0] * len(outcome.values))
            level = weighted_mean(np.array(outcome.values), weights)
            change = None
            if model != BASE and base is not None and base.documents == outcome.documents:
                change = level - weighted_mean(np.array(base.values), weights)
            yield PublicTaskRow(
                task=task,
                outcome=name,
                shots=shots,
                limit=limit,
                model=model,
                level=Measured.of(level),
                change=Measured.of(change) if change else None,
                chance=change.chance_of_no_fall() if change else None,
                n=len(outcome.values),
            )
