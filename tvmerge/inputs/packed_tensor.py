"""The parts that a packed tensor lies in, their dtypes and shapes (docs/packed.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tvmerge.files.safetensors import DTYPE_BITS, FLOAT_DTYPES, Entry
from tvmerge.inputs.forms import INT8, TOP_K

_PARTS = ({"codes", "scales"}, {"values", "bitmap"}, {"values", "indices"})
_INDEX_DTYPES = ("U16", "U32", "U64")
# Shorter rows are joined: a scale takes as much as four codes.
_SHORTEST_ROW = 32

Parts = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A tensor of a task vector that lies in `file` as parts, by the names that they have there."""

    file: Path
    name: str
    shape: tuple[int, ...]
    parts: Mapping[str, Entry]

    @property
    def elements(self) -> int:
        """The number of elements of the whole tensor."""
        return math.prod(self.shape)

    @property
    def form(self) -> str:
        """INT8 or TOP_K."""
        return INT8 if "codes" in self.parts else TOP_K

    @property
    def is_sound(self) -> bool:
        """Whether the parts belong together: their names, dtypes and shapes."""
        parts, elements = self.parts, self.elements
        if set(parts) not in _PARTS:
            return False
        if self.form == INT8:
            codes, scales = parts["codes"], parts["scales"]
            of_rows = scales.shape == self.shape[: len(scales.shape)]
            found = (codes.dtype, codes.shape, scales.dtype, of_rows)
            return found == ("I8", self.shape, "F32", True)
        values = parts["values"]
        if values.dtype not in FLOAT_DTYPES or values.shape != (values.elements,):
            return False
        if "bitmap" in parts:
            bitmap = parts["bitmap"]
            whole = (bitmap.dtype, bitmap.shape) == ("U8", (-(-elements // 8),))
        else:
            indices = parts["indices"]
            whole = indices.dtype in _INDEX_DTYPES and indices.shape == values.shape
        return whole and values.elements <= elements


def int8_parts(shape: tuple[int, ...]) -> Parts:
    """The dtypes and shapes of a tensor's parts: a scale for each row of the last dimension.

    Where that has fewer than 32 elements, the dimensions before it belong to the row as well.
    """
    rows = max(0, len(shape) - 1)
    while rows and math.prod(shape[rows:]) < _SHORTEST_ROW:
        rows -= 1
    return {"codes": ("I8", shape), "scales": ("F32", shape[:rows])}


def top_k_parts(elements: int, kept: int, dtype: str) -> Parts:
    """The dtypes and shapes of a tensor's parts: its values in their dtype, float32 at most.

    Their places are a bit for each element, or a number for each value, whichever is smaller.
    """
    of_index = next(d for d in _INDEX_DTYPES if elements <= 2 ** DTYPE_BITS[d])
    bitmap_bytes = -(-elements // 8)
    if bitmap_bytes <= kept * DTYPE_BITS[of_index] // 8:
        places = {"bitmap": ("U8", (bitmap_bytes,))}
    else:
        places = {"indices": (of_index, (kept,))}
    return {"values": ("F32" if dtype == "F64" else dtype, (kept,)), **places}
