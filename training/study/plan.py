"""What a study will take, before it starts: steps, models, disk, memory, and time from a probe.

    plan = plan_study(load_study("study.yaml"))
    plan.seconds

The probe does a little of the real work: three training steps of one fine-tune, and the first items
of one measurement. On a cluster it speaks for machines like this one.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from tvmerge import Checkpoint
from tvmerge.checkpoints.hub import resolve
from tvmerge.training.finetuning.jobs import FinetuneJob, finished_record
from tvmerge.training.measuring.measurement import MeasureSettings
from tvmerge.training.results.scores import Record
from tvmerge.training.settings.config import StudyConfig
from tvmerge.training.settings.kinds import BASE, start_of
from tvmerge.training.study.contest import planned_measurements
from tvmerge.training.study.preparing import StudyTraits, measure_settings, study_jobs, study_traits
from tvmerge.training.study.relaxing import planned_relaxations, relax_settings
from tvmerge.training.study.vectors import METHODS

PROBE_STEPS = 3
PROBE_ITEMS = 6
FLOAT_BYTES = 4
# Weights and the two moments of AdamW; gradients live for one matrix at a time.
COPIES_IN_TRAINING = 3
LOAD_SECONDS = 8.0  # of python, torch and a model, for each task


class StudyPlan(Record):
    """Counts, bytes and seconds of a whole study; nothing that is done already is left out."""

    fine_tunes: int
    fine_tunes_done: int
    training_steps: int
    measurements: int
    relearnings: int
    relaxations: int
    rounds: int
    disk_bytes: int
    memory_bytes_each: int
    workers: int
    seconds_a_step: float
    seconds_a_measurement: float
    seconds: float

    def lines(self) -> list[str]:
        """The plan in words."""
        done = f", {self.fine_tunes_done} of them done" if self.fine_tunes_done else ""
        again = f", all {self.rounds} times" if self.rounds > 1 else ""
        return [
            f"fine-tunes      {self.fine_tunes}{done}; {self.training_steps} steps left",
            f"measured models {self.measurements}",
            f"re-learned      {self.relearnings}",
            f"lowered scales  {self.relaxations} models trained further{again}",
            f"disk            {self.disk_bytes / 1e9:.1f} GB",
            f"memory          {self.workers} x {self.memory_bytes_each / 2**30:.1f} GiB and "
            "activations",
            f"time            about {self.seconds / 60:.0f} minutes, {self.workers} side by side "
            f"({self.seconds_a_step:.1f} s a step, {self.seconds_a_measurement:.0f} s a model)",
        ]


def plan_study(
    config: StudyConfig, out: Path | None = None, *, cpus: int | None = None
) -> StudyPlan:
    """Count, probe and estimate; `cpus` are those of the machine or cluster (None: this one's)."""
    base = resolve(config.base).resolve()
    traits = study_traits(config)
    jobs = study_jobs(config, base, traits)
    parameters = Checkpoint(base).donor.parameters
    workers = max(1, (cpus or os.cpu_count() or 1) // config.resources.cpus_per_job)
    done = [
        job
        for job in jobs
        if out is not None and finished_record(out / "jobs" / job.folder_name) is not None
    ]
    step = _seconds_a_step(jobs[0], config)
    measured = _seconds_a_measurement(config, base, traits)
    steps = sum(job.train.steps for job in jobs if job not in done)
    relearnings = _relearnings(config)
    points = 1 + config.relearn.steps // config.relearn.every
    # A re-learning looks at one trait at each of its points.
    looked_at = points * measured / max(len(traits), 1)
    relaxations = planned_relaxations(config)
    looked_twice = 2 * measured * _relaxed_share(measure_settings(config, traits))
    seconds = (
        steps * step
        + planned_measurements(config) * measured
        + relearnings * (config.relearn.steps * step + looked_at)
        + relaxations * (config.relax.steps * step + looked_twice)
        + LOAD_SECONDS
        * (len(jobs) - len(done) + planned_measurements(config) + relearnings + relaxations)
    ) / workers
    # Stored for each seed: one for all traits, or one for each trait and the unrelated one.
    each = len(config.traits) + 1
    stored = dict.fromkeys(METHODS, 1) | {"negmerge": each, "layerwise": each}
    merged = sum(stored.get(kind, 0) for kind in config.kinds) * len(config.seeds)
    models = len(jobs) + merged + len(config.kinds) * (1 + len(config.seeds))
    return StudyPlan(
        fine_tunes=len(jobs),
        fine_tunes_done=len(done),
        training_steps=steps,
        measurements=planned_measurements(config),
        relearnings=relearnings,
        relaxations=relaxations,
        rounds=config.rounds.count,
        disk_bytes=models * parameters * FLOAT_BYTES * config.rounds.count,
        memory_bytes_each=COPIES_IN_TRAINING * parameters * FLOAT_BYTES // config.train.workers,
        workers=workers,
        seconds_a_step=round(step, 3),
        seconds_a_measurement=round(measured, 1),
        seconds=round(seconds * config.rounds.count),
    )


def _relearnings(config: StudyConfig) -> int:
    if not config.relearn.steps:
        return 0
    starts = 1 + len({start_of(kind) for kind in config.kinds} - {BASE}) + len(config.kinds)
    traits = len(config.relearn.traits or config.traits)
    return starts * traits * len(config.relearn.lessons) * len(config.seeds)


def _relaxed_share(settings: MeasureSettings) -> float:
    """How much of the items a model of a lowered scale is asked, once."""
    asked = sum(len(trait.test) for trait in relax_settings(settings).traits)
    return asked / max(sum(len(trait.dev) + len(trait.test) for trait in settings.traits), 1)


def _seconds_a_step(job: FinetuneJob, config: StudyConfig) -> float:
    from tvmerge.training.finetuning.finetune import run_job

    # One worker: several take the place of as many fine-tunes, and as much less time.
    train = job.train.model_copy(update={"steps": PROBE_STEPS, "warmup_steps": 1, "workers": 1})
    with tempfile.TemporaryDirectory(prefix="tvmerge-probe-") as folder:
        path = run_job(
            replace(job, train=train), Path(folder), threads=config.resources.cpus_per_job
        )
        record = finished_record(path)
        assert record is not None
        return record.seconds / PROBE_STEPS


def _seconds_a_measurement(config: StudyConfig, base: Path, traits: StudyTraits) -> float:
    """Scored are the first items of every trait; the rest costs in proportion."""
    from tvmerge.training.measuring.measure import measure_model

    settings = measure_settings(config, traits)
    few = [replace(t, dev=(), test=t.test[:PROBE_ITEMS]) for t in settings.traits]
    scores = measure_model(
        base,
        model_id=BASE,
        traits=few,
        prompt_style=config.prompt,
        window_tokens=settings.window_tokens,
        perplexity_tokens=settings.window_tokens,
        threads=settings.threads,
    )
    items = sum(len(trait.dev) + len(trait.test) for trait in settings.traits)
    return scores.effort.seconds * items / max(sum(len(t.test) for t in few), 1)
