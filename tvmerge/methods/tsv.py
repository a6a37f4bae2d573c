"""TSV-Merge: of each delta the largest singular vectors, made orthogonal to those of the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmerge.engine.decisions import Matrix
from tvmerge.methods.matrices import (
    as_matrix,
    joined,
    of_matrices,
    orthogonal,
    svd,
    svd_operations,
)

if TYPE_CHECKING:
    import torch

    from tvmerge.plans.assembly import AssembledTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Tsv(Matrix):
    """`base + lambda * O(U) diag(s) O(V)^T`, U = [U_1 ... U_n], s and V alike.

    Gargiulo et al., "Task Singular Vectors", arXiv 2412.00081 (TSV-M): of each delta
    the min(rows, columns) / n largest singular values (rounded down) with their vectors; O is the
    nearest matrix with orthonormal columns (orthogonal Procrustes).
    """

    method: ClassVar[str] = "tsv"

    @property
    def operations(self) -> float:
        """Of the SVD of each delta, of U and of V."""
        return (self.models + 2) * svd_operations(*self.shape)

    @property
    def held_bytes(self) -> int:
        """While U or V is decomposed."""
        rows, columns = self.shape
        short = min(self.shape)
        elements = (self.models + 2) * rows * columns + 3 * (rows + columns) * short
        return 8 * (elements + 5 * short**2)

    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of each delta an equal share of all directions."""
        each = min(self.shape) // self.models
        left, values, right = joined([svd(delta, each) for delta in deltas])
        return orthogonal(left) * values @ orthogonal(right)


def tsv(tensor: AssembledTensor) -> Tsv | None:
    """Of matrices alone."""
    return as_matrix(tensor, Tsv)


TSV = of_matrices("tsv", tsv)
