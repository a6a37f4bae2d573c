"""The steps of a fine-tune, on one worker or on several that share each batch."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from tvmerge.errors import ConfigError, TVMergeError
from tvmerge.training.finetuning.backward_adamw import BackwardAdamW, learning_rate_at
from tvmerge.training.finetuning.checkpoint_file import Progress
from tvmerge.training.finetuning.jobs import FinetuneJob, Report, StepReport
from tvmerge.training.finetuning.objectives import Answers, loss_of
from tvmerge.training.finetuning.share import ALL, Share
from tvmerge.training.lm.batch_loss import batch_order
from tvmerge.training.lm.prompts import render_answer, render_prompt
from tvmerge.training.lm.trie import Query

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def tokenized(job: FinetuneJob) -> list[Answers]:
    """The job's items as tokens. Raises ConfigError where one is longer than train.max_tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.base)
    found: list[Answers] = []
    for item, said in job.lessons():
        if job.objective == "text":
            ids = tuple(tokenizer.encode(item.shows))[: job.train.max_tokens]
            found.append((Query(ids[:1], ids[1:]),))
            continue
        prompt = render_prompt(tokenizer, item.question, before=item.before, style=job.prompt)
        answers = tuple(
            Query(prompt, render_answer(tokenizer, answer, style=job.prompt, end=True))
            for answer in said
        )
        tokens = len(prompt) + max(len(query.answer) for query in answers)
        if tokens > job.train.max_tokens:
            raise ConfigError(
                f"{job.name}: expected items of at most {job.train.max_tokens} tokens "
                f"(train.max_tokens), found one of {tokens}: {item.question[:60]!r}... "
                "Raise train.max_tokens or shorten the item."
            )
        found.append(answers)
    return found


def take_steps(
    job: FinetuneJob,
    model: PreTrainedModel,
    items: Sequence[Answers],
    *,
    optimizer: BackwardAdamW,
    progress: Progress,
    shared_prefixes: bool,
    reference: Mapping[Query, float],
    report: Report,
    save: Callable[[Progress], None],
    share: Share = ALL,
) -> Progress:
    """Take the steps that `progress` has left; `save` keeps what is reached, every so many.

    Gradients of several workers are expected to be averaged (as FSDP does): each worker's loss is
    scaled so that the average is the gradient of the whole batch's loss. Raises TVMergeError, on
    all workers, where the loss is not finite.
    """
    settings = job.train
    order = batches_of(job)
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
        batch = [items[index] for index in order[step]]
        loss, read = loss_of(
            job.objective,
            model,
            share.of(batch),
            shared_prefixes=shared_prefixes,
            reference=reference,
        )
        weight = share.weight(batch)
        whole = share.total(loss.item() * weight, loss.device)
        if not math.isfinite(whole):
            raise TVMergeError(
                f"{job.name}: expected a finite loss at step {step + 1}, found {whole}. "
                f"Lower train.learning_rate ({settings.learning_rate:g}) or warm up for longer."
            )
        (loss * (weight * share.workers)).backward()  # type: ignore[no-untyped-call]
        progress = Progress(
            step=step + 1,
            losses=(*progress.losses, whole),
            tokens=progress.tokens + int(share.total(read, loss.device)),
            answer_tokens=progress.answer_tokens
            + sum(len(query.answer) for answers in batch for query in answers),
            seconds=progress.seconds + time.perf_counter() - started,
            resumed_from=progress.resumed_from,
        )
        if progress.step % settings.checkpoint_every == 0 and progress.step < settings.steps:
            save(progress)
        report(_step_report(job, progress))
    optimizer.close()
    return progress


def batches_of(job: FinetuneJob) -> list[tuple[int, ...]]:
    """Which of the job's lessons each step sees: in every batch as many that are replayed."""
    size, steps, replay = job.train.batch_size, job.train.steps, job.replay
    replayed = replay.of_batch if replay else 0
    own = batch_order(len(job.items), batch_size=size - replayed, steps=steps, seed=job.seed)
    if replay is None:
        return own
    others = batch_order(len(replay.items), batch_size=replayed, steps=steps, seed=job.seed)
    first = len(job.items)
    return [
        (*mine, *(first + number for number in theirs))
        for mine, theirs in zip(own, others, strict=True)
    ]


def _step_report(job: FinetuneJob, progress: Progress) -> StepReport:
    return StepReport(
        job=job.label,
        step=progress.step,
        steps=job.train.steps,
        loss=progress.losses[-1] if progress.losses else None,
        tokens=progress.tokens,
        pid=os.getpid(),
    )
