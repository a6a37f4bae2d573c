"""Reads and lays out safetensors files; trusts nothing that a header says.

The format: 8 bytes little-endian header length N, N bytes of JSON that map each tensor's name to
dtype, shape and a byte range, then the data. https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tvmerge.errors import FormatError, StorageError

# Bits of one element: the sub-byte types of the format are copied whole, like all others.
DTYPE_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8,
    "BOOL": 8, "C64": 64, "F8_E8M0": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
}  # fmt: skip
FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})

_LENGTH_BYTES = 8
_LARGEST_HEADER_BYTES = 100_000_000  # the limit of the format's own library
_ALIGNMENT_BYTES = 8


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the header describes it; `begin` and `end` are bytes from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        """The number of elements; 1 for a 0-d tensor."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """The length of the byte range."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Header:
    """A checked header: entries in file order, the free-form metadata, the file's size."""

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    size_bytes: int


def size_in_bytes(dtype: str, shape: Iterable[int]) -> int:
    """The bytes that a tensor of `dtype` and `shape` takes."""
    return math.prod(shape) * DTYPE_BITS[dtype] // 8


def read_header(path: Path) -> Header:
    """Parse and check the header of the file at `path`.

    Raises FormatError for anything that is not as the format demands (length, JSON, duplicate
    names, dtype, shape, offsets, overlap, holes, size) and StorageError where reading fails.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = file.read(_LENGTH_BYTES)
            length = int.from_bytes(head, "little")
            if len(head) < _LENGTH_BYTES:
                _bad(path, f"the file has {size} bytes; a header length alone takes 8")
            if length > _LARGEST_HEADER_BYTES or _LENGTH_BYTES + length > size:
                _bad(path, f"the header claims {length} bytes; the file has {size}")
            text = file.read(length)
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error
    content = _parse(path, text)
    metadata = _metadata(path, content.pop("__metadata__", {}))
    data_start = _LENGTH_BYTES + length
    entries = [_entry(path, name, fields, data_start) for name, fields in content.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_cover(path, entries, data_start, size)
    return Header(tuple(entries), metadata, size)


def _bad(path: Path, what: str) -> NoReturn:
    raise FormatError(f"{path}: not a valid safetensors file: {what}. Download or save it again")


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            _bad(path, f"the name {twice!r} stands twice in the header")
        return found

    try:
        # Decoded here, since json.loads would guess UTF-16 and others from bytes.
        content = json.loads(text.decode(), object_pairs_hook=unique, parse_int=_whole_number)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        _bad(path, f"the header is not JSON ({error})")
    if not isinstance(content, dict):
        _bad(path, f"the header is a JSON {type(content).__name__}, expected an object")
    _check_text(path, content)
    return content


def _whole_number(digits: str) -> int | float:
    """A float, which is refused later, for what is no size: -0, and more digits than any has."""
    return int(digits) if digits != "-0" and len(digits) < 20 else float(digits)


def _check_text(path: Path, strings: Iterable[str]) -> None:
    """JSON can spell half of a surrogate pair, which no other program could read back."""
    for string in strings:
        try:
            string.encode()
        except UnicodeEncodeError:
            _bad(path, f"{string!a} is not text")


def _metadata(path: Path, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        _bad(path, "__metadata__ must map strings to strings")
    _check_text(path, [*value.keys(), *value.values()])
    return value


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _entry(path: Path, name: str, fields: object, data_start: int) -> Entry:
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        _bad(path, f"tensor {name!r}: expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        _bad(path, f"tensor {name!r}: unknown dtype {dtype!r}, expected one of {list(DTYPE_BITS)}")
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        _bad(path, f"tensor {name!r}: shape {shape!r} is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        _bad(path, f"tensor {name!r}: data_offsets {offsets!r} are not two byte positions")
    begin, end = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    # A size of 0 hides an overflow from other readers only if it comes first: refused either way.
    if math.prod(size or 1 for size in shape) >= 2**63 or bits >= 2**66 or bits % 8:
        _bad(path, f"tensor {name!r}: {dtype} of shape {shape} is no countable number of bytes")
    if end - begin != bits // 8:
        _bad(
            path,
            f"tensor {name!r}: data_offsets {offsets} span {end - begin} bytes, "
            f"but {dtype} of shape {shape} takes {bits // 8}",
        )
    return Entry(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _check_cover(path: Path, entries: list[Entry], data_start: int, size: int) -> None:
    position = data_start
    for entry in entries:
        if entry.begin != position:
            what = "overlaps the one before it" if entry.begin < position else "leaves a hole"
            _bad(
                path,
                f"tensor {entry.name!r} {what}: it begins at byte {entry.begin - data_start} "
                f"of the data, expected {position - data_start}",
            )
        position = entry.end
    if position != size:
        _bad(
            path,
            f"the header describes {position} bytes, the file has {size}"
            + (" (truncated)" if size < position else " (bytes that belong to no tensor)"),
        )


def layout(
    tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[Entry], int]:
    """Lay `(name, dtype, shape)` out in one file, in the given order.

    Returns the bytes that open the file (length and header), the entries with their places, and
    the size of the whole file. Entries are packed without gaps, as the format demands.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    entries: list[Entry] = []
    position = 0
    for name, dtype, shape in tensors:
        end = position + size_in_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        entries.append(Entry(name, dtype, shape, position, end))
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT_BYTES)
    start = _LENGTH_BYTES + len(text)
    placed = [Entry(e.name, e.dtype, e.shape, e.begin + start, e.end + start) for e in entries]
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, placed, start + position
