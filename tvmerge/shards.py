"""Lays output files out: as the donor's shards, or anew where the tensors are others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tvmerge.safetensors import FLOAT_DTYPES, Entry, layout, size_in_bytes
from tvmerge.stored import Stored


@dataclass(frozen=True, slots=True)
class OutShard:
    """One file to be written: its name, opening bytes (length and header), size, entries."""

    name: str
    head: bytes
    size_bytes: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class OutFile:
    """Name, dtype and shape of every tensor of a file, and where the first should lie.

    `like_start` is its offset in the donor's file; None: anywhere.
    """

    tensors: Sequence[tuple[str, str, tuple[int, ...]]]
    like_start: int | None = None


def as_in(
    entries: Sequence[Entry], dtype: str | None, *, like: Sequence[Entry] | None = None
) -> OutFile:
    """A file as one of the donor's, or with the dtypes of `like`; `dtype`: of all floats."""
    tensors = _wanted(entries if like is None else like, dtype)
    # Data that keeps its dtypes lies in blocks as the donor's does: what is only copied can then
    # share them. That depends on the donor alone: the same bytes on every file system.
    kept = all(new == entry.dtype for entry, (_, new, _) in zip(entries, tensors, strict=True))
    return OutFile(tensors, entries[0].begin if entries and kept else None)


def cut_anew(entries: Iterable[Entry], dtype: str | None, donor: Stored) -> list[OutFile]:
    """Files of no more tensor bytes than the donor's largest shard, or of one tensor, in order."""
    most = max(sum(entry.size_bytes for entry in header.entries) for _, header in donor.shards)
    files: list[list[tuple[str, str, tuple[int, ...]]]] = [[]]
    held = 0
    for tensor in _wanted(entries, dtype):
        size = size_in_bytes(tensor[1], tensor[2])
        if files[-1] and held + size > most:
            files.append([])
            held = 0
        files[-1].append(tensor)
        held += size
    return [OutFile(tensors) for tensors in files]


def lay_out(
    files: Sequence[OutFile], *, stem: str, metadata: Mapping[str, str]
) -> tuple[OutShard, ...]:
    """One shard for each of the files, named as `save_pretrained` names them."""
    shards = []
    for number, file in enumerate(files):
        head, placed, size = layout(file.tensors, metadata, like_start=file.like_start)
        shards.append(OutShard(_name(number, len(files), stem), head, size, tuple(placed)))
    return tuple(shards)


def _wanted(entries: Iterable[Entry], dtype: str | None) -> list[tuple[str, str, tuple[int, ...]]]:
    return [
        (e.name, dtype if dtype and e.dtype in FLOAT_DTYPES else e.dtype, e.shape) for e in entries
    ]


def _name(number: int, count: int, stem: str) -> str:
    if count == 1:
        return f"{stem}.safetensors"
    return f"{stem}-{number + 1:05d}-of-{count:05d}.safetensors"
