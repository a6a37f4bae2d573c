"""Runs the batches of a merge that are not done yet, and keeps the journal of those that are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tvmerge import _core
from tvmerge.engine.run_options import Progress, RunOptions
from tvmerge.errors import StorageError, storage_errors
from tvmerge.merging.order import Order
from tvmerge.merging.unfinished import InputChangedError, Unfinished
from tvmerge.plans.batches import Batch, cut, read_back, run_batch
from tvmerge.plans.plan import Plan
from tvmerge.plans.record import Record

# Runs batches and gives the record of each when it is done, in any order.
Runner = Callable[[Sequence[Batch]], Iterator[Record]]
# (size in bytes, time of the last change in ns) of every input file.
Stats = tuple[tuple[int, int], ...]


def input_stats(paths: Iterable[Path]) -> Stats:
    """What shows that an input is changed; raises StorageError where one is gone."""
    found = []
    for path in paths:
        try:
            stat = path.stat()
        except OSError as error:
            raise StorageError(f"{path}: cannot open for reading: {error.strerror}") from error
        found.append((stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def run_merge(
    order: Order,
    plan: Plan,
    stats: Stats,
    work: Unfinished,
    options: RunOptions,
    run: Runner | None,
) -> tuple[tuple[Batch, ...], int]:
    """Do what is not done yet; returns all batches, and the bytes that needed no moving again."""
    places = [_lay_out(work, name, plan, n) for n, name in enumerate(order.files(plan))]
    with storage_errors(work.target):
        work.tidy(places)
    batches = cut(plan, places, batch_bytes=options.batch_bytes)
    told = Told(options.progress, sum(batch.bytes_to_move for batch in batches))
    intact = _intact(batches, work, options, told)
    resumed = told.moved
    run = run or local(options, told)
    try:
        for record in run([batch for batch in batches if batch.number not in intact]):
            with storage_errors(work.folder):
                work.journal.add(record)
            told.finished(record)
    except StorageError:
        _refuse_changed(plan, stats)
        raise
    _refuse_changed(plan, stats)
    return batches, resumed


def _lay_out(work: Unfinished, name: str, plan: Plan, number: int) -> Path:
    """Make the file in full size, or keep what an unfinished run has made of it."""
    shard = plan.shards[number % len(plan.shards)]
    with storage_errors(work.target):
        path = work.reopen(name)
        if not path.exists() or path.stat().st_size != shard.size_bytes:
            _core.allocate(os.fspath(path), shard.size_bytes)
        # A head that an earlier run has written must not be there before its data is.
        with path.open("r+b") as file:
            file.write(bytes(len(shard.head)))
    return path


def _intact(
    batches: Sequence[Batch], work: Unfinished, options: RunOptions, told: Told
) -> set[int]:
    """The recorded batches whose output is there: a power failure may have taken what was not
    on the disk yet."""
    records = work.journal.records
    if not records:
        return set()
    workspace = options.on_processor().workspace()
    intact = set()
    for batch in batches:
        record = records.get(batch.number)
        if record is None or not _fits(record, batch):
            continue
        if read_back(batch, workspace) == record.output_states:
            intact.add(batch.number)
            told.finished(record)
    return intact


def _fits(record: Record, batch: Batch) -> bool:
    edits = [len(job.results) for job in batch.combines]
    return (
        [len(job) for job in record.edits] == edits
        and len(record.different) == len(batch.copies)
        and record.output_states.keys() == batch.outputs.keys()
        and record.input_states.keys() == batch.inputs.keys()
    )


def local(options: RunOptions, told: Told) -> Runner:
    """Runs batches in this process, one after the other."""

    def run(batches: Sequence[Batch]) -> Iterator[Record]:
        workspace = options.workspace(sum(batch.bytes_held for batch in batches))
        for batch in batches:
            yield run_batch(batch, workspace, told.in_batch if told.progress else None)

    return run


class Told:
    """Tells the caller's callback about bytes of the whole merge."""

    def __init__(self, progress: Progress | None, whole: int) -> None:
        self.progress, self.whole, self.moved = progress, whole, 0

    def in_batch(self, moved: int) -> None:
        """So many bytes of the batch that runs are moved."""
        if self.progress:
            self.progress(self.moved + moved, self.whole)

    def finished(self, record: Record) -> None:
        """A batch is done."""
        self.moved += record.bytes_read + record.bytes_written
        if self.progress:
            self.progress(self.moved, self.whole)


def _refuse_changed(plan: Plan, stats: Stats) -> None:
    for path, before, now in zip(plan.inputs, stats, input_stats(plan.inputs), strict=True):
        if before != now:
            raise InputChangedError(
                f"{path}: was changed while it was read. Run the merge again when nothing writes "
                "to the inputs any more"
            )
