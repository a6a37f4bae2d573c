"""Model Stock: between the base and the models' mean, by the angle between their deltas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from tvmerge.decisions import Blend, Gram
from tvmerge.errors import ConfigError
from tvmerge.methods.declaring import Method
from tvmerge.methods.deltas import switch

if TYPE_CHECKING:
    from tvmerge.assembly import AssembledTensor

_LEAST_DIVISOR = 1e-6  # below it deltas oppose each other, and none of them is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStock(Blend):
    """`t * mean_k x_k + (1 - t) * base`, `t = N cos / (1 + (N - 1) cos)`.

    Jang, Yun and Han, "Model Stock", arXiv 2403.19522, equation 2; cos is the mean over pairs of
    deltas of their cosine, 0 for a delta of 0.
    """

    def weights(self, gram: Gram) -> list[float]:
        """The same for all deltas."""
        size = len(gram)
        cosines = [_cosine(gram, i, j) for i, j in combinations(range(size), 2)]
        cosine = sum(cosines) / len(cosines)
        divisor = 1 + (size - 1) * cosine
        t = size * cosine / divisor if abs(divisor) >= _LEAST_DIVISOR else 0.0
        return [t / size] * size


def _cosine(gram: Gram, i: int, j: int) -> float:
    norms = math.sqrt(gram[i][i]) * math.sqrt(gram[j][j])
    return max(-1.0, min(1.0, gram[i][j] / norms)) if norms > 0 else 0.0


def model_stock(tensor: AssembledTensor) -> ModelStock:
    """Per tensor; filter by filter is not there yet."""
    if tensor.parameters["filter_wise"]:
        raise ConfigError(f"{tensor.name}: filter_wise can only be false so far")
    numbers = tuple(n for n in range(len(tensor.inputs)) if n != tensor.base)
    return ModelStock(inputs=numbers, base=tensor.base)


MODEL_STOCK = Method(
    name="model_stock",
    of_merge=(switch("filter_wise", default=False),),
    needs_base=True,
    fewest_models=2,
    decision=model_stock,
)
