"""Fisher merging: the mean of models, each element weighted by its Fisher information."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar

from tvmerge.methods.declaring import Method, Parameter, Statistics
from tvmerge.methods.deltas import LAMBDA
from tvmerge.methods.weighed import WEIGHT, Weighed, informed_deltas, weighted_mean

if TYPE_CHECKING:
    import torch

    from tvmerge.plans.assembly import AssembledInput, AssembledTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Fisher(Weighed):
    """`base + lambda * sum_i w_i F_i d_i / sum_i w_i F_i`; the weighted mean where the sum is 0.

    Matena and Raffel, "Merging Models with Fisher-Weighted Averaging", arXiv 2111.09832: F_i the
    diagonal of the Fisher information. With lambda 1 the base cancels out. As 0 counts what is not
    above `epsilon`.
    """

    method: ClassVar[str] = "fisher"
    elementwise: ClassVar[bool] = True
    epsilon: float

    @property
    def operations(self) -> float:
        """Element by element, about six for each model."""
        rows, columns = self.shape
        return 6.0 * (self.models + 1) * rows * columns

    @property
    def held_bytes(self) -> int:
        """Deltas, statistics, mean, two sums and what is on its way to them."""
        rows, columns = self.shape
        return 8 * (2 * self.models + 6) * rows * columns

    def fault(self, statistic: torch.Tensor) -> str | None:
        """The information is a mean of squares."""
        return "values below 0" if bool((statistic < 0).any()) else None

    def merged(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """From the mean, so that what has no information stays there."""
        found = self.mean(parts)
        moved, whole = found.new_zeros(2, *found.shape)
        for weight, apart, statistic in self.apart(parts, found):
            moved.addcmul_(apart, statistic)
            whole.add_(statistic, alpha=weight)
        known = whole > self.epsilon
        found += (moved / whole.masked_fill_(~known, 1.0)).mul_(known)
        return found


def fisher(tensor: AssembledTensor) -> Fisher | None:
    """Of every tensor with elements."""
    shape, deltas = tensor.like.slot.entry.shape, informed_deltas(tensor)
    if not deltas or not prod(shape):
        return None
    assert tensor.base is not None
    columns = shape[-1] if shape else 1
    return Fisher(
        tensor.base,
        deltas,
        float(tensor.parameters["lambda"]),
        shape=(prod(shape) // columns, columns),
        models=len(deltas),
        epsilon=float(tensor.parameters["epsilon"]),
    )


def _shape(one: AssembledInput) -> tuple[int, ...]:
    return one.entry.shape


FISHER = Method(
    name="fisher",
    of_models=(WEIGHT,),
    of_merge=(LAMBDA, Parameter(name="epsilon", kind=float, default=0.0, least=0.0)),
    needs_base=True,
    statistics=Statistics(shape=_shape, everywhere=True),
    decision=fisher,
    coefficients=weighted_mean,
)
