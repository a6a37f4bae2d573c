"""What is read for one tensor of the output: its sources, and their coefficients per variant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from tvmerge.checkpoints.stored import Stored
from tvmerge.engine.decisions import Decision
from tvmerge.errors import ConfigError
from tvmerge.files.safetensors import Entry
from tvmerge.plans.sums import Coefficients, Operand, TensorSum, TensorSums, Weighting, inputs_of

# The number of an input file, and a tensor in it.
Place = tuple[int, Entry]
Places = Mapping[Stored, Mapping[str, Place]]  # of every input, by tensor
# By variant, by source; 0: no term.
Weights = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """The sources of a tensor in the order of their sum; for every variant a weight for each.

    In a model the first source is what the result is compared with, in the sum or not.
    """

    sources: tuple[Place, ...]
    weights: Weights
    # By variant: what is decided once the sources have been measured, in place of the weights.
    decisions: tuple[Decision | None, ...] = ()
    beside: tuple[Place, ...] = ()  # what decisions know by the numbers after the sources


Rows = Callable[[str], Row]  # by the name of the output's tensor


def model_rows(variants: Sequence[Weighting], donor: Stored, places: Places) -> Rows:
    """The rows of a model; those of whole-model coefficients are compared with the donor."""
    sums = [variant for variant in variants if isinstance(variant, TensorSums)]
    if len(sums) == len(variants):
        return _rows_of_sums(sums, places)
    order = summing_order(variants, donor)
    return _rows_of_coefficients(variants, (donor, *(s for s in order if s != donor)), places)


def vector_rows(variants: Sequence[Coefficients], donor: Stored, places: Places) -> Rows:
    """The rows of a task vector, compared with nothing; its donor may have cancelled out."""
    return _rows_of_coefficients(variants, summing_order(variants, donor), places)


def _rows_of_coefficients(
    variants: Sequence[Weighting], order: Sequence[Stored], places: Places
) -> Rows:
    by_input = [places[stored] for stored in order]
    weights = tuple(
        tuple(terms.get(stored, 0.0) for stored in order)
        for terms in variants
        if isinstance(terms, Mapping)
    )

    def row(name: str) -> Row:
        found = [held.get(name) for held in by_input]
        sources = tuple([place for place in found if place is not None])
        if len(sources) == len(found):
            return Row(sources, weights)
        # A stored vector may hold fewer tensors than the model.
        some = tuple(
            tuple(w for w, place in zip(one, found, strict=True) if place is not None)
            for one in weights
        )
        return Row(sources, some)

    return row


def _rows_of_sums(variants: Sequence[TensorSums], places: Places) -> Rows:
    by_name: dict[str, list[TensorSum]] = {}
    for variant in variants:
        for tensor in variant.tensors:
            by_name.setdefault(tensor.name, []).append(tensor)

    def row(name: str) -> Row:
        sums = by_name[name]
        operands: dict[Operand, None] = {sums[0].like: None}
        for one in sums:
            operands |= dict.fromkeys(one.terms)
        weights = tuple(tuple(float(one.terms.get(o, 0)) for o in operands) for one in sums)
        sources = tuple([places[o.stored][o.tensor] for o in operands])
        if not any(one.decision for one in sums):
            return Row(sources, weights)
        beside = dict.fromkeys(operand for one in sums for operand in one.beside)
        numbers = {operand: number for number, operand in enumerate(operands)}
        after = {operand: len(operands) + number for number, operand in enumerate(beside)}
        decisions = tuple(_numbered(one, numbers, after) for one in sums)
        return Row(sources, weights, decisions, tuple(places[o.stored][o.tensor] for o in beside))

    return row


def _numbered(
    tensor: TensorSum, numbers: Mapping[Operand, int], after: Mapping[Operand, int]
) -> Decision | None:
    """The tensor's decision about the sources of all variants, and what is read beside them."""
    own = [*map(numbers.__getitem__, tensor.operands), *map(after.__getitem__, tensor.beside)]
    return tensor.decision and tensor.decision.renumbered(dict(enumerate(own)))


def summing_order(variants: Sequence[Weighting], donor: Stored) -> tuple[Stored, ...]:
    """The inputs of all variants, the donor first, in an order that keeps each variant's own.

    The order of a sum decides its last bits: so every variant has those of a merge of its own.
    Raises ConfigError where two variants name the same inputs in contrary orders.
    """
    orders = [sorted(inputs_of(terms), key=lambda stored: stored != donor) for terms in variants]
    left = list(dict.fromkeys(stored for order in orders for stored in order))
    placed: list[Stored] = []
    while left:
        # Of what nothing unplaced precedes in any variant, the first that was named.
        behind = {s for order in orders for s in [s for s in order if s in left][1:]}
        free = [stored for stored in left if stored not in behind]
        if not free:
            raise ConfigError("the variants name the same inputs in different orders: use one")
        placed.append(free[0])
        left.remove(free[0])
    return tuple(placed)
