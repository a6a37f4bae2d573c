"""WUDI-Merging: the delta that least disturbs each model along its own delta's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmerge.engine.decisions import Matrix
from tvmerge.methods.declaring import Parameter
from tvmerge.methods.matrices import as_matrix, of_matrices, total

if TYPE_CHECKING:
    import torch

    from tvmerge.plans.assembly import AssembledTensor

_BETAS = 0.9, 0.999
_LEAST_DIVISOR = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Wudi(Matrix):
    """`base + lambda * m`, m near the least of `sum_i |(m - d_i) d_i^T|^2 / |d_i|^2` (Frobenius).

    Cheng et al., "Whoever Started the Interference Should End It", arXiv 2503.08099: `iterations`
    steps of Adam from sum_i d_i.
    """

    method: ClassVar[str] = "wudi"
    iterations: int
    rate: float

    @property
    def operations(self) -> float:
        """Of the products; Adam's own beside them, as if each element took 30."""
        rows, columns = self.shape
        whole = 4.0 * self.models * rows * columns**2
        return whole + self.iterations * rows * columns * (2.0 * columns + 30)

    @property
    def held_bytes(self) -> int:
        """While Adam is prepared."""
        rows, columns = self.shape
        return 8 * ((self.models + 10) * rows * columns + 3 * columns**2)

    def merged(self, deltas: Sequence[torch.Tensor]) -> torch.Tensor:
        """A delta of 0 disturbs nobody.

        With m = x + sum_i d_i the gradient is 2 (x G + R), G the sum of G_i = d_i^T d_i / |d_i|^2,
        R that of (sum_j d_j - d_i) G_i: one product for each step, for any number of models. It is
        0 to the last bit where nobody is disturbed: Adam would make steps of any rounding error.
        """
        start = total(deltas)
        spread = start.new_zeros(start.shape[1], start.shape[1])
        moved, push, gradient, first, second, divisor = start.new_zeros(6, *start.shape)
        for delta in deltas:
            norm_sq = float(delta.square().sum())
            if norm_sq > 0:
                own = (delta.T @ delta).div_(norm_sq)
                spread += own
                push.addmm_(start - delta, own)
        one, two = _BETAS
        for step in range(1, self.iterations + 1):
            gradient.copy_(push).addmm_(moved, spread, beta=2, alpha=2)
            first.mul_(one).add_(gradient, alpha=1 - one)
            second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
            divisor.copy_(second).div_(1 - two**step).sqrt_().add_(_LEAST_DIVISOR)
            moved.addcdiv_(first, divisor, value=-self.rate / (1 - one**step))
        start += moved
        return start


def wudi(tensor: AssembledTensor) -> Wudi | None:
    """Of matrices alone; steps and rate are those of the authors."""
    iterations = int(tensor.parameters["iterations"])
    rate = float(tensor.parameters["learning_rate"])
    return as_matrix(tensor, Wudi, iterations=iterations, rate=rate)


WUDI = of_matrices(
    "wudi",
    wudi,
    of_merge=(
        Parameter(name="iterations", kind=float, default=300.0, least=0.0),
        Parameter(name="learning_rate", kind=float, default=1e-5, least=0.0),
    ),
)
