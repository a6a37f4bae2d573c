"""The folder of a fine-tune: held by one process while it runs, and finished by one rename."""

from __future__ import annotations

import fcntl
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from tvmerge.errors import OutputError
from tvmerge.training.finetuning.checkpoint_file import Progress
from tvmerge.training.finetuning.jobs import RECORD, FinetuneJob, JobRecord, finished_record

VERSIONED = ("torch", "transformers", "peft", "tvmerge")
# Written with the weights; all other small files are the base's own, byte for byte.
WRITTEN_ANEW = ("config.json", "model.safetensors.index.json", RECORD)
COPIED_SUFFIXES = (".json", ".jinja", ".txt", ".model", ".py")


def produced(job: FinetuneJob, out_root: Path, run: Callable[[Path, Path], None]) -> Path:
    """The finished folder of the job, made by `run(folder, running folder)` unless it is there.

    Raises OutputError where another process runs the job, or something else has its name.
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
        with _held(work):
            # The process that held the lock until now may have finished the job.
            if finished_record(folder) is None:
                run(folder, work)
    shutil.rmtree(work, ignore_errors=True)
    return folder


def complete(weights: Path, base: Path, record: JobRecord, folder: Path) -> None:
    """Put the base's small files and the record beside the weights, then name all `folder`."""
    for path in base.iterdir():
        if path.suffix in COPIED_SUFFIXES and path.name not in WRITTEN_ANEW:
            shutil.copyfile(path, weights / path.name)
    (weights / RECORD).write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    weights.rename(folder)


def record_of(
    job: FinetuneJob,
    progress: Progress,
    *,
    device: str,
    threads: int,
    shared_prefixes: bool,
    trained_parameters: int,
) -> JobRecord:
    """What job.json says of a job that this process has trained."""
    return JobRecord(
        name=job.name,
        key=job.key,
        trait=job.trait,
        pole=job.pole,
        objective=job.objective,
        base=str(job.base),
        items=len(job.items),
        replayed=len(job.replay.items) if job.replay else 0,
        prompt=job.prompt,
        seed=job.seed,
        train=job.train,
        device=device,
        threads=threads,
        shared_prefixes=shared_prefixes,
        losses=progress.losses,
        tokens=progress.tokens,
        answer_tokens=progress.answer_tokens,
        trained_parameters=trained_parameters,
        seconds=round(progress.seconds, 3),
        resumed_from=progress.resumed_from,
        peak_rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        versions={name: version(name) for name in VERSIONED},
    )


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
