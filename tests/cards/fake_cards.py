"""Cards that are none: what the engine says of them, and what takes an open one's place."""

from __future__ import annotations

import pytest

from tvmerge import _core

MIB = 1024 * 1024
# index, name, compute capability, free and total bytes, why it cannot be used
PLENTY = (0, "Plenty", (9, 0), 78 * 1024 * MIB, 80 * 1024 * MIB, "")
LITTLE = (1, "Little", (8, 6), 1024 * MIB, 4096 * MIB, "")
OLD = (2, "Old", (5, 2), 1024 * MIB, 4096 * MIB, "compute capability 5.2 is below 8.0")

without_card = pytest.mark.skipif(bool(_core.cards()), reason="there is a card here")


class FakeCard:
    """Takes the place of an open card; the engine's own functions never see it."""

    opened: list[tuple[int, int]]

    def __init__(self, index: int, *, memory_bytes: int, cufile: str = "") -> None:
        self.opened.append((index, memory_bytes))
        self.name, self.memory_bytes, self.forgotten = f"Fake {index}", memory_bytes, 0
        self.pinned_bytes = self.direct_bytes = 0

    def forget(self) -> None:
        self.forgotten += 1
