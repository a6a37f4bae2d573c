"""What an output folder may be, and what lies in it beside the weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tvmerge.dtype import TORCH_NAMES
from tvmerge.errors import FormatError, OutputError, StorageError, TVMergeError
from tvmerge.plan import OutShard
from tvmerge.stored import INDEX_SUFFIX, Stored

# Weights in any format, their indices, and training state: not part of a merged model.
_NOT_COPIED = (
    "*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.pt", "*.pth",
    "*.h5", "*.msgpack", "*.gguf", "*.onnx", "*.onnx_data", "*.ckpt", "*.pkl", "*.npz",
    "training_args*", "trainer_state.json", "README.md",
)  # fmt: skip


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
        for place in (stored.source, stored.folder if stored.source.is_dir() else stored.source):
            if target == place or (place.is_dir() and place in target.parents):
                raise OutputError(
                    f"{out}: is, or lies inside, the input {place}. Inputs are never written to: "
                    "name another folder"
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


@contextmanager
def storage_errors(place: str | os.PathLike[str]) -> Iterator[None]:
    """Raise StorageError for what the operating system refuses while `place` is written."""
    try:
        yield
    except TVMergeError:
        raise
    except OSError as error:
        raise StorageError(f"{place}: cannot write: {error.strerror or error}") from error


def copy_companions(donor: Stored, to: Path) -> list[str]:
    """Copy config, tokenizer, code and licence files of the donor's folder, byte for byte.

    Returns their paths relative to the folder. A donor that is a single weights file has none:
    what else lies in its folder may have nothing to do with it.
    """
    if donor.source.suffix == ".safetensors":
        return []

    def skip(folder: str, names: list[str]) -> set[str]:
        hidden = {name for name in names if name.startswith(".") and name != ".gitattributes"}
        deep = {
            name
            for name in names
            if (Path(folder) / name).is_dir() and name.startswith("checkpoint-")
        }
        return set(shutil.ignore_patterns(*_NOT_COPIED)(folder, names)) | hidden | deep

    shutil.copytree(donor.folder, to, ignore=skip, dirs_exist_ok=True)
    for path in sorted(to.rglob("*"), reverse=True):  # folders that held nothing but weights
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return sorted(str(path.relative_to(to)) for path in to.rglob("*") if path.is_file())


def write_index(shards: Sequence[OutShard], folder: Path, *, stem: str) -> None:
    """Write the index of a sharded output, as `save_pretrained` does; nothing for one shard."""
    if len(shards) == 1:
        return
    entries = [(shard.name, entry) for shard in shards for entry in shard.entries]
    index = {
        "metadata": {
            "total_parameters": sum(entry.elements for _, entry in entries),
            "total_size": sum(entry.size_bytes for _, entry in entries),
        },
        "weight_map": {entry.name: name for name, entry in entries},
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / (stem + INDEX_SUFFIX)).write_text(text)


def declare_dtype(config: Path, dtype: str) -> None:
    """Keep a copied config true when the weights' dtype (its safetensors code) was changed."""
    if not config.is_file():
        return
    try:
        content = json.loads(config.read_bytes())
    except ValueError as error:
        raise FormatError(f"{config.name}: not JSON ({error}). Correct the base's own") from error
    for key in ("torch_dtype", "dtype"):
        if key in content:
            content[key] = TORCH_NAMES[dtype]
    config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
