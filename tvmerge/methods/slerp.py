"""Spherical interpolation of two models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Blend, Gram, Number
from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.elementwise import acos, cosine, sin, where

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor

# Nearer than this, in either direction, a straight line is taken.
_NEARLY_PARALLEL = 0.9995


@dataclass(frozen=True, slots=True, kw_only=True)
class Slerp(Blend):
    """`sin((1 - t) a) / sin a * x_0 + sin(t a) / sin a * x_1`, a being the angle between them.

    Shoemake, "Animating Rotation with Quaternion Curves", SIGGRAPH 1985.
    """

    t: float
    nearly_parallel: float = _NEARLY_PARALLEL

    def weights(self, gram: Gram) -> tuple[Number, Number]:
        """Of x_0 and x_1; of the straight line where they are nearly parallel, or one is 0."""
        near = cosine(gram, 0, 1, of_zero=1.0)
        straight = abs(near) > self.nearly_parallel
        angle = acos(where(straight, 0.0, near))
        whole = sin(angle)
        return (
            where(straight, 1 - self.t, sin((1 - self.t) * angle) / whole),
            where(straight, self.t, sin(self.t * angle) / whole),
        )


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
