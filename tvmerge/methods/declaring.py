"""How a merge method says what a recipe must or may give it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvmerge.engine.decisions import Decision
    from tvmerge.plans.assembly import AssembledInput, AssembledTensor

Scalar = float | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter: `kind` is float or bool; a required one has no default.

    No number may be smaller than `least` or larger than `most`.
    """

    name: str
    kind: type
    default: Scalar | None = None
    required: bool = False
    least: float | None = None
    most: float | None = None


def fraction(name: str, *, default: float) -> Parameter:
    """A parameter that is a share of something, 0 to 1."""
    return Parameter(name=name, kind=float, default=default, least=0.0, most=1.0)


# How mergekit keeps masks, which are not kept here. Recipes have it whatever their method.
NO_EFFECT = Parameter(name="int8_mask", kind=bool)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """The tensors that a recipe gives beside each model, by the names of the model's own.

    `shape`: of those for an input, None where they mean nothing. Unless a method needs them
    `everywhere`, all models may lack a tensor.
    """

    shape: Callable[[AssembledInput], tuple[int, ...] | None]
    everywhere: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method and what a recipe must or may say for it.

    `of_models` are parameters that each model has, and whose defaults the whole merge may give;
    `of_merge` those of a tensor as a whole. Where a base is needed, it needs none of the former,
    and `fewest_models` and `most_models` count the others.
    """

    name: str
    of_models: tuple[Parameter, ...] = ()
    of_merge: tuple[Parameter, ...] = ()
    needs_base: bool = False
    may_have_base: bool = False  # which is then no model like the others, but their origin
    fewest_models: int = 1
    most_models: int | None = None
    statistics: Statistics | None = None  # which each model but the base then has
    # One coefficient for each input of the tensor, which the engine sums; or, where they cannot
    # be known before the inputs are measured, what is then to be decided. With both, tensors of
    # which there is nothing to be decided (None) are sums.
    coefficients: Callable[[AssembledTensor], Sequence[Fraction]] | None = None
    decision: Callable[[AssembledTensor], Decision | None] | None = None

    @property
    def uses_base(self) -> bool:
        """Whether a base, where one is given, is the others' origin."""
        return self.needs_base or self.may_have_base

    @property
    def parameters(self) -> dict[str, Parameter]:
        """All parameters by name."""
        return {one.name: one for one in (*self.of_models, *self.of_merge)}
