"""PCB-Merging: of each delta the elements that win the competition with the others', averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmerge.engine.decisions import Matrix
from tvmerge.errors import ConfigError
from tvmerge.methods.declaring import Parameter
from tvmerge.methods.deltas import share
from tvmerge.methods.matrices import as_rows, of_matrices

if TYPE_CHECKING:
    import torch

    from tvmerge.plans.assembly import AssembledTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Pcb(Matrix):
    """`base + lambda * sum_i b_i d_i / sum_i b_i`, element by element; 0 where all b_i are 0.

    Du et al., "Parameter Competition Balancing for Model Merging", arXiv 2410.02396: of the scores
    `softmax(n norm(d_i d_i)) * sum_j softmax(norm(d_i d_j))` of n deltas the `ratio` largest are
    kept, the others are 0, and b_i is what is kept divided by its largest. Products are those of
    elements; norm brings a tensor to 0 to 1, softmax is over all of it.
    """

    method: ClassVar[str] = "pcb"
    ratio: float

    @property
    def operations(self) -> float:
        """Of the softmax of each pair, as if each element took 30, and of the selection."""
        rows, columns = self.shape
        return rows * columns * self.models * (30.0 * self.models + 60)

    @property
    def held_bytes(self) -> int:
        """While elements are selected."""
        rows, columns = self.shape
        return 8 * (self.models + 6) * rows * columns

    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        """A delta of 0 does not compete. Elements with the last score that is kept all are."""
        moved = [delta.flatten() for delta in deltas if delta.any()]
        found = deltas[0].new_zeros(deltas[0].numel())
        weights = found.clone()
        for delta in moved:
            score = delta.new_zeros(delta.shape)
            for other in moved:
                score += _softmax(delta, other)
            score *= _softmax(delta, delta, len(moved))
            dropped = len(score) - share(self.ratio, len(score))
            score[score < score.kthvalue(dropped + 1).values] = 0
            score /= score.max()
            found.addcmul_(delta, score)
            weights += score
        found /= weights.masked_fill_(weights == 0, 1)
        return found.view_as(deltas[0])


def _softmax(one: torch.Tensor, other: torch.Tensor, times: int = 1) -> torch.Tensor:
    """Of `times` the elements' products, brought to 0 to 1; equal ones are 0."""
    product = one * other
    least, most = product.aminmax()
    if most > least:
        product.sub_(least).div_(most - least).mul_(times)
    else:
        product.zero_()
    return product.softmax(0)


def pcb(tensor: AssembledTensor) -> Pcb | None:
    """Of all tensors; `ratio` is 0.1 in the authors' code."""
    ratio = float(tensor.parameters["ratio"])
    if not 0 < ratio <= 1:
        raise ConfigError(
            f"{tensor.name}: ratio is the share of each delta's elements that are kept: expected "
            f"more than 0 and 1 at most, found {ratio:g}"
        )
    return as_rows(tensor, Pcb, ratio=ratio)


PCB = of_matrices("pcb", pcb, of_merge=(Parameter(name="ratio", kind=float, default=0.1),))
