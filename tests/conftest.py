"""Fixtures of all tests: room for what they load, and one tiny base for the whole session."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def room_for_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in the tests' own process, which may hold more (torch) than their default."""
    monkeypatch.setenv("TVMERGE_MEMORY", "8192")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pretrained two-layer Llama (float32, two shards, tied embeddings)."""
    from support.tiny_llama import build_tiny_llama

    return build_tiny_llama(tmp_path_factory.mktemp("tiny") / "base")
