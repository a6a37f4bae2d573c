"""A failing disk, a merge on it, and what that merge does when nothing fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from recovery.fault_runs import MERGE, FaultyDisk, contents, faulty_disk, write_inputs


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyDisk]:
    with faulty_disk(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_inputs(tmp_path)
    return tmp_path


@pytest.fixture
def calls(disk: FaultyDisk, place: Path) -> list[str]:
    """What an undisturbed run asks of the disk."""
    asked = disk.calls(MERGE, place)
    shutil.rmtree(place / "out")
    return asked


@pytest.fixture
def expected(disk: FaultyDisk, place: Path) -> dict[str, bytes]:
    """What an undisturbed run writes."""
    assert disk.run(MERGE, place).exit_code == 0
    written = contents(place / "out")
    shutil.rmtree(place / "out")
    return written
