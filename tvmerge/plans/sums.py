"""What every tensor of a result is the sum of: of whole models, or tensor by tensor.

Whole models need one coefficient for each input. What a recipe makes with filters, gradients and
slices needs a sum of its own for each tensor, of tensors that may have other names.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from tvmerge.checkpoints.stored import Slot, Stored
from tvmerge.engine.decisions import Decision
from tvmerge.errors import ConfigError

LARGEST_COEFFICIENT = sys.float_info.max
Coefficients = Mapping[Stored, float]


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor of an input."""

    stored: Stored
    tensor: str

    @property
    def slot(self) -> Slot:
        """Where it lies."""
        return self.stored.slots[self.tensor]


@dataclass(frozen=True, slots=True)
class TensorSum:
    """One tensor of a result: its name, and an exact coefficient for each tensor in the sum.

    `like` gives shape and dtype and is what the result is compared with; it need not be in the sum.
    With a `decision` the terms say only what is read; it knows `like` by the number 0, the other
    terms by 1, 2, ... in their order, and after these what is read `beside` them, of any shape.
    """

    name: str
    like: Operand
    terms: Mapping[Operand, Fraction]
    decision: Decision | None = None
    beside: tuple[Operand, ...] = ()

    @property
    def operands(self) -> tuple[Operand, ...]:
        """What is summed or compared, in the order of the numbers that a decision knows it by."""
        return tuple(dict.fromkeys((self.like, *self.terms)))

    @property
    def alone(self) -> Operand | None:
        """The tensor that it is, as that lies there; None where something has to be computed."""
        terms = {operand: c for operand, c in self.terms.items() if c}
        stored = self.decision is None and list(terms.values()) == [1]
        return next(iter(terms)) if stored else None

    @property
    def read(self) -> tuple[Operand, ...]:
        """The operands, and what is read beside them."""
        return (*self.operands, *self.beside)

    def scaled(self, scale: Fraction) -> TensorSum:
        """`like + scale * (self - like)`."""
        if self.decision is not None:
            if scale == 0:
                return TensorSum(self.name, self.like, {self.like: Fraction(1)})
            return replace(self, decision=self.decision.scaled(float(scale)))
        terms = {operand: scale * c for operand, c in self.terms.items()}
        terms = {self.like: 1 - scale + terms.pop(self.like, Fraction(0)), **terms}
        return TensorSum(self.name, self.like, {o: c for o, c in terms.items() if c})


@dataclass(frozen=True, slots=True)
class TensorSums:
    """All tensors of a result, in the order in which they are written."""

    tensors: tuple[TensorSum, ...]

    def __post_init__(self) -> None:
        for tensor in self.tensors:
            for operand, coefficient in tensor.terms.items():
                if abs(coefficient) > LARGEST_COEFFICIENT:
                    what = f"{tensor.name}: the coefficient of {operand.stored.source}"
                    raise ConfigError(f"{what} is beyond {LARGEST_COEFFICIENT:.2g}")

    @property
    def by_name(self) -> dict[str, TensorSum]:
        """The tensors by their names."""
        return {tensor.name: tensor for tensor in self.tensors}

    @property
    def inputs(self) -> tuple[Stored, ...]:
        """Every input that is read."""
        return tuple(
            dict.fromkeys(operand.stored for tensor in self.tensors for operand in tensor.read)
        )

    def keeps_layout_of(self, donor: Stored) -> bool:
        """Whether the donor has the same tensors in the same shapes."""
        return len(self.tensors) == len(donor.slots) and all(
            tensor.name in donor.slots
            and donor.slots[tensor.name].entry.shape == tensor.like.slot.entry.shape
            for tensor in self.tensors
        )


Weighting = Coefficients | TensorSums


def inputs_of(weighting: Weighting) -> tuple[Stored, ...]:
    """The inputs that take part, in a fixed order."""
    return weighting.inputs if isinstance(weighting, TensorSums) else tuple(weighting)


def by_input(weighting: Weighting) -> dict[Stored, float | None]:
    """The coefficient of every input; None where each tensor has its own."""
    if isinstance(weighting, TensorSums):
        return dict.fromkeys(weighting.inputs)
    return dict(weighting)


def leaves(terms: Mapping[Stored, float | None]) -> dict[Stored, float | None]:
    """The coefficients with what stages are made of in their place: they do not stay."""
    found: dict[Stored, float | None] = {}
    for stored, coefficient in terms.items():
        for leaf in stored.leaves:
            found.setdefault(leaf, coefficient)
    return found


def to_json(weighting: Weighting) -> list[Any]:
    """Plain values that are equal for equal sums."""
    if isinstance(weighting, TensorSums):
        return [
            [t.name, _place(t.like), _terms(t), repr(t.decision), *map(_place, t.beside)]
            for t in weighting.tensors
        ]
    return [[str(stored.source), c.hex()] for stored, c in weighting.items()]


def _terms(tensor: TensorSum) -> list[Any]:
    return [[*_place(operand), float(c).hex()] for operand, c in tensor.terms.items()]


def _place(operand: Operand) -> list[str]:
    return [str(operand.stored.source), operand.tensor]
