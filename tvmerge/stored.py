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
from typing import Any, NamedTuple, NoReturn

from tvmerge.errors import FormatError, StorageError
from tvmerge.safetensors import MOST_TENSORS, Entry, Header, read_header
from tvmerge.untrusted import parse_json, read_bounded, shown

INDEX_SUFFIX = ".safetensors.index.json"
# Written into the header of every file of a stored task vector.
KIND_KEY = "tvmerge.kind"
TASK_VECTOR = "task_vector"
_LARGEST_INDEX_BYTES = 100_000_000  # as for a header
_VALUES_PER_TENSOR = 4
_LARGEST_CONFIG_BYTES = 10_000_000
_LISTED = 5
_MOST_SHARDS = 10_000  # all are open during a merge


class Slot(NamedTuple):
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
    given: str = ""  # the path as it was asked for

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
    return Stored(source, _open_shards(source), os.fspath(path))


def read_config(folder: Path) -> Mapping[str, Any]:
    """What config.json says; nothing where it is missing or broken, which transformers judges."""
    try:
        text = read_bounded(folder / "config.json", most_bytes=_LARGEST_CONFIG_BYTES)
        content = json.loads(text)  # as transformers reads it: the last of equal names holds
    except (FormatError, StorageError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _open_shards(source: Path) -> tuple[tuple[Path, Header], ...]:
    if source.is_dir():
        return _open_folder(source)
    return _open_index(source) if source.name.endswith(INDEX_SUFFIX) else _one_file(source)


def _open_folder(folder: Path) -> tuple[tuple[Path, Header], ...]:
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError as error:
        raise StorageError(f"{folder}: cannot read: {error.strerror or error}") from error
    indices = [name for name in names if name.endswith(INDEX_SUFFIX)]
    files = [name for name in names if name.endswith(".safetensors")]
    # Before any index, as transformers does: the index may be left over from an earlier save.
    if "model.safetensors" in files:
        return _one_file(folder / "model.safetensors")
    if indices:
        return _open_index(folder / _preferred_index(folder, indices))
    if len(files) == 1:
        return _one_file(folder / files[0])
    if files:
        raise FormatError(
            f"{folder}: {len(files)} safetensors files and no *{INDEX_SUFFIX} that says which of "
            "them belong together. Name one file, or restore the index"
        )
    raise FormatError(
        f"{folder}: expected *.safetensors, found {_listed(names) or 'an empty folder'}. "
        "Convert pickled weights first: save_pretrained(..., safe_serialization=True)"
    )


def _preferred_index(folder: Path, indices: list[str]) -> str:
    for stem in ("model", "vector"):
        if stem + INDEX_SUFFIX in indices:
            return stem + INDEX_SUFFIX
    if len(indices) > 1:
        found = f"{len(indices)} indices ({_listed(indices)})"
        raise FormatError(f"{folder}: {found}: name the one that you mean")
    return indices[0]


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _one_file(file: Path) -> tuple[tuple[Path, Header], ...]:
    return ((file, read_header(file)),)


def _open_index(index: Path) -> tuple[tuple[Path, Header], ...]:
    weight_map = parse_index(index, read_bounded(index, most_bytes=_LARGEST_INDEX_BYTES))
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not _is_file(index.parent / name)]
    if missing:
        what = f"shard {shown(missing[0])} is not there ({len(missing)} missing). Fetch it"
        _bad_index(index, what)
    shards: list[tuple[Path, Header]] = []
    held: dict[str, str] = {}
    for shard in names:
        header = read_header(index.parent / shard)
        _check_shard(index, weight_map, shard, header, held)
        shards.append((index.parent / shard, header))
    for name, shard in weight_map.items():
        if name not in held:
            what = f"tensor {shown(name)} should be in {shown(shard)}, but no shard has it"
            _bad_index(index, what)
    return tuple(shards)


def _check_shard(
    index: Path, weight_map: Mapping[str, str], shard: str, header: Header, held: dict[str, str]
) -> None:
    """Compare a shard with the index, add its names to `held`: tensor name to shard."""
    for entry in header.entries:
        name = shown(entry.name)
        if entry.name in held:
            _bad_index(index, f"tensor {name} is in {shown(held[entry.name])} and {shown(shard)}")
        if entry.name not in weight_map:
            _bad_index(index, f"tensor {name} of {shown(shard)} is not in the weight_map")
        if weight_map[entry.name] != shard:
            what = f"should be in {shown(weight_map[entry.name])}, but it is in {shown(shard)}"
            _bad_index(index, f"tensor {name} {what}")
        held[entry.name] = shard


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long to be one, or half of a surrogate pair
        return False


def _bad_index(index: Path, what: str) -> NoReturn:
    raise FormatError(f"{index}: {what}")


def parse_index(index: Path, text: bytes) -> dict[str, str]:
    """The weight_map of an index's JSON text: tensor name to file name below its folder.

    Raises FormatError, with the path `index`, where there is none, where a file name leaves the
    folder, and for more than 500,000 tensors or 10,000 files.
    """
    try:
        content = parse_json(text, most_values=_VALUES_PER_TENSOR * MOST_TENSORS)
    except ValueError as error:
        _bad_index(index, f"the index {error}")
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(file, str) for file in weight_map.values())
    ):
        _bad_index(index, "expected a weight_map from tensor names to file names")
    names = set(weight_map.values())
    if len(weight_map) > MOST_TENSORS or len(names) > _MOST_SHARDS:
        _bad_index(
            index,
            f"names {len(weight_map):,} tensors in {len(names):,} files, "
            f"expected at most {MOST_TENSORS:,} in {_MOST_SHARDS:,}",
        )
    for name in sorted(names):
        _check_shard_name(index, name)
    return weight_map


def _check_shard_name(index: Path, name: str) -> None:
    """An index may come from anywhere: it must not point out of its own folder."""
    pure = PurePosixPath(name)
    if not name or pure.is_absolute() or ".." in pure.parts or "\\" in name or "\0" in name:
        _bad_index(index, f"shard path {shown(name)} leaves the folder; expected a plain file name")
