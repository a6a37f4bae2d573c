"""Model Stock: between the base and the models' mean, by the angle between their deltas."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Blend, Gram, Number
from tvmerge.methods.by_line import rows_of
from tvmerge.methods.declaring import Method
from tvmerge.methods.deltas import switch
from tvmerge.methods.elementwise import cosine, where

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor

_LEAST_DIVISOR = 1e-6  # below it deltas oppose each other, and none of them is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStock(Blend):
    """`t * mean_k x_k + (1 - t) * base`, `t = N cos / (1 + (N - 1) cos)`.

    Jang, Yun and Han, "Model Stock", arXiv 2403.19522, equation 2; cos is the mean over pairs of
    deltas of their cosine, 0 for a delta of 0.
    """

    def weights(self, gram: Gram) -> list[Number]:
        """The same for all deltas."""
        size = len(gram)
        cosines = [cosine(gram, i, j, of_zero=0.0) for i, j in combinations(range(size), 2)]
        near = sum(cosines) / len(cosines)
        divisor = 1 + (size - 1) * near
        good = abs(divisor) >= _LEAST_DIVISOR
        t = where(good, size * near / where(good, divisor, 1.0), 0.0)
        return [t / size] * size


def model_stock(tensor: AssembledTensor) -> ModelStock:
    """Per tensor, or with `filter_wise` per row (along the last dimension)."""
    numbers = tuple(n for n in range(len(tensor.inputs)) if n != tensor.base)
    lines = rows_of(tensor) if tensor.parameters["filter_wise"] else None
    return ModelStock(inputs=numbers, base=tensor.base, lines=lines)


MODEL_STOCK = Method(
    name="model_stock",
    of_merge=(switch("filter_wise", default=False),),
    needs_base=True,
    fewest_models=2,
    decision=model_stock,
)
