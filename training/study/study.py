"""Runs a study: fine-tunes, vectors, one negation, measurement, results.

    results = run_study(load_study("study.yaml"), Path("out"))

    out/jobs/<trait>.<pole>-<hash>/    fine-tunes, float32
    out/vectors/                       vectors that are no sums: those of methods, and random ones
    out/scores/<model>-<hash>.json     raw scores of every measured model
    out/models/<kind>/                 the chosen negated model of each kind
    out/results.json, out/report.html

Every part is kept under the hash of its inputs: the same call again does only what is not there.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from tvmerge import Checkpoint
from tvmerge.checkpoints.hub import resolve
from tvmerge.training.cluster.calls import Call, calls_for
from tvmerge.training.cluster.cluster import Cluster
from tvmerge.training.cluster.listener import Listener
from tvmerge.training.cluster.memory_watch import MemoryWatch
from tvmerge.training.finetuning.jobs import FinetuneJob, base_fingerprint, finished_record
from tvmerge.training.judges.judged import judged_files, load_judged
from tvmerge.training.measuring.audit import audit
from tvmerge.training.measuring.relax import load_relax, relax
from tvmerge.training.measuring.relearn import load_relearn, relearn
from tvmerge.training.public_tasks.harness import harness_files, load_harness
from tvmerge.training.results.results import (
    BaseInfo,
    MeasuredModel,
    RawFiles,
    Results,
    Role,
    ScaleChoice,
    Stage,
)
from tvmerge.training.results.results_file import save_results
from tvmerge.training.settings.config import StudyConfig
from tvmerge.training.settings.kinds import BASE
from tvmerge.training.study.assemble import assemble, job_summary, trait_info
from tvmerge.training.study.auditing import audit_tasks, audited
from tvmerge.training.study.contest import Contest, planned_measurements
from tvmerge.training.study.early import Early
from tvmerge.training.study.preparing import (
    StudyTraits,
    measure_settings,
    study_jobs,
    study_traits,
    study_vectors,
)
from tvmerge.training.study.relaxing import Relaxing
from tvmerge.training.study.relearning import Relearning
from tvmerge.training.study.search import SearchTask, load_found, search
from tvmerge.training.study.vectors import StudyVectors
from tvmerge.training.traits.trait import Trait

VERSIONED = ("tvmerge", "torch", "transformers", "ray", "numpy")


@dataclass(slots=True)
class Study:
    """A study that is being run; see run_study."""

    config: StudyConfig
    out: Path
    cluster: Cluster
    listener: Listener
    stages: list[Stage] = field(default_factory=list)

    def run(self) -> Results:
        """All stages in order; raises what a stage raises, keeping what the others made."""
        base = resolve(self.config.base).resolve()
        traits = study_traits(self.config)
        jobs = study_jobs(self.config, base, traits)
        with MemoryWatch() as memory:
            contest = Contest(
                config=self.config,
                out=self.out,
                settings=measure_settings(self.config, traits),
                base_key=base_fingerprint(base),
                on_measured=self.listener.on_measured,
            )
            audits = audit_tasks(jobs, base=base, out=self.out)
            with self._stage("fine-tune"):
                self._finetune(
                    jobs,
                    Early(
                        config=self.config,
                        base=base,
                        jobs=jobs,
                        traits=traits,
                        audits=audits,
                        contest=contest,
                        out=self.out,
                    ),
                )
            vectors = study_vectors(self.config, base, jobs, traits, out=self.out)
            if "searched" in self.config.kinds:
                with self._stage("search"):
                    vectors = self._search(base, traits, vectors)
            with self._stage("vectors"):
                geometry = [
                    one
                    for kind in self.config.kinds
                    if (one := vectors[0].geometry(kind)) is not None
                ]
            with self._stage("measure"):
                candidates = contest.tasks(contest.candidates(vectors))
                self._run(contest.calls(candidates))
                contest.load(candidates)
                choices = contest.choose(vectors[0].traits)
            with self._stage("check"):
                checks = contest.tasks(contest.checks(choices, vectors))
                again = [*self._relearning(traits, vectors, contest.base_key).tasks(choices)]
                lowered = self._relaxing(traits, vectors, contest).tasks(choices)
                self._run(
                    [
                        *contest.calls(checks),
                        *calls_for(relearn, again, self.listener.on_relearned),
                        *calls_for(relax, lowered, self.listener.on_relaxed),
                        *calls_for(audit, audits.values(), on_gpu=False),
                    ]
                )
                contest.load(checks)
                found = audited(audits, traits, base)
            with self._stage("merge"):
                self._save_chosen(vectors[0], choices)
        graded = judged_files(self.out, contest.scores)
        saved = {choice.model: self.out / "models" / choice.kind for choice in choices}
        public = harness_files(self.out, {BASE: base, **saved})
        results = assemble(
            contest.scores,
            name=self.config.name,
            base=_base_info(vectors[0].base, self.config.base, contest.base_key),
            traits=[
                trait_info(trait, role).model_copy(update={"train_items": len(trait.train)})
                for trait, role in traits
            ],
            choices=choices,
            max_perplexity_rise=self.config.choose.max_perplexity_rise,
            models=[
                MeasuredModel.from_id(name, edit_norm=contest.edit_norms.get(name))
                for name in contest.scores
            ],
            relearned=[load_relearn(task.path) for task in again],
            relaxed=[load_relax(task.path) for task in lowered],
            audits=found.audits,
            grades=[load_judged(path) for path in graded],
            harness=[load_harness(path) for path in public],
            vectors=geometry,
            jobs=[job_summary(r) for job in jobs if (r := finished_record(self._folder(job)))],
            raw=RawFiles(
                scores=self._kept(contest.score_files),
                relearning=self._kept(task.path for task in again),
                relaxing=self._kept(task.path for task in lowered),
                audits=self._kept(found.files),
                judged=self._kept(graded),
                harness=self._kept(public),
                jobs=self._kept(map(self._folder, jobs)),
            ),
            stages=self.stages,
            peak_memory_mib=memory.peak_mib,
            config=self.config.model_dump(mode="json"),
            versions={name: version(name) for name in VERSIONED},
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            seeds=self.config.seeds,
            verdicts=self.config.verdicts,
        )
        save_results(results, self.out / "results.json")
        return results

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.stages.append(Stage(name=name, seconds=round(time.monotonic() - started, 1)))

    def _folder(self, job: FinetuneJob) -> Path:
        return self.out / "jobs" / job.folder_name

    def _kept(self, paths: Iterable[Path]) -> tuple[str, ...]:
        return tuple(path.relative_to(self.out).as_posix() for path in paths)

    def _run(self, calls: Sequence[Call]) -> None:
        self.cluster.run_calls(calls, resources=self.config.resources)

    def _finetune(self, jobs: Sequence[FinetuneJob], early: Early) -> None:
        steps = sum(job.train.steps for job in jobs)
        self.listener.on_plan(steps, planned_measurements(self.config))
        self.cluster.run_jobs(
            jobs,
            self.out / "jobs",
            resources=self.config.resources,
            progress=self.listener.on_job,
            follow=early,
        )

    def _search(
        self, base: Path, traits: StudyTraits, vectors: list[StudyVectors]
    ) -> list[StudyVectors]:
        """The vectors with a scale for each trait, searched with the first seed's."""
        first = vectors[0]
        settings = measure_settings(self.config, traits).only({"trait", "control"})
        task = SearchTask(
            start=first.start("searched"),
            vectors={trait: first.vector("contrastive", trait) for trait in first.traits},
            base_key=base_fingerprint(base),
            settings=replace(settings, parts=("dev",), examples=()),
            search=self.config.search,
            max_perplexity_rise=self.config.choose.max_perplexity_rise,
            seed=self.config.seeds[0],
            folder=self.out / "search",
        )
        found = task.finished()
        if found is None:
            self._run([Call(search, task)])
            found = load_found(task.path)
        return [replace(one, searched=found.scales) for one in vectors]

    def _relearning(
        self, traits: StudyTraits, vectors: Sequence[StudyVectors], base_key: str
    ) -> Relearning:
        by_role: dict[Role, list[Trait]] = defaultdict(list)
        for trait, role in traits:
            by_role[role].append(trait)
        return Relearning(
            config=self.config,
            out=self.out,
            vectors=vectors,
            traits=by_role["trait"],
            unrelated=by_role["unrelated"][0],
            base_key=base_key,
        )

    def _relaxing(
        self, traits: StudyTraits, vectors: Sequence[StudyVectors], contest: Contest
    ) -> Relaxing:
        return Relaxing(
            config=self.config,
            out=self.out,
            vectors=vectors,
            settings=contest.settings,
            items=next(trait.train for trait, role in traits if role == "unrelated"),
            base_key=contest.base_key,
        )

    def _save_chosen(self, vectors: StudyVectors, choices: Sequence[ScaleChoice]) -> None:
        """The chosen negated model of each kind, whole, for others to load: of the first seed."""
        for choice in choices:
            folder = self.out / "models" / choice.kind
            # Cheap to make again, and the fine-tunes or the choice may have changed since.
            shutil.rmtree(folder, ignore_errors=True)
            vectors.negated(choice.kind, choice.scale).save(folder, restart=True)


def run_study(
    config: StudyConfig, out: Path, *, cluster: Cluster, listener: Listener | None = None
) -> Results:
    """Run the study, or what of it is not done yet, and write `out/results.json`.

    Raises ConfigError for a study that cannot be run, and what fine-tuning, merging and measuring
    raise; what was finished until then is kept and found by the next call.
    """
    out.mkdir(parents=True, exist_ok=True)
    return Study(config, out.resolve(), cluster, listener or Listener()).run()


def _base_info(base: Checkpoint, name: str, digest: str) -> BaseInfo:
    stored = base.donor
    dtypes = sorted({slot.entry.dtype for slot in stored.slots.values()})
    return BaseInfo(
        name=Path(name).name,
        parameters=stored.parameters,
        tensors=len(stored.slots),
        dtype=", ".join(dtypes),
        digest=digest,
    )
