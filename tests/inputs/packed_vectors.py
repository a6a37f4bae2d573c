"""A task vector of every kind of tensor, what its forms keep of it, and a model that it fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from click.testing import CliRunner
from oracles.packed import from_int8, int8, largest
from support.checkpoints import same_bits, write_file

from tvmerge import TaskVector
from tvmerge.cli import cli

VECTOR = {"format": "pt", "tvmerge.kind": "task_vector"}
PACKED = ["int8", "topk=0.3", "topk=0.01"]


def tensors() -> dict[str, np.ndarray]:
    """Shapes, ties, zeros and magnitudes of every kind; multiples of 2^-24 and subnormals too."""
    generator = np.random.default_rng(0)
    normal = generator.standard_normal
    ties = generator.integers(-3, 4, (40, 70)).astype(np.float32)
    few = np.zeros((50, 50), np.float32)
    few[[3, 20, 49], [7, 0, 49]] = 1e-3, -2.0, 5e-8
    return {
        "wide": normal((7, 3000)).astype(np.float32),
        "ties": ties,
        "few": few,
        "zeros": np.zeros((33, 40), np.float32),
        "minus": -np.zeros((2, 40), np.float32),
        "scalar": np.array(-0.25, np.float32),
        "bias": (1e-6 * normal(1001)).astype(np.float32),
        "kernel": normal((6, 5, 3, 3)).astype(np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "narrow": np.zeros((4, 0), np.float32),
        "subnormal": (1e-45 * generator.integers(0, 300, (3, 64))).astype(np.float32),
        "half": normal((20, 33)).astype(ml_dtypes.bfloat16),
        "double": normal((20, 33)),
    }


def write_vector(folder: Path, held: Mapping[str, np.ndarray]) -> Path:
    return write_file(folder / "vector.safetensors", held, VECTOR).parent


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(cli, list(map(str, arguments)))
    assert done.exit_code == code, done.output
    return done.output


def expected(form: str) -> dict[str, np.ndarray]:
    """What a form keeps, in float32."""
    name, _, share = form.partition("=")
    if name == "int8":
        return {name: from_int8(*int8(one)) for name, one in tensors().items()}
    return {name: largest(one, float(share)) for name, one in tensors().items()}


def read_back(folder: Path) -> dict[str, np.ndarray]:
    """What a merge reads of a stored vector."""
    return {name: one.numpy() for name, one in TaskVector(folder).state_dict().items()}


def assert_same(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, one in wanted.items():
        assert same_bits(found[name], one), name


MODEL = {name: one for name, one in tensors().items() if one.size and name != "scalar"}
