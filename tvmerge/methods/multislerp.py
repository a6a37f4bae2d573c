"""MultiSLERP: the mean of several models' directions, and of their norms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Blend, Gram
from tvmerge.errors import ConfigError
from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.deltas import WEIGHT, switch
from tvmerge.methods.sphere import norm, scaled

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiSlerp(Blend):
    """`m * sum_k w_k |x_k|`, m the direction of `sum_k w_k x_k / (|x_k| + eps)`.

    Goddard, "Multi-SLERP", as mergekit 0.1.5 has it. It then goes on along the sum of w_k times the
    projection of each direction on the tangent at m: that sum is 0, since m is the direction of
    their sum.
    """

    shares: tuple[float, ...]
    eps: float = 1e-8

    def weights(self, gram: Gram) -> list[float]:
        """Those of the straight mean where the directions cancel out."""
        lengths = [math.sqrt(gram[k][k]) for k in range(len(gram))]
        pairs = list(zip(self.shares, lengths, strict=True))
        mean = [w / (length + self.eps) if length > 0 else 0.0 for w, length in pairs]
        whole = norm(gram, mean)
        if whole == 0 or whole < self.eps:
            return list(self.shares)
        return scaled(mean, sum(w * length for w, length in pairs) / whole)


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
        Parameter(name="eps", kind=float, default=1e-8, least=0.0),
    ),
    fewest_models=2,
    may_have_base=True,
    decision=multislerp,
)
