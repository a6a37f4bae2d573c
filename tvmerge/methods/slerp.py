"""Spherical interpolation of two models."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmerge.decisions import Blend, Gram
from tvmerge.methods.declaring import Method, Parameter

if TYPE_CHECKING:
    from tvmerge.assembly import AssembledTensor

# Nearer than this, in either direction, a straight line is taken.
_NEARLY_PARALLEL = 0.9995


@dataclass(frozen=True, slots=True, kw_only=True)
class Slerp(Blend):
    """`sin((1 - t) a) / sin a * x_0 + sin(t a) / sin a * x_1`, a being the angle between them.

    Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985.
    """

    t: float
    nearly_parallel: float = _NEARLY_PARALLEL

    def weights(self, gram: Gram) -> tuple[float, float]:
        """Of x_0 and x_1; of the straight line where they are nearly parallel, or one is 0."""
        norms = math.sqrt(gram[0][0]) * math.sqrt(gram[1][1])
        cosine = max(-1.0, min(1.0, gram[0][1] / norms)) if norms > 0 else 1.0
        if abs(cosine) > self.nearly_parallel:
            return 1 - self.t, self.t
        angle = math.acos(cosine)
        whole = math.sin(angle)
        return math.sin((1 - self.t) * angle) / whole, math.sin(self.t * angle) / whole


def slerp(tensor: AssembledTensor) -> Slerp:
    """From the base (t = 0) to the other model (t = 1)."""
    assert tensor.base is not None
    (other,) = (number for number in range(len(tensor.inputs)) if number != tensor.base)
    return Slerp(inputs=(tensor.base, other), t=float(tensor.parameters["t"]))


SLERP = Method(
    name="slerp",
    of_merge=(Parameter(name="t", kind=float, required=True),),
    needs_base=True,
    most_models=1,
    decision=slerp,
)
