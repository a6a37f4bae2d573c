"""Models that differ in their vocabularies."""

from __future__ import annotations

from pathlib import Path

import pytest
from recipe.tokenizer_merges import TOKENS, write


@pytest.fixture
def models_with_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders base, x and y in the current folder."""
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(TOKENS):
        write(name, seed=seed)
