"""The Karcher mean: the point of the sphere that is nearest to all models' directions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Blend, Gram
from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.sphere import along, norm, scaled, summed, towards, units

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor

_MARGIN = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Karcher(Blend):
    """`u * mean_k |x_k|`, u such that `sum_k log_u(x_k / |x_k|) = 0`, by fixed-point iteration.

    Karcher, "Riemannian center of mass and mollifier smoothing", 1977. Models that are 0 (of a norm
    up to the tolerance) have no direction, and count in the mean norm only.
    """

    most_steps: int = 10
    tolerance: float = 1e-5

    def weights(self, gram: Gram) -> list[float]:
        """0 where all are 0; those of the straight mean where the directions cancel out."""
        size = len(gram)
        lengths = [math.sqrt(gram[k][k]) for k in range(size)]
        held = [k for k in range(size) if lengths[k] > self.tolerance]
        if not held:
            return [0.0] * size
        directions = units(gram)
        points = [directions[k] for k in held]
        mean = scaled(summed(points), 1 / len(held))
        length = norm(gram, mean)
        if length == 0 or length < self.tolerance:
            return [1 / size] * size
        mean = scaled(mean, 1 / length)
        for _ in range(self.most_steps):
            steps = [towards(gram, mean, unit, margin=_MARGIN) for unit in points]
            tangent = scaled(summed(steps), 1 / len(held))
            if norm(gram, tangent) < self.tolerance:
                break
            mean = along(gram, mean, tangent)
            mean = scaled(mean, 1 / norm(gram, mean))
        return scaled(mean, sum(lengths) / size)


def karcher(tensor: AssembledTensor) -> Karcher:
    """Of all models, with equal weights."""
    return Karcher(
        inputs=tuple(range(len(tensor.inputs))),
        most_steps=int(tensor.parameters["max_iter"]),
        tolerance=float(tensor.parameters["tol"]),
    )


KARCHER = Method(
    name="karcher",
    of_merge=(
        Parameter(name="max_iter", kind=float, default=10.0, least=0.0),
        Parameter(name="tol", kind=float, default=1e-5, least=0.0),
    ),
    fewest_models=2,
    decision=karcher,
)
