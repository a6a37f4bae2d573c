"""Isotropic merging: the sum of deltas, all of whose directions are made equally strong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmerge.engine.decisions import Matrix
from tvmerge.errors import ConfigError
from tvmerge.methods.declaring import fraction
from tvmerge.methods.matrices import (
    as_matrix,
    joined,
    largest_value,
    of_matrices,
    orthogonal,
    svd,
    svd_operations,
    total,
)

if TYPE_CHECKING:
    import torch

    from tvmerge.plans.assembly import AssembledTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoC(Matrix):
    """`base + lambda * mean(s) U V^T`, `U diag(s) V^T = sum_i d_i`.

    Marczak et al., "No Task Left Behind", arXiv 2502.04959 (Iso-C).
    """

    method: ClassVar[str] = "iso_c"

    @property
    def operations(self) -> float:
        """Of one SVD."""
        return svd_operations(*self.shape)

    @property
    def held_bytes(self) -> int:
        """While the sum is decomposed."""
        rows, columns = self.shape
        short = min(self.shape)
        elements = (self.models + 2) * rows * columns + 2 * (rows + columns) * short
        return 8 * (elements + 5 * short**2)

    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        """The mean is that of the singular values that are not 0: their sum stays."""
        left, values, right = svd(total(deltas))
        return left @ right * mean(values)


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoCts(Matrix):
    """`base + lambda * mean(s) O(U) O(V)^T`, U = [U_0 U_1 ... U_n], s and V alike.

    Marczak et al. (Iso-CTS). The common space: the largest directions of the sum of
    deltas, a share `common` of all. Of each d_i - U_0 U_0^T d_i then an equal part of the rest; O
    is the nearest matrix with orthonormal columns.
    """

    method: ClassVar[str] = "iso_cts"
    common: float

    @property
    def operations(self) -> float:
        """Of the SVDs of the sum, of each delta, of U and of V; norms and projections beside it."""
        return (1.2 * self.models + 3) * svd_operations(*self.shape)

    @property
    def held_bytes(self) -> int:
        """While U or V is decomposed."""
        rows, columns = self.shape
        short = min(self.shape)
        elements = (self.models + 3) * rows * columns + 3 * (rows + columns) * short
        return 8 * (elements + 5 * short**2)

    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        """The rest is divided evenly, and what is over belongs to the common space."""
        size = min(self.shape)
        own = min(round((size - int(size * self.common)) / self.models), size // self.models)
        parts = [svd(total(deltas), size - own * self.models)]
        shared = parts[0].left
        for delta in deltas:
            rest = delta - shared @ (shared.T @ delta)
            parts.append(svd(rest, own, largest=largest_value(delta)))
        left, values, right = joined(parts)
        return orthogonal(left) @ orthogonal(right) * mean(values)


def mean(values: torch.Tensor) -> float:
    """0 of none."""
    return float(values.sum()) / max(1, len(values))


def iso_c(tensor: AssembledTensor) -> IsoC | None:
    """Of matrices alone."""
    return as_matrix(tensor, IsoC)


def iso_cts(tensor: AssembledTensor) -> IsoCts | None:
    """Of matrices alone; `common_space_fraction` is 0.8 in the paper."""
    common = float(tensor.parameters["common_space_fraction"])
    if common > 1:
        raise ConfigError(
            f"{tensor.name}: common_space_fraction is a share of all directions: expected 0 to 1, "
            f"found {common:g}"
        )
    return as_matrix(tensor, IsoCts, common=common)


ISO_C = of_matrices("iso_c", iso_c)
ISO_CTS = of_matrices(
    "iso_cts",
    iso_cts,
    of_merge=(fraction("common_space_fraction", default=0.8),),
)
