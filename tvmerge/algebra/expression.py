"""What models and task vectors have in common: an exact coefficient per input, and ways out.

A coefficient is kept as a fraction until the end: scales that cancel cancel exactly.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from fractions import Fraction
from importlib import import_module
from numbers import Rational, Real
from typing import TYPE_CHECKING, NoReturn, TypeVar

from tvmerge.checkpoints.stored import Stored
from tvmerge.engine.devices import CPU
from tvmerge.engine.run_options import Progress, RunOptions
from tvmerge.errors import ConfigError
from tvmerge.merging.report import MergeReport
from tvmerge.plans.plan import Plan
from tvmerge.plans.sums import LARGEST_COEFFICIENT, Coefficients, Weighting
from tvmerge.receipts.receipt import RecipeText

if TYPE_CHECKING:
    from types import ModuleType

    import torch

    from tvmerge.algebra.live import LoadedModel
    from tvmerge.algebra.operands import Checkpoint

Terms = dict[Stored, Fraction]
_Self = TypeVar("_Self", bound="Folded")  # typing.Self needs Python 3.11


def _live() -> ModuleType:
    """By name: torch is known there, and must not be needed here."""
    return import_module("tvmerge.algebra.live")


class Expression(ABC):
    """A sum of stored tensors; `donor` gives layout, dtypes and files."""

    __slots__ = ("_donor",)
    _donor: Stored
    _run: Callable[..., MergeReport]  # how an expression of the class is written
    _plan: Callable[..., Plan]

    @property
    @abstractmethod
    def weighting(self) -> Weighting:
        """What is summed: the coefficients of whole models, or of every tensor."""

    @property
    def donor(self) -> Stored:
        """The input whose layout, dtypes and accompanying files the result takes."""
        return self._donor

    def save(
        self,
        out: str | os.PathLike[str],
        *,
        dtype: str | None = None,
        memory_mib: int | None = None,
        threads: int | None = None,
        device: str = CPU,
        device_memory_mib: int | None = None,
        progress: Progress | None = None,
        sync: bool | None = None,
        restart: bool = False,
        ray_address: str | None = None,
        recipe: RecipeText | None = None,
    ) -> MergeReport:
        """Compute the expression and write it to the folder `out`, in one pass.

        A Checkpoint becomes a folder that `transformers` loads, each tensor rounded once to the
        dtype that it has in the donor; a TaskVector is stored in float32; `dtype` ("bfloat16",
        "BF16") asks for another. `memory_mib` limits what the process may hold, `progress` is
        called with (bytes moved, bytes to move), `sync` waits until the result is on the disk
        (None: if it takes 4 GiB or more). `device`
        computes (`cpu`, `cuda`, `cuda:1`, `cuda:0,1`, `cuda:all`: the same bytes) and gives up to
        `device_memory_mib` of each card's memory. The nodes of the Ray cluster at `ray_address`
        share the work (docs/fleet.md). The receipt (docs/receipt.md) repeats `recipe`.

        Raises MismatchError where the inputs do not fit together, OutputError where `out` is not
        free, NothingChangedError where the vector is zero or the model is the donor again although
        something was added, StorageError where the disk fails, DeviceError where the device cannot
        be used. `out` does not exist then. What an
        interrupted run has done is kept in `.{name}.unfinished` beside it, from where the same
        call goes on; `restart` discards it.
        """
        options = RunOptions(
            memory_mib=memory_mib,
            threads=threads,
            device=device,
            device_memory_mib=device_memory_mib,
            progress=progress,
            sync=sync,
            restart=restart,
            ray_address=ray_address,
        )
        return self._run(
            self.weighting, self._donor, out, dtype=dtype, options=options, recipe=recipe
        )

    def state_dict(
        self,
        *,
        dtype: str | None = None,
        threads: int | None = None,
        device: str = CPU,
        device_memory_mib: int | None = None,
        progress: Progress | None = None,
    ) -> dict[str, torch.Tensor]:
        """The result as CPU tensors of torch by name, with the bytes that `save` would write.

        `device` computes them, wherever they end up (see `save`).
        Raises ConfigError for a dtype that torch does not have, MismatchError where the inputs do
        not fit together, StorageError where the disk fails.
        """
        plan = self._plan([self.weighting], self._donor, dtype=dtype)
        options = RunOptions(
            threads=threads, device=device, device_memory_mib=device_memory_mib, progress=progress
        )
        found: dict[str, torch.Tensor] = _live().tensors(plan, options)
        return found

    def __hash__(self) -> int:
        return id(self)


class Model(Expression):
    """An expression that yields weights."""

    __slots__ = ()

    def load_into(
        self,
        model: torch.nn.Module,
        *,
        start: Checkpoint | None = None,
        threads: int | None = None,
        device: str = CPU,
        device_memory_mib: int | None = None,
        progress: Progress | None = None,
    ) -> LoadedModel:
        """Fill a torch model's parameters and buffers, in the dtypes and on the devices it has.

        No file and no second model in between. The result's `rescale(s)` makes the model
        start + s * (self - start); `start` is the donor as it is unless given, and always where
        each tensor has a sum of its own. `device` computes (see `save`), wherever the model is.

        Raises MismatchError, with the model as it was, where its tensors are not the expression's;
        StorageError where the disk fails: the model may then hold a mixture. NothingChangedError
        where the model now holds the donor although something was added.
        """
        options = RunOptions(
            threads=threads, device=device, device_memory_mib=device_memory_mib, progress=progress
        )
        loaded: LoadedModel = _live().load_into(model, self, start, options)
        return loaded


class Folded(Expression):
    """An expression of whole models: one exact coefficient for each input."""

    __slots__ = ("_terms",)
    _terms: Terms

    @classmethod
    def _make(cls: type[_Self], terms: Terms, donor: Stored) -> _Self:
        made = object.__new__(cls)
        made._terms = {stored: c for stored, c in terms.items() if c != 0}
        made._donor = donor
        for stored, coefficient in made._terms.items():
            if abs(coefficient) > LARGEST_COEFFICIENT:
                what = f"the coefficient of {stored.source}"
                raise ConfigError(f"{what} is beyond {LARGEST_COEFFICIENT:.2g}")
        return made

    @property
    def coefficients(self) -> Coefficients:
        """The folded coefficient of every input that takes part, in a fixed order."""
        rounded = {stored: float(coefficient) for stored, coefficient in self._terms.items()}
        return {stored: coefficient for stored, coefficient in rounded.items() if coefficient}

    @property
    def weighting(self) -> Coefficients:
        """The coefficients."""
        return self.coefficients

    def __repr__(self) -> str:
        text = " + ".join(f"{float(c):g} * {s.source.name}" for s, c in self._terms.items())
        return f"<{type(self).__name__} {text or '0'}>"


def added(left: Folded, right: Folded, sign: int) -> Terms:
    """left + sign * right, term by term, in the order of left first."""
    terms = dict(left._terms)
    for stored, coefficient in right._terms.items():
        terms[stored] = terms.get(stored, Fraction(0)) + sign * coefficient
    return terms


def exact(number: Real | float, what: str) -> Fraction:
    """The number as it is; raises ConfigError where it is not finite."""
    if isinstance(number, Rational):  # its parts may be numpy's, which overflow
        return Fraction(int(number.numerator), int(number.denominator))
    value = float(number)
    if not math.isfinite(value):
        raise ConfigError(f"{what} {value}: expected a finite number")
    return Fraction(value)


def refuse(operation: str, why: str) -> NoReturn:
    """Raise TypeError: weights and directions do not add up in every way."""
    raise TypeError(f"{operation} has no meaning: {why}")


def describe(value: object) -> str:
    """An operand as an error names it."""
    return type(value).__name__ if isinstance(value, Expression) else repr(value)
