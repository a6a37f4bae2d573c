"""Points on the unit sphere that are known by coefficients and inner products alone.

A point is `sum_k c_k x_k`; its products with others follow from the Gram matrix of the x_k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tvmerge.engine.decisions import Gram

Point = Sequence[float]


def product(gram: Gram, a: Point, b: Point) -> float:
    """The inner product of two points."""
    terms = (x * y * gram[i][j] for i, x in enumerate(a) if x for j, y in enumerate(b) if y)
    return float(sum(terms))


def norm(gram: Gram, a: Point) -> float:
    """The length of a point."""
    return math.sqrt(max(0.0, product(gram, a, a)))


def scaled(a: Point, by: float) -> list[float]:
    """`by * a`."""
    return [by * x for x in a]


def summed(points: Sequence[Point]) -> list[float]:
    """The sum of points."""
    return [sum(column) for column in zip(*points, strict=True)]


def towards(gram: Gram, start: Point, unit: Point, *, margin: float) -> list[float]:
    """The tangent at `start` that leads to `unit` on the sphere (the logarithmic map)."""
    cosine = max(-1 + margin, min(1 - margin, product(gram, start, unit)))
    across = summed([unit, scaled(start, -cosine)])
    length = norm(gram, across)
    return scaled(across, math.acos(cosine) / length) if length > margin else [0.0] * len(unit)


def along(gram: Gram, start: Point, tangent: Point) -> list[float]:
    """Where `tangent` leads from `start` on the sphere (the exponential map)."""
    length = norm(gram, tangent)
    if length == 0:
        return list(start)
    turned = scaled(tangent, math.sin(length) / length)
    return summed([scaled(start, math.cos(length)), turned])


def units(gram: Gram) -> list[list[float]]:
    """Each x_k divided by its norm; 0 stays 0."""
    size = len(gram)
    lengths = [math.sqrt(gram[k][k]) for k in range(size)]
    return [
        [1 / lengths[k] if i == k and lengths[k] > 0 else 0.0 for i in range(size)]
        for k in range(size)
    ]
