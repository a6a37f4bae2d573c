"""Cards that are none, who is told of them, and small models to merge."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cards.fake_cards import LITTLE, OLD, PLENTY, FakeCard
from support.small_checkpoints import tensors, write

from tvmerge import _core
from tvmerge.engine.devices import close_cards


@pytest.fixture
def closed() -> Iterator[None]:
    """No card is open before or after a test."""
    close_cards()
    yield
    close_cards()


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Three cards, of which one is of no use; (index, bytes) of those that were opened."""
    monkeypatch.setattr(_core, "cards", lambda: [PLENTY, LITTLE, OLD])
    monkeypatch.setattr(_core, "cuda_problem", lambda: "")
    monkeypatch.setattr(_core, "Card", FakeCard)
    FakeCard.opened = []
    return FakeCard.opened


@pytest.fixture
def calls(fakes: object, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """(function of the engine, cards) of every call, which the processor answers."""
    told: list[tuple[str, tuple[Any, ...]]] = []

    def watched(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, cards: tuple[Any, ...] = (), **rest: Any) -> Any:
            told.append((name, cards))
            return real(*args, **rest)

        return call

    for name in ("merge", "measure", "select", "delta_sums"):
        monkeypatch.setattr(_core, name, watched(name, getattr(_core, name)))
    return told


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders base, a, b and c, in the current folder."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b", "c")):
        write(tmp_path / name, tensors(seed))
    return tmp_path
