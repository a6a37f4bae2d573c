"""Checkpoints for the model of torch_models: a base, and one tuned from it."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_memory.torch_models import weights
from support.checkpoints import write_model

from tvmerge import Checkpoint


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    return Checkpoint(write_model(tmp_path / "base", weights(0), shards=2))


@pytest.fixture
def tuned(tmp_path: Path) -> Checkpoint:
    return Checkpoint(write_model(tmp_path / "tuned", weights(1), shards=2))
