"""Runs a study: fine-tunes, vectors, one negation, measurement, results.

    results = run_study(load_study("study.yaml"), Path("out"))

    out/jobs/<trait>.<pole>-<hash>/    fine-tunes, float32
    out/vectors/                       each kind's sum over the traits, and a random one like it
    out/scores/<model>-<hash>.json     raw scores of every measured model
    out/models/<kind>/                 the chosen negated model of each kind
    out/results.json, out/report.html

Every part is kept under the hash of its inputs: the same call again does only what is not there.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from tvmerge import Checkpoint
from tvmerge.hub import resolve
from tvmerge.training.assemble import assemble, job_summary, trait_info
from tvmerge.training.cluster import Cluster, JobProgress
from tvmerge.training.config import StudyConfig
from tvmerge.training.contest import Contest, planned_measurements
from tvmerge.training.items import limited
from tvmerge.training.jobs import FinetuneJob, base_fingerprint, finished_record, trait_jobs
from tvmerge.training.measuring import MeasureSettings
from tvmerge.training.memory_watch import MemoryWatch
from tvmerge.training.results import (
    BaseInfo,
    MeasuredModel,
    Results,
    Role,
    ScaleChoice,
    Stage,
)
from tvmerge.training.results_file import save_results
from tvmerge.training.traits import Trait, load_trait
from tvmerge.training.vectors import StudyVectors

VERSIONED = ("tvmerge", "torch", "transformers", "ray", "numpy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """Told how the study gets on."""

    # (fine-tunes, measurements): what the whole study consists of
    on_plan: Callable[[int, int], None] = lambda jobs, measurements: None
    on_job: Callable[[JobProgress], None] = lambda progress: None
    # (done, of all) measurements
    on_measured: Callable[[int, int], None] = lambda done, total: None


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
        traits = self._traits()
        with MemoryWatch() as memory:
            with self._stage("fine-tune"):
                jobs = self._finetune(base, traits)
            vectors = self._vectors(base, jobs)
            with self._stage("vectors"):
                geometry = {kind: vectors.geometry(kind) for kind in self.config.kinds}
            with self._stage("measure"):
                measured = Contest(
                    config=self.config,
                    out=self.out,
                    cluster=self.cluster,
                    vectors=vectors,
                    settings=self._settings(traits),
                    base_key=base_fingerprint(base),
                    on_measured=self.listener.on_measured,
                )
                choices = measured.all(geometry)
            with self._stage("merge"):
                self._save_chosen(vectors, choices)
        results = assemble(
            measured.scores.values(),
            name=self.config.name,
            base=_base_info(vectors.base, self.config.base, measured.base_key),
            traits=[
                trait_info(trait, role).model_copy(update={"train_items": len(trait.train)})
                for trait, role in traits
            ],
            choices=choices,
            max_perplexity_rise=self.config.choose.max_perplexity_rise,
            models=[
                MeasuredModel.from_id(name, edit_norm=measured.edit_norms.get(name))
                for name in measured.scores
            ],
            vectors=[vector_set for vector_set, _ in geometry.values()],
            jobs=[job_summary(r) for job in jobs if (r := finished_record(self._folder(job)))],
            stages=self.stages,
            peak_memory_mib=memory.peak_mib,
            config=self.config.model_dump(mode="json"),
            versions={name: version(name) for name in VERSIONED},
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            seed=self.config.seed,
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

    def _traits(self) -> list[tuple[Trait, Role]]:
        """Every trait of the study with its role, cut to the items that the study asks for."""
        roles: list[tuple[Role, Sequence[str]]] = [
            ("trait", self.config.traits),
            ("control", self.config.controls),
            ("unrelated", (self.config.unrelated,)),
        ]
        limits = self.config.items
        found = []
        for role, names in roles:
            for name in names:
                trait = load_trait(name)
                train, dev, test = (
                    limited(
                        getattr(trait, part),
                        statements=getattr(limits, f"{part}_statements"),
                        questions=getattr(limits, f"{part}_questions"),
                    )
                    for part in ("train", "dev", "test")
                )
                found.append((replace(trait, train=train, dev=dev, test=test), role))
        return found

    def _finetune(self, base: Path, traits: Sequence[tuple[Trait, Role]]) -> list[FinetuneJob]:
        jobs = [
            job
            for trait, role in traits
            if role != "control"
            for job in trait_jobs(
                trait,
                base=base,
                train=self.config.train,
                prompt=self.config.prompt,
                seed=self.config.seed,
            )
        ]
        self.listener.on_plan(len(jobs), planned_measurements(self.config))
        self.cluster.run_jobs(
            jobs,
            self.out / "jobs",
            resources=self.config.resources,
            progress=self.listener.on_job,
        )
        return jobs

    def _vectors(self, base: Path, jobs: Sequence[FinetuneJob]) -> StudyVectors:
        poles: dict[str, dict[str, Checkpoint]] = {"have": {}, "lack": {}}
        for job in jobs:
            poles[job.pole][job.trait] = Checkpoint(self._folder(job))
        names = [job.trait for job in jobs if job.pole == "have"]
        return StudyVectors(
            base=Checkpoint(base),
            have=poles["have"],
            lack=poles["lack"],
            traits=names[:-1],
            unrelated=names[-1],
        )

    def _settings(self, traits: Sequence[tuple[Trait, Role]]) -> MeasureSettings:
        perplexity = self.config.perplexity
        text = perplexity.text.read_text(encoding="utf-8") if perplexity.text else None
        return MeasureSettings(
            traits=tuple(trait for trait, _ in traits),
            prompt=self.config.prompt,
            perplexity_text=text,
            perplexity_tokens=perplexity.tokens,
            window_tokens=perplexity.window,
            examples=self.config.examples,
            threads=self.config.resources.cpus_per_job,
        )

    def _save_chosen(self, vectors: StudyVectors, choices: Sequence[ScaleChoice]) -> None:
        """The chosen negated model of each kind, whole, for others to load."""
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
