"""From an assembly to what the engine sums: one exact coefficient for each stored tensor."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction

from tvmerge.algebra.assembled import Assembled
from tvmerge.algebra.operands import Checkpoint
from tvmerge.checkpoints.stored import Stored
from tvmerge.engine.decisions import Decision, Displacement, Matrix
from tvmerge.errors import ConfigError
from tvmerge.methods import METHODS
from tvmerge.plans.assembly import AssembledInput, AssembledTensor, Assembly
from tvmerge.plans.sums import Operand, TensorSum, TensorSums


def sums_of(assembly: Assembly) -> TensorSums:
    """Every tensor as a sum of stored ones: stages are folded, nothing is rounded in between.

    Raises ConfigError where a method has no sum for a tensor.
    """
    known: dict[Hashable, Sequence[Fraction]] = {}
    return TensorSums(tuple(_sum(tensor, known) for tensor in assembly.tensors))


def fold(assembly: Assembly) -> Checkpoint | Assembled:
    """The expression that an assembly is: of whole models, where all tensors are the same sum."""
    sums = sums_of(assembly)
    own = assembly.config or assembly.tokenizer is not None
    whole = None if own else _whole(sums, assembly.donor)
    if whole is not None:
        return Checkpoint._make(whole, assembly.donor)
    return Assembled(sums, assembly.donor, assembly.config, assembly.tokenizer)


def cannot_fold(assembly: Assembly) -> set[str]:
    """The references of stages that have to be written before the assembly is made.

    Those with a tensor that is no sum of stored ones; where a method measures its inputs, also
    those with a tensor that is no stored one.
    """
    found = set()
    for tensor in assembly.tensors:
        decide = METHODS[tensor.method].decision
        asked = None if decide is None else decide(tensor)
        used = range(len(tensor.inputs)) if asked is None else asked.used
        for one in (tensor.inputs[number] for number in used):
            stage = one.model.sums[one.tensor] if one.model.sums is not None else None
            measured = asked is not None
            if stage and (stage.decision or (measured and stage.alone is None)):
                found.add(one.model.reference)
    return found


def _sum(tensor: AssembledTensor, known: dict[Hashable, Sequence[Fraction]]) -> TensorSum:
    decide = METHODS[tensor.method].decision
    asked = None if decide is None else decide(tensor)
    if asked is not None:
        return _decided(tensor, asked)
    terms: dict[Operand, Fraction] = {}
    for one, factor in zip(tensor.inputs, _coefficients(tensor, known), strict=True):
        for operand, inner in one.model.terms(one.tensor).items():
            coefficient = factor if inner == 1 else factor * inner
            terms[operand] = terms[operand] + coefficient if operand in terms else coefficient
    return TensorSum(tensor.name, tensor.like, {o: c for o, c in terms.items() if c})


def _decided(tensor: AssembledTensor, asked: Decision) -> TensorSum:
    """What is read for a tensor, and what is decided then."""
    places = {number: _stored(tensor.inputs[number], tensor) for number in sorted(asked.used)}
    # A base with something on it lies in another place, and dtype, than what gives it the layout.
    like = places[asked.base] if isinstance(asked, Displacement) else tensor.like
    operands = tuple(dict.fromkeys((like, *places.values())))
    numbers = {n: operands.index(place) for n, place in places.items()}
    known = asked.statistics if isinstance(asked, Matrix) else ()
    numbers |= {n: len(operands) + k for k, n in enumerate(known)}
    statistics = [tensor.inputs[n - len(tensor.inputs)].statistics for n in known]
    beside = tuple(one for one in statistics if one is not None)
    decision = asked.renumbered(numbers)
    if decision.is_base:
        return TensorSum(tensor.name, like, {like: Fraction(1)})
    terms = dict.fromkeys(operands, Fraction(1))
    return TensorSum(tensor.name, like, terms, decision, beside)


def _stored(one: AssembledInput, tensor: AssembledTensor) -> Operand:
    """The stored tensor that an input is."""
    operand = one.model.alone(one.tensor)
    assert operand is not None  # else `cannot_fold` has named the stage
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
    """Those of the method, computed once for all tensors with the same parameters and place."""
    of_inputs = tuple(tuple(one.parameters.items()) for one in tensor.inputs)
    own = tuple(tensor.parameters.items())
    key = (tensor.method, tensor.place, tensor.base, own, of_inputs)
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
        if any(stored.leaves != (stored,) for stored in terms):
            return None  # a stage, which nobody can name again by itself
        found = terms
    return found or None
