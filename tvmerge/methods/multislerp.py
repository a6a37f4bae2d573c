"""Spherical means of several models, by one step from their straight mean."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmerge.decisions import Blend, Gram
from tvmerge.errors import ConfigError
from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.deltas import WEIGHT, switch
from tvmerge.methods.sphere import along, norm, scaled, summed, towards, units

if TYPE_CHECKING:
    from tvmerge.assembly import AssembledTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiSlerp(Blend):
    """`exp_m(sum_k w_k log_m(u_k)) * sum_k w_k |x_k|`, with u_k = x_k / |x_k|.

    m is the direction of sum_k w_k u_k. Goddard, "MultiSLERP" (mergekit): one Riemannian step from
    the projected straight mean.
    """

    shares: tuple[float, ...]
    eps: float = 1e-8

    def weights(self, gram: Gram) -> list[float]:
        """Those of the straight mean where the directions cancel out."""
        points = units(gram)
        mean = summed([scaled(u, w) for u, w in zip(points, self.shares, strict=True)])
        length = norm(gram, mean)
        if length < self.eps:
            return list(self.shares)
        mean = scaled(mean, 1 / length)
        steps = [towards(gram, mean, u, margin=self.eps) for u in points]
        tangent = summed([scaled(s, w) for s, w in zip(steps, self.shares, strict=True)])
        size = sum(w * math.sqrt(gram[k][k]) for k, w in enumerate(self.shares))
        return scaled(along(gram, mean, tangent), size)


def multislerp(tensor: AssembledTensor) -> MultiSlerp:
    """Of the models, or with a base of their deltas from it."""
    numbers = tuple(n for n in range(len(tensor.inputs)) if n != tensor.base)
    weights = [float(tensor.inputs[n].parameters["weight"]) for n in numbers]
    if tensor.parameters["normalize_weights"]:
        whole = sum(weights)
        if whole == 0:
            raise ConfigError(
                f"{tensor.name}: the weights sum to 0, and are to be divided by their sum. "
                "Change them, or set normalize_weights to false"
            )
        weights = [weight / whole for weight in weights]
    eps = float(tensor.parameters["eps"])
    return MultiSlerp(inputs=numbers, base=tensor.base, shares=tuple(weights), eps=eps)


MULTISLERP = Method(
    name="multislerp",
    of_models=(WEIGHT,),
    of_merge=(
        switch("normalize_weights", default=True),
        Parameter(name="eps", kind=float, default=1e-8),
    ),
    fewest_models=2,
    may_have_base=True,
    decision=multislerp,
)
