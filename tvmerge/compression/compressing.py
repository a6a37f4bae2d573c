"""Compresses stored task vectors, and says what of them is kept.

    compress(TaskVector("vector"), "small", to="topk=0.1")

In a narrower dtype a vector is stored as any other. In 8 bits, or with its largest elements alone,
it is packed (docs/packed.md), and expanded to float32 wherever it is read.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from tvmerge.algebra.compare import diff
from tvmerge.algebra.operands import TaskVector
from tvmerge.checkpoints.stored import open_stored
from tvmerge.compression.packer import save_packed
from tvmerge.engine.edit import Edit
from tvmerge.engine.run_options import RunOptions
from tvmerge.errors import ConfigError
from tvmerge.inputs.forms import parse_form
from tvmerge.inputs.packed import PACKED_KEY
from tvmerge.merging.merge import save_vector
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.receipt import relative_error


@dataclass(frozen=True, slots=True)
class Compressed:
    """What is stored of one tensor, or of all: the elements that are not 0, bytes, the error.

    `relative_error` is |stored - exact| / |exact|; it and `cosine` are NaN where there is none.
    """

    name: str
    elements: int
    kept: int
    bytes_before: int
    bytes_after: int
    relative_error: float
    cosine: float

    @property
    def kept_share(self) -> float:
        """The share of the elements that is kept, 0 to 1."""
        return self.kept / self.elements if self.elements else 0.0


@dataclass(frozen=True, slots=True)
class Compression:
    """What a compressed vector holds of the one that it was made of; bytes in all are of files."""

    out: Path
    form: str
    total: Compressed
    tensors: tuple[Compressed, ...]


def compress(
    vector: TaskVector,
    out: str | os.PathLike[str],
    *,
    to: str,
    options: RunOptions | None = None,
) -> Compression:
    """Store a stored task vector again in the new folder `out`, in the form `to` (forms.py).

    Raises ConfigError for a form that is not known and for a sum of vectors, FormatError where
    8 bits have no code for a value, and what `TaskVector.save` raises.
    """
    form, options = parse_form(to), options or RunOptions()
    if list(vector.coefficients.values()) != [1.0]:
        raise ConfigError(f"{vector!r}: expected a stored task vector as it is. Save it first")
    (stored,) = vector.coefficients
    if form.is_packed:
        receipt = save_packed(stored, form, out, options)
        errors = {one.name: _error(one.edit) for one in receipt.tensors if one.edit is not None}
        error = _error(receipt.edit)
    else:
        save_vector({stored: 1.0}, stored, out, dtype=form.name, options=options)
        receipt = read_receipt(Path(out))
        # The merge's own sums are in float32, and its errors from differences of these.
        found = diff(stored, Path(out), options=replace(options, progress=None))
        errors = {one.name: (one.relative_change, one.cosine) for one in found.tensors}
        error = found.total.relative_change, found.total.cosine
    after = _bytes_by_tensor(Path(out))
    tensors = tuple(
        Compressed(
            one.name,
            one.elements,
            one.edit.changed if one.edit else 0,
            stored.slots[one.name].entry.size_bytes,
            after[one.name],
            *errors[one.name],
        )
        for one in receipt.tensors
    )
    total = Compressed(
        "total",
        sum(one.elements for one in tensors),
        sum(one.kept for one in tensors),
        sum(file.size_bytes for record in receipt.inputs for file in record.files),
        sum(file.size_bytes for file in receipt.files),
        *error,
    )
    return Compression(Path(out), str(form), total, tensors)


def _error(edit: Edit) -> tuple[float, float]:
    """Relative error and cosine; NaN where there is none."""
    error, cosine = relative_error(edit), edit.cosine
    return math.nan if error is None else error, math.nan if cosine is None else cosine


def _bytes_by_tensor(out: Path) -> dict[str, int]:
    found: dict[str, int] = defaultdict(int)
    for _, header in open_stored(out).shards:
        for entry in header.entries:
            name = entry.name.rpartition(":")[0] if PACKED_KEY in header.metadata else entry.name
            found[name] += entry.size_bytes
    return found
