"""Random vectors, which edits are compared with: of the same norms, and of no direction."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tvmerge import TaskVector
from tvmerge.checkpoints.stored import KIND_KEY, TASK_VECTOR

if TYPE_CHECKING:
    import numpy as np


def random_vector(like: TaskVector, out: Path, *, seed: int) -> TaskVector:
    """A Gaussian vector with the norms of `like`, tensor by tensor, stored as `out`.

    `out` is named by a hash of what decides it: once there, it is not made again. Whatever a run
    that was killed has left beside it is used, made anew, or removed.
    """
    summed, unfinished = (out.with_name(f".{out.name}.{part}") for part in ("like", "partial"))
    if not out.exists():
        if not summed.exists():
            like.save(summed, restart=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        write_random_vector(summed, unfinished, seed=seed)
        unfinished.rename(out)
    shutil.rmtree(summed, ignore_errors=True)
    return TaskVector(out)


def write_random_vector(like: Path, out: Path, *, seed: int) -> None:
    """Store a Gaussian vector whose norm in every tensor is that of the stored vector `like`.

    A shard is in memory at a time; a tensor's numbers depend on the seed and its name, so that
    threads draw several at once.
    """
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file

    def drawn(file: Path, name: str) -> np.ndarray:
        with safe_open(file, framework="numpy") as held:
            wanted = _size_of(held.get_tensor(name))
            shape = held.get_slice(name).get_shape()
        key = hashlib.sha256(f"{seed}\0{name}".encode()).digest()
        noise = np.random.default_rng(list(key)).standard_normal(shape, dtype=np.float32)
        size = _size_of(noise)
        scaled: np.ndarray = noise * np.float32(wanted / size if size else 0.0)
        return scaled

    out.mkdir(parents=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for file in sorted(like.glob("*.safetensors")):
            with safe_open(file, framework="numpy") as held:
                names = list(held.keys())
            made = dict(zip(names, pool.map(partial(drawn, file), names), strict=True))
            save_file(made, out / file.name, metadata={"format": "pt", KIND_KEY: TASK_VECTOR})
    for index in like.glob("*.index.json"):
        (out / index.name).write_bytes(index.read_bytes())


def _size_of(tensor: np.ndarray) -> float:
    """Its Euclidean norm, in float64 piece by piece."""
    flat, piece = tensor.reshape(-1), 2**20
    pieces = (flat[at : at + piece].astype("f8") for at in range(0, flat.size, piece))
    return math.sqrt(sum(float(part @ part) for part in pieces))
