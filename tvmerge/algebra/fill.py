"""Runs a plan into torch tensors instead of files.

The engine writes straight into a tensor's memory, in its dtype. What it cannot write to (on a GPU,
not contiguous) is made in CPU memory, a few tensors at a time, and copied.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmerge.algebra.model_tensors import dtype_code
from tvmerge.engine.edit import Edit, total
from tvmerge.engine.jobs import Combine, Copy, Job, Result
from tvmerge.engine.run_options import RunOptions
from tvmerge.files.safetensors import DTYPE_BITS
from tvmerge.plans.batches import Batch, run_batch
from tvmerge.plans.plan import Plan
from tvmerge.plans.record import Record

if TYPE_CHECKING:
    import torch

# What is made beside tensors that the engine cannot write to, at most (or one tensor).
_STAGING_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Aimed:
    """A job with one output, and the tensor that it fills."""

    job: Job
    target: torch.Tensor

    @property
    def bytes_moved(self) -> int:
        return self.job.bytes_read + self.job.bytes_written


@dataclass(frozen=True, slots=True)
class Filled:
    """The change of all tensors together, and the integer tensors that differ between inputs."""

    edit: Edit
    differing_tensors: tuple[str, ...]


def fill(plan: Plan, targets: Mapping[str, torch.Tensor], options: RunOptions) -> Filled:
    """Fill the tensor of every name with the plan's only variant.

    Tensors have their entries' shapes; their floating-point dtype may be another, to which the
    exact sum is rounded once. Names that have no tensor are not read.
    """
    aimed = [
        _Aimed(_into_tensor(job, dtype_code(targets[job.tensor])), targets[job.tensor])
        for job in plan.jobs
        if job.tensor in targets and job.bytes_written
    ]
    in_all = sum(one.bytes_moved for one in aimed)
    edits: dict[str, Edit] = {}
    differing: list[str] = []
    before = 0
    for batch in _batches(aimed):
        result = _run(plan, batch, options, before, in_all)
        names = [one.job.tensor for one in batch if isinstance(one.job, Combine)]
        edits |= {name: found[0] for name, found in zip(names, result.edits, strict=True)}
        names = [one.job.tensor for one in batch if isinstance(one.job, Copy)]
        differing += [n for n, count in zip(names, result.different, strict=True) if count]
        before += sum(one.bytes_moved for one in batch)
    # In the plan's order, in which files' edits are added too: the same sums.
    edit = total(edits[job.tensor] for job in plan.jobs if job.tensor in edits)
    return Filled(edit, tuple(differing))


def _into_tensor(job: Job, dtype: str) -> Job:
    """The job with its one result at the start of an output of its own, in `dtype`."""
    if isinstance(job, Combine):
        return job._replace(results=(job.results[0]._replace(offset_bytes=0, dtype=dtype),))
    if job.source.dtype == dtype:
        return job._replace(targets=((0, 0),))
    elements = job.size_bytes * 8 // DTYPE_BITS[job.source.dtype]
    return Combine(job.tensor, (job.source,), elements, (Result(0, 0, dtype, 0, (1.0,)),))


def _batches(aimed: Sequence[_Aimed]) -> Iterator[Sequence[_Aimed]]:
    """All tensors that the engine writes to itself, then the others, a bounded size at a time."""
    yield [one for one in aimed if _is_writable(one.target)]
    batch: list[_Aimed] = []
    staged_bytes = 0
    for one in aimed:
        if _is_writable(one.target):
            continue
        if batch and staged_bytes + one.target.nbytes > _STAGING_BYTES:
            yield batch
            batch, staged_bytes = [], 0
        batch.append(one)
        staged_bytes += one.target.nbytes
    yield batch


def _is_writable(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.is_contiguous()


def _run(
    plan: Plan, batch: Sequence[_Aimed], options: RunOptions, before: int, in_all: int
) -> Record:
    import torch

    made = [
        one.target
        if _is_writable(one.target)
        else torch.empty(one.target.shape, dtype=one.target.dtype)
        for one in batch
    ]
    told = options.progress
    record = run_batch(
        Batch(
            0,
            {number: os.fspath(path) for number, path in enumerate(plan.inputs)},
            dict.fromkeys(range(len(made)), ""),
            tuple(_aimed_at(one.job, number) for number, one in enumerate(batch)),
        ),
        options.workspace(in_all),
        (lambda done: told(before + done, in_all)) if told else None,
        into={number: (tensor.data_ptr(), tensor.nbytes) for number, tensor in enumerate(made)},
    )
    for one, tensor in zip(batch, made, strict=True):
        _take(one.target, tensor)
    return record


def _take(target: torch.Tensor, made: torch.Tensor) -> None:
    import torch

    if target is not made:
        target.copy_(made)
    elif not target.is_inference():
        # As an in-place operation does: a backward pass that saved the old weights must notice.
        torch.autograd.graph.increment_version(target)


def _aimed_at(job: Job, output: int) -> Job:
    """The job with `output` for its one result; nobody asks for digests of the inputs here."""
    if isinstance(job, Copy):
        source = job.source._replace(digested=False)
        same_as = tuple(other._replace(digested=False) for other in job.same_as)
        return job._replace(source=source, same_as=same_as, targets=((output, 0),))
    sources = tuple(source._replace(digested=False) for source in job.sources)
    return job._replace(sources=sources, results=(job.results[0]._replace(file=output),))
