"""Four small models on disk, and what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.arithmetic import random_array
from support.checkpoints import read_model, write_model
from support.method_models import MODELS, SHAPES, Arrays


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models in float32, the fine-tunes near the base."""
    place = tmp_path_factory.mktemp("models")
    generator = np.random.default_rng(5)
    base = {name: random_array(generator, "F32", s, wild=False) for name, s in SHAPES.items()}
    write_model(place / "base", {**base, "ids": np.arange(7)})
    for name in MODELS[1:]:
        moved = {
            key: value + (0.1 * generator.standard_normal(value.shape)).astype(np.float32)
            for key, value in base.items()
        }
        write_model(place / name, {**moved, "ids": np.arange(7)})
    return place


@pytest.fixture(scope="module")
def held(folder: Path) -> dict[str, Arrays]:
    return {name: read_model(folder / name) for name in MODELS}
