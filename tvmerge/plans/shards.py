"""Lays output files out: as the donor's shards, or anew where the tensors are others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tvmerge.checkpoints.pipeline import own_name
from tvmerge.checkpoints.stored import Stored
from tvmerge.errors import ConfigError
from tvmerge.files.safetensors import FLOAT_DTYPES, Entry, layout, size_in_bytes
from tvmerge.files.weight_files import INDEX_SUFFIX, output_stem


@dataclass(frozen=True, slots=True)
class OutShard:
    """One file to be written: its name, opening bytes (length and header), size, entries.

    The name of a pipeline's file begins with the folder of its model. `index` is the file that
    lists it; None: it is the only one.
    """

    name: str
    head: bytes
    size_bytes: int
    entries: tuple[Entry, ...]
    index: str | None = None


@dataclass(frozen=True, slots=True)
class OutFile:
    """Name, dtype and shape of every tensor of a file, and where the first should lie.

    `stem` is its name without number and ending, behind the folder of a pipeline's model.
    `like_start` is the offset of the first tensor in the donor's file; None: anywhere. `metadata`:
    what the header says beside what all files say.
    """

    stem: str
    tensors: Sequence[tuple[str, str, tuple[int, ...]]]
    like_start: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def model_stem(donor: Stored, file: Path) -> str:
    """The stem of what is made of a file of the donor's."""
    component = donor.component(file)
    return f"{component}/{output_stem(file)}" if component else output_stem(file)


def as_in(
    stem: str, entries: Sequence[Entry], dtype: str | None, *, like: Sequence[Entry] | None = None
) -> OutFile:
    """A file as one of the donor's, or with the dtypes of `like`; `dtype`: of all floats."""
    tensors = _wanted(entries if like is None else like, dtype)
    # Data that keeps its dtypes lies in blocks as the donor's does: what is only copied can then
    # share them. That depends on the donor alone: the same bytes on every file system.
    kept = all(new == entry.dtype for entry, (_, new, _) in zip(entries, tensors, strict=True))
    return OutFile(stem, tensors, entries[0].begin if entries and kept else None)


def cut_anew(entries: Iterable[Entry], dtype: str | None, donor: Stored) -> list[OutFile]:
    """Files of no more tensor bytes than the donor's largest shard, or of one tensor, in order.

    Raises ConfigError where the donor is a pipeline, whose models have folders of their own.
    """
    if donor.components:
        raise ConfigError(
            f"{donor.source}: the result has other tensors, or other shapes, than the pipeline. "
            f"Merge its models one by one: {donor.source / donor.components[0]}, ..."
        )
    stem = model_stem(donor, donor.shards[0][0])
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
    return [OutFile(stem, tensors) for tensors in files]


def lay_out(files: Sequence[OutFile], metadata: Mapping[str, str]) -> tuple[OutShard, ...]:
    """One shard for each of the files, named as `save_pretrained` names them."""
    counts, numbers = Counter(file.stem for file in files), Counter[str]()
    shards = []
    for file in files:
        component, count = file.stem.rpartition("/")[0], counts[file.stem]
        own = [(own_name(component, name), dtype, s) for name, dtype, s in file.tensors]
        told = {**metadata, **file.metadata}
        head, placed, size = layout(own, told, like_start=file.like_start)
        named = zip(placed, file.tensors, strict=True)
        entries = tuple(entry._replace(name=name) for entry, (name, *_) in named)
        name = _name(numbers[file.stem], count, file.stem)
        index = file.stem + INDEX_SUFFIX if count > 1 else None
        shards.append(OutShard(name, head, size, entries, index))
        numbers[file.stem] += 1
    return tuple(shards)


def _wanted(entries: Iterable[Entry], dtype: str | None) -> list[tuple[str, str, tuple[int, ...]]]:
    return [
        (e.name, dtype if dtype and e.dtype in FLOAT_DTYPES else e.dtype, e.shape) for e in entries
    ]


def _name(number: int, count: int, stem: str) -> str:
    if count == 1:
        return f"{stem}.safetensors"
    return f"{stem}-{number + 1:05d}-of-{count:05d}.safetensors"
