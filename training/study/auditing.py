"""Audits all of a study's fine-tunes, and puts the seeds of each together."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tvmerge import Checkpoint, cosines, gram
from tvmerge.training.finetuning.jobs import ALL_TRAITS, FinetuneJob
from tvmerge.training.measuring.audit import AuditTask, JobAudit, load_audit
from tvmerge.training.results.results import FinetuneAudit, Role
from tvmerge.training.study.preparing import StudyTraits


@dataclass(frozen=True, slots=True)
class Audited:
    """What was found, and the files with each job's own numbers."""

    audits: list[FinetuneAudit]
    files: list[Path]


def audit_tasks(
    jobs: Sequence[FinetuneJob], *, base: Path, out: Path
) -> dict[FinetuneJob, AuditTask]:
    """Of every trait's having and lacking fine-tunes, the unrelated trait's among them to compare.

    Not the variants and those with replay: other settings would differ from them in all that is
    compared, and what is learned of the controls is no sign of resistance.
    """
    return {
        job: AuditTask(job_folder=out / "jobs" / job.folder_name, base=base, folder=out / "audit")
        for job in jobs
        if job.trait != ALL_TRAITS and not job.variant and job.replay is None
    }


def audited(tasks: Mapping[FinetuneJob, AuditTask], traits: StudyTraits, base: Path) -> Audited:
    """What the finished tasks found."""
    grouped: dict[str, list[Path]] = defaultdict(list)
    for job, task in tasks.items():
        grouped[job.name].append(task.job_folder)
    files = [task.path for task in tasks.values()]
    audits = audits_of(
        [load_audit(path) for path in files],
        roles={trait.name: role for trait, role in traits},
        agreements={name: _agreement(same, base) for name, same in grouped.items()},
    )
    return Audited(audits, files)


def audits_of(
    each: Sequence[JobAudit],
    *,
    roles: Mapping[str, Role],
    agreements: Mapping[str, float | None],
) -> list[FinetuneAudit]:
    """The seeds of each fine-tune together; roles by trait, agreements by the fine-tune's name."""
    grouped: dict[str, list[JobAudit]] = defaultdict(list)
    for one in each:
        grouped[one.name].append(one)
    return [
        _together(same, role=roles[same[0].trait], agreement=agreements.get(name))
        for name, same in grouped.items()
    ]


def _together(seeds: Sequence[JobAudit], *, role: Role, agreement: float | None) -> FinetuneAudit:
    first = seeds[0]
    ranks = [one.stable_rank for one in seeds if one.stable_rank is not None]
    return FinetuneAudit(
        name=first.name,
        trait=first.trait,
        role=role,
        pole=first.pole,
        seeds=len(seeds),
        losses=tuple(map(_mean, zip(*(one.losses for one in seeds), strict=True))),
        norm=_mean([one.norm for one in seeds]),
        layers=_mean_layers([one.layers for one in seeds]),
        stable_rank=_mean(ranks) if ranks else None,
        agreement=agreement,
    )


def _agreement(folders: Sequence[Path], base: Path) -> float | None:
    if len(folders) < 2:
        return None
    start = Checkpoint(base)
    table = cosines(gram([Checkpoint(folder) - start for folder in folders]))
    return _mean([table[i][j] for i, j in itertools.combinations(range(len(folders)), 2)])


def _mean_layers(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for layers in each for name in layers)
    return {name: _mean([layers.get(name, 0.0) for layers in each]) for name in names}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
