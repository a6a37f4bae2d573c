"""Task arithmetic over checkpoints on disk, lazily.

    tau = Checkpoint("tuned") - Checkpoint("base")     # a TaskVector, nothing is read yet
    (Checkpoint("base") - 0.5 * tau).save("out")       # one pass over both files

Every expression folds to one coefficient per input (kept as exact fractions until the end), so
`base - 0.5 * (a - base) - 0.5 * (b - base)` is `2 * base - 0.5 * a - 0.5 * b`: one pass over three
inputs. Task vectors: Ilharco et al., "Editing Models with Task Arithmetic", arXiv 2212.04089.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from importlib import import_module
from numbers import Rational, Real
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tvmerge.errors import ConfigError
from tvmerge.merge import MergeReport, save_checkpoint, save_vector
from tvmerge.plan import Plan, plan_checkpoint, plan_vector
from tvmerge.receipt import RecipeText
from tvmerge.run_options import SYNC_BY_DEFAULT, Progress, RunOptions
from tvmerge.stored import Stored, open_stored

if TYPE_CHECKING:
    import torch

    from tvmerge.live import LoadedModel

_LARGEST = sys.float_info.max
_Terms = dict[Stored, Fraction]
_Self = TypeVar("_Self", bound="_Linear")  # typing.Self needs Python 3.11


class _Linear:
    """A sum of stored tensors with a coefficient each; `donor` gives layout, dtypes and files."""

    __slots__ = ("_donor", "_terms")
    _donor: Stored
    _terms: _Terms
    _run: Callable[..., MergeReport]  # how an expression of the class is written
    _plan: Callable[..., Plan]

    @classmethod
    def _make(cls: type[_Self], terms: _Terms, donor: Stored) -> _Self:
        made = object.__new__(cls)
        made._terms = {stored: c for stored, c in terms.items() if c != 0}
        made._donor = donor
        for stored, coefficient in made._terms.items():
            if abs(coefficient) > _LARGEST:
                raise ConfigError(f"the coefficient of {stored.source} is beyond {_LARGEST:.2g}")
        return made

    @property
    def coefficients(self) -> Mapping[Stored, float]:
        """The folded coefficient of every input that takes part, in a fixed order."""
        rounded = {stored: float(coefficient) for stored, coefficient in self._terms.items()}
        return {stored: coefficient for stored, coefficient in rounded.items() if coefficient}

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
        progress: Progress | None = None,
        sync: bool = SYNC_BY_DEFAULT,
        restart: bool = False,
        recipe: RecipeText | None = None,
    ) -> MergeReport:
        """Compute the expression and write it to the folder `out`, in one pass.

        A Checkpoint becomes a folder that `transformers` loads, each tensor rounded once to the
        dtype that it has in the donor; a TaskVector is stored in float32; `dtype` ("bfloat16",
        "BF16") asks for another. `memory_mib` limits what the process may hold, `progress` is
        called with (bytes moved, bytes to move), `sync` waits until the result is on the disk. The
        receipt (docs/receipt.md) repeats `recipe`.

        Raises MismatchError where the inputs do not fit together, OutputError where `out` is not
        free, NothingChangedError where the vector is zero or the model is the donor again although
        something was added, StorageError where the disk fails. `out` does not exist then. What an
        interrupted run has done is kept in `.{name}.unfinished` beside it, from where the same
        call goes on; `restart` discards it.
        """
        options = RunOptions(
            memory_mib=memory_mib, threads=threads, progress=progress, sync=sync, restart=restart
        )
        return self._run(
            self.coefficients, self._donor, out, dtype=dtype, options=options, recipe=recipe
        )

    def state_dict(
        self,
        *,
        dtype: str | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> dict[str, torch.Tensor]:
        """The result as CPU tensors of torch by name, with the bytes that `save` would write.

        Raises ConfigError for a dtype that torch does not have, MismatchError where the inputs do
        not fit together, StorageError where the disk fails.
        """
        plan = self._plan([self.coefficients], self._donor, dtype=dtype)
        options = RunOptions(threads=threads, progress=progress)
        # By name: torch is known there, and must not be needed here.
        found: dict[str, torch.Tensor] = import_module("tvmerge.live").tensors(plan, options)
        return found

    def __repr__(self) -> str:
        text = " + ".join(f"{float(c):g} * {s.source.name}" for s, c in self._terms.items())
        return f"<{type(self).__name__} {text or '0'}>"

    def __hash__(self) -> int:
        return id(self)


def _sum(left: _Linear, right: _Linear, sign: int) -> _Terms:
    terms = dict(left._terms)
    for stored, coefficient in right._terms.items():
        terms[stored] = terms.get(stored, Fraction(0)) + sign * coefficient
    return terms


def _exact(number: Real | float, what: str) -> Fraction:
    if isinstance(number, Rational):  # its parts may be numpy's, which overflow
        return Fraction(int(number.numerator), int(number.denominator))
    value = float(number)
    if not math.isfinite(value):
        raise ConfigError(f"{what} {value}: expected a finite number")
    return Fraction(value)


def _refuse(operation: str, why: str) -> NoReturn:
    raise TypeError(f"{operation} has no meaning: {why}")


def _describe(value: object) -> str:
    return type(value).__name__ if isinstance(value, _Linear) else repr(value)


class TaskVector(_Linear):
    """A direction in weight space: `tuned - base`, or a sum of such with scales.

    `TaskVector(path)` opens one that `save` (or `tvmerge vector`) has stored.
    """

    __slots__ = ()
    _run = staticmethod(save_vector)
    _plan = staticmethod(plan_vector)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        stored = open_stored(path)
        if not stored.is_task_vector:
            raise ConfigError(
                f"{path}: is a checkpoint, expected a stored task vector. "
                f"Subtract its base: Checkpoint({os.fspath(path)!r}) - Checkpoint(base)"
            )
        self._terms = {stored: Fraction(1)}
        self._donor = stored

    def __add__(self, other: object) -> Any:
        if isinstance(other, TaskVector):
            return TaskVector._make(_sum(self, other, 1), self._donor)
        if isinstance(other, Checkpoint):
            return other + self
        if isinstance(other, Real):
            if other == 0:  # so that sum([...]) works
                return self
            _refuse(f"TaskVector + {other!r}", "a number cannot be added; did you mean scale * v?")
        return NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> TaskVector:
        if isinstance(other, TaskVector):
            return TaskVector._make(_sum(self, other, -1), self._donor)
        if isinstance(other, Checkpoint):
            _refuse("TaskVector - Checkpoint", "did you mean Checkpoint - TaskVector?")
        return NotImplemented

    def __neg__(self) -> TaskVector:
        return -1 * self

    def __mul__(self, scale: object) -> TaskVector:
        if not isinstance(scale, Real):
            _refuse(f"TaskVector * {_describe(scale)}", "a task vector is scaled by a number")
        factor = _exact(scale, "scale")
        return TaskVector._make({s: c * factor for s, c in self._terms.items()}, self._donor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> TaskVector:
        if not isinstance(divisor, Real) or divisor == 0:
            _refuse(f"TaskVector / {_describe(divisor)}", "divide by a number other than 0")
        factor = _exact(divisor, "divisor")
        return TaskVector._make({s: c / factor for s, c in self._terms.items()}, self._donor)


class Checkpoint(_Linear):
    """A model's weights: on disk (`Checkpoint(path)`), or an expression that yields weights.

    `path` is a folder with safetensors files, one such file, or an index. Only headers are read.
    """

    __slots__ = ()
    _run = staticmethod(save_checkpoint)
    _plan = staticmethod(plan_checkpoint)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        stored = open_stored(path)
        if stored.is_task_vector:
            raise ConfigError(
                f"{path}: is a stored task vector, expected a checkpoint. "
                f"Open it with TaskVector({os.fspath(path)!r}) and add it to a checkpoint"
            )
        self._terms = {stored: Fraction(1)}
        self._donor = stored

    def __add__(self, other: object) -> Checkpoint:
        if isinstance(other, TaskVector):
            return Checkpoint._make(_sum(self, other, 1), self._donor)
        if isinstance(other, Checkpoint):
            _refuse(
                "Checkpoint + Checkpoint",
                "weights are not added to weights; did you mean base + (tuned - base), or "
                "Checkpoint.average([...])?",
            )
        if isinstance(other, Real):
            _refuse(f"Checkpoint + {other!r}", "add a TaskVector: base + scale * (tuned - base)")
        return NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> Any:
        if isinstance(other, Checkpoint):
            return TaskVector._make(_sum(self, other, -1), other._donor)
        if isinstance(other, TaskVector):
            return Checkpoint._make(_sum(self, other, -1), self._donor)
        if isinstance(other, Real):
            _refuse(f"Checkpoint - {other!r}", "subtract a Checkpoint or a TaskVector")
        return NotImplemented

    def __neg__(self) -> NoReturn:
        _refuse("-Checkpoint", "only a task vector can be negated; did you mean -(tuned - base)?")

    def __mul__(self, scale: object) -> NoReturn:
        _refuse(
            f"{_describe(scale)} * Checkpoint",
            "only a task vector can be scaled; did you mean base + scale * (tuned - base)?",
        )

    __rmul__ = __mul__

    def load_into(
        self,
        model: torch.nn.Module,
        *,
        start: Checkpoint | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> LoadedModel:
        """Fill a torch model's parameters and buffers, in the dtypes and on the devices it has.

        No file and no second model in between. The result's `rescale(s)` makes the model
        start + s * (self - start); `start` is the donor as it is unless given.

        Raises MismatchError, with the model as it was, where its tensors are not the checkpoint's;
        StorageError where the disk fails: the model may then hold a mixture. NothingChangedError
        where the model now holds the donor although something was added.
        """
        options = RunOptions(threads=threads, progress=progress)
        loaded: LoadedModel = import_module("tvmerge.live").load_into(model, self, start, options)
        return loaded

    @staticmethod
    def average(
        checkpoints: Iterable[Checkpoint],
        weights: Iterable[float] | None = None,
        *,
        normalize: bool = True,
        donor: Checkpoint | None = None,
    ) -> Checkpoint:
        """The weighted mean of checkpoints (Wortsman et al., "Model soups", arXiv 2203.05482).

        With `normalize` false the weights are taken as they are. Layout, dtypes and accompanying
        files come from `donor`, by default the first checkpoint.
        """
        models = list(checkpoints)
        factors = (
            [_exact(w, "weight") for w in weights]
            if weights is not None
            else [Fraction(1)] * len(models)
        )
        if not models or len(models) != len(factors):
            raise ConfigError(f"average: {len(models)} checkpoints and {len(factors)} weights")
        total = sum(factors, Fraction(0)) if normalize else Fraction(1)
        if total == 0:
            raise ConfigError("average: the weights sum to 0; set normalize to false to allow that")
        terms: _Terms = {}
        for model, factor in zip(models, factors, strict=True):
            for stored, coefficient in model._terms.items():
                terms[stored] = terms.get(stored, Fraction(0)) + coefficient * factor / total
        if not any(terms.values()):
            raise ConfigError("average: the weights cancel out: there is nothing to write")
        return Checkpoint._make(terms, (donor or models[0])._donor)
