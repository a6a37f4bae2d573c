"""The weighted mean of models."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

from tvmerge.errors import ConfigError
from tvmerge.methods.declaring import Method, Parameter

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


def linear(tensor: AssembledTensor) -> Sequence[Fraction]:
    """`sum_i w_i x_i`, divided by `sum_i w_i` unless the recipe sets `normalize: false`.

    Wortsman et al., "Model soups", arXiv 2203.05482. The base, listed or not, gives layout,
    dtypes and tokenizer; its weights count only where it is listed.
    """
    weights = [Fraction(one.parameters["weight"]) for one in tensor.inputs]
    if not tensor.parameters["normalize"]:
        return weights
    total = sum(weights, Fraction(0))
    if total == 0:
        raise ConfigError(
            f"{tensor.name}: the weights sum to 0, and are to be divided by their sum. "
            "Change them, or set normalize to false"
        )
    return [weight / total for weight in weights]


LINEAR = Method(
    name="linear",
    of_models=(Parameter(name="weight", kind=float, required=True),),
    of_merge=(Parameter(name="normalize", kind=bool, default=True),),
    coefficients=linear,
)
