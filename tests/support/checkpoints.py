"""Writes small checkpoints of any dtype and shard layout, and reads results back.

Both go through the format's own library (`safetensors`), so that tvmerge's reader and writer are
never checked against themselves.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors
from safetensors.numpy import save

Tensors = Mapping[str, np.ndarray]

DTYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
        "I64": np.int64, "I32": np.int32, "U8": np.uint8, "BOOL": np.bool_, "I8": np.int8,
        "U16": np.uint16, "U32": np.uint32,
    }.items()
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
INDEX = "model.safetensors.index.json"


def codes(array: np.ndarray) -> np.ndarray:
    """The bits of an array, as unsigned integers of the same size."""
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    """Same dtype, shape and bits: 0 and -0 differ, equal NaNs do not."""
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and left.tobytes() == right.tobytes()
    )


def write_file(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    """One safetensors file; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    held = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    # ascontiguousarray makes a 0-d array 1-d.
    held = {name: array.reshape(tensors[name].shape) for name, array in held.items()}
    path.write_bytes(save(held, dict(metadata or {"format": "pt"})))
    return path


def write_model(
    folder: Path,
    tensors: Tensors,
    *,
    shards: Sequence[Sequence[str]] | int = 1,
    config: Mapping[str, object] | None = None,
) -> Path:
    """A checkpoint folder: one file, or shards (a count, or the names in each) and their index."""
    names = list(tensors)
    if isinstance(shards, int):
        shards = [names[i::shards] for i in range(shards)]
    folder.mkdir(parents=True, exist_ok=True)
    if len(shards) == 1:
        write_file(folder / "model.safetensors", tensors)
    else:
        weight_map = {}
        for number, held in enumerate(shards, 1):
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            write_file(folder / file, {name: tensors[name] for name in held})
            weight_map |= dict.fromkeys(held, file)
        write_index(folder, weight_map)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return folder


def write_index(folder: Path, weight_map: object, name: str = INDEX) -> Path:
    """An index with any content, sound or not."""
    path = folder / name
    path.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return path


def read_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of one file."""
    return {
        name: np.frombuffer(bytes(info["data"]), DTYPES[info["dtype"]]).reshape(info["shape"])
        for name, info in safetensors.deserialize(path.read_bytes())
    }


def read_model(folder: Path, stem: str = "model") -> dict[str, np.ndarray]:
    """The tensors of a folder, found through the index where there is one."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.exists():
        return read_file(folder / f"{stem}.safetensors")
    files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    return {name: array for file in files for name, array in read_file(folder / file).items()}


def tensor_bytes(path: Path) -> bytes:
    """What a file holds after its header."""
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
