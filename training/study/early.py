"""What a study may begin while other fine-tunes still run: audits, and what one seed decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvmerge import Checkpoint
from tvmerge.training.cluster.calls import Call, calls_for
from tvmerge.training.finetuning.jobs import FinetuneJob
from tvmerge.training.measuring.audit import AuditTask, audit
from tvmerge.training.settings.config import StudyConfig
from tvmerge.training.study.contest import Contest
from tvmerge.training.study.preparing import StudyTraits, seed_vectors


@dataclass(slots=True, kw_only=True)
class Early:
    """Called with the fine-tunes that have ended since the last call, says what they make possible.

    Whatever it begins is found done by the stages that ask for it.
    """

    config: StudyConfig
    base: Path
    jobs: Sequence[FinetuneJob]
    traits: StudyTraits
    audits: Mapping[FinetuneJob, AuditTask]
    contest: Contest
    out: Path
    _left: dict[int, set[FinetuneJob]] = field(default_factory=dict)
    _begun: bool = False

    def __post_init__(self) -> None:
        """All seeds are to come."""
        for job in self.jobs:
            self._left.setdefault(job.seed, set()).add(job)

    def __call__(self, ended: Sequence[FinetuneJob]) -> list[Call]:
        """The base at once, each fine-tune's audit, each seed's models when it is complete."""
        calls = [] if self._begun else self.contest.of_base(Checkpoint(self.base))
        self._begun = True
        begun = [self.audits[job] for job in ended if job in self.audits]
        calls += calls_for(audit, begun, on_gpu=False)
        for job in ended:
            self._left[job.seed].discard(job)
        for seed in [seed for seed, jobs in self._left.items() if not jobs]:
            del self._left[seed]
            vectors = seed_vectors(
                self.config, self.base, self.jobs, self.traits, seed=seed, out=self.out
            )
            calls += self.contest.of_seed(vectors, seed)
        return calls
