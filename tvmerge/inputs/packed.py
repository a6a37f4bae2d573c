"""Opens packed task vectors: in 8 bits, or with their largest elements alone (docs/packed.md).

A file's metadata has the names and shapes of its tensors; what lies in the file are their parts,
each called NAME:PART. packing.py makes them and turns them back into float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from tvmerge.checkpoints.matching import check_match
from tvmerge.checkpoints.stored import KIND_KEY, TASK_VECTOR, Stored
from tvmerge.errors import FormatError
from tvmerge.files.computed import Sources
from tvmerge.files.safetensors import MOST_TENSORS, Entry, Header
from tvmerge.files.untrusted import parse_json, shown
from tvmerge.inputs.expanding import Expansion
from tvmerge.inputs.forms import INT8
from tvmerge.inputs.packed_tensor import PackedTensor

# In the metadata of a file with packed tensors: a JSON object, name to shape.
PACKED_KEY = "tvmerge.packed"
# What is computed and how: raised when either changes.
_FORM = "packed 1"
_VALUES_PER_TENSOR = 12
_MOST_DIMENSIONS = 64


class Packed(PackedTensor):
    """A packed tensor as it is read: in float32, whatever its parts are."""

    __slots__ = ()

    @property
    def dtype(self) -> str:
        """float32."""
        return "F32"

    def blocks(self, sources: Sources) -> Iterator[memoryview]:
        """The tensor in float32, some elements at a time."""
        from tvmerge.inputs.packing import from_int8, from_largest  # which need numpy

        return (from_int8 if self.form == INT8 else from_largest)(self, sources)


def is_packed(stored: Stored) -> bool:
    """Whether the files say of themselves that their tensors are packed."""
    return any(PACKED_KEY in header.metadata for _, header in stored.shards)


def open_packed(stored: Stored, base: Stored | None, threads: int | None) -> Stored:
    """The vector in float32, expanded by `threads` (None: all).

    It has to fit the base, if that is given, before anything is computed. Raises MismatchError
    where it does not, FormatError where its files are damaged, StorageError where the disk fails.
    """
    tensors = read_packed(stored)
    if base is not None:
        check_match([described(stored, tensors)], base)
    expansion = Expansion(
        tensors=tensors,
        files=[file for file, _ in stored.shards],
        metadata={"format": "pt", KIND_KEY: TASK_VECTOR},
        made_of=(_FORM,),
    )
    return expansion.open(stored.source, stored.given, stem="vector", threads=threads)


def described(stored: Stored, tensors: list[Packed]) -> Stored:
    """The vector as its headers describe it: its tensors have shapes, and no place."""
    entries = tuple(Entry(one.name, "F32", one.shape, 0, 0) for one in tensors)
    file, header = stored.shards[0]
    return Stored(stored.source, ((file, Header(entries, header.metadata, 0)),), stored.given)


def read_packed(stored: Stored) -> list[Packed]:
    """The tensors that a packed vector's headers tell of; raises FormatError for damaged ones."""
    found = [one for file, header in stored.shards for one in _of_file(file, header)]
    names: set[str] = set()
    for one in found:
        if one.name in names:
            _bad(one.file, f"tensor {shown(one.name)} is in another file as well")
        names.add(one.name)
    return found


def _of_file(file: Path, header: Header) -> Iterator[Packed]:
    parts: dict[str, dict[str, Entry]] = {}
    for entry in header.entries:
        name, _, part = entry.name.rpartition(":")
        parts.setdefault(name, {})[part] = entry
    try:
        text = header.metadata.get(PACKED_KEY, "{}").encode()
        shapes = parse_json(text, most_values=_VALUES_PER_TENSOR * MOST_TENSORS)
    except ValueError as error:
        _bad(file, f"{PACKED_KEY} {error}")
    if not isinstance(shapes, dict) or shapes.keys() != parts.keys():
        _bad(file, f"{PACKED_KEY} does not name the tensors whose parts are there")
    for name, shape in shapes.items():
        one = Packed(file, name, _shape(file, name, shape), parts[name])
        if not one.is_sound:
            held = {part: (entry.dtype, list(entry.shape)) for part, entry in one.parts.items()}
            _bad(file, f"the parts of {shown(name)} {shown(shape)} do not belong together: {held}")
        yield one


def _shape(file: Path, name: str, shape: Any) -> tuple[int, ...]:
    is_shape = (
        isinstance(shape, list)
        and len(shape) <= _MOST_DIMENSIONS
        and all(type(size) is int and 0 <= size < 2**63 for size in shape)
    )
    if not is_shape or math.prod(size or 1 for size in shape) >= 2**60:
        _bad(file, f"{shown(name)} has the shape {shown(shape)}, expected a list of sizes")
    return tuple(shape)


def _bad(file: Path, what: str) -> NoReturn:
    raise FormatError(f"{file}: not a packed task vector: {what}. Compress the vector again")
