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
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from tvmerge import Checkpoint, TaskVector
from tvmerge.hub import resolve
from tvmerge.training.assemble import assemble, job_summary, trait_info
from tvmerge.training.cluster import Cluster, JobProgress
from tvmerge.training.config import Kind, StudyConfig
from tvmerge.training.items import limited
from tvmerge.training.jobs import FinetuneJob, base_fingerprint, finished_record, trait_jobs
from tvmerge.training.measuring import MeasureSettings, MeasureTask, measure
from tvmerge.training.memory_watch import MemoryWatch
from tvmerge.training.results import (
    BaseInfo,
    Control,
    MeasuredModel,
    Results,
    Role,
    ScaleChoice,
    Stage,
    VectorSet,
)
from tvmerge.training.results_file import save_results
from tvmerge.training.scales import choose_scale
from tvmerge.training.scores import ModelScores, load_scores
from tvmerge.training.traits import Trait, load_trait
from tvmerge.training.vectors import StudyVectors, write_random_vector

VERSIONED = ("tvmerge", "torch", "transformers", "ray", "numpy")
CONTROLS: tuple[Control, ...] = ("unrelated", "random")


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
                measured = _Measuring(self, vectors, self._settings(traits), base_fingerprint(base))
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
        self.listener.on_plan(len(jobs), self.measurements())
        self.cluster.run_jobs(
            jobs,
            self.out / "jobs",
            resources=self.config.resources,
            progress=self.listener.on_job,
        )
        return jobs

    def measurements(self) -> int:
        """How many models will be measured: base, tuned ones, starts, every scale, controls."""
        kinds = self.config.kinds
        single = 1 + len(self.config.traits) + sum(kind != "plain" for kind in kinds)
        return single + len(kinds) * (len(self.config.scales) + len(CONTROLS))

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
            vectors.negated(choice.kind, choice.scale).save(folder)


class _Measuring:
    """The measuring stage: which models, in which order, and what came of them."""

    def __init__(
        self, study: Study, vectors: StudyVectors, settings: MeasureSettings, base_key: str
    ) -> None:
        self.study = study
        self.vectors = vectors
        self.settings = settings
        self.base_key = base_key
        self.scores: dict[str, ModelScores] = {}
        self.edit_norms: dict[str, float] = {}
        self.planned = study.measurements()

    def all(self, geometry: Mapping[Kind, tuple[VectorSet, float]]) -> list[ScaleChoice]:
        """Measure every model; the controls last, at the norm of the edits that were chosen."""
        config, vectors = self.study.config, self.vectors
        models = {"base": vectors.base}
        models |= {f"tuned.{trait}": vectors.have[trait] for trait in vectors.traits}
        for kind in config.kinds:
            if kind != "plain":
                models[f"start.{kind}"] = vectors.start(kind)
            for scale in config.scales:
                models[f"{kind}.{scale:g}"] = vectors.negated(kind, scale)
                self.edit_norms[f"{kind}.{scale:g}"] = scale * geometry[kind][1]
        self._measure(models)
        choices = [
            choose_scale(
                self.scores,
                kind=kind,
                traits=vectors.traits,
                max_perplexity_rise=config.choose.max_perplexity_rise,
                seed=config.seed,
            )
            for kind in config.kinds
        ]
        self._measure(dict(self._controls(choices)))
        return choices

    def _controls(self, choices: Sequence[ScaleChoice]) -> Iterator[tuple[str, Checkpoint]]:
        for choice in choices:
            kind, norm = choice.kind, self.edit_norms[choice.model]
            rivals = {
                "unrelated": self.vectors.vector(kind, self.vectors.unrelated),
                "random": self._random_vector(kind),
            }
            for control in CONTROLS:
                name = f"{kind}.{control}"
                self.edit_norms[name] = norm
                yield name, self.vectors.control(kind, rivals[control], norm=norm)

    def _random_vector(self, kind: Kind) -> TaskVector:
        """A Gaussian vector with the norms, tensor by tensor, of the sum of the traits' vectors."""
        total = self.vectors.all_traits(kind)
        said = sorted((s.source.name, c.hex()) for s, c in total.coefficients.items())
        text = json.dumps([said, self.base_key, self.study.config.seed])
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        folder = self.study.out / "vectors"
        summed, drawn = folder / f"{kind}.sum-{key}", folder / f"{kind}.random-{key}"
        if not summed.exists():
            total.save(summed)
        if not drawn.exists():
            partial = folder / f".{drawn.name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            write_random_vector(summed, partial, seed=self.study.config.seed)
            partial.rename(drawn)
        return TaskVector(drawn)

    def _measure(self, models: Mapping[str, Checkpoint]) -> None:
        tasks = [
            MeasureTask(
                model_id=model_id,
                model=model,
                base_key=self.base_key,
                settings=self.settings,
                scores_folder=self.study.out / "scores",
                scratch=self.study.out / "scratch",
            )
            for model_id, model in models.items()
        ]
        missing = [task for task in tasks if task.finished() is None]
        done = len(self.scores) + len(tasks) - len(missing)
        self.study.listener.on_measured(done, self.planned)
        self.study.cluster.run_tasks(
            measure,
            missing,
            resources=self.study.config.resources,
            progress=lambda now, _: self.study.listener.on_measured(done + now, self.planned),
        )
        shutil.rmtree(self.study.out / "scratch", ignore_errors=True)
        self.scores |= {task.model_id: load_scores(task.scores_path) for task in tasks}


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
