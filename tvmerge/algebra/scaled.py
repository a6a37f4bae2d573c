"""An edit at another scale: start + scale * (expression - start)."""

from __future__ import annotations

from fractions import Fraction
from numbers import Real

from tvmerge.algebra.assembled import Assembled
from tvmerge.algebra.expression import exact
from tvmerge.algebra.operands import Checkpoint
from tvmerge.errors import ConfigError
from tvmerge.plans.sums import Weighting


def start_of(expression: Checkpoint, start: Checkpoint | None = None) -> Checkpoint:
    """What scales are counted from: `start`, by default the expression's donor as it is.

    Raises ConfigError where `start` would give the result another layout.
    """
    if start is None:
        return Checkpoint._make({expression.donor: Fraction(1)}, expression.donor)
    if start.donor != expression.donor:
        raise ConfigError(
            f"the start has the layout of {start.donor.source}, the expression that of "
            f"{expression.donor.source}. Build both on one base"
        )
    return start


def at_scale(expression: Checkpoint, scale: Real | float, start: Checkpoint) -> Checkpoint:
    """`start + scale * (expression - start)`, exactly; scale 0 is the start, 1 the expression.

    Raises ConfigError where the scale is not finite.
    """
    scaled: Checkpoint = start + scale * (expression - start)
    return scaled


def weighting_at(
    expression: Checkpoint | Assembled, scale: Real | float, start: Checkpoint | None = None
) -> Weighting:
    """What is summed at a scale; an assembled model counts each tensor from the base's own.

    Raises ConfigError where the scale is not finite, and for a start that an assembled model has
    not.
    """
    if isinstance(expression, Assembled):
        if start is not None:
            raise ConfigError("a model assembled by tensor is scaled from its base: give no start")
        return expression.at_scale(exact(scale, "scale"))
    return at_scale(expression, scale, start_of(expression, start)).coefficients
