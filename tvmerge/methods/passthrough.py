"""One model's tensors as they are, or scaled: for models made of other models' layers."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from tvmerge.methods.declaring import Method, Parameter

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


def passthrough(tensor: AssembledTensor) -> Sequence[Fraction]:
    """`scale * x`; without a scale a copy, byte for byte where the dtype stays."""
    return [Fraction(one.parameters["scale"]) for one in tensor.inputs]


PASSTHROUGH = Method(
    name="passthrough",
    of_models=(Parameter(name="scale", kind=float, default=1.0),),
    most_models=1,
    coefficients=passthrough,
)
