"""What the engine finds out of one batch's files before it writes: decisions depend on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from tvmerge import _core
from tvmerge.engine.jobs import Combine, Range
from tvmerge.engine.run_options import MIB, Workspace
from tvmerge.errors import MemoryLimitError

T = TypeVar("T")


class Engine:
    """`inputs` are the files' paths by the plan's numbers."""

    def __init__(
        self,
        inputs: Mapping[int, str],
        workspace: Workspace,
        progress: Callable[[int], None] | None,
    ) -> None:
        self._progress = progress
        self.moved = 0  # bytes, by all measurements so far
        self._paths = list(inputs.values())
        self._files = {number: here for here, number in enumerate(inputs)}
        self.workspace = workspace
        self._beside_bytes = 0  # what measurements leave in memory

    def path(self, place: Range) -> str:
        """The file in which a source lies."""
        return self._paths[self._files[place.file]]

    def sources(self, job: Combine) -> list[_core.Source]:
        """What the job reads, as measurements take it."""
        return [
            _core.Source(self._files[place.file], place.offset_bytes, place.dtype)
            for place in job.sources
        ]

    def check_room(self, size_bytes: int) -> None:
        """What measurements leave in memory fits beside the buffers; else MemoryLimitError."""
        self._beside_bytes += size_bytes
        if not size_bytes or self.workspace.memory_mib is None:
            return
        left = self.workspace.room_bytes
        if size_bytes > left:
            raise MemoryLimitError(
                f"coefficients of rows or columns take {size_bytes // MIB + 1} MiB, and the memory "
                f"limit leaves {left // MIB} MiB for them. Raise it by the difference"
            )

    def take_spare(self, most: int) -> int:
        """How many of `most` bytes may be held beside the buffers from now on; perhaps none."""
        try:
            taken = max(0, min(most, self.workspace.room_bytes))
        except MemoryLimitError:
            return 0
        self._beside_bytes += taken
        return taken

    def run(
        self, measure: Callable[..., list[T]], jobs: Sequence[Any], *, on_cards: bool = True
    ) -> list[T]:
        """One native measurement of all jobs."""
        if not jobs:
            return []
        held, before = self.workspace, self.moved

        def tell(moved: int) -> None:
            self.moved = before + moved
            if self._progress is not None:
                self._progress(self.moved)

        return measure(
            self._paths,
            jobs,
            threads=held.threads,
            buffer_bytes=held.buffer_bytes,
            mapped_bytes=held.mapped_bytes(self._beside_bytes),
            isa=held.isa,
            drop_behind=held.drop_behind,
            progress=tell,
            cards=held.cards if on_cards else (),
        )

    def combine(self, job: Combine, into: Sequence[tuple[int, int]]) -> None:
        """Compute the job by one thread into memory: an (address, size in bytes) for each result.

        May be called by several threads at once. It is not counted: see `tell_more`.
        """
        _core.merge(
            self._paths,
            list(into),
            [_core.CombineJob.planned(job, self._files, {n: n for n in range(len(into))})],
            [],
            threads=1,
            slice_bytes=self.workspace.slice_bytes,
            buffer_bytes=self.workspace.buffer_bytes // self.workspace.threads,
            isa=self.workspace.isa,
            drop_behind=self.workspace.drop_behind,
        )

    def tell_more(self, size_bytes: int) -> None:
        """So many bytes more are read."""
        self.moved += size_bytes
        if self._progress is not None:
            self._progress(self.moved)
