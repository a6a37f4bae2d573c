"""Cuts a plan into batches: what is run at once, recorded as done, and not done again.

A batch knows its files by path and can be sent to another machine; batches may run in any order.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from time import monotonic

from tvmerge import _core
from tvmerge.engine.deciding import decided
from tvmerge.engine.devices import direct_bytes, lent
from tvmerge.engine.edit import Edit
from tvmerge.engine.garbage import uncollected
from tvmerge.engine.jobs import PART_BYTES, PART_ELEMENTS, Combine, Copy, Job, size_bytes
from tvmerge.engine.matrices import Scratch
from tvmerge.engine.run_options import BATCH_BYTES, Progress, Workspace
from tvmerge.plans.plan import Plan
from tvmerge.plans.record import Record as Record

# Where an output goes: a file, memory (address, size in bytes) that the caller owns, or nowhere.
Place = str | tuple[int, int] | None
# The dtype of a range whose bytes are compared rather than decoded: any of one byte.
_BYTES = "F8_E4M3"


@dataclass(frozen=True)
class Batch:
    """Some of a plan's jobs, or parts of them, and the files that they need.

    Files go by their number in the plan; `inputs` and `outputs` say where they are.
    """

    number: int
    inputs: Mapping[int, str]
    outputs: Mapping[int, str]
    jobs: tuple[Job, ...]

    @cached_property
    def combines(self) -> tuple[Combine, ...]:
        """The jobs that compute, in their order."""
        return tuple(job for job in self.jobs if isinstance(job, Combine))

    @cached_property
    def copies(self) -> tuple[Copy, ...]:
        """The jobs that copy or only read, in their order."""
        return tuple(job for job in self.jobs if isinstance(job, Copy))

    @cached_property
    def bytes_read(self) -> int:
        """The bytes of all ranges that are read."""
        return sum([job.bytes_read for job in self.jobs])

    @cached_property
    def bytes_written(self) -> int:
        """The bytes of all ranges that are written."""
        return sum([job.bytes_written for job in self.jobs])

    @property
    def bytes_to_move(self) -> int:
        """What the batch reads and writes together."""
        return self.bytes_read + self.bytes_written

    @cached_property
    def bytes_held(self) -> int:
        """What the page cache would hold of the batch: what is read twice counts once."""
        return sum([job.bytes_held for job in self.jobs])


def cut(
    plan: Plan,
    outputs: Sequence[Path],
    *,
    batch_bytes: int = BATCH_BYTES,
    part_elements: int = PART_ELEMENTS,
    part_bytes: int = PART_BYTES,
) -> tuple[Batch, ...]:
    """Cut `plan` into batches that move about `batch_bytes` each.

    `outputs` are the places of the plan's output files. The same plan and sizes give the same cut.
    """
    parts: list[Job] = [
        part
        for job in plan.jobs
        for part in job.parts(part_elements if isinstance(job, Combine) else part_bytes)
    ]
    weights = [part.bytes_read + part.bytes_written for part in parts]
    whole = sum(weights)
    count = max(1, -(-whole // batch_bytes))
    held: dict[int, list[Job]] = defaultdict(list)
    before = 0
    for part, weight in zip(parts, weights, strict=True):
        middle = before + weight // 2
        held[middle * count // whole if whole else 0].append(part)
        before += weight
    return tuple(
        _batch(number, held[key], plan, outputs) for number, key in enumerate(sorted(held))
    )


def _batch(number: int, jobs: Sequence[Job], plan: Plan, outputs: Sequence[Path]) -> Batch:
    read: set[int] = set()
    written: set[int] = set()
    for job in jobs:
        if isinstance(job, Combine):
            read.update(source.file for source in job.sources)
            read.update(one.source.file for one in job.beside)
            written.update(result.file for result in job.results)
        else:
            read.update(place.file for place in (job.source, *job.same_as))
            written.update(file for file, _ in job.targets)
    return Batch(
        number,
        {file: os.fspath(plan.inputs[file]) for file in sorted(read)},
        {file: os.fspath(outputs[file]) for file in sorted(written)},
        tuple(jobs),
    )


def run_batch(
    batch: Batch,
    workspace: Workspace,
    progress: Callable[[int], None] | None = None,
    *,
    into: Mapping[int, Place] | None = None,
) -> Record:
    """Run a batch with the native engine; its output files exist in full size.

    `into` names other places than the batch's output files; None for one of them: it is computed
    and written nowhere. `progress` is called with the bytes moved so far. Raises StorageError where
    a file cannot be read or written, MemoryLimitError where the workspace is too small, DeviceError
    where a card fails.
    """
    started = monotonic()
    with lent(workspace.cards), Scratch() as scratch:
        direct_before = direct_bytes(workspace.cards)
        jobs, before = decided(batch.jobs, batch.inputs, workspace, scratch, progress)
        read = {**batch.inputs, **scratch.inputs}
        inputs, outputs, combines, copies = native(replace(batch, jobs=jobs, inputs=read))
        done = _core.merge(
            inputs,
            outputs if into is None else [into[number] for number in batch.outputs],
            combines,
            copies,
            threads=workspace.threads,
            slice_bytes=workspace.slice_bytes,
            buffer_bytes=workspace.buffer_bytes,
            mapped_bytes=workspace.mapped_bytes(),
            isa=workspace.isa,
            drop_behind=workspace.drop_behind,
            progress=partial(_tell_more, progress, before, batch) if progress else None,
            cards=workspace.cards,
        )
        direct = direct_bytes(workspace.cards) - direct_before
    states = zip(read, done.input_digests, strict=True)
    return Record(
        number=batch.number,
        edits=tuple([tuple([Edit._make(edit) for edit in job]) for job in done.edits]),
        different=tuple(done.different),
        input_states={n: s for n, s in states if n in batch.inputs},
        output_states=dict(zip(batch.outputs, done.output_digests, strict=True)),
        bytes_read=batch.bytes_read,
        bytes_written=batch.bytes_written,
        direct_bytes=direct,
        cloned_bytes=done.cloned_bytes,
        seconds=monotonic() - started,
    )


def run_batches(
    batches: Iterable[Batch],
    workspace: Workspace,
    progress: Progress | None = None,
    *,
    whole: int = 0,
    write: bool = True,
) -> Iterator[Record]:
    """Run batches one after the other, `progress` being told of the bytes of them all.

    `whole` is what it is told of as their sum; with `write` false all is computed, nothing written.
    """
    moved = 0
    for batch in batches:
        told = partial(_tell, progress, moved, whole) if progress else None
        into = None if write else dict.fromkeys(batch.outputs)
        yield run_batch(batch, workspace, told, into=into)
        moved += batch.bytes_to_move


def _tell_more(progress: Callable[[int], None], before: int, batch: Batch, moved: int) -> None:
    progress(min(before + moved, batch.bytes_to_move))  # what lies in `scratch` does not count


def _tell(progress: Progress, before: int, whole: int, moved: int) -> None:
    progress(before + moved, whole)


def native(
    batch: Batch,
) -> tuple[list[str], list[str], list[_core.CombineJob], list[_core.CopyJob]]:
    """A batch as the engine takes it: input files, output files, jobs that compute, that copy."""
    inputs, outputs = _renumbered(batch.inputs), _renumbered(batch.outputs)
    with uncollected():
        return (
            list(batch.inputs.values()),
            list(batch.outputs.values()),
            [_core.CombineJob.planned(job, inputs, outputs) for job in batch.combines],
            [_native_copy(job, inputs, outputs) for job in batch.copies],
        )


def read_back(batch: Batch, workspace: Workspace) -> dict[int, bytes]:
    """The digest states of what a batch's output files hold in the ranges that it writes."""
    here = _renumbered(batch.outputs)
    done = _core.merge(
        list(batch.outputs.values()),
        [],
        [],
        [
            _core.CopyJob(
                file=here[file],
                offset_bytes=offset,
                size_bytes=size,
                digested=True,
                targets=[],
                same_as=[],
            )
            for file, offset, size in _written(batch)
        ],
        threads=workspace.threads,
        slice_bytes=workspace.slice_bytes,
        buffer_bytes=workspace.buffer_bytes,
        mapped_bytes=workspace.mapped_bytes(),
        drop_behind=workspace.drop_behind,
    )
    return dict(zip(batch.outputs, done.input_digests, strict=True))


def _written(batch: Batch) -> Iterator[tuple[int, int, int]]:
    for job in batch.combines:
        for result in job.results:
            size = size_bytes(result.dtype, job.elements)
            yield result.file, result.offset_bytes, size
    for copy in batch.copies:
        for file, offset in copy.targets:
            yield file, offset, copy.size_bytes


def _renumbered(files: Mapping[int, str]) -> dict[int, int]:
    return {number: here for here, number in enumerate(files)}


def _native_copy(job: Copy, inputs: Mapping[int, int], outputs: Mapping[int, int]) -> _core.CopyJob:
    return _core.CopyJob(
        file=inputs[job.source.file],
        offset_bytes=job.source.offset_bytes,
        size_bytes=job.size_bytes,
        digested=job.source.digested,
        targets=[(outputs[file], offset) for file, offset in job.targets],
        same_as=[
            _core.Source(inputs[other.file], other.offset_bytes, _BYTES, other.digested)
            for other in job.same_as
        ],
    )
