"""Task arithmetic: a base plus scaled task vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tvmerge.algebra import Checkpoint, TaskVector
from tvmerge.errors import ConfigError

if TYPE_CHECKING:
    from tvmerge.recipe import Recipe

_LEAST_DIVISOR = 1e-8  # below it mergekit does not divide, and neither does this


def task_arithmetic(recipe: Recipe, base: Checkpoint, models: Sequence[Checkpoint]) -> Checkpoint:
    """`base + lambda * sum_i w_i (x_i - base) / D`, D = 1, or `sum_i w_i` with `normalize: true`.

    Ilharco et al., "Editing Models with Task Arithmetic", arXiv 2212.04089. A base among the
    models adds nothing, whatever its weight: its task vector is zero. Negative weights that are
    normalised cancel their own sign (as in mergekit): the default is not to normalise.
    """
    weighted = [
        (weight, model)
        for weight, model in zip(recipe.weights, models, strict=True)
        if model.donor != base.donor
    ]
    if not weighted:
        raise ConfigError(
            f"models: only the base {base.donor.source} is listed. Add a model tuned from it"
        )
    edit: TaskVector = sum(weight * (model - base) for weight, model in weighted)
    divisor = sum(weight for weight, _ in weighted)
    if recipe.parameters.normalize and abs(divisor) >= _LEAST_DIVISOR:
        edit = edit / divisor
    merged: Checkpoint = base + recipe.parameters.lambda_ * edit
    return merged
