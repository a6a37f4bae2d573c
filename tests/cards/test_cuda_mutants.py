"""The tests of cards find mistakes: a few of those in mutations.py. `make mutants` has all."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cards.cuda_mutants import killed_by
from cards.mutations import MUTANTS
from cards.shim_build import ROOT, mutate

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name",
    ["step of a count is dropped", "ties end one element late"],
)
def test_mutant_does_not_survive(name: str) -> None:
    assert killed_by(MUTANTS[name])


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_still_one(tmp_path: Path, name: str) -> None:
    folder, old, new = MUTANTS[name]
    shutil.copytree(ROOT / folder, tmp_path / folder)
    assert old.split() != new.split()
    mutate(tmp_path, MUTANTS[name])
