"""What an output folder may be, and what lies in it beside the weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Any

from tvmerge.checkpoints.pipeline import own_name
from tvmerge.checkpoints.stored import Stored
from tvmerge.errors import FormatError, OutputError, StorageError, storage_errors
from tvmerge.files.dtype import TORCH_NAMES
from tvmerge.plans.shards import OutShard

# Weights in any format, their indices, and training state: not part of a merged model.
_NOT_COPIED = (
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth",
    "*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.onnx_data", "*.ckpt", "*.pkl", "*.npz",
    "training_args*", "trainer_state.json", "README.md",
)  # fmt: skip
_MOST_COMPANIONS = 10_000
_MOST_LEVELS = 32


def check_destination(out: Path, inputs: Iterable[Stored]) -> None:
    """Refuse a destination that is taken, is an input, or lies inside one."""
    try:
        target = out.resolve()
        target.exists()
        os.fspath(target).encode()
    # Too long, a NUL, not UTF-8, links in a circle.
    except (OSError, ValueError, RuntimeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"{out}: cannot write there: {why}. Name another folder") from error
    for stored in inputs:
        # A single file's folder may hold anything; an index's folder is the model.
        for place in (stored.source, stored.source if stored.is_one_file else stored.folder):
            if target == place or (place.is_dir() and place in target.parents):
                raise OutputError(
                    f"{out}: is, or lies inside, the input {place}. Inputs are never written to: "
                    "name another folder"
                )
    if target.is_mount():
        raise OutputError(
            f"{out}: another disk is mounted there, and what is written beside it cannot take its "
            "place. Name a folder inside it"
        )
    if target.is_dir():
        held = sorted(entry.name for entry in target.iterdir())
        if held:
            raise OutputError(
                f"{out}: expected a new or empty folder, found {len(held)} entries "
                f"({', '.join(held[:3])}{', ...' if len(held) > 3 else ''}). "
                "Nothing is overwritten: name another folder, or empty this one"
            )
    elif target.exists():
        raise OutputError(f"{out}: is a file, expected a new or empty folder. Name another one")


def find_companions(donor: Stored) -> list[Path]:
    """The donor's config, tokenizer, code and licence files, relative to its folder.

    A donor that is a single weights file has none: what else lies in its folder may have nothing
    to do with it. Raises StorageError for a file that cannot be copied later (a link to nowhere),
    and for more files or levels than a model has: links to folders can spell out any number.
    """
    if donor.is_one_file:
        return []
    found = list(islice(_below(donor.folder, (donor.folder,)), _MOST_COMPANIONS + 1))
    if len(found) > _MOST_COMPANIONS:
        raise StorageError(
            f"{donor.folder}: holds more than {_MOST_COMPANIONS:,} files and folders beside the "
            "weights. Remove what is no part of the model"
        )
    return [path.relative_to(donor.folder) for path, is_file in found if is_file]


def _below(folder: Path, parents: tuple[Path, ...]) -> Iterator[tuple[Path, bool]]:
    """Every file to be copied, and every folder on the way: a path, and whether it is a file."""
    if len(parents) > _MOST_LEVELS:
        raise StorageError(f"{folder}: lies {_MOST_LEVELS} levels below the weights. Remove it")
    with storage_errors(folder, doing="read"):
        entries = sorted(folder.iterdir())
    for path in entries:
        if path.name.startswith(".") and path.name != ".gitattributes":
            continue
        if path.is_dir():
            circle = path.is_symlink() and any(path.samefile(parent) for parent in parents)
            if not circle and not path.name.startswith("checkpoint-"):
                yield path, False
                yield from _below(path, (*parents, path))
        elif not any(fnmatch(path.name, pattern) for pattern in _NOT_COPIED):
            if not path.is_file():
                raise StorageError(
                    f"{path}: cannot be copied: a link to nowhere, or no regular file. Remove it"
                )
            yield path, True


def copy_companions(donor: Stored, to: Path, names: Iterable[Path]) -> None:
    """Copy the files that `find_companions` has found into the folder `to`, byte for byte."""
    for name in names:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        with storage_errors(to / name):
            shutil.copy2(donor.folder / name, to / name)


def index_files(shards: Sequence[OutShard]) -> dict[str, bytes]:
    """The names and contents of a sharded output's indices, as `save_pretrained` writes them."""
    names = dict.fromkeys(shard.index for shard in shards if shard.index is not None)
    return {name: _index([shard for shard in shards if shard.index == name]) for name in names}


def _index(shards: Sequence[OutShard]) -> bytes:
    """The index of the shards of one model, whose names in it are those below its own folder."""
    component = shards[0].name.rpartition("/")[0]
    entries = [(shard.name.rpartition("/")[2], e) for shard in shards for e in shard.entries]
    index = {
        "metadata": {
            "total_parameters": sum(entry.elements for _, entry in entries),
            "total_size": sum(entry.size_bytes for _, entry in entries),
        },
        "weight_map": {own_name(component, entry.name): name for name, entry in entries},
    }
    return (json.dumps(index, indent=2, sort_keys=True) + "\n").encode()


def config_to_change(config: Path) -> dict[str, Any] | None:
    """A config.json that has to be changed; None where there is none.

    Raises FormatError where it is not a JSON object.
    """
    if not config.is_file():
        return None
    try:
        content = json.loads(config.read_bytes())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{config.name}: not JSON ({error}). Correct the base's own") from error
    if not isinstance(content, dict):
        raise FormatError(f"{config.name}: not a JSON object. Correct the base's own")
    return content


def declared_dtype(config: Path, dtype: str) -> dict[tuple[str, ...], str]:
    """What keeps a copied config true when the weights' dtype (its safetensors code) changed."""
    return dtype_keys(config_to_change(config) or {}, dtype)


def dtype_keys(content: Mapping[str, Any], dtype: str) -> dict[tuple[str, ...], str]:
    """The keys of a config that say the weights' dtype, with `dtype`."""
    return {(key,): TORCH_NAMES[dtype] for key in ("torch_dtype", "dtype") if key in content}


def change_config(config: Path, changes: Mapping[tuple[str, ...], Any]) -> None:
    """Give keys of a copied config, named by their paths, other values."""
    content = config_to_change(config) if changes else None
    if content is None:
        return
    for path, value in changes.items():
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
