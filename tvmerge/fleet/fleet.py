"""One merge on several machines: spreads its batches over the nodes of a Ray cluster.

    with Fleet("10.0.0.1:6379") as fleet:
        save(order, out, options, run=fleet.run)      # the bytes, and the receipt, of one machine

The nodes read and write the same files (a shared file system); between them travel only lists of
jobs and the numbers of records. This process plans, makes the files, holds the lock and keeps the
journal. A batch can be run twice, even at once: docs/fleet.md says why that is harmless.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

from tvmerge.engine.devices import ALL, CPU
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import TVMergeError, storage_errors
from tvmerge.fleet.nodes import (
    Node,
    gpus_of,
    is_alive,
    join,
    living_nodes,
    placed,
    refuse_missing_gpus,
    refuse_versions,
    refuse_views,
)
from tvmerge.fleet.ray_session import stop
from tvmerge.fleet.schedule import AHEAD, Schedule
from tvmerge.plans.batches import Batch, run_batch
from tvmerge.plans.record import Record

POLL_SECONDS = 0.25
COPY_SECONDS = 5.0


class Fleet:
    """The nodes of the Ray cluster at `address` ("auto": the one of this machine)."""

    def __init__(self, address: str, options: RunOptions | None = None) -> None:
        """`options` count on every node: `threads` (as many CPUs are asked of Ray; None: all that
        the node has), `memory_mib` (of its worker), `device` (as many GPUs are asked of Ray,
        which says which ones they are)."""
        # The callback stays here; records say what is done.
        self._options = replace(options or RunOptions(), progress=None)
        self._address = address
        self._started = False
        self._nodes: dict[str, Node] = {}
        self._running: dict[Any, tuple[str, int]] = {}

    def __enter__(self) -> Fleet:
        """Join the cluster; raises ConfigError where it cannot run a merge, DeviceError where a
        node has not the GPUs."""
        self._started = join(self._address)
        try:
            self._nodes = living_nodes()
            refuse_missing_gpus(self._nodes.values(), self._options.device)
            refuse_versions(self._nodes.values())
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()

    def run(self, batches: Sequence[Batch]) -> Iterator[Record]:
        """Run batches on all nodes; gives each one's record when it is done, in any order.

        Raises what a batch raises on a node, with the node's name; StorageError where a node does
        not see the files; TVMergeError where no node is left, or a batch ends every worker.
        """
        if not batches:
            return
        refuse_views(self._nodes.values(), batches)
        numbered = {batch.number: batch for batch in batches}
        sizes = {batch.number: batch.bytes_to_move for batch in batches}
        # With fewer threads than CPUs, a batch that was to wait would run beside the other.
        ahead = AHEAD if self._options.threads is None else 1
        schedule = Schedule(sizes, self._nodes, ahead=ahead)
        share = sum(batch.bytes_held for batch in batches) // len(self._nodes)
        while not schedule.finished:
            for node, number in _assignments(schedule):
                ref = self._send(self._nodes[node], numbered[number], share)
                self._running[ref] = (node, number)
            if not self._running:
                raise TVMergeError(
                    f"all {len(self._nodes)} nodes are lost: their workers died. See the "
                    "logs of Ray, and whether the nodes have enough memory"
                )
            yield from self._records(schedule)
        self._let_end()

    def _send(self, node: Node, batch: Batch, share: int) -> Any:
        import ray

        threads = min(self._options.threads or node.cpus, node.cpus)
        gpus = gpus_of(node, self._options.device)
        # Ray shows a worker its own GPUs alone, counted from 0.
        device = f"cuda:{ALL}" if gpus else CPU
        options = replace(self._options, threads=threads, device=device)
        remote = ray.remote(_run).options(**placed(node, cpus=threads, gpus=gpus))
        return remote.remote(batch, options, share)

    def _records(self, schedule: Schedule) -> Iterator[Record]:
        """The records that arrive within a moment."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        done, _ = ray.wait(list(self._running), num_returns=1, timeout=POLL_SECONDS)
        for ref in done:
            name, number = self._running.pop(ref)
            try:
                record: Record | None = ray.get(ref)
            except RayTaskError as error:
                if not schedule.is_done(number):
                    raise _cause(error, self._nodes[name]) from error
                record = None
            except RayError as error:
                if not schedule.is_done(number):
                    self._bury(schedule, name, number, error)
                    continue
                record = None
            if schedule.done(name, number) and record is not None:
                yield record

    def _bury(self, schedule: Schedule, name: str, number: int, error: Exception) -> None:
        """A worker died: others take its batch over, and its node's if that is gone too."""
        if not schedule.died(name, number):
            raise TVMergeError(
                f"{self._nodes[name]}: every worker that ran batch {number} died, here and "
                f"elsewhere, the last one so: {error}"
            ) from error
        if not is_alive(name):
            schedule.lose(name)

    def _let_end(self) -> None:
        """Wait a moment for copies of finished batches; stop what is stuck or has not begun."""
        import ray

        refs, self._running = list(self._running), {}
        if refs:
            _, stuck = ray.wait(refs, num_returns=len(refs), timeout=COPY_SECONDS)
            stop(stuck)

    def _leave(self) -> None:
        refs, self._running = list(self._running), {}
        try:
            # Leaving Ray ends this process's tasks everywhere. Cancelling them first would be a
            # risk: Ray aborts the process if a task ends in that very moment (seen with 2.60).
            if not self._started:
                stop(refs)
        finally:
            if self._started:
                import ray

                ray.shutdown()
                self._started = False


def _assignments(schedule: Schedule) -> Iterator[tuple[str, int]]:
    """One batch to each node, then another, so that the largest ones are spread."""
    handed = True
    while handed:
        handed = False
        for node in schedule.nodes:
            number = schedule.next_for(node)
            if number is not None:
                handed = True
                yield node, number


def _run(batch: Batch, options: RunOptions, share: int) -> Record:
    """On a node: `share` is about what its page cache would hold in all."""
    record = run_batch(batch, options.workspace(share))
    for path in batch.outputs.values():
        _flush(path)
    return record


def _flush(path: str) -> None:
    """Hand what was written to the storage: once recorded it must outlive this machine's memory."""
    with storage_errors(path):
        file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(file)
        finally:
            os.close(file)


def _cause(error: Any, node: Node) -> Exception:
    """The error as it was raised on the node, with the node's name."""
    cause = error.cause
    if isinstance(cause, TVMergeError):
        return type(cause)(f"{node}: {cause}")
    return cause if isinstance(cause, Exception) else error
