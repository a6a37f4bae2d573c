"""How a merge runs: device, threads, memory, durability. None of it changes a byte of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tvmerge.engine.devices import CPU, open_cards
from tvmerge.errors import ConfigError, MemoryLimitError

if TYPE_CHECKING:
    from tvmerge import _core

# Called with (bytes moved so far, bytes to move in all), a few times a second.
Progress = Callable[[int, int], None]

MIB = 1024 * 1024
# Threads' stacks, allocator slack and Python's own growth during a run.
_RESERVE_BYTES = 24 * MIB
# All inputs' slices and the output's: fits the second-level cache or nearly so (docs/results.md).
_SLICE_BYTES = MIB
_BYTES_PER_THREAD = 12 * MIB
# Of pinned memory, through which a card reads and writes while it computes.
_BYTES_PER_THREAD_OF_CARDS = 24 * MIB
# Of input files' pages in the cache: as much as two threads look at, and will soon, in 11 files.
_MAPPED_BYTES = 320 * MIB
# The share of available memory that a merge's files may fill before they leave it again at once.
_CACHE_SHARE = 0.75
# Read and written between two records of the journal: what is lost at most when a run is cut off.
# Small enough to spread over machines; large enough that its start and its end, in which the disk
# waits, cost little: some hundredths of a second where many threads or a card move it in a fifth.
BATCH_BYTES = 2048 * MIB
# Outputs from this size on are flushed unless that is refused: the kernel does not hold so much for
# long on most machines, and who waits minutes for a merge expects it to stay (docs/design.md).
SYNC_FROM_BYTES = 4 * 1024 * MIB


@dataclass(frozen=True, slots=True)
class Workspace:
    """What the engine may use: threads, the bytes of their buffers together, cards.

    It stays in its process: open cards cannot be sent to another one, as RunOptions can.
    """

    threads: int
    slice_bytes: int
    buffer_bytes: int
    isa: str = ""
    # Whether files leave the page cache when they have been read and written.
    drop_behind: bool = False
    # The open cards that compute; none: the processor.
    cards: tuple[_core.Card, ...] = ()
    # What the whole process may hold; None: no limit.
    memory_mib: int | None = None

    @property
    def room_bytes(self) -> int:
        """What may be held now beside what the process holds, and beside the buffers.

        Without a limit that is a share of what is available. Raises MemoryLimitError for nothing.
        """
        if self.memory_mib is None:
            return int(_CACHE_SHARE * _available_bytes())
        return _left_bytes(self.memory_mib, self.cards) - self.buffer_bytes

    def mapped_bytes(self, beside_bytes: int = 0) -> int:
        """How much of the inputs may be mapped while so much more is held; perhaps nothing."""
        if self.memory_mib is None:
            return _MAPPED_BYTES
        with suppress(MemoryLimitError):
            return max(0, min(_MAPPED_BYTES, self.room_bytes - beside_bytes))
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a merge runs; none of it changes a byte of the result."""

    # What the whole process may hold; None: whatever it holds already, plus small buffers.
    memory_mib: int | None = None
    threads: int | None = None
    progress: Progress | None = None
    slice_bytes: int = _SLICE_BYTES
    isa: str = ""
    # Bytes moved between two points from which an interrupted merge goes on.
    batch_bytes: int = BATCH_BYTES
    # Return when the result is on the disk, rather than when the system has taken it; None: if it
    # is large.
    sync: bool | None = None
    # Discard what an earlier, unfinished merge into the same place has left.
    restart: bool = False
    # What computes (tvmerge.engine.devices): cpu, cuda, cuda:1, cuda:0,1, cuda:all.
    device: str = CPU
    # What may be taken of each card's memory; None: a share of what is free.
    device_memory_mib: int | None = None
    # The Ray cluster whose nodes share the work (tvmerge.fleet.fleet); None: this machine alone.
    ray_address: str | None = None

    def thread_count(self) -> int:
        """The threads to run: as asked, or one for each processor this process may use."""
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads {self.threads}: expected at least 1")
        return self.threads or len(os.sched_getaffinity(0))

    def buffer_bytes(self) -> int:
        """What the memory limit leaves for buffers, given what the process holds already."""
        each = _BYTES_PER_THREAD if self.device == CPU else _BYTES_PER_THREAD_OF_CARDS
        wanted = self.thread_count() * each
        if self.memory_mib is None:
            return wanted
        return min(_left_bytes(self.memory_mib, self.open_cards()), wanted)

    def flushes(self, output_bytes: int) -> bool:
        """Whether an output of this size is on the disk before it gets its name."""
        return output_bytes >= SYNC_FROM_BYTES if self.sync is None else self.sync

    def workspace(self, bytes_held: int = 0) -> Workspace:
        """What the engine may use, fixed now: the process grows a little while it runs.

        A run whose files (`bytes_held`) would fill memory leaves the page cache as it was: other
        programs' files are not pushed out of it. Raises DeviceError where the device cannot be
        used.
        """
        cards = self.open_cards()  # first: the process holds more then
        return Workspace(
            threads=self.thread_count(),
            slice_bytes=self.slice_bytes,
            buffer_bytes=self.buffer_bytes(),
            isa=self.isa,
            drop_behind=bytes_held > _CACHE_SHARE * _available_bytes(),
            cards=cards,
            memory_mib=self.memory_mib,
        )

    def open_cards(self) -> tuple[_core.Card, ...]:
        """The device's cards, opened once for the process; none for the processor."""
        return open_cards(self.device, self.device_memory_mib)

    def on_processor(self) -> RunOptions:
        """The same without cards: for work that only reads, or that others do."""
        return replace(self, device=CPU)


def _left_bytes(memory_mib: int, cards: Iterable[_core.Card]) -> int:
    """What a limit leaves, given what the process holds already."""
    with Path("/proc/self/statm").open() as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    # What cards have pinned for an earlier run is what this one uses.
    resident -= sum(card.pinned_bytes for card in cards)
    left = memory_mib * MIB - resident - _RESERVE_BYTES
    if left <= 0:
        raise MemoryLimitError(
            f"memory limit of {memory_mib} MiB: the process holds "
            f"{resident // MIB} MiB already. Give at least "
            f"{(resident + _RESERVE_BYTES) // MIB + 1} MiB"
        )
    return left


def _available_bytes() -> int:
    """The memory that programs and the page cache could still take, as the kernel estimates it."""
    with Path("/proc/meminfo").open() as file:
        values = dict(line.split(":", 1) for line in file)
    return int(values["MemAvailable"].split()[0]) * 1024
