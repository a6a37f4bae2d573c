"""Task-vector arithmetic on torch tensors where they lie: on a GPU (current stream) or on the
CPU. Nothing is copied between them, and nothing is written to a disk.

    from tvmerge.torch import ScaledModel, combine_

    combine_(out, [(1, base), (-0.5, vector)])       # out = round(base - 0.5 * vector), one kernel

    scaled = ScaledModel(model, {"power": power, "deception": deception})
    scaled.set(power=-0.5, deception=-0.3)           # all parameters rewritten in place
    scaled.set(power=-1.0)                           # from the base again: scales do not drift
    scaled.restore()

The arithmetic is the engine's (docs/design.md): summed in a fixed order by fused multiply-adds, in
float32 for outputs of 16 bits or fewer and in float64 for wider ones, and rounded once. The bits do
not depend on the device. Vectors are tensors here, rounded to their dtype: where `save` folds
`base - 0.5 * (tuned - base)` to two terms, results may differ from it in the last place.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from tvmerge import _core
from tvmerge.algebra.expression import Expression
from tvmerge.algebra.model_tensors import dtype_code
from tvmerge.algebra.operands import TaskVector
from tvmerge.errors import ConfigError, DeviceError, MismatchError, did_you_mean
from tvmerge.files.safetensors import FLOAT_DTYPES

# What a task vector may be given as: tensors by name, an expression over files, or the path of a
# stored vector.
Vector = Mapping[str, torch.Tensor] | Expression | str | os.PathLike[str]


def combine_(out: torch.Tensor, terms: Sequence[tuple[float, torch.Tensor]]) -> torch.Tensor:
    """Write `round(sum_k c_k * x_k)` into `out`, which may be one of the x_k; returns `out`.

    `terms` are (c_k, x_k); all tensors have out's shape and device, each any floating-point dtype.
    On a GPU the work is put on the current stream: this returns before it is done, as torch's own
    operations do. Autograd does not see it, but that `out` was changed.

    Raises MismatchError for other shapes or devices, ConfigError for what is no plain tensor of
    floats in one piece, DeviceError where a GPU's tensor comes to a build without CUDA.
    """
    _check("out", out, out)
    for number, (scale, tensor) in enumerate(terms):
        if not math.isfinite(scale):
            raise ConfigError(f"term {number}: scale {scale}: expected a finite number")
        _check(f"term {number}", tensor, out)
    where: dict[str, Any] = {"threads": len(os.sched_getaffinity(0))}
    if out.device.type == "cuda":
        stream = torch.cuda.current_stream(out.device)
        where = {"card": stream.device_index, "stream": stream.cuda_stream}
    _core.combine_tensors(
        [(tensor.data_ptr(), dtype_code(tensor), float(scale)) for scale, tensor in terms],
        (out.data_ptr(), dtype_code(out)),
        out.numel(),
        **where,
    )
    if not out.is_inference():
        torch.autograd.graph.increment_version(out)
    return out


class ScaledModel:
    """A model whose parameters are `base + sum_k scale_k * vector_k`, at scales that change.

    The base is what the model holds now; it and the vectors are kept on the parameters' devices.
    Parameters that no vector names are left alone. `scales` says what the model holds.
    """

    def __init__(self, model: torch.nn.Module, vectors: Mapping[str, Vector]) -> None:
        """Take `vectors` by their names.

        Raises MismatchError where a vector names no parameter, or one of another shape.
        """
        held = {
            name: parameter.detach()
            for name, parameter in model.named_parameters(remove_duplicate=False)
        }
        # Tied parameters are one tensor under several names, and rewritten once.
        firsts: dict[int, str] = {}
        tied = {name: firsts.setdefault(tensor.data_ptr(), name) for name, tensor in held.items()}
        self.model = model
        self.scales: dict[str, float] = dict.fromkeys(vectors, 0.0)
        self._vectors = {
            name: {tied[key]: tensor for key, tensor in _placed(name, vector, held).items()}
            for name, vector in vectors.items()
        }
        named = dict.fromkeys(key for vector in self._vectors.values() for key in vector)
        self._targets = {key: held[key] for key in named}
        self._base = {key: tensor.clone() for key, tensor in self._targets.items()}

    def set(self, scales: Mapping[str, float] | None = None, /, **more: float) -> None:
        """Give the model other scales; vectors that are not named keep theirs.

        Raises ConfigError for a name that is no vector; the model is as it was then.
        """
        wanted = {**(scales or {}), **more}
        for name, scale in wanted.items():
            if name not in self._vectors:
                hint = did_you_mean(name, self._vectors)
                raise ConfigError(
                    f"vector {name!r}: expected one of {', '.join(self._vectors)}.{hint}"
                )
            if not math.isfinite(scale):
                raise ConfigError(f"vector {name!r}: scale {scale}: expected a finite number")
        self.scales |= {name: float(scale) for name, scale in wanted.items()}
        for name, target in self._targets.items():
            combine_(target, self._terms(name))

    def negate(self, scale: float = 1.0, names: Iterable[str] | None = None) -> None:
        """Subtract `scale` times each of the named vectors (all of them), and nothing else."""
        chosen = set(self._vectors if names is None else names)
        self.set({name: -scale if name in chosen else 0.0 for name in {*self._vectors, *chosen}})

    def restore(self) -> None:
        """Make the model the base again."""
        self.set(dict.fromkeys(self._vectors, 0.0))

    def _terms(self, name: str) -> list[tuple[float, torch.Tensor]]:
        edits = [
            (self.scales[key], vector[name])
            for key, vector in self._vectors.items()
            if self.scales[key] != 0 and name in vector
        ]
        return [(1.0, self._base[name]), *edits]


def _placed(name: str, vector: Vector, held: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The vector's tensors where the parameters are."""
    if isinstance(vector, str | os.PathLike):
        vector = TaskVector(vector)
    found = vector.state_dict() if isinstance(vector, Expression) else vector
    placed = {}
    for key, tensor in found.items():
        if not tensor.is_floating_point():
            continue
        if key not in held:
            hint = did_you_mean(key, held)
            raise MismatchError(f"vector {name!r}: {key} is no parameter of the model.{hint}")
        placed[key] = tensor.detach().to(held[key].device).contiguous()
        _check(f"vector {name!r}, {key}", placed[key], held[key])
    return placed


def _check(what: str, tensor: torch.Tensor, out: torch.Tensor) -> None:
    if tensor.device.type not in ("cpu", "cuda"):
        raise DeviceError(f"{what}: on {tensor.device}, expected cpu or cuda")
    if tensor.device != out.device:
        raise MismatchError(f"{what}: on {tensor.device}, expected {out.device} as the output")
    if tensor.shape != out.shape:
        raise MismatchError(
            f"{what}: shape {list(tensor.shape)}, expected {list(out.shape)} as the output"
        )
    if tensor.layout != torch.strided or dtype_code(tensor) not in FLOAT_DTYPES:
        raise ConfigError(
            f"{what}: {tensor.dtype}, {tensor.layout}: expected a plain tensor of one of "
            f"{', '.join(sorted(FLOAT_DTYPES))}"
        )
    if not tensor.is_contiguous():
        raise ConfigError(f"{what}: not in one piece; call contiguous() on it first")
