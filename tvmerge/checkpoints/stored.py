"""A checkpoint or task vector as it lies on disk: which file holds which tensor, where.

Accepts a folder (sharded with an index, one file of weights, a pipeline of such), a single file of
safetensors or torch.save (`pytorch_model.bin`), or an index, which is checked against every shard.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tvmerge.checkpoints.heads import ties_embedding, without_tied_heads
from tvmerge.checkpoints.hub import is_hub_id
from tvmerge.checkpoints.pipeline import PIPELINE_INDEX, component_names, within
from tvmerge.errors import FormatError, StorageError, storage_errors
from tvmerge.files.safetensors import Entry, Header
from tvmerge.files.shard_index import bad_index, parse_index
from tvmerge.files.untrusted import read_bounded, shown
from tvmerge.files.weight_files import MODEL_FILES, find_weights, is_index, refuse_folder
from tvmerge.files.weights import read_header

# What peft calls the files of an adapter; of its weights it takes the first that is there.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
# Written into the header of every file of a stored task vector.
KIND_KEY = "tvmerge.kind"
TASK_VECTOR = "task_vector"
# Kinds of models (model_type) whose linear layers lie as (inputs, outputs), which no name tells
# apart from others.
TURNED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
_LARGEST_INDEX_BYTES = 100_000_000  # as for a header
_LARGEST_CONFIG_BYTES = 10_000_000


class Slot(NamedTuple):
    """Where one tensor lies: a file and the entry of its header."""

    file: Path
    entry: Entry


@dataclass(frozen=True, slots=True)
class Origin:
    """The files that a Stored's tensors were computed from: path, size and time of change.

    `kept` is what holds the result where its shards say: it may go when nobody refers to it. A
    Stored without shards stands for files that were read for something else than tensors. Of a
    recipe's stage `made_of` are the inputs, for which receipts name these.
    """

    files: tuple[tuple[Path, int, int], ...]
    kept: object
    made_of: tuple[Stored, ...] = ()

    def check(self) -> None:
        """Raise StorageError where a file has changed since."""
        for before in self.files:
            if file_status(before[0]) != before:
                raise StorageError(f"{before[0]}: was changed while it was in use. Begin again")


def file_status(path: Path) -> tuple[Path, int, int]:
    """A file with its size and its time of change, in nanoseconds."""
    with storage_errors(path, doing="read"):
        status = path.stat()
    return path, status.st_size, status.st_mtime_ns


@dataclass(frozen=True, eq=False)
class Stored:
    """The tensors of one model (or task vector) on disk, read from headers only.

    Two objects are the same input when they name the same folder or file. An adapter's tensors are
    computed first: `source` is its folder, the shards lie elsewhere.
    """

    source: Path
    shards: tuple[tuple[Path, Header], ...]
    given: str = ""  # the path as it was asked for
    origin: Origin | None = None  # of computed tensors
    # Of a pipeline: the folders of its models, whose names begin those of their tensors.
    components: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stored) and self._place == other._place

    def __hash__(self) -> int:
        return hash(self._place)

    @property
    def _place(self) -> tuple[Path, ...]:
        # What an adapter adds may differ from base to base.
        computed = () if self.origin is None else (Path(), *(file for file, _ in self.shards))
        return (self.source, *computed)

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

    def component(self, file: Path) -> str:
        """The folder of the pipeline's model that a shard is of; "" where it is no pipeline."""
        return file.relative_to(self.folder).parts[0] if self.components else ""

    @property
    def config_folders(self) -> tuple[Path, ...]:
        """Where a config.json may lie that speaks of the weights."""
        return tuple(self.folder / name for name in self.components or ("",))

    @property
    def is_one_file(self) -> bool:
        """Whether a file of weights was named: what else lies in its folder is another matter."""
        return bool(self.shards) and self.source == self.shards[0][0]

    @property
    def is_task_vector(self) -> bool:
        """Whether the files say of themselves that they hold a task vector."""
        return any(head.metadata.get(KIND_KEY) == TASK_VECTOR for _, head in self.shards)

    @property
    def leaves(self) -> tuple[Stored, ...]:
        """The inputs that somebody has given: those of a stage, of anything else this one."""
        return (self.origin.made_of if self.origin else ()) or (self,)

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

    Raises FormatError where there is no checkpoint or it is damaged, StorageError
    where a file cannot be read.
    """
    source = Path(path)
    try:
        source = source.resolve(strict=True)
    except (OSError, ValueError, RuntimeError) as error:  # also a NUL, also links in a circle
        elsewhere = ""
        if is_hub_id(os.fspath(path)):
            elsewhere = (
                f"; a model of the Hugging Face hub must be downloaded first (hf download {path})"
            )
        raise FormatError(
            f"{path}: no such file or folder. Expected a folder with *.safetensors or "
            f"pytorch_model.bin, such a file, or an index{elsewhere}"
        ) from error
    try:
        os.fspath(source).encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"{os.fspath(source)!a}: the name is not UTF-8. Rename it") from error
    if (source / PIPELINE_INDEX).is_file():
        return _open_pipeline(source, os.fspath(path))
    return Stored(source, _open_shards(source), os.fspath(path))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of peft, and no model beside it."""
    return (folder / ADAPTER_CONFIG).is_file() and not any(
        (folder / name).is_file() for name in MODEL_FILES
    )


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
    return _open_index(source) if is_index(source) else _one_file(source)


def _open_pipeline(folder: Path, given: str) -> Stored:
    held = {
        name: _open_folder(folder / name)
        for name in component_names(folder / PIPELINE_INDEX, _names_in(folder))
        if (folder / name).is_dir() and find_weights(folder / name, _names_in(folder / name))
    }
    if not held:
        raise FormatError(
            f"{folder}: {PIPELINE_INDEX} names no folder with weights, expected unet, transformer, "
            "vae or the like beside it. Fetch them"
        )
    shards = [(file, within(name, header)) for name in held for file, header in held[name]]
    return Stored(folder, tuple(shards), given, components=tuple(held))


def _names_in(folder: Path) -> list[str]:
    with storage_errors(folder, doing="read"):
        return sorted(entry.name for entry in os.scandir(folder))


def _open_folder(folder: Path) -> tuple[tuple[Path, Header], ...]:
    names = _names_in(folder)
    if ADAPTER_CONFIG in names and is_adapter(folder):
        raise FormatError(
            f"{folder}: is an adapter, expected a checkpoint or task vector. It can be added and "
            "subtracted (`tvmerge apply`), stored (`tvmerge vector BASE ADAPTER OUT`), named in a "
            "recipe (`model: base+adapter`), and opened with TaskVector(adapter, base=...)"
        )
    found = find_weights(folder, names)
    if found is None:
        refuse_folder(folder, names)
    shards = _open_index(found) if is_index(found) else _one_file(found)
    config = read_config(folder)
    if not config or not ties_embedding(config):
        return shards
    return tuple((file, without_tied_heads(header)) for file, header in shards)


def _one_file(file: Path) -> tuple[tuple[Path, Header], ...]:
    return ((file, read_header(file)),)


def _open_index(index: Path) -> tuple[tuple[Path, Header], ...]:
    weight_map = parse_index(index, read_bounded(index, most_bytes=_LARGEST_INDEX_BYTES))
    names = sorted(set(weight_map.values()))
    missing = [name for name in names if not _is_file(index.parent / name)]
    if missing:
        what = f"shard {shown(missing[0])} is not there ({len(missing)} missing). Fetch it"
        bad_index(index, what)
    shards: list[tuple[Path, Header]] = []
    held: dict[str, str] = {}
    for shard in names:
        header = read_header(index.parent / shard)
        _check_shard(index, weight_map, shard, header, held)
        shards.append((index.parent / shard, header))
    for name, shard in weight_map.items():
        if name not in held:
            what = f"tensor {shown(name)} should be in {shown(shard)}, but no shard has it"
            bad_index(index, what)
    return tuple(shards)


def _check_shard(
    index: Path, weight_map: Mapping[str, str], shard: str, header: Header, held: dict[str, str]
) -> None:
    """Compare a shard with the index, add its names to `held`: tensor name to shard."""
    for entry in header.entries:
        name = shown(entry.name)
        if entry.name in held:
            bad_index(index, f"tensor {name} is in {shown(held[entry.name])} and {shown(shard)}")
        if entry.name not in weight_map:
            bad_index(index, f"tensor {name} of {shown(shard)} is not in the weight_map")
        if weight_map[entry.name] != shard:
            what = f"should be in {shown(weight_map[entry.name])}, but it is in {shown(shard)}"
            bad_index(index, f"tensor {name} {what}")
        held[entry.name] = shard


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long to be one, or half of a surrogate pair
        return False
