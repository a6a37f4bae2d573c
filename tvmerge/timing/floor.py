"""The floor of a merge: the time that its reading and writing take, whatever is computed.

The same files, slices, threads and batches as the merge, with the arithmetic and the digests left
out: no merge that reads and writes in this pattern can be faster. One whose inputs are mapped, and
so not copied out of the page cache, may be.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic

from tvmerge import _core
from tvmerge.engine.deciding import undecided
from tvmerge.engine.run_options import RunOptions, Workspace
from tvmerge.plans.batches import Batch, cut, native
from tvmerge.plans.plan import Plan


def run_floor(batch: Batch, workspace: Workspace) -> float:
    """Read and write what the batch does; returns seconds. The output files mean nothing then.

    Raises what `run_batch` raises.
    """
    started = monotonic()
    _core.floor(
        *native(replace(batch, jobs=undecided(batch.jobs))),
        threads=workspace.threads,
        slice_bytes=workspace.slice_bytes,
        buffer_bytes=workspace.buffer_bytes,
        drop_behind=workspace.drop_behind,
    )
    return monotonic() - started


def floor_seconds(plan: Plan, outputs: Sequence[Path], options: RunOptions) -> float:
    """Do all the reading and writing of `plan`; returns seconds, that of making the files included.

    `outputs` are new files, one for each output of the plan; the caller removes them.
    """
    started = monotonic()
    for number, path in enumerate(outputs):
        shard = plan.shards[number % len(plan.shards)]
        _core.allocate(os.fspath(path), shard.size_bytes)
    batches = cut(plan, outputs, batch_bytes=options.batch_bytes)
    workspace = options.on_processor().workspace(sum(batch.bytes_held for batch in batches))
    for batch in batches:
        run_floor(batch, workspace)
    return monotonic() - started
