"""The weighted mean of models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvmerge.algebra import Checkpoint

if TYPE_CHECKING:
    from tvmerge.recipe import Recipe


def linear(recipe: Recipe, base: Checkpoint, models: Sequence[Checkpoint]) -> Checkpoint:
    """`sum_i w_i x_i`, divided by `sum_i w_i` unless the recipe sets `normalize: false`.

    Wortsman et al., "Model soups", arXiv 2203.05482. The base, listed or not, gives layout,
    dtypes and tokenizer; its weights count only where `models` lists it.
    """
    normalize = recipe.parameters.normalize is not False
    return Checkpoint.average(models, recipe.weights, normalize=normalize, donor=base)
