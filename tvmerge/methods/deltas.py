"""What the methods that mask deltas have in common: their parameters, and their sum."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Consensus, Delta, Keep
from tvmerge.methods.declaring import Method, Parameter, fraction

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledInput, AssembledTensor

WEIGHT = Parameter(name="weight", kind=float, required=True)
DENSITY = fraction("density", default=1.0)
LAMBDA = Parameter(name="lambda", kind=float, default=1.0)
SEED = Parameter(name="seed", kind=float, default=0.0)
_LEAST_DIVISOR = 1e-8


def switch(name: str, *, default: bool) -> Parameter:
    """A parameter that is true or false."""
    return Parameter(name=name, kind=bool, default=default)


def masking(
    name: str,
    decision: Callable[[AssembledTensor], Consensus],
    *,
    normalize: bool,
    rescale: bool,
    of_models: tuple[Parameter, ...] = (),
    of_merge: tuple[Parameter, ...] = (),
) -> Method:
    """A method that masks deltas, with what all of them take beside its own parameters."""
    return Method(
        name=name,
        of_models=(WEIGHT, DENSITY, *of_models),
        of_merge=(
            LAMBDA,
            switch("normalize", default=normalize),
            switch("rescale", default=rescale),
            *of_merge,
        ),
        needs_base=True,
        decision=decision,
    )


def _all(_one: AssembledInput, _number: int) -> Keep:
    return Keep()


def deltas_of(
    tensor: AssembledTensor, keep: Callable[[AssembledInput, int], Keep] = _all
) -> tuple[Delta, ...]:
    """The weighted deltas of all inputs but the base; `keep` says what takes part in each."""
    return tuple(
        Delta(number, float(one.parameters["weight"]), keep(one, number))
        for number, one in enumerate(tensor.inputs)
        if number != tensor.base
    )


def consensus_of(
    tensor: AssembledTensor, keep: Callable[[AssembledInput, int], Keep], *, elect: bool
) -> Consensus:
    """The sum of `deltas_of`; with `normalize`, without election, divided by that of |weight|."""
    assert tensor.base is not None
    deltas = deltas_of(tensor, keep)
    scale, normalize = float(tensor.parameters["lambda"]), bool(tensor.parameters["normalize"])
    whole = sum(abs(delta.weight) for delta in deltas)
    if normalize and not elect and whole >= _LEAST_DIVISOR:
        scale /= whole
    return Consensus(tensor.base, deltas, scale, elect=elect, normalize=normalize and elect)


def elements_of(tensor: AssembledTensor) -> int:
    """How many elements the tensor has."""
    return tensor.like.slot.entry.elements


def share(density: float, elements: int) -> int:
    """`density` of the elements; at least one, unless the density is 0."""
    return max(1, int(density * elements)) if density > 0 else 0
