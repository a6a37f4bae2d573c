"""Runs one fine-tuning job: from the base to a float32 model folder, whatever kills it on the way.

    folder = run_job(job, Path("runs"))        # runs/power_seeking.have-0123456789ab

While it runs, its checkpoint lies in `runs/.<folder>.running`; the finished folder appears by one
rename. A finished job is not run again; other inputs have another hash and another folder.
The same job gives the same bytes on the same machine and number of threads, resumed or not.
"""

from __future__ import annotations

import fcntl
import math
import os
import resource
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tvmerge.errors import ConfigError, OutputError, TVMergeError
from tvmerge.training.backward_adamw import BackwardAdamW, learning_rate_at
from tvmerge.training.batch_loss import batch_loss, batch_order
from tvmerge.training.checkpoint_file import Progress, load_checkpoint, save_checkpoint
from tvmerge.training.jobs import (
    RECORD,
    FinetuneJob,
    JobRecord,
    Report,
    StepReport,
    finished_record,
    trait_jobs,
)
from tvmerge.training.prompts import render
from tvmerge.training.scoring import shares_prefixes_exactly
from tvmerge.training.torch_session import no_progress_bars, own_randomness, torch_threads
from tvmerge.training.trie import Query

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["FinetuneJob", "JobRecord", "StepReport", "finished_record", "run_job", "trait_jobs"]

VERSIONED = ("torch", "transformers", "peft", "tvmerge")
# save_pretrained writes these; all other small files are the base's own, byte for byte.
WRITTEN_ANEW = ("config.json", "model.safetensors.index.json", RECORD)
COPIED_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".py")


def run_job(
    job: FinetuneJob,
    out_root: Path,
    *,
    report: Report | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> Path:
    """The finished folder of the job, trained now, resumed, or found as it is.

    `report` is called after every step. Raises OutputError where another process runs the job.
    """
    folder = out_root / job.folder_name
    work = out_root / f".{job.folder_name}.running"
    if finished_record(folder) is None:
        if folder.exists():
            raise OutputError(
                f"{folder}: expected a finished job or nothing, found a folder without {RECORD}. "
                "Move it away."
            )
        work.mkdir(parents=True, exist_ok=True)
        with _held(work), torch_threads(threads) as count, no_progress_bars():
            # The process that held the lock until now may have finished the job.
            if finished_record(folder) is None:
                _run(
                    job,
                    folder,
                    work,
                    report=report or _unheard,
                    threads=count,
                    device=device,
                )
    shutil.rmtree(work, ignore_errors=True)
    return folder


@contextmanager
def _held(work: Path) -> Iterator[None]:
    """A lock that a killed process loses with its life."""
    with (work / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{work}: another process is running this job. Wait for it, or stop it first."
            ) from error
        yield


def _run(
    job: FinetuneJob, folder: Path, work: Path, *, report: Report, threads: int, device: str
) -> None:
    with own_randomness(job.seed):
        queries = _queries(job)
        model, adapted = _load(job, device)
        # On the queries themselves: what is checked is what will be trained.
        shared = shares_prefixes_exactly(model, queries)
        progress = _train(job, work, model, queries, shared_prefixes=shared, report=report)
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    record = JobRecord(
        name=job.name,
        key=job.key,
        trait=job.trait,
        pole=job.pole,
        base=str(job.base),
        items=len(job.items),
        prompt=job.prompt,
        seed=job.seed,
        train=job.train,
        device=device,
        threads=threads,
        shared_prefixes=shared,
        losses=progress.losses,
        tokens=progress.tokens,
        answer_tokens=progress.answer_tokens,
        trained_parameters=parameters,
        seconds=round(progress.seconds, 3),
        resumed_from=progress.resumed_from,
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        versions={name: version(name) for name in VERSIONED},
    )
    trained = model if adapted is None else adapted.merge_and_unload()
    _write(trained, job.base, work / "model", record).rename(folder)


def _queries(job: FinetuneJob) -> list[Query]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.base)
    queries = [
        Query(*render(tokenizer, question, answer, style=job.prompt, end=True))
        for question, answer in job.answers()
    ]
    for item, query in zip(job.items, queries, strict=True):
        tokens = len(query.prompt) + len(query.answer)
        if tokens > job.train.max_tokens:
            raise ConfigError(
                f"{job.name}: expected items of at most {job.train.max_tokens} tokens "
                f"(train.max_tokens), found one of {tokens}: {item.question[:60]!r}... "
                "Raise train.max_tokens or shorten the item."
            )
    return queries


def _load(job: FinetuneJob, device: str) -> tuple[PreTrainedModel, PeftModel | None]:
    """The base in float32 with what is to be trained marked; for LoRA, also its adapted form."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32)
    model = model.to(torch.device(device))
    if job.train.method == "full":
        if job.train.trainable == "no_embeddings":
            for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
                if layer is not None:
                    layer.requires_grad_(False)
        return model, None
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=job.train.lora_rank,
        lora_alpha=job.train.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    # The adapters are put into the model's own layers: called itself, it keeps its signature.
    with warnings.catch_warnings():
        # peft asks the model by a name that transformers calls deprecated: not the user's concern.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        return model, get_peft_model(model, settings)


def _train(
    job: FinetuneJob,
    work: Path,
    model: PreTrainedModel,
    queries: Sequence[Query],
    *,
    shared_prefixes: bool,
    report: Report,
) -> Progress:
    """Take the steps that are left to take since the last checkpoint."""
    settings = job.train
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = BackwardAdamW(trained, weight_decay=settings.weight_decay)
    checkpoint = work / "checkpoint.safetensors"
    progress = load_checkpoint(checkpoint, optimizer)
    order = batch_order(
        len(queries), batch_size=settings.batch_size, steps=settings.steps, seed=job.seed
    )
    report(_step_report(job, progress))
    model.train()
    for step in range(progress.step, settings.steps):
        started = time.perf_counter()
        optimizer.learning_rate = learning_rate_at(
            step,
            peak=settings.learning_rate,
            warmup_steps=settings.warmup_steps,
            steps=settings.steps,
        )
        batch = [queries[index] for index in order[step]]
        loss, tokens = batch_loss(model, batch, shared_prefixes=shared_prefixes)
        if not math.isfinite(loss.item()):
            raise TVMergeError(
                f"{job.name}: expected a finite loss at step {step + 1}, found {loss.item()}. "
                f"Lower train.learning_rate ({settings.learning_rate:g}) or warm up for longer."
            )
        loss.backward()  # type: ignore[no-untyped-call]
        progress = Progress(
            step=step + 1,
            losses=(*progress.losses, loss.item()),
            tokens=progress.tokens + tokens,
            answer_tokens=progress.answer_tokens + sum(len(query.answer) for query in batch),
            seconds=progress.seconds + time.perf_counter() - started,
            resumed_from=progress.resumed_from,
        )
        if progress.step % settings.checkpoint_every == 0 and progress.step < settings.steps:
            save_checkpoint(checkpoint, optimizer, progress)
        report(_step_report(job, progress))
    optimizer.close()
    return progress


def _write(model: PreTrainedModel, base: Path, folder: Path, record: JobRecord) -> Path:
    """The model with the base's tokenizer and other small files, and the job's record."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    for path in base.iterdir():
        if path.suffix in COPIED_SUFFIXES and path.name not in WRITTEN_ANEW:
            shutil.copyfile(path, folder / path.name)
    (folder / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return folder


def _step_report(job: FinetuneJob, progress: Progress) -> StepReport:
    return StepReport(
        job=job.name,
        step=progress.step,
        steps=job.train.steps,
        loss=progress.losses[-1] if progress.losses else None,
        tokens=progress.tokens,
        pid=os.getpid(),
    )


def _unheard(report: StepReport) -> None:
    """Nobody asked for reports."""
