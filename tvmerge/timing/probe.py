"""Measures how fast this machine does a merge, by doing a small part of it for about a second.

Where much has to be read from the disk, it takes about three: disks come up to speed slowly.

Some of the merge's own batches, spread over the model, are run as the merge runs them: reading the
real inputs, those in the page cache and those on the disk apart, writing to the file system of the
destination. What was written is removed, what was read leaves the page cache as it was. What is
merged as matrices is timed apart, by smaller ones.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic

from tvmerge import _core
from tvmerge.engine.jobs import Combine
from tvmerge.engine.matrices import estimate_matrices, without_matrices
from tvmerge.engine.run_options import RunOptions, Workspace
from tvmerge.errors import storage_errors
from tvmerge.files.page_cache import PageCache, forget
from tvmerge.plans.batches import Batch, cut, run_batch
from tvmerge.plans.plan import Plan
from tvmerge.timing.estimate import Load, Rates, load_of, page_caches, read_ranges
from tvmerge.timing.floor import run_floor

BUDGET_SECONDS = 1.0
# What reading from the disk may take beyond that, as a share of it.
_DISK_SHARE = 1.5
# Steps of this share of the whole come to lie evenly, however many are taken.
_GOLDEN = 0.618033988749895
# Several of them in the time, each large enough that its start does not count.
_BATCH_BYTES = 256 * 1024 * 1024
_PART = 2**24
# Of less than this the time cannot be told from the noise of the rest.
_FETCHED_BYTES = 8 * 1024 * 1024
_ARITHMETIC_ROUNDS = 2
_CLOCK_SECONDS = 1e-9  # the clock's resolution: no time is shorter


@dataclass(frozen=True, slots=True)
class Probed:
    """The rates, and the whole merge that they are to be applied to."""

    rates: Rates
    load: Load
    matrix_seconds: float = 0.0  # beside reading and writing


def check_memory(plan: Plan, workspace: Workspace) -> None:
    """Raise what a merge would raise before its first byte: no memory, an input that is not there.

    The engine is given every job with no elements: it opens the inputs, shares out its buffers,
    and has nothing to do.
    """
    jobs = [job for job in without_matrices(plan.jobs) if isinstance(job, Combine)]
    jobs = [job._replace(elements=0) for job in jobs]
    inputs = {number: os.fspath(path) for number, path in enumerate(plan.inputs)}
    nowhere = dict.fromkeys(range(plan.variants * len(plan.shards)), "")
    run_batch(Batch(0, inputs, nowhere, tuple(jobs)), workspace, into=dict.fromkeys(nowhere))


def probe(
    plan: Plan,
    folder: Path,
    options: RunOptions,
    *,
    write_back: bool = False,
    budget_seconds: float = BUDGET_SECONDS,
) -> Probed:
    """Run a part of `plan`, writing below `folder`, which exists; nothing is left there.

    With `write_back` it is also measured how fast the disk takes what is written. Raises
    StorageError where a file cannot be read or written, MemoryLimitError as the merge would.
    """
    with (
        storage_errors(folder),
        tempfile.TemporaryDirectory(prefix=".tvmerge-probe-", dir=folder) as scratch,
    ):
        matrix_seconds = estimate_matrices(plan.jobs, options)
        plan = replace(plan, jobs=without_matrices(plan.jobs))
        outputs = _Outputs(plan, Path(scratch))
        started = monotonic()
        outputs.make()
        fixed_seconds = monotonic() - started
        batches = cut(
            plan,
            outputs.paths,
            batch_bytes=min(options.batch_bytes, _BATCH_BYTES),
            part_elements=_PART,
            part_bytes=_PART,
        )
        caches = page_caches(plan)
        parts = [load_of(batch, caches) for batch in batches]
        workspace = options.workspace(sum(batch.bytes_held for batch in batches))
        sample = _Sample(workspace, outputs, caches)
        try:
            sample.run(list(zip(batches, parts, strict=True)), budget_seconds)
            written = sum(batch.bytes_written for batch in sample.taken)
            rates = Rates(
                merge_rate=sample.merge_rate,
                fetch_rate=sample.fetch_rate,
                fetch_rates=sample.fetch_rates,
                write_back_rate=outputs.write_back_rate(written) if write_back else None,
                arithmetic_share=_arithmetic_share(sample.taken[-1], workspace),
                fixed_seconds=fixed_seconds,
                sampled_bytes=sum(batch.bytes_to_move for batch in sample.taken),
            )
        finally:
            sample.forget()
    return Probed(rates, sum(parts, Load(0, 0)), matrix_seconds)


class _Outputs:
    """The files that the probe writes to, of the sizes that the merge's have."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._sizes = [shard.size_bytes for shard in plan.shards] * plan.variants
        self.paths = [folder / str(number) for number in range(len(self._sizes))]

    def make(self) -> None:
        """Make the files anew: pages that were written before are written faster."""
        for path, size_bytes in zip(self.paths, self._sizes, strict=True):
            path.unlink(missing_ok=True)
            _core.allocate(os.fspath(path), size_bytes)

    def write_back_rate(self, written_bytes: int) -> float | None:
        """How many bytes per second the disk takes of the `written_bytes` in the files."""
        started = monotonic()
        for path in self.paths:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fdatasync(file)
            finally:
                os.close(file)
        seconds = monotonic() - started
        return written_bytes / seconds if seconds and written_bytes else None


class _Sample:
    """Batches that are run, and the time that they take: from the disk, and once more cached."""

    def __init__(
        self, workspace: Workspace, outputs: _Outputs, caches: Mapping[str, PageCache]
    ) -> None:
        self.workspace, self.outputs, self.caches = workspace, outputs, caches
        self.taken: list[Batch] = []
        # (bytes moved, seconds) with all inputs cached; (uncached bytes, seconds that they add).
        self._merged: list[tuple[int, float]] = []
        self._fetched: list[tuple[int, float]] = []

    def run(self, batches: Sequence[tuple[Batch, Load]], budget_seconds: float) -> None:
        """Run batches that are not cached, then others, until the time is up; one at least."""
        most = max((load.uncached_bytes for _, load in batches), default=0)
        least = max(most / 2, _FETCHED_BYTES)
        uncached = [one for one in batches if one[1].uncached_bytes >= least]
        spread = [batches[n] for n in sorted(range(len(batches)), key=lambda n: n * _GOLDEN % 1)]
        started = monotonic()
        # A part in one piece, as the merge goes: the kernel reads ahead of one batch into the next.
        piece = uncached[len(uncached) // 3 :]
        times = self._run(piece, budget_seconds * _DISK_SHARE)
        if times and not self.workspace.drop_behind:
            self.outputs.make()
            again = self._run(piece[: len(times)], math.inf)
            self._fetched += [
                (load.uncached_bytes, first - second)
                for (_, load), first, second in zip(piece, times, again, strict=False)
            ]
            times = again
        # Where files leave the cache at once, the disk's time cannot be told from the merge's.
        self._merged += [
            (load.bytes_to_move, t) for (_, load), t in zip(piece, times, strict=False)
        ]
        self.taken += [batch for batch, _ in piece[: len(times)]]
        rest = [one for one in spread if one[1].uncached_bytes < least]
        left = budget_seconds - (monotonic() - started)
        if not self.taken or left > 0:
            times = self._run(rest, left)
            self._merged += [
                (load.bytes_to_move, t) for (_, load), t in zip(rest, times, strict=False)
            ]
            self.taken += [batch for batch, _ in rest[: len(times)]]

    def _run(self, batches: Sequence[tuple[Batch, Load]], budget_seconds: float) -> list[float]:
        """The seconds of the batches that the budget has time for, but of one at least."""
        times: list[float] = []
        for batch, _ in batches:
            times.append(run_batch(batch, self.workspace).seconds)
            if sum(times) >= budget_seconds:
                break
        return times

    @property
    def merge_rate(self) -> float:
        """Bytes moved per second; the first of several batches, which starts cold, left out."""
        counted = self._merged[1:] or self._merged
        seconds = sum(seconds for _, seconds in counted)
        return sum(moved for moved, _ in counted) / max(seconds, _CLOCK_SECONDS)

    @property
    def fetch_rate(self) -> float | None:
        """Uncached bytes per second that reading them adds; None where it adds nothing."""
        # All of it: disks come up to speed while they are read, and fall back again.
        return _rate(self._fetched)

    @property
    def fetch_rates(self) -> tuple[float, float] | None:
        """That of the fastest and of the slowest half; None where `fetch_rate` is."""
        ordered = sorted(self._fetched, key=lambda one: one[1] / one[0])
        half = -(-len(ordered) // 2)
        fast, slow = _rate(ordered[:half]), _rate(ordered[len(ordered) - half :])
        whole = self.fetch_rate
        return (fast or whole, slow or whole) if whole else None

    def forget(self) -> None:
        """Drop from the page cache the ranges of which next to nothing was in it before."""
        dropped = sorted(
            (path, offset, offset + size)
            for batch in self.taken
            for path, offset, size in read_ranges(batch)
            if self.caches[path].cached_bytes(offset, size) <= size / 64
        )
        for path, begin, end in _joined(dropped):
            forget(path, begin, end)


def _rate(fetched: Iterable[tuple[int, float]]) -> float | None:
    held = list(fetched)
    seconds = sum(seconds for _, seconds in held)
    return sum(size for size, _ in held) / seconds if seconds > 0 else None


def _joined(ranges: Iterable[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    """Sorted ranges (path, begin, end), those that touch made one: pages at seams stay cached."""
    joined: list[tuple[str, int, int]] = []
    for path, begin, end in ranges:
        if joined and joined[-1][0] == path and begin <= joined[-1][2]:
            joined[-1] = (path, joined[-1][1], max(end, joined[-1][2]))
        else:
            joined.append((path, begin, end))
    return joined


def _arithmetic_share(batch: Batch, workspace: Workspace) -> float:
    """The share of a merge's time that its floor does not take; the batch is cached by now."""
    merge = min(run_batch(batch, workspace).seconds for _ in range(_ARITHMETIC_ROUNDS))
    floor = min(run_floor(batch, workspace) for _ in range(_ARITHMETIC_ROUNDS))
    return max(0.0, 1 - floor / max(merge, _CLOCK_SECONDS))
