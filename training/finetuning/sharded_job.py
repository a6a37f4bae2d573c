"""A fine-tune larger than one device: Ray Train's workers, each with a part of the weights (FSDP2).

    train: {method: full, workers: 4}

Every worker computes its share of each batch. What is trained, in which order and at which rates is
what one worker does, and so are the weights, up to rounding. When a worker or its node dies, Ray
Train starts all workers again, and they go on from the last checkpoint in the running folder, which
with several machines has to lie on a file system that all of them see.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tvmerge.errors import TVMergeError
from tvmerge.fleet.ray_session import answer
from tvmerge.training.finetuning.job_folder import complete, produced, record_of
from tvmerge.training.finetuning.jobs import FinetuneJob, Report, StepReport, finished_record
from tvmerge.training.finetuning.objectives import Answers
from tvmerge.training.finetuning.steps import take_steps, tokenized
from tvmerge.training.settings.sections import Resources

ANSWER_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWork:
    """What every worker is told."""

    job: FinetuneJob
    items: Sequence[Answers]
    folder: Path
    running: Path
    device: str
    threads: int
    report: Report


def run_sharded_job(
    job: FinetuneJob, out_root: Path, *, board: Any, resources: Resources, max_failures: int
) -> Path:
    """As finetune.run_job, on the `train.workers` workers of a Ray that this process is joined to.

    It starts and watches them, and trains nothing itself; `board` is a Board on that Ray. Raises
    the error that ended the training, or TVMergeError where workers died more than `max_failures`
    times.
    """

    def run(folder: Path, running: Path) -> None:
        # This process may follow one that died, and whose workers have not noticed. Of a board
        # that is gone, nobody knows their place: it is free when this Ray ends.
        answer(board.release.remote(job.label), ANSWER_SECONDS)
        work = SharedWork(
            job=job,
            items=tokenized(job),
            folder=folder,
            running=running,
            device=resources.device,
            threads=resources.cpus_per_job,
            report=board.post.remote,
        )
        _fit(work, board, resources, max_failures)

    return produced(job, out_root, run)


def _fit(work: SharedWork, board: Any, resources: Resources, max_failures: int) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    on_gpu = work.device == "cuda"
    asked: dict[str, float] = {"CPU": resources.cpus_per_job}
    if on_gpu:
        asked["GPU"] = resources.gpus_per_job
    storage = work.running / "ray"
    # Ray Train takes up a run of the same name where it ended; ours goes on from its checkpoint.
    shutil.rmtree(storage, ignore_errors=True)
    trainer = TorchTrainer(
        _placed_part,  # type: ignore[arg-type]  # Ray's types know no result
        train_loop_config={"work": work, "board": board},
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=work.job.train.workers, use_gpu=on_gpu, resources_per_worker=asked
        ),
        run_config=RunConfig(
            name=work.job.folder_name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        result: Any = trainer.fit()
    except TrainingFailedError as failure:
        raise TVMergeError(
            f"{work.job.name}: expected its {work.job.train.workers} workers to live, found them "
            f"dead after {max_failures} restarts ({failure}). Run again to go on from the last "
            "checkpoint."
        ) from failure
    if result.return_value is not None:
        raise result.return_value


def _placed_part(told: dict[Any, Any]) -> TVMergeError | None:
    from ray.util import get_current_placement_group
    from torch.distributed import get_rank

    work: SharedWork = told["work"]
    if get_rank() == 0:
        told["board"].hold.remote(work.job.label, get_current_placement_group())
    return train_part(work)


def train_part(work: SharedWork) -> TVMergeError | None:
    """What each worker does; it is one of a torch process group.

    An error that would only come again is returned (all workers have the same): Ray Train starts
    workers again whatever they raise.
    """
    if finished_record(work.folder) is not None:  # a worker died after it got its name
        return None
    try:
        _train_and_write(work)
    except TVMergeError as error:
        return error
    return None


def _train_and_write(work: SharedWork) -> None:
    from torch.distributed import get_rank
    from torch.distributed.device_mesh import init_device_mesh

    from tvmerge.training.finetuning.backward_adamw import BackwardAdamW
    from tvmerge.training.finetuning.finetune import untrained_scores
    from tvmerge.training.finetuning.sharded_checkpoint import ShardedCheckpoints
    from tvmerge.training.finetuning.sharded_model import load_sharded, write_sharded
    from tvmerge.training.finetuning.share import Share
    from tvmerge.training.lm.torch_session import no_progress_bars, own_randomness, torch_threads

    job, settings, rank = work.job, work.job.train, get_rank()
    with (
        torch_threads(work.threads),
        no_progress_bars(),
        own_randomness(job.seed * settings.workers + rank),
    ):
        mesh = init_device_mesh(work.device, (settings.workers,))
        model = load_sharded(job.base, mesh, trainable=settings.trainable)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = BackwardAdamW(trained, weight_decay=settings.weight_decay)
        checkpoints = ShardedCheckpoints(work.running, optimizer, rank)
        # Every worker asks everything: a forward pass is one of all workers.
        shared, reference = untrained_scores(job, model, work.items)
        model.reshard()  # what is gathered now would hide what is loaded
        progress = take_steps(
            job,
            model,
            work.items,
            optimizer=optimizer,
            progress=checkpoints.load(),
            shared_prefixes=shared,
            reference=reference,
            report=work.report if rank == 0 else _unheard,
            save=checkpoints.save,
            share=Share(rank, settings.workers),
        )
        written = work.running / "model"
        if rank == 0:
            shutil.rmtree(written, ignore_errors=True)
            written.mkdir()
        write_sharded(model, written if rank == 0 else None)
    if rank == 0:
        record = record_of(
            job,
            progress,
            device=work.device,
            threads=work.threads,
            shared_prefixes=shared,
            trained_parameters=sum(p.numel() for p in trained.values()),
        )
        complete(written, job.base, record, work.folder)


def _unheard(report: StepReport) -> Any:
    """Rank 0 reports for all."""
