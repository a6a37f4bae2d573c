"""Reads and lays out safetensors files; trusts nothing that a header says.

The format: 8 bytes little-endian header length N, N bytes of JSON that map each tensor's name to
dtype, shape and a byte range, then the data. https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from weakref import WeakValueDictionary

from tvmerge.errors import FormatError, StorageError
from tvmerge.files.untrusted import (
    first_non_text,
    open_regular_file,
    parse_json,
    read_exactly,
    shown,
)

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
# What file systems place as one, and can share between files.
_BLOCK_BYTES = 4096
# More than twice what the largest mixtures of experts hold in all their files together. At these
# limits the worst header takes about 0.8 GB and 5 s; without them, 2.5 GB and no end.
MOST_TENSORS = 500_000
_VALUES_PER_TENSOR = 12  # as parse_json counts them, for two dimensions
LONGEST_NAME = 4096
_MOST_DIMENSIONS = 64  # numpy's limit, and torch's
_FIELDS = frozenset({"dtype", "shape", "data_offsets"})


class Entry(NamedTuple):
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


@dataclass(frozen=True)
class Header:
    """A checked header: entries in file order, the free-form metadata, the file's size."""

    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    size_bytes: int


# Those in use, by the digest of their text: a fine-tune's is most often its base's, byte for byte.
_headers: WeakValueDictionary[tuple[bytes, int], Header] = WeakValueDictionary()


def size_in_bytes(dtype: str, shape: Iterable[int]) -> int:
    """The bytes that a tensor of `dtype` and `shape` takes."""
    return math.prod(shape) * DTYPE_BITS[dtype] // 8


def read_header(path: Path) -> Header:
    """Read and check the header of the file at `path`.

    Raises FormatError as parse_header does, and for what is no regular file; StorageError where
    reading fails.
    """
    try:
        with open_regular_file(path, whole=False) as file:
            size = file.seek(0, 2)
            file.seek(0)
            head = read_exactly(file, _LENGTH_BYTES)
            text = read_exactly(file, _header_length(path, head, size))
    except OSError as error:
        raise StorageError(f"{path}: cannot read: {error.strerror or error}") from error
    return parse_header(path, text, size)


def parse_header(path: Path, text: bytes, size_bytes: int) -> Header:
    """Check the JSON text of a header; `size_bytes` is the size of the whole file.

    Raises FormatError, with `path`, for anything that is not as the format demands (JSON, duplicate
    names, dtype, shape, offsets, overlap, holes, size), for more than 500,000 tensors, more than
    64 dimensions and names longer than 4096 characters.
    """
    key = (blake2b(text).digest(), size_bytes)
    known = _headers.get(key)
    if known is not None:
        return known
    content = _parse(path, text)
    metadata = _metadata(path, content.pop("__metadata__", {}))
    data_start = _LENGTH_BYTES + len(text)
    entries = [_entry(path, name, fields, data_start) for name, fields in content.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))
    _check_cover(path, entries, data_start, size_bytes)
    header = _headers[key] = Header(tuple(entries), metadata, size_bytes)
    return header


def _bad(path: Path, what: str) -> NoReturn:
    raise FormatError(f"{path}: not a valid safetensors file: {what}. Download or save it again")


def _header_length(path: Path, head: bytes, size: int) -> int:
    length = int.from_bytes(head, "little")
    if len(head) < _LENGTH_BYTES:
        _bad(path, f"the file has {size} bytes; a header length alone takes 8")
    if length > _LARGEST_HEADER_BYTES or _LENGTH_BYTES + length > size:
        _bad(path, f"the header claims {length} bytes; the file has {size}")
    return length


def _parse(path: Path, text: bytes) -> dict[str, Any]:
    try:
        content = parse_json(text, most_values=_VALUES_PER_TENSOR * MOST_TENSORS)
    except ValueError as error:
        _bad(path, f"the header {error}")
    if not isinstance(content, dict):
        _bad(path, f"the header is a JSON {type(content).__name__}, expected an object")
    if len(content) > MOST_TENSORS:
        _bad(path, f"the header has {len(content):,} entries, expected at most {MOST_TENSORS:,}")
    _check_text(path, content)
    longest = max(map(len, content), default=0)
    if longest > LONGEST_NAME:
        _bad(path, f"a name has {longest:,} characters, expected at most {LONGEST_NAME}")
    return content


def _check_text(path: Path, strings: Iterable[str]) -> None:
    bad = first_non_text(strings)
    if bad is not None:
        _bad(path, f"{shown(bad)} is not text")


def _metadata(path: Path, value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        _bad(path, "__metadata__ must map strings to strings")
    _check_text(path, [*value.keys(), *value.values()])
    return value


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _entry(path: Path, name: str, fields: object, data_start: int) -> Entry:
    if not isinstance(fields, dict) or fields.keys() != _FIELDS:
        _bad(path, f"tensor {shown(name)}: expected exactly dtype, shape and data_offsets")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        known = ", ".join(DTYPE_BITS)
        _bad(path, f"tensor {shown(name)}: unknown dtype {shown(dtype)}, expected one of {known}")
    if (
        not isinstance(shape, list)
        or len(shape) > _MOST_DIMENSIONS
        or not all(map(_is_count, shape))
    ):
        what = f"is not a list of sizes, {_MOST_DIMENSIONS} at most"
        _bad(path, f"tensor {shown(name)}: shape {shown(shape)} {what}")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        what = f"data_offsets {shown(offsets)} are not two byte positions"
        _bad(path, f"tensor {shown(name)}: {what}")
    begin, end = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    # A size of 0 hides an overflow from other readers only if it comes first: refused either way.
    if bits >= 2**66 or bits % 8 or (bits == 0 and math.prod(size or 1 for size in shape) >= 2**63):
        what = f"{dtype} of shape {shown(shape)} is no countable number of bytes"
        _bad(path, f"tensor {shown(name)}: {what}")
    if end - begin != bits // 8:
        _bad(
            path,
            f"tensor {shown(name)}: data_offsets {offsets} span {end - begin} bytes, "
            f"but {dtype} of shape {shown(shape)} takes {bits // 8}",
        )
    return Entry(name, dtype, tuple(shape), data_start + begin, data_start + end)


def _check_cover(path: Path, entries: list[Entry], data_start: int, size: int) -> None:
    position = data_start
    for entry in entries:
        if entry.begin != position:
            what = "overlaps the one before it" if entry.begin < position else "leaves a hole"
            _bad(
                path,
                f"tensor {shown(entry.name)} {what}: it begins at byte {entry.begin - data_start} "
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
    tensors: Sequence[tuple[str, str, tuple[int, ...]]],
    metadata: Mapping[str, str],
    *,
    like_start: int | None = None,
) -> tuple[bytes, list[Entry], int]:
    """Lay `(name, dtype, shape)` out in one file, in the given order.

    Returns the bytes that open the file (length and header), the entries with their places, and
    the size of the whole file. Entries are packed without gaps, as the format demands. The data
    begins as far behind a block's start as byte `like_start` does, where the format's own
    alignment allows it: the header is filled up with spaces.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    ends = [0]
    for name, dtype, shape in tensors:
        begin = ends[-1]
        ends.append(begin + size_in_bytes(dtype, shape))
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": (begin, ends[-1])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    unit, start = _ALIGNMENT_BYTES, 0
    if like_start is not None and like_start % _ALIGNMENT_BYTES == 0:
        unit, start = _BLOCK_BYTES, like_start
    text += b" " * ((start - _LENGTH_BYTES - len(text)) % unit)
    start = _LENGTH_BYTES + len(text)
    places = zip(tensors, ends[:-1], ends[1:], strict=True)
    placed = [Entry(*tensor, begin + start, end + start) for tensor, begin, end in places]
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, placed, start + ends[-1]
