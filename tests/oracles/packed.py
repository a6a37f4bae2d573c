"""What compressed task vectors hold, by numpy alone, from the words of docs/packed.md."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from safetensors import safe_open
from support.checkpoints import read_file


def int8(tensor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The codes, in the tensor's shape, and the scales, one for each row."""
    rows = max(0, tensor.ndim - 1)
    while rows and math.prod(tensor.shape[rows:]) < 32:
        rows -= 1
    flat = tensor.astype(np.float32).reshape(math.prod(tensor.shape[:rows]), -1)
    scales = np.abs(flat).max(1, initial=0) / np.float32(127)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.where(scales[:, None] > 0, np.rint(flat / scales[:, None]), 0)
    codes = np.clip(codes, -127, 127).astype(np.int8)
    return codes.reshape(tensor.shape), scales.reshape(tensor.shape[:rows])


def from_int8(codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The tensor in float32."""
    exact = codes.reshape(scales.size, -1).astype(np.float64) * scales.reshape(-1, 1)
    return exact.astype(np.float32).reshape(codes.shape)


def largest(tensor: np.ndarray, share: float) -> np.ndarray:
    """The tensor in float32 with its largest elements alone, equal ones by their place."""
    flat = tensor.astype(np.float32).reshape(-1)
    order = np.argsort(-np.abs(flat), kind="stable")
    kept = np.zeros_like(flat)
    count = max(1, int(share * flat.size)) if flat.size else 0
    kept[order[:count]] = flat[order[:count]]
    return kept.reshape(tensor.shape) + np.float32(0)  # no -0


def unpacked(file: Path) -> dict[str, np.ndarray]:
    """The tensors of a packed file in float32, read without tvmerge."""
    parts = read_file(file)
    with safe_open(file, "np") as opened:
        shapes = json.loads(opened.metadata()["tvmerge.packed"])
    found = {}
    for name, shape in shapes.items():
        if f"{name}:codes" in parts:
            found[name] = from_int8(parts[f"{name}:codes"], parts[f"{name}:scales"])
            continue
        values = parts[f"{name}:values"].astype(np.float32)
        flat = np.zeros(math.prod(shape), np.float32)
        if f"{name}:bitmap" in parts:
            bits = np.unpackbits(parts[f"{name}:bitmap"], bitorder="little")
            flat[np.flatnonzero(bits)] = values
        else:
            flat[parts[f"{name}:indices"]] = values
        found[name] = flat.reshape(shape)
    return found
