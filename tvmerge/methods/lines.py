"""LiNeS: task arithmetic whose scale grows linearly with the depth of the layer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.task_arithmetic import base_and_vectors

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


def lines(tensor: AssembledTensor) -> Sequence[Fraction]:
    """`base + lambda * (alpha + beta t) * sum_i w_i (x_i - base)`, t = l / (L - 1) in layer l of L.

    Wang et al., "LiNeS: Post-training Layer Scaling Prevents Forgetting and Enhances Model
    Merging", arXiv 2410.17146. Layers count from 0. What lies outside them (embeddings, final
    norm, head) is scaled by alpha, as in the authors' code; their alpha of one task is 1 - beta,
    of several 1 / (number of tasks).
    """
    alpha, beta, factor = (Fraction(tensor.parameters[k]) for k in ("alpha", "beta", "lambda"))
    return base_and_vectors(tensor, factor * (alpha + beta * Fraction(tensor.place or 0)))


LINES = Method(
    name="lines",
    of_models=(Parameter(name="weight", kind=float, required=True),),
    of_merge=(
        Parameter(name="alpha", kind=float, default=0.0),
        Parameter(name="beta", kind=float, default=1.0),
        Parameter(name="lambda", kind=float, default=1.0),
    ),
    needs_base=True,
    coefficients=lines,
)
