"""The same formula for one number, and for an array of one for each line of a tensor.

Sines and arcs are the C library's one by one: numpy's differ between processors in their last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tvmerge.engine.decisions import Gram, Number


def where(condition: Any, yes: Number, no: Number) -> Number:
    """Both are computed: neither may fail where the other one counts."""
    if isinstance(condition, bool):
        return yes if condition else no
    return _numpy().where(condition, yes, no)


def sqrt(x: Number) -> Number:
    """The square root."""
    return math.sqrt(x) if isinstance(x, float) else _numpy().sqrt(x)


def sin(x: Number) -> Number:
    """The sine."""
    return _each(math.sin, x)


def acos(x: Number) -> Number:
    """The arc whose cosine is x."""
    return _each(math.acos, x)


def cosine(gram: Gram, i: int, j: int, *, of_zero: float) -> Number:
    """That of the angle between two vectors; `of_zero` where one of them is 0."""
    norms = sqrt(gram[i][i]) * sqrt(gram[j][j])
    known = norms > 0
    ratio = gram[i][j] / where(known, norms, 1.0)
    return where(known, where(ratio < 1, where(ratio > -1, ratio, -1.0), 1.0), of_zero)


def _each(function: Callable[[float], float], x: Number) -> Number:
    if isinstance(x, float):
        return function(x)
    return _numpy().fromiter(map(function, x.tolist()), float, x.size)


def _numpy() -> Any:
    """By name: without lines all runs without it."""
    return import_module("numpy")
