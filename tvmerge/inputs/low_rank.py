"""Computes what an adapter adds to a tensor, in blocks of some rows.

No more than one tensor's factors and one block are in memory. The products are summed in float64
(csrc/kernels/kernels_low_rank.hpp) and rounded once.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tvmerge import _core
from tvmerge.checkpoints.stored import Stored
from tvmerge.files.computed import Sources, address, zeros
from tvmerge.files.safetensors import Entry
from tvmerge.inputs.adapter import Product, Target

_BLOCK_ELEMENTS = 2**21  # 8 MiB of float32


@dataclass(frozen=True, slots=True)
class Added:
    """What the adapter at `file` adds to a tensor, or (`tuned`) the base's tensor with it added.

    `base` is needed for the latter, and for targets of which whole tensors were saved.
    """

    target: Target
    file: Path
    base: Stored | None
    tuned: bool

    @property
    def name(self) -> str:
        """That of the base's tensor."""
        return self.target.name

    @property
    def dtype(self) -> str:
        """float32, whatever the factors are."""
        return "F32"

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the base's tensor."""
        return self.target.shape

    def blocks(self, sources: Sources) -> Iterator[array[float]]:
        """The tensor in float32, some rows at a time."""
        rows, columns = (*self.shape, 1)[0], math.prod(self.shape[1:])
        terms = self._terms()
        factors = [(one, *self._factors(one, sources)) for one in self.target.products]
        step = max(1, _BLOCK_ELEMENTS // max(1, columns))
        for start in range(0, rows, step):
            count = min(step, rows - start)
            block = zeros(count * columns)
            here = start * columns
            read = [(sources.read(f, e, here, len(block)), e.dtype, c) for f, e, c in terms]
            sources.combine([(address(data), dtype, c) for data, dtype, c in read], block)
            for product, left, right in factors:
                _core.add_low_rank(
                    address(block),
                    address(left) + start * product.rank * left.itemsize,
                    address(right),
                    rows=count,
                    rank=product.rank,
                    columns=columns,
                    scale=product.scale,
                    threads=sources.threads,
                )
            yield block

    def _terms(self) -> list[tuple[Path, Entry, float]]:
        """The file, the place and the coefficient of all that is added as it lies there."""
        terms = [(self.file, entry, 1.0) for entry in self.target.saved]
        terms += [(self.file, entry, scale) for entry, scale in self.target.vectors]
        weight = float(self.tuned) - len(self.target.saved)
        if weight:
            assert self.base is not None
            file, entry = self.base.slots[self.name]
            terms.insert(0, (file, entry, weight))
        return terms

    def _factors(self, product: Product, sources: Sources) -> tuple[array[float], array[float]]:
        """The left factor (rows, rank) and the right one (rank, columns), in float32."""
        a, b = (sources.floats(self.file, entry) for entry in (product.a, product.b))
        if not product.transposed:
            return b, a
        return _transposed(a, product.rank), _transposed(b, len(b) // product.rank)


def _transposed(matrix: array[float], rows: int) -> array[float]:
    columns = len(matrix) // max(1, rows)
    if rows > columns:  # a slice for each row or each column, whichever are fewer
        found = array("f")
        for column in range(columns):
            found += matrix[column::columns]
        return found
    found = zeros(len(matrix))
    for row in range(rows):
        found[row::rows] = matrix[row * columns : (row + 1) * columns]
    return found
