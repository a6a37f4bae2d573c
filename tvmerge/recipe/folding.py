"""From an assembly to what the engine sums: one exact coefficient for each stored tensor."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from fractions import Fraction

from tvmerge.algebra import Checkpoint
from tvmerge.assembled import Assembled
from tvmerge.assembly import AssembledTensor, Assembly
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
    terms: dict[Operand, Fraction] = {}
    for one, factor in zip(tensor.inputs, _coefficients(tensor, known), strict=True):
        for operand, inner in one.model.terms(one.tensor).items():
            coefficient = factor if inner == 1 else factor * inner
            terms[operand] = terms[operand] + coefficient if operand in terms else coefficient
    return TensorSum(tensor.name, tensor.like, {o: c for o, c in terms.items() if c})


def _coefficients(
    tensor: AssembledTensor, known: dict[Hashable, Sequence[Fraction]]
) -> Sequence[Fraction]:
    """Those of the method, computed once for all tensors with the same parameters."""
    of_inputs = tuple(tuple(one.parameters.items()) for one in tensor.inputs)
    key = (tensor.method, tensor.base, tuple(tensor.parameters.items()), of_inputs)
    if key not in known:
        known[key] = METHODS[tensor.method].coefficients(tensor)
    return known[key]


def _whole(sums: TensorSums, donor: Stored) -> dict[Stored, Fraction] | None:
    """The one sum of whole models; None where tensors differ."""
    if not sums.keeps_layout_of(donor):
        return None
    found: dict[Stored, Fraction] | None = None
    for tensor in sums.tensors:
        if any(operand.tensor != tensor.name for operand in (tensor.like, *tensor.terms)):
            return None
        terms = {operand.stored: c for operand, c in tensor.terms.items()}
        if tensor.like.stored != donor or (found is not None and terms != found):
            return None
        found = terms
    return found or None
