"""The rows and columns that a tensor is cut into, for methods that may treat each by itself."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tvmerge.engine.decisions import Lines
from tvmerge.methods.deltas import elements_of

if TYPE_CHECKING:
    from tvmerge.plans.assembly import AssembledTensor


def rows_of(tensor: AssembledTensor) -> Lines | None:
    """The vectors along the last dimension; None where there is one."""
    shape = tensor.like.slot.entry.shape
    run = shape[-1] if shape else 1
    return _lines(run, elements_of(tensor) // max(1, run))


def columns_of(tensor: AssembledTensor) -> Lines | None:
    """The vectors along the first dimension; None where there is one."""
    shape = tensor.like.slot.entry.shape
    return _lines(1, elements_of(tensor) // max(1, shape[0] if shape else 1))


def _lines(run: int, count: int) -> Lines | None:
    if count <= 1:
        return None
    import_module("numpy")  # which decides: that it is missing is said before anything is read
    return Lines(run, count)
