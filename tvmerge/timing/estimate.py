"""What a merge will take: bytes, disk and passes from its plan, seconds from measured rates."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tvmerge.engine.jobs import Combine, size_bytes
from tvmerge.engine.matrices import matrices_of, parts_of
from tvmerge.files.page_cache import PageCache
from tvmerge.plans.batches import Batch
from tvmerge.plans.outcome import copy_reason
from tvmerge.plans.plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What the plan of a merge says before any tensor is read. Sizes are in bytes."""

    bytes_read: int
    bytes_written: int
    # How often the inputs are read: more than once where several results need them apart.
    passes: int
    # Tensors of the outputs: combined, and copied for each of the reasons.
    combined: int
    copied: Mapping[str, int]
    # Tensors of the outputs by dtype, and the output files with their sizes.
    dtypes: Mapping[str, int]
    shards: Mapping[str, int]
    # Tensors that are merged as matrices, what that takes, and the most that one of them holds.
    matrices: int
    matrix_operations: float
    matrix_bytes: int


def needs(plan: Plan) -> Needs:
    """What the merge that is planned reads and writes, and does to its tensors."""
    read = sum(job.bytes_read for job in plan.jobs)
    files = {path: header for stored in plan.stored for path, header in stored.shards}
    held = sum(header.size_bytes for header in files.values())
    combined = {job.tensor for job in plan.jobs if isinstance(job, Combine)}
    entries = [entry for shard in plan.shards for entry in shard.entries]
    copied = Counter(copy_reason(entry.dtype) for entry in entries if entry.name not in combined)
    merged = matrices_of(parts_of(plan.jobs))
    matrices = [matrix for _, matrix in merged]
    return Needs(
        bytes_read=read,
        bytes_written=plan.output_bytes,
        passes=max(1, round(read / held)) if held else 1,
        combined=len(combined),
        copied=dict(copied),
        dtypes=dict(Counter(entry.dtype for entry in entries).most_common()),
        shards={shard.name: shard.size_bytes for shard in plan.shards},
        matrices=len({job.tensor for job, _ in merged}),
        matrix_operations=sum(matrix.operations for matrix in matrices),
        matrix_bytes=max((matrix.held_bytes for matrix in matrices), default=0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """How fast this machine does the merge: what a probe has measured, in bytes and seconds."""

    # Bytes read and written together per second, where all inputs are in the page cache.
    merge_rate: float
    # Bytes per second of the time that reading from the disk adds; None: nothing had to be.
    fetch_rate: float | None
    # That of the fastest and of the slowest half of what was read: disks differ from one second to
    # the next.
    fetch_rates: tuple[float, float] | None
    # How fast the disk takes what is written; None where memory has room for all of it.
    write_back_rate: float | None
    # Of a merge of cached files: 1 - the floor's time / the merge's.
    arithmetic_share: float
    # Once per merge: making the files.
    fixed_seconds: float
    sampled_bytes: int


@dataclass(frozen=True, slots=True)
class Load:
    """So many bytes to read and write, and how many of those to be read are not cached."""

    bytes_to_move: int
    uncached_bytes: int

    def __add__(self, other: Load) -> Load:
        return Load(
            self.bytes_to_move + other.bytes_to_move, self.uncached_bytes + other.uncached_bytes
        )


def page_caches(plan: Plan) -> dict[str, PageCache]:
    """What of every input file is in the page cache now, by its path."""
    return {os.fspath(path): PageCache(path) for path in plan.inputs}


def load_of(batch: Batch, caches: Mapping[str, PageCache]) -> Load:
    """What a batch moves, and how much of it has to come from the disk as `caches` are."""
    uncached = sum(
        size - caches[path].cached_bytes(offset, size) for path, offset, size in read_ranges(batch)
    )
    return Load(batch.bytes_to_move, uncached)


def read_ranges(batch: Batch) -> Iterator[tuple[str, int, int]]:
    """All that a batch reads, as (path, offset in bytes, size in bytes)."""
    for job in batch.combines:
        for source in job.sources:
            size = size_bytes(source.dtype, job.elements)
            yield batch.inputs[source.file], source.offset_bytes, size
        for place, size in ((one.source, one.size_bytes) for one in job.beside):
            yield batch.inputs[place.file], place.offset_bytes, size
    for copy in batch.copies:
        for place in (copy.source, *copy.same_as):
            yield batch.inputs[place.file], place.offset_bytes, copy.size_bytes


def estimate_seconds(load: Load, rates: Rates, write_back_bytes: int = 0) -> float:
    """How long a merge takes that moves `load`, beginning with an empty output folder.

    `write_back_bytes` have to reach the disk before the merge can end; the disk writes them while
    the merge goes on, but not while it reads what is not cached.
    """
    fetching = load.uncached_bytes / rates.fetch_rate if rates.fetch_rate else 0.0
    flushing = write_back_bytes / rates.write_back_rate if rates.write_back_rate else 0.0
    return rates.fixed_seconds + fetching + max(load.bytes_to_move / rates.merge_rate, flushing)


def estimate_range(load: Load, rates: Rates, write_back_bytes: int = 0) -> tuple[float, float]:
    """As `estimate_seconds`: with the disk as fast, and as slow, as it was at times."""
    fast, slow = rates.fetch_rates or (None, None)
    return (
        estimate_seconds(load, replace(rates, fetch_rate=fast), write_back_bytes),
        estimate_seconds(load, replace(rates, fetch_rate=slow), write_back_bytes),
    )


def room_in_memory_bytes() -> int:
    """How much a program may write before the kernel makes it wait for the disk.

    Linux begins to slow writers down halfway between vm.dirty_background_ratio and
    vm.dirty_ratio, shares of the memory that is available (Documentation/admin-guide/sysctl/vm).
    """
    with Path("/proc/meminfo").open() as file:
        memory = {key: int(rest.split()[0]) * 1024 for key, rest in (li.split(":") for li in file)}
    limits = []
    for name in ("dirty_background", "dirty"):
        fixed = int(Path(f"/proc/sys/vm/{name}_bytes").read_text())
        share = int(Path(f"/proc/sys/vm/{name}_ratio").read_text()) / 100
        limits.append(fixed or share * memory["MemAvailable"])
    return max(0, int(sum(limits) / 2) - memory["Dirty"])
