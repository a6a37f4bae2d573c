"""Task arithmetic over checkpoints on disk, lazily.

    tau = Checkpoint("tuned") - Checkpoint("base")     # a TaskVector, nothing is read yet
    (Checkpoint("base") - 0.5 * tau).save("out")       # one pass over both files

Every expression folds to one coefficient per input (kept as exact fractions until the end), so
`base - 0.5 * (a - base) - 0.5 * (b - base)` is `2 * base - 0.5 * a - 0.5 * b`: one pass over three
inputs. Task vectors: Ilharco et al., "Editing Models with Task Arithmetic", arXiv 2212.04089.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from numbers import Real
from typing import Any, NoReturn

from tvmerge.algebra.expression import Folded, Model, Terms, added, describe, exact, refuse
from tvmerge.checkpoints.stored import open_stored
from tvmerge.errors import ConfigError
from tvmerge.inputs.opening import open_input
from tvmerge.merging.merge import save_checkpoint, save_vector
from tvmerge.plans.plan import plan_checkpoint, plan_vector


class TaskVector(Folded):
    """A direction in weight space: `tuned - base`, or a sum of such with scales.

    `TaskVector(path)` opens one that `save` (or `tvmerge vector`) has stored, or what the LoRA
    adapter of peft at `path` adds (scale * B @ A, Hu et al., arXiv 2106.09685), which is computed
    now, by `threads` (None: all). With the `base` that it belongs to it is checked against that,
    and saved in its layout; an adapter with whole tensors (modules_to_save) needs it.

        base + 0.5 * TaskVector("adapter", base=base)
    """

    __slots__ = ()
    _run = staticmethod(save_vector)
    _plan = staticmethod(plan_vector)

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        base: Checkpoint | None = None,
        threads: int | None = None,
    ) -> None:
        if base is not None and not isinstance(base, Checkpoint):
            raise ConfigError(f"base={base!r}: expected a Checkpoint, such as Checkpoint({base!r})")
        if base is not None and base.coefficients != {base.donor: 1.0}:
            raise ConfigError(f"base={base!r}: expected a checkpoint on disk. Save it first")
        donor = None if base is None else base.donor
        stored = open_input(path, donor, threads=threads)
        if not stored.is_task_vector:
            raise ConfigError(
                f"{path}: is a checkpoint, expected a stored task vector. "
                f"Subtract its base: `tvmerge vector BASE {path} OUT`, in Python "
                f"Checkpoint({os.fspath(path)!r}) - Checkpoint(base)"
            )
        self._terms = {stored: Fraction(1)}
        self._donor = stored if donor is None or stored.origin is None else donor

    def __add__(self, other: object) -> Any:
        if isinstance(other, TaskVector):
            return TaskVector._make(added(self, other, 1), self._donor)
        if isinstance(other, Checkpoint):
            return other + self
        if isinstance(other, Real):
            if other == 0:  # so that sum([...]) works
                return self
            refuse(f"TaskVector + {other!r}", "a number cannot be added; did you mean scale * v?")
        return NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> TaskVector:
        if isinstance(other, TaskVector):
            return TaskVector._make(added(self, other, -1), self._donor)
        if isinstance(other, Checkpoint):
            refuse("TaskVector - Checkpoint", "did you mean Checkpoint - TaskVector?")
        return NotImplemented

    def __neg__(self) -> TaskVector:
        return -1 * self

    def __mul__(self, scale: object) -> TaskVector:
        if not isinstance(scale, Real):
            refuse(f"TaskVector * {describe(scale)}", "a task vector is scaled by a number")
        factor = exact(scale, "scale")
        return TaskVector._make({s: c * factor for s, c in self._terms.items()}, self._donor)

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> TaskVector:
        if not isinstance(divisor, Real) or divisor == 0:
            refuse(f"TaskVector / {describe(divisor)}", "divide by a number other than 0")
        factor = exact(divisor, "divisor")
        return TaskVector._make({s: c / factor for s, c in self._terms.items()}, self._donor)


class Checkpoint(Folded, Model):
    """A model's weights: on disk (`Checkpoint(path)`), or an expression that yields weights.

    `path` is a folder with safetensors files or pytorch_model.bin, one such file, or an index.
    Only headers are read.
    """

    __slots__ = ()
    _run = staticmethod(save_checkpoint)
    _plan = staticmethod(plan_checkpoint)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        stored = open_stored(path)
        if stored.is_task_vector:
            raise ConfigError(
                f"{path}: is a stored task vector, expected a checkpoint. "
                f"Add it to a checkpoint: `--add {path}`, in Python "
                f"Checkpoint(base) + TaskVector({os.fspath(path)!r})"
            )
        self._terms = {stored: Fraction(1)}
        self._donor = stored

    def __add__(self, other: object) -> Checkpoint:
        if isinstance(other, TaskVector):
            return Checkpoint._make(added(self, other, 1), self._donor)
        if isinstance(other, Checkpoint):
            refuse(
                "Checkpoint + Checkpoint",
                "weights are not added to weights; did you mean base + (tuned - base), or "
                "Checkpoint.average([...])?",
            )
        if isinstance(other, Real):
            refuse(f"Checkpoint + {other!r}", "add a TaskVector: base + scale * (tuned - base)")
        return NotImplemented

    __radd__ = __add__

    def __sub__(self, other: object) -> Any:
        if isinstance(other, Checkpoint):
            return TaskVector._make(added(self, other, -1), other._donor)
        if isinstance(other, TaskVector):
            return Checkpoint._make(added(self, other, -1), self._donor)
        if isinstance(other, Real):
            refuse(f"Checkpoint - {other!r}", "subtract a Checkpoint or a TaskVector")
        return NotImplemented

    def __neg__(self) -> NoReturn:
        refuse("-Checkpoint", "only a task vector can be negated; did you mean -(tuned - base)?")

    def __mul__(self, scale: object) -> NoReturn:
        refuse(
            f"{describe(scale)} * Checkpoint",
            "only a task vector can be scaled; did you mean base + scale * (tuned - base)?",
        )

    __rmul__ = __mul__

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
            [exact(w, "weight") for w in weights]
            if weights is not None
            else [Fraction(1)] * len(models)
        )
        if not models or len(models) != len(factors):
            raise ConfigError(f"average: {len(models)} checkpoints and {len(factors)} weights")
        total = sum(factors, Fraction(0)) if normalize else Fraction(1)
        if total == 0:
            raise ConfigError("average: the weights sum to 0; set normalize to false to allow that")
        terms: Terms = {}
        for model, factor in zip(models, factors, strict=True):
            for stored, coefficient in model._terms.items():
                terms[stored] = terms.get(stored, Fraction(0)) + coefficient * factor / total
        if not any(terms.values()):
            raise ConfigError("average: the weights cancel out: there is nothing to write")
        return Checkpoint._make(terms, (donor or models[0])._donor)
