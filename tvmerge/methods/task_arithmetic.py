"""Task arithmetic: a base plus scaled task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from tvmerge.methods.declaring import Method, Parameter

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor

_LEAST_DIVISOR = 1e-8  # below it mergekit does not divide, and neither does this


def task_arithmetic(tensor: AssembledTensor) -> Sequence[Fraction]:
    """`base + lambda * sum_i w_i (x_i - base) / D`, D = 1, or `sum_i w_i` with `normalize: true`.

    Ilharco et al., "Editing Models with Task Arithmetic", arXiv 2212.04089. A base among the
    models adds nothing, whatever its weight: its task vector is zero. Negative weights that are
    normalised cancel their own sign (as in mergekit): the default is not to normalise.
    """
    total = sum(_weights(tensor), Fraction(0))
    factor = Fraction(tensor.parameters["lambda"])
    if tensor.parameters["normalize"] and abs(total) >= _LEAST_DIVISOR:
        factor /= total
    return base_and_vectors(tensor, factor)


def base_and_vectors(tensor: AssembledTensor, factor: Fraction) -> Sequence[Fraction]:
    """`base + factor * sum_i w_i (x_i - base)`."""
    scaled = [factor * weight for weight in _weights(tensor)]
    rest = 1 - sum(scaled, Fraction(0))
    return [rest if number == tensor.base else c for number, c in enumerate(scaled)]


def _weights(tensor: AssembledTensor) -> Sequence[Fraction]:
    return [
        Fraction(0) if number == tensor.base else Fraction(one.parameters["weight"])
        for number, one in enumerate(tensor.inputs)
    ]


TASK_ARITHMETIC = Method(
    name="task_arithmetic",
    of_models=(Parameter(name="weight", kind=float, required=True),),
    of_merge=(
        Parameter(name="lambda", kind=float, default=1.0),
        Parameter(name="normalize", kind=bool, default=False),
    ),
    needs_base=True,
    coefficients=task_arithmetic,
)
