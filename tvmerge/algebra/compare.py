"""Measures without writing: how two checkpoints differ, and the inner products of vectors.

One streaming reduction serves both (csrc: MeasureJob): the Gram matrix of linear combinations of a
tensor's inputs, accumulated in float64, the same bits for any number of threads.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tvmerge import _core
from tvmerge.algebra.operands import TaskVector
from tvmerge.checkpoints.matching import check_match
from tvmerge.checkpoints.stored import Slot, Stored
from tvmerge.engine.devices import lent
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import MismatchError
from tvmerge.files.safetensors import FLOAT_DTYPES
from tvmerge.inputs.opening import open_input

_LAYER = re.compile(r"^(.*?\.\d+)\.")
_BLOCK_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """One tensor, or one layer's tensors together: the move from `a` to `b`.

    `norm_a`, `norm_b` and `norm_difference` are Frobenius norms; `cosine` is that between the
    weights of `a` and `b`; NaN where a norm is 0 or not finite.
    """

    name: str
    elements: int
    changed_elements: int
    norm_a: float
    norm_b: float
    norm_difference: float
    cosine: float

    @property
    def changed_share(self) -> float:
        """The share of elements whose values differ, 0 to 1."""
        return self.changed_elements / self.elements if self.elements else 0.0

    @property
    def relative_change(self) -> float:
        """`norm_difference / norm_a`; NaN where the latter is 0."""
        return self.norm_difference / self.norm_a if self.norm_a else math.nan


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed from `a` to `b`: per tensor, per layer, in all, and what cannot be compared."""

    total: TensorDifference
    layers: tuple[TensorDifference, ...]
    tensors: tuple[TensorDifference, ...]
    only_in_a: tuple[str, ...]
    only_in_b: tuple[str, ...]
    not_comparable: tuple[str, ...]
    differing_bytes: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether the two hold the same tensors with the same values."""
        lists = (self.only_in_a, self.only_in_b, self.not_comparable, self.differing_bytes)
        return self.total.changed_elements == 0 and not any(lists)


@dataclass(frozen=True, slots=True)
class _Sums:
    name: str
    elements: int
    changed: int
    aa: float
    bb: float
    ab: float
    dd: float

    def __add__(self, other: _Sums) -> _Sums:
        return _Sums(
            self.name,
            self.elements + other.elements,
            self.changed + other.changed,
            self.aa + other.aa,
            self.bb + other.bb,
            self.ab + other.ab,
            self.dd + other.dd,
        )

    def result(self) -> TensorDifference:
        scale = math.sqrt(self.aa) * math.sqrt(self.bb)
        cosine = self.ab / scale if scale > 0 and math.isfinite(scale) else math.nan
        return TensorDifference(
            name=self.name,
            elements=self.elements,
            changed_elements=self.changed,
            norm_a=math.sqrt(self.aa),
            norm_b=math.sqrt(self.bb),
            norm_difference=math.sqrt(self.dd),
            cosine=cosine,
        )


def layer_of(name: str) -> str:
    """The layer that a tensor belongs to (`model.layers.3`), or its own name outside of layers."""
    match = _LAYER.match(name)
    return match.group(1) if match else name


def diff(
    a: str | Path | Stored, b: str | Path | Stored, *, options: RunOptions | None = None
) -> Difference:
    """Compare two checkpoints (or stored task vectors), tensor by tensor.

    Tensors with other shapes or of integer types that differ are listed, not compared. Raises
    FormatError for damaged inputs and MismatchError where the two share no tensor, or one holds
    weights and the other a task vector (as an adapter does).
    """
    options = options or RunOptions()
    left, right = (
        one if isinstance(one, Stored) else open_input(one, threads=options.threads)
        for one in (a, b)
    )
    _refuse_unlike(left, right)
    shared = [name for name in left.slots if name in right.slots]
    if not shared:
        raise MismatchError(f"{left.source} and {right.source} have no tensor in common")
    pairs, mismatched, differing = _sort_out(left, right, shared)
    measured = _measure([(slots, ()) for _, slots in pairs], options)
    sums = []
    for (name, slots), ((aa, ab, bb, difference), (changed,)) in zip(pairs, measured, strict=True):
        # NaN differs from itself, and would count as a change.
        if math.isnan(difference) and _same_bytes(*slots):
            changed, difference = 0, 0.0
        sums.append(_Sums(name, slots[0].entry.elements, changed, aa, bb, ab, difference))
    layers: dict[str, _Sums] = {}
    total = _Sums("total", 0, 0, 0.0, 0.0, 0.0, 0.0)
    for one in sums:
        layer = layer_of(one.name)
        layers[layer] = layers[layer] + one if layer in layers else replace(one, name=layer)
        total = total + one
    return Difference(
        total=total.result(),
        layers=tuple(layer.result() for layer in layers.values()),
        tensors=tuple(one.result() for one in sums),
        only_in_a=tuple(sorted(left.slots.keys() - right.slots.keys())),
        only_in_b=tuple(sorted(right.slots.keys() - left.slots.keys())),
        not_comparable=tuple(mismatched),
        differing_bytes=tuple(differing),
    )


def gram(vectors: Sequence[TaskVector], *, options: RunOptions | None = None) -> list[list[float]]:
    """The inner products <v_i, v_j> of task vectors, computed in one pass over their files.

    Returns a symmetric `len(vectors) x len(vectors)` matrix. Raises MismatchError where the
    inputs do not have the same tensors in the same shapes.
    """
    for vector in vectors:
        check_match(vector.coefficients, vector.donor)
    inputs: dict[Stored, None] = {s: None for vector in vectors for s in vector.coefficients}
    names: dict[str, list[Stored]] = defaultdict(list)
    for stored in inputs:
        for name, slot in stored.slots.items():
            if slot.entry.dtype in FLOAT_DTYPES:
                names[name].append(stored)
    scales = [vector.coefficients for vector in vectors]
    jobs = []
    for name, holders in names.items():
        slots = [stored.slots[name] for stored in holders]
        if len({slot.entry.shape for slot in slots}) > 1:
            shapes = ", ".join(f"{list(s.entry.shape)} in {s.file}" for s in slots)
            raise MismatchError(f"{name}: the inputs do not fit together: {shapes}")
        rows = [scale.get(stored, 0.0) for scale in scales for stored in holders]
        jobs.append((slots, rows))
    count = len(vectors)
    total = [0.0] * (count * count)
    for part, _ in _measure(jobs, options or RunOptions()):
        total = [x + y for x, y in zip(total, part, strict=True)]
    return [total[i * count : (i + 1) * count] for i in range(count)]


def cosines(products: Sequence[Sequence[float]]) -> list[list[float]]:
    """The cosine matrix of a Gram matrix; NaN where a norm is 0."""
    norms = [math.sqrt(products[i][i]) for i in range(len(products))]
    return [
        [p / n / m if n and m else math.nan for p, m in zip(row, norms, strict=True)]
        for row, n in zip(products, norms, strict=True)
    ]


def _refuse_unlike(left: Stored, right: Stored) -> None:
    if left.is_task_vector == right.is_task_vector:
        return
    vector, model = (left, right) if left.is_task_vector else (right, left)
    raise MismatchError(
        f"{vector.source}: is a task vector or an adapter, {model.source} a checkpoint: weights "
        "compared with changes say nothing. Write what it makes of its base first (`tvmerge apply "
        f"{model.given or model.source} OUT --add {vector.given or vector.source}`)"
    )


def _sort_out(
    left: Stored, right: Stored, shared: Iterable[str]
) -> tuple[list[tuple[str, tuple[Slot, Slot]]], list[str], list[str]]:
    pairs, mismatched, differing = [], [], []
    for name in shared:
        a, b = left.slots[name], right.slots[name]
        if a.entry.shape != b.entry.shape:
            mismatched.append(f"{name}: {list(a.entry.shape)} against {list(b.entry.shape)}")
        elif {a.entry.dtype, b.entry.dtype} <= FLOAT_DTYPES:
            pairs.append((name, (a, b)))
        elif a.entry.dtype != b.entry.dtype:
            mismatched.append(f"{name}: {a.entry.dtype} against {b.entry.dtype}")
        elif not _same_bytes(a, b):
            differing.append(name)
    return pairs, mismatched, differing


def _same_bytes(a: Slot, b: Slot) -> bool:
    if a.entry.dtype != b.entry.dtype:
        return False
    with a.file.open("rb") as left, b.file.open("rb") as right:
        left.seek(a.entry.begin)
        right.seek(b.entry.begin)
        remaining = a.entry.size_bytes
        while remaining:
            size = min(remaining, _BLOCK_BYTES)
            if left.read(size) != right.read(size):
                return False
            remaining -= size
    return True


def _measure(
    jobs: Sequence[tuple[Sequence[Slot], Sequence[float]]], options: RunOptions
) -> list[tuple[list[float], list[int]]]:
    files: dict[Path, int] = {}
    native = []
    for slots, rows in jobs:
        sources = [
            _core.Source(
                files.setdefault(slot.file, len(files)), slot.entry.begin, slot.entry.dtype
            )
            for slot in slots
        ]
        native.append(
            _core.MeasureJob(sources=sources, elements=slots[0].entry.elements, rows=rows)
        )
    told = options.progress
    to_read = sum(slot.entry.size_bytes for slots, _ in jobs for slot in slots)
    workspace = options.workspace()
    with lent(workspace.cards):
        return _core.measure(
            [str(path) for path in files],
            native,
            threads=workspace.threads,
            buffer_bytes=workspace.buffer_bytes,
            mapped_bytes=workspace.mapped_bytes(),
            isa=workspace.isa,
            progress=(lambda done: told(done, to_read)) if told else None,
            cards=workspace.cards,
        )
