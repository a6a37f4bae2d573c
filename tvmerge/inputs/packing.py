"""Packs tensors into 8 bits or their largest elements, and unpacks them, block by block.

    int8     q = round(x / s), x' = q * s,  s = max |x| / 127 of a row
    top-k    the elements above a cut and, of those at it, the first ones

Rounded to nearest, ties to even. Loaded when it is needed: it needs numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import numpy as np

from tvmerge import _core
from tvmerge.engine.edit import Edit, total
from tvmerge.errors import FormatError, StorageError
from tvmerge.files.computed import write_all
from tvmerge.files.safetensors import DTYPE_BITS, Entry

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tvmerge.checkpoints.stored import Slot
    from tvmerge.files.computed import Sources
    from tvmerge.inputs.packed_tensor import PackedTensor

    Floats = NDArray[np.float32]
    Read = Callable[[int, int], Floats]  # so many elements from a number on

# What is made of a block fits the second-level cache or nearly so. A multiple of 8, for bitmaps.
_BLOCK_ELEMENTS = 2**16
_LARGEST_CODE = 127
_MAGNITUDE = np.uint32(0x7FFF_FFFF)
_NAN = np.uint32(0x7F80_0001)  # csrc/core/ops_consensus.hpp: key_of


@dataclass(frozen=True, slots=True)
class Largest:
    """Which elements are kept: `count` of them, those of consensus.hpp's Cut but for zeros."""

    key: int
    ties_end: int
    count: int

    def of(self, block: Floats, start: int) -> NDArray[np.bool_]:
        """Whether each element of a block that begins with element `start` is kept."""
        keys = np.minimum(block.view(np.uint32) & _MAGNITUDE, _NAN)
        ties = np.flatnonzero(keys == self.key)
        kept: NDArray[np.bool_] = keys > self.key
        first = np.searchsorted(ties, min(self.ties_end - start, len(block)))
        kept[ties[:first]] = self.key > 0
        return kept


def reader(sources: Sources, slot: Slot) -> Read:
    """Reads a stored tensor in float32; the last block is held."""

    @lru_cache(maxsize=1)
    def read(start: int, count: int) -> Floats:
        return np.frombuffer(sources.floats(slot.file, slot.entry, start, count), np.float32)

    return read


def write_int8(out: BinaryIO, parts: Mapping[str, Entry], read: Read, what: str) -> Edit:
    """Write a tensor's codes and scales; `what` names it where it cannot be written so."""
    codes, scales = parts["codes"], parts["scales"]
    edits = [Edit()]
    for number, rows, pieces in _by_rows(codes.elements, scales.elements):
        largest = np.zeros(rows, np.float32)
        for start, count in pieces:
            np.maximum(largest, np.abs(read(start, count)).reshape(rows, -1).max(1), out=largest)
        if not np.isfinite(largest).all():
            raise FormatError(
                f"{what}: holds values that are not finite, for which int8 has no code. "
                "Store it in another form (--to bf16)"
            )
        scale = (largest / np.float32(_LARGEST_CODE))[:, None]
        _put(out, scales, number, scale)
        for start, count in pieces:
            exact = read(start, count).reshape(rows, -1)
            q = np.divide(exact, scale, out=np.zeros_like(exact), where=scale > 0)
            q = np.rint(q).clip(-_LARGEST_CODE, _LARGEST_CODE).astype(np.int8)
            _put(out, codes, start, q)
            edits.append(edit_of(exact, q * scale))
    return total(edits)


def write_largest(
    out: BinaryIO, parts: Mapping[str, Entry], elements: int, read: Read, kept: Largest
) -> Edit:
    """Write the values of what is kept, and their places."""
    edits = [Edit()]
    written = 0
    for start, count in _pieces(0, elements):
        exact = read(start, count)
        mask = kept.of(exact, start)
        values = exact[mask]
        _put(out, parts["values"], written, _in_dtype(values, parts["values"].dtype))
        if "bitmap" in parts:
            _put(out, parts["bitmap"], start // 8, np.packbits(mask, bitorder="little"))
        else:
            places = (np.flatnonzero(mask) + start).astype(_unsigned(parts["indices"]))
            _put(out, parts["indices"], written, places)
        written += len(values)
        edits.append(edit_of(exact, np.where(mask, exact, np.float32(0))))
    if written != kept.count:
        raise StorageError("the vector was changed while it was in use. Begin again")
    return total(edits)


def from_int8(packed: PackedTensor, sources: Sources) -> Iterator[memoryview]:
    """The tensor in float32, some rows at a time."""
    codes, scales = packed.parts["codes"], packed.parts["scales"]
    for number, rows, pieces in _by_rows(codes.elements, scales.elements):
        scale = np.frombuffer(sources.read(packed.file, scales, number, rows), np.float32)
        for start, count in pieces:
            q = np.frombuffer(sources.read(packed.file, codes, start, count), np.int8)
            yield (q.reshape(rows, -1) * scale[:, None]).reshape(-1).data


def from_largest(packed: PackedTensor, sources: Sources) -> Iterator[memoryview]:
    """The tensor in float32, zeros where nothing was kept; raises FormatError for damaged places.

    A value comes after all those whose places come before its own.
    """
    values = packed.parts["values"]
    places = _of_bitmap if "bitmap" in packed.parts else _of_indices
    taken = 0
    for (_, count), where in zip(_pieces(0, packed.elements), places(packed, sources), strict=True):
        if taken + len(where) > values.elements:
            _bad_places(packed)
        block = np.zeros(count, np.float32)
        block[where] = sources.floats(packed.file, values, taken, len(where))
        taken += len(where)
        yield block.data
    if taken < values.elements:
        _bad_places(packed)


def _of_bitmap(packed: PackedTensor, sources: Sources) -> Iterator[NDArray[np.intp]]:
    """The places of what is kept within each block."""
    bitmap = packed.parts["bitmap"]
    for start, count in _pieces(0, packed.elements):
        data = np.frombuffer(
            sources.read(packed.file, bitmap, start // 8, -(-count // 8)), np.uint8
        )
        bits = np.unpackbits(data, bitorder="little")
        if bits[count:].any():
            _bad_places(packed)
        yield np.flatnonzero(bits)


def _of_indices(packed: PackedTensor, sources: Sources) -> Iterator[NDArray[np.intp]]:
    """The places of what is kept within each block."""
    indices = packed.parts["indices"]
    ahead = np.zeros(0, np.int64)  # read, and not in a block yet
    pieces = _pieces(0, indices.elements)
    last = -1
    for start, count in _pieces(0, packed.elements):
        while not len(ahead) or ahead[-1] < start + count:
            piece = next(pieces, None)
            if piece is None:
                break
            read = np.frombuffer(sources.read(packed.file, indices, *piece), _unsigned(indices))
            more = read.astype(np.int64)
            if more[0] <= last or (more[1:] <= more[:-1]).any() or more[-1] >= packed.elements:
                _bad_places(packed)
            last = int(more[-1])
            ahead = np.concatenate([ahead, more])
        inside = int(np.searchsorted(ahead, start + count))
        yield ahead[:inside] - start
        ahead = ahead[inside:]


def _bad_places(packed: PackedTensor) -> NoReturn:
    raise FormatError(
        f"{packed.file}: {packed.name}: the places of its values are not those of so many "
        "elements, in their order. Compress the vector again"
    )


def _by_rows(elements: int, rows: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """(first row, rows, [(start, elements)]): rows that fit a block, or one with its pieces."""
    row = elements // max(1, rows)
    step = max(1, _BLOCK_ELEMENTS // max(1, row))
    for number in range(0, rows if row else 0, step):
        count = min(step, rows - number)
        start = number * row
        whole = [(start, count * row)] if count > 1 else list(_pieces(start, start + row))
        yield number, count, whole


def _pieces(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """(start, elements) of every block."""
    for here in range(start, stop, _BLOCK_ELEMENTS):
        yield here, min(_BLOCK_ELEMENTS, stop - here)


def edit_of(exact: Floats, realised: Floats) -> Edit:
    """What is stored of a task vector's elements, `realised`, beside what they are."""
    is_set, was_set = realised != 0, exact != 0
    x, z = exact.astype(np.float64), realised.astype(np.float64)
    with np.errstate(invalid="ignore"):  # what is not finite shows in the sums
        sums = [float(np.sum(product)) for product in (x * x, z * z, x * z)]
    counts = [int(np.count_nonzero(one)) for one in (is_set, was_set, was_set & ~is_set)]
    return Edit(*counts, *sums)


def _in_dtype(values: Floats, dtype: str) -> NDArray[np.uint8] | Floats:
    """The bytes of values that the dtype has."""
    if dtype == "F32":
        return values
    found = np.empty(len(values) * DTYPE_BITS[dtype] // 8, np.uint8)
    terms = [(values.ctypes.data, "F32", 1.0)]
    _core.combine_tensors(terms, (found.ctypes.data, dtype), len(values))
    return found


def _unsigned(entry: Entry) -> np.dtype[Any]:
    return np.dtype(f"<u{DTYPE_BITS[entry.dtype] // 8}")


def _put(out: BinaryIO, entry: Entry, start: int, data: NDArray[Any]) -> None:
    """Write elements of a tensor from number `start` on."""
    if data.size:
        out.seek(entry.begin + start * DTYPE_BITS[entry.dtype] // 8)
        write_all(out, np.ascontiguousarray(data).data)
