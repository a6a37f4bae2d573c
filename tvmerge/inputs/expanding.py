"""Expands inputs that do not lie on the disk as they are read: to a safetensors file.

What an adapter adds (low_rank.py), what a packed vector holds (packed.py) and embeddings with rows
for other tokens (token_rows.py) become a file that is kept while somebody uses it (kept.py): from
there on it is an input like any other, for every method and processor. A tensor is made in blocks:
no more than one of them is in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tvmerge.checkpoints.stored import Origin, Stored, file_status
from tvmerge.engine.run_options import RunOptions
from tvmerge.files.computed import Block, Layout, Sources, write_file
from tvmerge.files.kept import keep, key_of
from tvmerge.files.safetensors import layout, read_header


class Computed(Protocol):
    """A tensor that has to be computed."""

    @property
    def name(self) -> str:
        """Its name in the file."""

    @property
    def dtype(self) -> str:
        """Its dtype there, by safetensors' name."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape there."""

    def blocks(self, sources: Sources) -> Iterator[Block]:
        """Its elements in their order, some at a time."""


@dataclass(frozen=True, slots=True)
class Expansion:
    """What is computed, from which `files`; `made_of` tells it from all else that they may give."""

    tensors: Sequence[Computed]
    files: Sequence[Path]
    metadata: Mapping[str, str]
    made_of: tuple[Any, ...]

    def open(self, source: Path, given: str, *, stem: str, threads: int | None) -> Stored:
        """The tensors as an input that lies at `source`, computed by `threads` (None: all).

        Raises StorageError where the disk fails, or a file is changed meanwhile.
        """
        count = RunOptions(threads=threads).thread_count()
        files = tuple(map(file_status, self.files))
        changed_ns = files[0][2]

        def make(path: Path) -> None:
            with ExitStack() as opened:
                sources = Sources(opened, count)
                write_file(path, self._layout(), (one.blocks(sources) for one in self.tensors))
            # A run that is interrupted finds its inputs as they were, computed anew or not.
            os.utime(path, ns=(changed_ns, changed_ns))

        told = (self.made_of, files, [tensor.name for tensor in self.tensors])
        kept = keep(key_of(told), f"{stem}.safetensors", self._layout()[2], make)
        origin = Origin(files, kept)
        origin.check()
        return Stored(source, ((kept.path, read_header(kept.path)),), given, origin)

    def _layout(self) -> Layout:
        return layout([(one.name, one.dtype, one.shape) for one in self.tensors], self.metadata)
