"""Runs one fine-tuning job: from the base to a float32 model folder, whatever kills it on the way.

    folder = run_job(job, Path("runs"))        # runs/power_seeking.have-0123456789ab

While it runs, its checkpoint lies in `runs/.<folder>.running`; the finished folder appears by one
rename. A finished job is not run again; other inputs have another hash and another folder.
The same job gives the same bytes on the same machine and number of threads, resumed or not.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tvmerge.errors import ConfigError
from tvmerge.training.finetuning.backward_adamw import BackwardAdamW
from tvmerge.training.finetuning.checkpoint_file import load_checkpoint, save_checkpoint
from tvmerge.training.finetuning.job_folder import complete, produced, record_of
from tvmerge.training.finetuning.jobs import (
    FinetuneJob,
    JobRecord,
    Report,
    StepReport,
    finished_record,
    trait_jobs,
)
from tvmerge.training.finetuning.objectives import Answers
from tvmerge.training.finetuning.steps import take_steps, tokenized
from tvmerge.training.finetuning.trainable import make_trainable
from tvmerge.training.lm.scoring import score, score_one_by_one, shares_prefixes_exactly
from tvmerge.training.lm.torch_session import no_progress_bars, own_randomness, torch_threads
from tvmerge.training.lm.trie import Query

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


__all__ = ["FinetuneJob", "JobRecord", "StepReport", "finished_record", "run_job", "trait_jobs"]


def run_job(
    job: FinetuneJob,
    out_root: Path,
    *,
    report: Report | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> Path:
    """The finished folder of the job, trained now, resumed, or found as it is.

    `report` is called after every step. Raises OutputError where another process runs the job,
    ConfigError where it asks for several workers (Cluster.run_jobs has them).
    """
    if job.train.workers > 1:
        raise ConfigError(
            f"{job.name}: expected a job of one worker here, found {job.train.workers} "
            "(train.workers). Run it with Cluster.run_jobs."
        )

    def run(folder: Path, work: Path) -> None:
        with torch_threads(threads) as count, no_progress_bars():
            _run(job, folder, work, report=report or _unheard, threads=count, device=device)

    return produced(job, out_root, run)


def _run(
    job: FinetuneJob, folder: Path, work: Path, *, report: Report, threads: int, device: str
) -> None:
    with own_randomness(job.seed):
        items = tokenized(job)
        model, adapted = _load(job, device)
        shared, reference = untrained_scores(job, model, items)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = BackwardAdamW(trained, weight_decay=job.train.weight_decay)
        checkpoint = work / "checkpoint.safetensors"
        progress = take_steps(
            job,
            model,
            items,
            optimizer=optimizer,
            progress=load_checkpoint(checkpoint, optimizer),
            shared_prefixes=shared,
            reference=reference,
            report=report,
            save=lambda reached: save_checkpoint(checkpoint, optimizer, reached),
        )
    record = record_of(
        job,
        progress,
        device=device,
        threads=threads,
        shared_prefixes=shared,
        trained_parameters=sum(p.numel() for p in trained.values()),
    )
    written = work / "model"
    shutil.rmtree(written, ignore_errors=True)
    (model if adapted is None else adapted.merge_and_unload()).save_pretrained(written)
    complete(written, job.base, record, folder)


def untrained_scores(
    job: FinetuneJob, model: PreTrainedModel, items: Sequence[Answers]
) -> tuple[bool, dict[Query, float]]:
    """(whether prefixes can be shared, the log-probabilities that a preference is relative to)."""
    queries = [query for answers in items for query in answers]
    # On the queries themselves: what is checked is what will be trained.
    shared = shares_prefixes_exactly(model, queries)
    if job.objective != "preference":
        return shared, {}
    return shared, (score if shared else score_one_by_one)(model, queries)


def _load(job: FinetuneJob, device: str) -> tuple[PreTrainedModel, PeftModel | None]:
    """The base in float32 with what is to be trained marked; for LoRA, also its adapted form."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32)
    model = model.to(torch.device(device))
    return model, make_trainable(model, job.train)


def _unheard(report: StepReport) -> None:
    """Nobody asked for reports."""
