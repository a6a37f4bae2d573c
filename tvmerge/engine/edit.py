"""What rounding left of an intended change of weights: sums over elements, and how parts add up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import reduce
from operator import add
from typing import NamedTuple

_SWALLOWED_SHARE = 0.99


class Edit(NamedTuple):
    """An output tensor (or several) beside its reference, as the engine summed it up.

    With x the reference, y the exact sum and z the output, the intended edit is d = y - x and the
    realised one r = z - x. `intended` counts elements whose d is more than arithmetic noise,
    `lost` those of them where z is x all the same, `changed` all where z is not x.
    """

    changed: int = 0
    intended: int = 0
    lost: int = 0
    intended_sq: float = 0.0
    realised_sq: float = 0.0
    dot: float = 0.0

    def __add__(self, other: Edit) -> Edit:  # type: ignore[override]  # no tuple's sum
        return Edit(
            self.changed + other.changed,
            self.intended + other.intended,
            self.lost + other.lost,
            self.intended_sq + other.intended_sq,
            self.realised_sq + other.realised_sq,
            self.dot + other.dot,
        )

    @property
    def cosine(self) -> float | None:
        """The cosine of intended and realised edit; None where one is 0 or not finite."""
        scale = math.sqrt(self.intended_sq) * math.sqrt(self.realised_sq)
        return self.dot / scale if 0 < scale < math.inf and math.isfinite(self.dot) else None

    @property
    def lost_share(self) -> float:
        """The share of the intended elements that rounding left as they were, 0 to 1."""
        return self.lost / self.intended if self.intended else 0.0


def is_swallowed(edit: Edit) -> bool:
    """Whether rounding left as good as nothing of an intended edit: 1 % of the elements or less."""
    return edit.intended > 0 and edit.lost_share >= _SWALLOWED_SHARE


def fold(parts: Iterable[Edit]) -> Edit:
    """The edit of a tensor from those of its parts, all of one power-of-two size but the last.

    Parts are added as a binary tree, what is left over from the last part up: the engine does the
    same within a part (csrc/core/edit.hpp), so that no cut shows in the sums.
    """
    stack: list[Edit] = []
    for number, part in enumerate(parts, 1):
        stack.append(part)
        while number % 2 == 0:
            last = stack.pop()
            stack[-1] += last
            number //= 2
    while len(stack) > 1:
        last = stack.pop()
        stack[-1] += last
    return stack[0] if stack else Edit()


def total(edits: Iterable[Edit]) -> Edit:
    """The edit of a whole model: its tensors' edits added in their order."""
    parts = list(edits)
    # By column, at a third of the cost; sum() would compensate floats from Python 3.12 on.
    return Edit(*(reduce(add, [part[n] for part in parts], 0) for n in range(len(Edit._fields))))
