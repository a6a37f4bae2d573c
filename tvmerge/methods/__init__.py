"""The merge methods: each is one function from a recipe and opened checkpoints to an expression.

To add one, write its function in a file of its own and enter it here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvmerge.methods.linear import linear
from tvmerge.methods.task_arithmetic import task_arithmetic

if TYPE_CHECKING:
    from tvmerge.algebra import Checkpoint
    from tvmerge.recipe import Recipe

    Build = Callable[[Recipe, Checkpoint, Sequence[Checkpoint]], Checkpoint]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method and what a recipe must or may say for it.

    `build(recipe, base, models)`: `base` is the recipe's base, or its first model where the
    recipe names none and the method does not need one.
    """

    build: Build
    parameters: frozenset[str]
    needs_base: bool


METHODS = {
    "linear": Method(
        build=linear,
        parameters=frozenset({"weight", "normalize"}),
        needs_base=False,
    ),
    "task_arithmetic": Method(
        build=task_arithmetic,
        parameters=frozenset({"weight", "lambda", "normalize", "int8_mask"}),
        needs_base=True,
    ),
}

# Methods of mergekit 0.1.5 that have no function here yet.
NOT_YET = frozenset(
    {
        "arcee_fusion", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della",
        "della_linear", "karcher", "model_stock", "multislerp", "nearswap", "nuslerp",
        "passthrough", "ram", "ramplus_tl", "sce", "slerp", "ties",
    }
)  # fmt: skip
