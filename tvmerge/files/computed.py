"""Writes safetensors files whose tensors are computed from those of others, some rows at a time."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, TypeAlias

from tvmerge import _core
from tvmerge.errors import StorageError, storage_errors
from tvmerge.files.safetensors import DTYPE_BITS, Entry
from tvmerge.files.untrusted import open_regular_file

_BUFFER_BYTES = 2**20  # single rows come by the hundred thousand
Layout = tuple[bytes, list[Entry], int]  # the head, the entries and the size of a file
# array takes no brackets before Python 3.12
Block: TypeAlias = "array[int] | array[float] | memoryview"


class Sources:
    """The files that are read, each opened once; `threads` convert what is read."""

    def __init__(self, opened: ExitStack, threads: int = 1) -> None:
        self._opened, self.threads = opened, threads
        self._files: dict[Path, BinaryIO] = {}

    def read(
        self, path: Path, entry: Entry, start: int = 0, count: int | None = None
    ) -> array[int]:
        """The bytes of `count` elements from `start` on, of all unless that is given."""
        if path not in self._files:
            self._files[path] = self._opened.enter_context(open_regular_file(path))
        file = self._files[path]
        size = DTYPE_BITS[entry.dtype] // 8
        data = array("B", bytes((entry.elements if count is None else count) * size))
        file.seek(entry.begin + start * size)
        left = memoryview(data)
        while left:
            got = file.readinto(left)  # type: ignore[attr-defined]
            if not got:
                raise StorageError(f"{path}: ends within {entry.name}: it was cut off")
            left = left[got:]
        return data

    def floats(
        self, path: Path, entry: Entry, start: int = 0, count: int | None = None
    ) -> array[float]:
        """What `read` gives, in float32."""
        data = self.read(path, entry, start, count)
        found = zeros(len(data) * 8 // DTYPE_BITS[entry.dtype])
        self.combine([(address(data), entry.dtype, 1.0)], found)
        return found

    def combine(self, terms: list[tuple[int, str, float]], out: array[float]) -> None:
        """Write the sum of terms (address, dtype, coefficient) to `out`, if there are any."""
        if terms:
            _core.combine_tensors(terms, (address(out), "F32"), len(out), threads=self.threads)


def write_file(path: Path, laid_out: Layout, tensors: Iterable[Iterable[Block]]) -> None:
    """Write the blocks of every tensor, in the order of the entries; the head is written last.

    Raises StorageError where the disk fails.
    """
    head, entries, size_bytes = laid_out
    _core.allocate(os.fspath(path), size_bytes)
    with storage_errors(path), path.open("r+b", buffering=_BUFFER_BYTES) as out:
        for entry, blocks in zip(entries, tensors, strict=True):
            out.seek(entry.begin)
            for block in blocks:
                out.write(block)
        out.seek(0)
        out.write(head)


def zeros(elements: int) -> array[float]:
    """A block of so many elements."""
    return array("f", bytes(4 * elements))


def address(data: array[int] | array[float]) -> int:
    """Where the elements lie."""
    return data.buffer_info()[0]


def write_all(file: BinaryIO, data: Block | bytes) -> None:
    """Write all bytes to an unbuffered file."""
    left = memoryview(data).cast("B") if len(data) else memoryview(b"")
    while left:
        left = left[file.write(left) :]
