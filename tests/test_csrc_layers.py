"""The folders of csrc include one another as docs/design.md says: left may include right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"
# Each folder, and what it includes besides itself.
MAY_INCLUDE = {
    "core": "",
    "kernels": "core",
    "files": "core",
    "engine": "core kernels files",
    "cards": "core kernels files engine",
    "passes": "core kernels files engine cards",
    "bindings": "core kernels files engine cards passes",
    "cuda": "core kernels engine cards",  # what cards/card.hpp says
}


@pytest.mark.parametrize("folder", MAY_INCLUDE)
def test_no_folder_includes_what_is_built_on_it(folder: str) -> None:
    files = [path for path in (CSRC / folder).iterdir() if path.is_file()]
    included = {
        (path.name, name)
        for path in files
        for name in re.findall(r'#include "([a-z]+)/', path.read_text())
        if name != folder
    }
    assert files
    assert {name for _, name in included} <= {*MAY_INCLUDE[folder].split()}, included


def test_every_folder_is_spoken_of() -> None:
    assert {path.name for path in CSRC.iterdir() if path.is_dir()} == {*MAY_INCLUDE}
