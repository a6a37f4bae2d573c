"""From an assembly to what the engine sums: one exact coefficient for each stored tensor."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction

from tvmerge.algebra import Checkpoint
from tvmerge.assembled import Assembled
from tvmerge.assembly import AssembledInput, AssembledTensor, Assembly
from tvmerge.decisions import Consensus
from tvmerge.errors import ConfigError
from tvmerge.methods import METHODS
from tvmerge.stored import Stored
from tvmerge.sums import Operand, TensorSum, TensorSums


def sums_of(assembly: Assembly) -> TensorSums:
    """Every tensor as a sum of stored ones: stages are folded, nothing is rounded in between.

    Raises ConfigError where a method has no sum for a tensor.
    """
    known: dict[Hashable, Sequence[Fraction]] = {}
    return TensorSums(tuple(_sum(tensor, known) for tensor in assembly.tensors))


def fold(assembly: Assembly) -> Checkpoint | Assembled:
    """The expression that an assembly is: of whole models, where all tensors are the same sum."""
    sums = sums_of(assembly)
    whole = None if assembly.config else _whole(sums, assembly.donor)
    if whole is not None:
        return Checkpoint._make(whole, assembly.donor)
    return Assembled(sums, assembly.donor, assembly.config)


def _sum(tensor: AssembledTensor, known: dict[Hashable, Sequence[Fraction]]) -> TensorSum:
    if METHODS[tensor.method].decision is not None:
        return _decided(tensor)
    terms: dict[Operand, Fraction] = {}
    for one, factor in zip(tensor.inputs, _coefficients(tensor, known), strict=True):
        for operand, inner in _terms(one, tensor).items():
            coefficient = factor if inner == 1 else factor * inner
            terms[operand] = terms[operand] + coefficient if operand in terms else coefficient
    return TensorSum(tensor.name, tensor.like, {o: c for o, c in terms.items() if c})


def _terms(one: AssembledInput, tensor: AssembledTensor) -> Mapping[Operand, Fraction]:
    """An input as the sum of stored tensors."""
    stage = one.model.sums[one.tensor] if one.model.sums is not None else None
    if stage is not None and stage.decision is not None:
        raise ConfigError(
            f"{tensor.name}: the stage {one.model.reference!r} is no sum of its inputs, and cannot "
            "be an input before it has been written. Merge it first, and name its folder"
        )
    return one.model.terms(one.tensor)


def _decided(tensor: AssembledTensor) -> TensorSum:
    """What is read for a tensor, and what is decided then."""
    method = METHODS[tensor.method]
    assert method.decision is not None
    asked = method.decision(tensor)
    places = {number: _stored(tensor.inputs[number], tensor) for number in sorted(asked.used)}
    operands = tuple(dict.fromkeys((tensor.like, *places.values())))
    decision = asked.renumbered({n: operands.index(place) for n, place in places.items()})
    if isinstance(decision, Consensus) and decision.base != 0:
        raise ConfigError(
            f"{tensor.name}: {tensor.method} here takes the base from {places[tensor.base or 0]}, "
            f"but the layout from {tensor.like}. Name the same model for both"
        )
    if decision.is_base:
        return TensorSum(tensor.name, tensor.like, {tensor.like: Fraction(1)})
    return TensorSum(tensor.name, tensor.like, dict.fromkeys(operands, Fraction(1)), decision)


def _stored(one: AssembledInput, tensor: AssembledTensor) -> Operand:
    """The stored tensor that an input is."""
    terms = {operand: c for operand, c in _terms(one, tensor).items() if c}
    if len(terms) != 1 or set(terms.values()) != {1}:
        raise ConfigError(
            f"{tensor.name}: {tensor.method} measures its inputs, and cannot take the stage "
            f"{one.model.reference!r} before it has been written. Merge it first, and name its "
            "folder"
        )
    (operand,) = terms
    own, wanted = operand.slot.entry.shape, tensor.like.slot.entry.shape
    if own != wanted:  # of a weight of 0, which the checks let pass
        raise ConfigError(
            f"{tensor.name}: shape {list(own)} in {one.model.reference}, expected {list(wanted)}. "
            f"{tensor.method} measures every model, whatever its weight: give all one shape"
        )
    return operand


def _coefficients(
    tensor: AssembledTensor, known: dict[Hashable, Sequence[Fraction]]
) -> Sequence[Fraction]:
    """Those of the method, computed once for all tensors with the same parameters."""
    of_inputs = tuple(tuple(one.parameters.items()) for one in tensor.inputs)
    key = (tensor.method, tensor.base, tuple(tensor.parameters.items()), of_inputs)
    if key not in known:
        coefficients = METHODS[tensor.method].coefficients
        assert coefficients is not None
        known[key] = coefficients(tensor)
    return known[key]


def _whole(sums: TensorSums, donor: Stored) -> dict[Stored, Fraction] | None:
    """The one sum of whole models; None where tensors differ."""
    if not sums.keeps_layout_of(donor):
        return None
    found: dict[Stored, Fraction] | None = None
    for tensor in sums.tensors:
        if tensor.decision is not None:
            return None
        if any(operand.tensor != tensor.name for operand in (tensor.like, *tensor.terms)):
            return None
        terms = {operand.stored: c for operand, c in tensor.terms.items()}
        if tensor.like.stored != donor or (found is not None and terms != found):
            return None
        found = terms
    return found or None
