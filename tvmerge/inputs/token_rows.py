"""Embeddings with a row for every token of another vocabulary, written into a safetensors file.

Rows that the model has are copied as bytes. Others are the mean of rows of several models, rounded
once to the model's own dtype: as if it had been saved with them.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path

from tvmerge import _core
from tvmerge.checkpoints.stored import Slot, Stored, file_status
from tvmerge.files.computed import Block, Sources, address
from tvmerge.files.safetensors import DTYPE_BITS, Entry
from tvmerge.inputs.expanding import Expansion

# What is computed and how: raised when either changes.
_FORM = "token rows 2"
_BLOCK_BYTES = 2**20
_MOST_ROWS = 1024  # that are summed in one call

# The rows, each a source's number and its own, whose mean a row is; none: 0.
Mean = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TokenRows:
    """A tensor to be written, a row for every token, and whence each row comes.

    `own` has for every row its number in the model's own source, which has the number `place` and
    gives the dtype; -1 where `filled` says what the row is. `padding` rows follow, each of which
    is the mean of all others (J. Hewitt, *Initializing New Word Embeddings for Pretrained Language
    Models*, 2021).
    """

    name: str
    sources: tuple[Slot, ...]
    place: int
    own: array[int]
    filled: Mapping[int, Mean]
    padding: int

    @property
    def like(self) -> Entry:
        """The model's own source, which gives the dtype."""
        return self.sources[self.place].entry

    @property
    def dtype(self) -> str:
        """That of the model's own source."""
        return self.like.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the tensor that is written."""
        return (len(self.own) + self.padding, *self.like.shape[1:])

    def digest(self) -> str:
        """What the rows are, as a text."""
        told = repr((self.place, self.padding, sorted(self.filled.items()))).encode()
        return blake2b(self.own.tobytes() + told, digest_size=16).hexdigest()

    def blocks(self, sources: Sources) -> Iterator[Block]:
        """The tensor, some rows at a time."""
        return _Rows(self, sources).blocks()


def store(model: Stored, tables: Sequence[TokenRows], read: Sequence[Path]) -> Stored:
    """The tensors of the tables as an input; `read` are the model's own files they are made of.

    Raises StorageError where the disk fails.
    """
    held = dict.fromkeys(slot.file for table in tables for slot in table.sources)
    expansion = Expansion(
        tensors=tables,
        files=read,
        metadata={"format": "pt"},
        made_of=(
            _FORM,
            os.fspath(model.source),
            [(table.digest(), table.sources) for table in tables],
            tuple(map(file_status, held)),
        ),
    )
    return expansion.open(model.source, model.given, stem="tokens", threads=None)


class _Rows:
    def __init__(self, table: TokenRows, sources: Sources) -> None:
        self.table, self.sources = table, sources
        self.dtype = table.dtype
        self.columns = table.like.elements // table.like.shape[0]
        self.row_bytes = self.columns * DTYPE_BITS[self.dtype] // 8

    def blocks(self) -> Iterator[Block]:
        """The tensor, some rows at a time."""
        total = array("B", bytes(8 * self.columns))  # in float64
        most = max(1, min(_MOST_ROWS, _BLOCK_BYTES // self.row_bytes))
        for start, end in _runs(self.table.own, most):
            at = self.table.place, self.table.own[start]
            block = self._read(*at, end - start) if at[1] >= 0 else self._mean(start)
            if self.table.padding:
                rows = range(address(block), address(block) + len(block), self.row_bytes)
                terms = [(address(total), "F64", 1.0), *((row, self.dtype, 1.0) for row in rows)]
                total = self._sum(terms, "F64")
            yield block
        if self.table.padding:
            mean = [(address(total), "F64", 1 / len(self.table.own))]
            padding = self._sum(mean, self.dtype)
            for _ in range(self.table.padding):
                yield padding

    def _mean(self, row: int) -> array[int]:
        rows = self.table.filled[row]
        if len(rows) == 1 and self.table.sources[rows[0][0]].entry.dtype == self.dtype:
            return self._read(*rows[0], 1)
        read = [(self._read(*one, 1), self.table.sources[one[0]].entry.dtype) for one in rows]
        return self._sum(
            [(address(data), dtype, 1 / len(rows)) for data, dtype in read], self.dtype
        )

    def _read(self, source: int, row: int, count: int) -> array[int]:
        slot = self.table.sources[source]
        return self.sources.read(*slot, row * self.columns, count * self.columns)

    def _sum(self, terms: list[tuple[int, str, float]], dtype: str) -> array[int]:
        """A row in the dtype."""
        out = array("B", bytes(self.columns * DTYPE_BITS[dtype] // 8))
        if terms:
            _core.combine_tensors(
                terms, (address(out), dtype), self.columns, threads=self.sources.threads
            )
        return out


def _runs(own: array[int], most: int) -> Iterator[tuple[int, int]]:
    """Rows that follow each other in the source, at most so many; each filled row alone."""
    starts = [
        row
        for row, number in enumerate(own)
        if row == 0 or min(number, own[row - 1]) < 0 or number != own[row - 1] + 1
    ]
    for start, end in pairwise([*starts, len(own)]):
        for first in range(start, end, most):
            yield first, min(first + most, end)
