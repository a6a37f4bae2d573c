"""RegMean: the linear layer that comes nearest to what each model's own makes of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tvmerge.errors import ConfigError, FormatError
from tvmerge.methods.declaring import Method, Statistics, fraction
from tvmerge.methods.deltas import LAMBDA
from tvmerge.methods.matrices import divided
from tvmerge.methods.weighed import WEIGHT, Weighed, informed_deltas, weighted_mean

if TYPE_CHECKING:
    import torch

    from tvmerge.plans.assembly import AssembledInput, AssembledTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RegMean(Weighed):
    """`base + lambda * (sum_i w_i d_i G_i) (sum_i w_i G_i)^-1`, d_i as (outputs, inputs).

    Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", arXiv 2212.09849:
    G_i = X_i^T X_i of a layer's inputs X_i, all but its diagonal multiplied by `alpha`. With lambda
    1 the base cancels out. Inputs that are 0 in all models have the weighted mean.
    """

    method: ClassVar[str] = "regmean"
    alpha: float

    @property
    def statistic_shape(self) -> tuple[int, int]:
        """G_i is (inputs, inputs)."""
        return self.shape[1], self.shape[1]

    @property
    def operations(self) -> float:
        """Of the products, the Cholesky factor and two triangular solves."""
        rows, columns = self.shape
        return 2.0 * (self.models + 1) * rows * columns**2 + columns**3 / 3

    @property
    def held_bytes(self) -> int:
        """While the sum is divided; statistics are held as long as deltas."""
        rows, columns = self.shape
        return 8 * ((self.models + 6) * rows * columns + (self.models + 5) * columns**2)

    def fault(self, statistic: torch.Tensor) -> str | None:
        """What no X^T X is."""
        if bool((statistic.diagonal() < 0).any()):
            return "values below 0 in the diagonal"
        if not statistic.allclose(statistic.T, rtol=1e-2, atol=1e-3 * float(statistic.abs().max())):
            return "another matrix than its transpose"
        return None

    def merged(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """From the mean: `mean + (sum_i w_i (d_i - mean) G_i) (sum_i w_i G_i)^-1`."""
        found = self.mean(parts)
        moved = found.new_zeros(found.shape)
        whole = found.new_zeros(self.statistic_shape)
        for weight, apart, statistic in self.apart(parts, found):
            own = statistic * self.alpha
            own.diagonal().copy_(statistic.diagonal())
            moved.addmm_(apart, own)
            whole.add_(own, alpha=weight)
        change = divided(moved, whole)
        if change is None:
            raise FormatError(
                "the models' statistics sum to a matrix that is no X^T X: it has a negative "
                "eigenvalue. Compute them again, in float32 or wider"
            )
        found += change
        return found


def regmean(tensor: AssembledTensor) -> RegMean | None:
    """Of matrices that have statistics."""
    alpha = float(tensor.parameters["alpha"])
    if alpha >= 1:
        raise ConfigError(
            f"{tensor.name}: alpha multiplies what of the statistics lies beside the diagonal, and "
            f"with 1 they may have no inverse: expected 0 or more, below 1, found {alpha:g}"
        )
    shape, deltas = tensor.like.slot.entry.shape, informed_deltas(tensor)
    if not deltas or len(shape) != 2 or not min(shape):
        return None
    assert tensor.base is not None
    turned = tensor.inputs[tensor.base].turned
    rows, columns = reversed(shape) if turned else shape
    scale, models = float(tensor.parameters["lambda"]), len(deltas)
    return RegMean(
        tensor.base, deltas, scale, shape=(rows, columns), models=models, turned=turned, alpha=alpha
    )


def _shape(one: AssembledInput) -> tuple[int, ...] | None:
    shape = one.entry.shape
    return (shape[0 if one.turned else 1],) * 2 if len(shape) == 2 else None


REGMEAN = Method(
    name="regmean",
    of_models=(WEIGHT,),
    of_merge=(LAMBDA, fraction("alpha", default=0.9)),
    needs_base=True,
    statistics=Statistics(shape=_shape, everywhere=False),
    decision=regmean,
    coefficients=weighted_mean,
)
