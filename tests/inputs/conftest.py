"""A stored vector, a model that most of it fits, and a place for what is expanded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from inputs.packed_vectors import MODEL, tensors, write_vector
from support.checkpoints import write_file


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "computed"


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    return write_vector(tmp_path / "vector", tensors())


@pytest.fixture
def base(tmp_path: Path) -> Path:
    generator = np.random.default_rng(7)
    held = {n: generator.standard_normal(one.shape).astype(np.float32) for n, one in MODEL.items()}
    return write_file(tmp_path / "base" / "model.safetensors", held).parent
