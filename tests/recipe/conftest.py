"""Models that differ in their vocabularies, and such as recipes of several stages name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipe.staged import CONFIG, EMBEDDING, MODELS, NORM
from recipe.tokenizer_merges import TOKENS, write
from support.checkpoints import write_model

from tvmerge.files.kept import place
from tvmerge.merging import stages


@pytest.fixture
def models_with_tokenizers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders base, x and y in the current folder."""
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(TOKENS):
        write(name, seed=seed)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders base, a and b in the current folder, in two shards each."""
    monkeypatch.setenv("TVMERGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(MODELS):
        generator = np.random.default_rng(seed)
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (6, 8)}
        for layer in range(4):
            for part in ("attn", "mlp"):
                shapes[f"model.layers.{layer}.{part}.weight"] = (8, 8)
        shapes[NORM] = (8,)
        held = {n: generator.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
        write_model(Path(name), held, shards=2, config=CONFIG)
    return place()


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of stages as they are written."""
    names: list[str] = []
    make = stages.Stage._make

    def told(self: stages.Stage, *args: Any) -> stages.Written:
        names.append(self.name)
        return make(self, *args)

    monkeypatch.setattr(stages.Stage, "_make", told)
    return names
