"""What the methods have in common that weigh deltas by statistics of each model."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, TypeVar

from tvmerge.engine.decisions import Delta, Matrix
from tvmerge.methods.declaring import Parameter
from tvmerge.methods.matrices import deltas_of, total

if TYPE_CHECKING:
    import torch

    from tvmerge.plans.assembly import AssembledTensor

# Below 0 the sum of statistics, by which is divided, might come near 0 anywhere.
WEIGHT = Parameter(name="weight", kind=float, default=1.0, least=0.0)
_W = TypeVar("_W", bound="Weighed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed(Matrix, ABC):
    """What every delta has statistics for. A model that is the base counts: its delta is 0."""

    def renumbered(self: _W, numbers: Mapping[int, int]) -> _W:
        """The same of inputs with other numbers."""
        deltas = tuple(
            replace(
                one,
                source=numbers[one.source],
                statistic=None if one.statistic is None else numbers[one.statistic],
            )
            for one in self.deltas
        )
        return replace(self, base=numbers[self.base], deltas=deltas)

    def mean(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The weighted mean of the deltas."""
        found = total(parts[: len(self.deltas)])
        found /= sum(delta.weight for delta in self.deltas)
        return found

    def apart(
        self, parts: Sequence[torch.Tensor], mean: torch.Tensor
    ) -> Iterator[tuple[float, torch.Tensor, torch.Tensor]]:
        """Of every model its weight w, w times what its delta is from the mean, its statistics."""
        count = len(self.deltas)
        for delta, weighted, statistic in zip(
            self.deltas, parts[:count], parts[count:], strict=True
        ):
            yield delta.weight, weighted - delta.weight * mean, statistic


def informed_deltas(tensor: AssembledTensor) -> tuple[Delta, ...]:
    """Of all models that take part, each with its statistics; none where these have none.

    Those of input number n have the number n behind all inputs.
    """
    deltas = deltas_of(tensor)
    if any(tensor.inputs[delta.source].statistics is None for delta in deltas):
        return ()
    return tuple(replace(one, statistic=len(tensor.inputs) + one.source) for one in deltas)


def weighted_mean(tensor: AssembledTensor) -> Sequence[Fraction]:
    """`base + lambda * sum_i w_i (x_i - base) / sum_i w_i`; the base where no model takes part."""
    weights = {delta.source: Fraction(delta.weight) for delta in deltas_of(tensor)}
    share = Fraction(tensor.parameters["lambda"]) / (sum(weights.values()) or 1)
    held = {number: share * weight for number, weight in weights.items()}
    assert tensor.base is not None
    held[tensor.base] = 1 - sum(held.values(), Fraction(0))
    return [held.get(number, Fraction(0)) for number in range(len(tensor.inputs))]
