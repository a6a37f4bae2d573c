"""What a merge consists of, as plain values: ranges of files to combine, to copy, to read.

They become the engine's objects only when a batch of them runs, perhaps on another machine.
Named tuples: there are many for every tensor, and a frozen dataclass takes five times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tvmerge import _core
from tvmerge.engine.decisions import Decision, Matrix
from tvmerge.files.safetensors import DTYPE_BITS

# A part's size does not show in any result. Parts begin at multiples of 64 bytes, of which the
# digests are made, and are powers of two, of which an edit's sums are (edit.py).
PART_ELEMENTS = 2**26
PART_BYTES = 2**26
# Of what torch merges element by element, in float64 and several times over.
MERGED_PART_ELEMENTS = 2**21


class Range(NamedTuple):
    """A tensor, or a part of one, in an input file (by its number in the plan)."""

    file: int
    offset_bytes: int
    dtype: str
    # Whether its bytes count in the digest of its file: where several jobs read it, one counts.
    digested: bool

    def moved(self, by_bytes: int) -> Range:
        """The range that begins so much later."""
        return self._replace(offset_bytes=self.offset_bytes + by_bytes)


class Result(NamedTuple):
    """One weighted sum of a job's sources, and its place in an output file."""

    file: int
    offset_bytes: int
    dtype: str
    # The number of the source that it is compared with, or ZERO.
    reference: int
    coefficients: tuple[float, ...]  # one for each source; 0: no term
    # What is in place of the coefficients once the sources have been measured; then None, or the
    # engine's own.
    decision: Decision | _core.Consensus | _core.LineCoefficients | None = None


ZERO = -2  # csrc/engine/job.hpp


class Beside(NamedTuple):
    """What a decision needs that has not as many elements as the sources."""

    source: Range
    elements: int

    @property
    def size_bytes(self) -> int:
        """The bytes that it takes."""
        return size_bytes(self.source.dtype, self.elements)


class Combine(NamedTuple):
    """Reads the sources of one tensor once and writes a weighted sum for every result."""

    tensor: str
    sources: tuple[Range, ...]
    elements: int
    results: tuple[Result, ...]
    beside: tuple[Beside, ...] = ()  # known to decisions by the numbers after those of the sources

    @property
    def bytes_read(self) -> int:
        """The size of all sources, as often as they are read, and of what is read beside them."""
        return self._once + self.bytes_measured

    @property
    def bytes_measured(self) -> int:
        """What of it is read before the sum."""
        return self._once * (self.passes - 1) + sum([one.size_bytes for one in self.beside])

    @property
    def bytes_held(self) -> int:
        """What the page cache would hold of it: all that is read and the results, each once."""
        return self._once + sum([one.size_bytes for one in self.beside]) + self.bytes_written

    @property
    def _once(self) -> int:
        return self.elements * sum([DTYPE_BITS[source.dtype] for source in self.sources]) // 8

    @property
    def passes(self) -> int:
        """How often the sources are read: more than once where they are measured first."""
        decisions = [result.decision for result in self.results]
        return max([1, *[one.passes for one in decisions if isinstance(one, Decision)]])

    @property
    def bytes_written(self) -> int:
        """The size of all results."""
        return self.elements * sum([DTYPE_BITS[result.dtype] for result in self.results]) // 8

    def parts(self, elements: int = PART_ELEMENTS) -> Iterator[Combine]:
        """The job cut into parts of `elements`; the last one may be smaller.

        What has to be measured stays whole, unless it is merged element by element.
        """
        decisions = [result.decision for result in self.results if result.decision]
        if all(isinstance(one, Matrix) and one.elementwise for one in decisions):
            most = min(elements, MERGED_PART_ELEMENTS) if decisions else elements
        else:
            most = self.elements
        if self.elements <= most:
            yield self
            return
        for start in range(0, self.elements, most):
            yield self._part(start, min(most, self.elements - start))

    def _part(self, start: int, elements: int) -> Combine:
        return Combine(
            self.tensor,
            tuple(source.moved(size_bytes(source.dtype, start)) for source in self.sources),
            elements,
            tuple(
                r._replace(
                    offset_bytes=r.offset_bytes + size_bytes(r.dtype, start),
                    decision=r.decision.of_part(elements)
                    if isinstance(r.decision, Matrix)
                    else None,
                )
                for r in self.results
            ),
            tuple(
                Beside(one.source.moved(size_bytes(one.source.dtype, start)), elements)
                for one in self.beside
            ),
        )


class Copy(NamedTuple):
    """Copies a tensor's bytes to any number of (output file, offset); none: it is only read.

    `same_as` are ranges that should hold the same bytes.
    """

    tensor: str
    source: Range
    size_bytes: int
    targets: tuple[tuple[int, int], ...]
    same_as: tuple[Range, ...]

    @property
    def bytes_read(self) -> int:
        """The bytes of the source and of all that it is compared with."""
        return self.size_bytes * (1 + len(self.same_as))

    @property
    def bytes_held(self) -> int:
        """What the page cache would hold of it."""
        return self.bytes_read + self.bytes_written

    @property
    def bytes_written(self) -> int:
        """The bytes of all targets."""
        return self.size_bytes * len(self.targets)

    def parts(self, part_bytes: int = PART_BYTES) -> Iterator[Copy]:
        """The job cut into parts of `part_bytes`; the last one may be smaller."""
        if self.size_bytes <= part_bytes:
            yield self
            return
        for start in range(0, self.size_bytes, part_bytes):
            yield Copy(
                self.tensor,
                self.source.moved(start),
                min(part_bytes, self.size_bytes - start),
                tuple((file, offset + start) for file, offset in self.targets),
                tuple(other.moved(start) for other in self.same_as),
            )


Job = Combine | Copy


def size_bytes(dtype: str, elements: int) -> int:
    """The bytes that so many elements take."""
    return elements * DTYPE_BITS[dtype] // 8
