"""Fixtures of all tests: room for what they load, and one tiny base for the whole session."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: several workers, which take whole files, then end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def room_for_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in the tests' own process, which may hold more (torch) than their default."""
    monkeypatch.setenv("TVMERGE_MEMORY", "8192")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pretrained two-layer Llama (float32, two shards, tied embeddings)."""
    from support.tiny_llama import build_tiny_llama

    return build_tiny_llama(tmp_path_factory.mktemp("tiny") / "base")
