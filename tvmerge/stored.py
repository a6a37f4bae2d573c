"""A checkpoint or task vector as it lies on disk: which file holds which tensor, where.

Accepts a folder (sharded with an index, or one safetensors file), a single `.safetensors` file,
or a `*.safetensors.index.json`. The index is checked against every shard's own header.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NoReturn

from tvmerge.errors import FormatError, StorageError
from tvmerge.safetensors import Entry, Header, read_header

INDEX_SUFFIX = ".safetensors.index.json"
# Written into the header of every file of a stored task vector.
KIND_KEY = "tvmerge.kind"
TASK_VECTOR = "task_vector"


@dataclass(frozen=True, slots=True)
class Slot:
    """Where one tensor lies: a file and the entry of its header."""

    file: Path
    entry: Entry


@dataclass(frozen=True, eq=False)
class Stored:
    """The tensors of one model (or task vector) on disk, read from headers only.

    Two objects are the same input when they name the same folder or file.
    """

    source: Path
    shards: tuple[tuple[Path, Header], ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)

    @cached_property
    def slots(self) -> Mapping[str, Slot]:
        """Tensor name to place, over all shards."""
        return {
            entry.name: Slot(file, entry) for file, head in self.shards for entry in head.entries
        }

    @property
    def folder(self) -> Path:
        """The folder that the files lie in."""
        return self.source if self.source.is_dir() else self.source.parent

    @property
    def is_task_vector(self) -> bool:
        """Whether the files say of themselves that they hold a task vector."""
        return any(head.metadata.get(KIND_KEY) == TASK_VECTOR for _, head in self.shards)

    @property
    def size_bytes(self) -> int:
        """The bytes of all shards, headers included."""
        return sum(head.size_bytes for _, head in self.shards)

    @property
    def parameters(self) -> int:
        """The number of elements of all tensors."""
        return sum(slot.entry.elements for slot in self.slots.values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({os.fspath(self.source)!r})"


def open_stored(path: str | os.PathLike[str]) -> Stored:
    """Read the headers of the checkpoint at `path` (folder, file or index).

    Raises FormatError where there is no safetensors checkpoint or it is damaged, StorageError
    where a file cannot be read.
    """
    source = Path(path)
    try:
        source = source.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:  # also a NUL, also links in a circle
        raise FormatError(
            f"{path}: no such file or folder. Expected a folder with *.safetensors, a .safetensors "
            "file or an index; a model of the Hugging Face hub must be downloaded first "
            f"(hf download {path})"
        ) from error
    try:
        os.fspath(source).encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{os.fspath(source)!a}: the name is not UTF-8. Rename it") from error
    if source.is_dir():
        return _open_folder(source)
    if source.name.endswith(INDEX_SUFFIX):
        return Stored(source, _open_index(source))
    return Stored(source, ((source, read_header(source)),))


def _open_folder(folder: Path) -> Stored:
    indices = sorted(folder.glob("*" + INDEX_SUFFIX))
    files = sorted(folder.glob("*.safetensors"))
    preferred = [name for name in ("model", "vector") if folder / (name + INDEX_SUFFIX) in indices]
    # Before any index, as transformers does: the index may be left over from an earlier save.
    if (folder / "model.safetensors") in files:
        return Stored(folder, _with_headers([folder / "model.safetensors"]))
    if len(indices) > 1 and not preferred:
        found = ", ".join(index.name for index in indices)
        raise FormatError(f"{folder}: {len(indices)} indices ({found}): name the one that you mean")
    if indices:
        index = folder / (preferred[0] + INDEX_SUFFIX) if preferred else indices[0]
        return Stored(folder, _open_index(index))
    if len(files) == 1:
        return Stored(folder, _with_headers(files))
    if files:
        raise FormatError(
            f"{folder}: {len(files)} safetensors files and no *{INDEX_SUFFIX} that says which of "
            "them belong together. Name one file, or restore the index"
        )
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5])
    raise FormatError(
        f"{folder}: expected *.safetensors, found {found or 'an empty folder'}. "
        "Convert pickled weights first: save_pretrained(..., safe_serialization=True)"
    )


def _with_headers(files: list[Path]) -> tuple[tuple[Path, Header], ...]:
    return tuple((file, read_header(file)) for file in files)


def _open_index(index: Path) -> tuple[tuple[Path, Header], ...]:
    weight_map = _read_weight_map(index)
    names = sorted(set(weight_map.values()))
    for name in names:
        _check_shard_name(index, name)
    missing = [name for name in names if not _is_file(index.parent / name)]
    if missing:
        _bad_index(index, f"shard {missing[0]!r} is not there ({len(missing)} missing). Fetch it")
    shards = _with_headers([index.parent / name for name in names])
    held: dict[str, str] = {}
    for shard, (_, header) in zip(names, shards, strict=True):
        for entry in header.entries:
            if entry.name in held:
                _bad_index(index, f"tensor {entry.name!r} is in {held[entry.name]} and {shard}")
            held[entry.name] = shard
    for name, shard in weight_map.items():
        if held.get(name) != shard:
            where = f"it is in {held[name]!r}" if name in held else "no shard has it"
            _bad_index(index, f"tensor {name!r} should be in {shard!r}, but {where}")
    for name in held.keys() - weight_map.keys():
        _bad_index(index, f"tensor {name!r} of {held[name]!r} is not in the weight_map")
    return shards


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long to be one
        return False


def _bad_index(index: Path, what: str) -> NoReturn:
    raise FormatError(f"{index}: {what}")


def _read_weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_bytes())
    except OSError as error:
        raise StorageError(f"{index}: cannot read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # ValueError: no text, no JSON, endless numbers
        _bad_index(index, f"not JSON ({error})")
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(file, str) for file in weight_map.values())
    ):
        _bad_index(index, "expected a weight_map from tensor names to file names")
    return weight_map


def _check_shard_name(index: Path, name: str) -> None:
    """An index may come from anywhere: it must not point out of its own folder."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        _bad_index(index, f"shard path {name!r} leaves the folder; expected a plain file name")
