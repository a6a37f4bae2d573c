"""Ethos: of a delta what is large in the directions of the base; the rest is general knowledge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, ClassVar

from tvmerge.engine.decisions import Matrix
from tvmerge.errors import ConfigError
from tvmerge.methods.declaring import Method, Parameter
from tvmerge.methods.deltas import LAMBDA, switch
from tvmerge.methods.matrices import Factors, as_matrix, svd, svd_operations
from tvmerge.methods.task_arithmetic import base_and_vectors

if TYPE_CHECKING:
    import torch

    from tvmerge.plans.assembly import AssembledInput, AssembledTensor

# No direction of the base is an error of rounding, as deltas' may be, but those of float64.
_EPSILON = 2.0**-52


@dataclass(frozen=True, slots=True, kw_only=True)
class Ethos(Matrix):
    """`base + lambda * (a + sum_i U F(U^T d_i V) V^T)`, `U diag(s) V^T = base + a`.

    Gao et al., "Ethos", arXiv 2403.08994: a is the sum of the deltas of general fine-tunes (those
    that are marked), d_i each of the others', and F leaves the elements above `xi` times the
    largest magnitude. To negate, the paper's `- lambda`, is to give a weight below 0.
    """

    method: ClassVar[str] = "ethos"
    sees_base: ClassVar[bool] = True
    xi: float

    @property
    def operations(self) -> float:
        """Of one SVD, and of each delta's way there and back."""
        rows, columns = self.shape
        return svd_operations(*self.shape) + 16.0 * self.models * rows * columns * min(self.shape)

    @property
    def held_bytes(self) -> int:
        """While base and auxiliary are decomposed, or a delta is."""
        rows, columns = self.shape
        short = min(self.shape)
        elements = (self.models + 8) * rows * columns + 2 * (rows + columns) * short
        return 8 * (elements + 5 * short**2)

    def merged(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """What is marked is added whole."""
        base, deltas = parts[0], list(zip(self.deltas, parts[1:], strict=True))
        found = base.new_zeros(base.shape)
        for delta, one in deltas:
            if delta.marked:
                found += one
        basis = svd(base + found, epsilon=_EPSILON)
        for delta, one in deltas:
            if not delta.marked:
                found += filtered(one, basis, self.xi)
        return found


def filtered(delta: torch.Tensor, basis: Factors, xi: float) -> torch.Tensor:
    """What of a delta is above `xi` times its largest part along pairs of directions.

    Beside the basis, where a longer side has more directions or the rank is lower, any other
    directions would be as good: there it is the length of what goes with a direction that counts.
    """
    left, _, right = basis
    inputs, outputs = delta @ right.T, left.T @ delta
    core = left.T @ inputs
    inputs -= left @ core
    outputs -= core @ right
    rest = delta - left @ (core @ right + outputs) - inputs @ right
    by_input, by_output, beside = inputs.norm(dim=0), outputs.norm(dim=1), rest.norm()
    sizes = (core, by_input, by_output, beside)
    least = xi * max(float(one.abs().max()) for one in sizes if one.numel())
    core *= core.abs() > least
    inputs *= by_input > least
    outputs *= (by_output > least)[:, None]
    rest *= beside > least
    return rest + left @ (core @ right + outputs) + inputs @ right


def ethos(tensor: AssembledTensor) -> Ethos | None:
    """Of matrices alone; `xi` is 0.03 in the authors' code."""
    xi = float(tensor.parameters["xi"])
    if xi >= 1:
        raise ConfigError(
            f"{tensor.name}: xi is a share of the largest magnitude, up to which elements are "
            f"dropped: expected less than 1, found {xi:g}"
        )
    general = {n for n, one in enumerate(tensor.inputs) if n != tensor.base and _general(one)}
    if len(general) == len(tensor.inputs) - 1:
        raise ConfigError(
            f"{tensor.name}: auxiliary is for general fine-tunes, whose delta stays whole: "
            f"expected a model without it, found none among {len(general)}. Leave it out where "
            "a delta is to be filtered"
        )
    made = as_matrix(tensor, Ethos, xi=xi)
    if made is None:
        return None
    deltas = tuple(replace(one, marked=one.source in general) for one in made.deltas)
    return replace(made, deltas=deltas)


def _general(one: AssembledInput) -> bool:
    return bool(one.parameters["auxiliary"])


def plain_sum(tensor: AssembledTensor) -> Sequence[Fraction]:
    """Task arithmetic: `base + lambda * sum_i w_i (x_i - base)`."""
    return base_and_vectors(tensor, Fraction(tensor.parameters["lambda"]))


ETHOS = Method(
    name="ethos",
    of_models=(
        Parameter(name="weight", kind=float, default=1.0),
        switch("auxiliary", default=False),
    ),
    of_merge=(LAMBDA, Parameter(name="xi", kind=float, default=0.03, least=0.0)),
    needs_base=True,
    decision=ethos,
    coefficients=plain_sum,
)
