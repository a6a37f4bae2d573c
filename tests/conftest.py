"""Fixtures shared by the tests: one tiny base and one Ray for the whole session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tvmerge.training.cluster import Cluster

# The tests run with importlib's import mode, which leaves their folder off the path.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def room_for_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in the tests' own process, which may hold more (torch) than their default."""
    monkeypatch.setenv("TVMERGE_MEMORY", "8192")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pretrained two-layer Llama (float32, two shards, tied embeddings)."""
    from tiny_llama import build_tiny_llama

    return build_tiny_llama(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """One local Ray with two CPUs for the whole session, started when first used."""
    from tvmerge.training.cluster import Cluster

    with Cluster(cpus=2) as cluster:
        yield cluster
