"""The same YAML, the same models: tvmerge's tensors are mergekit's (make conformance).

mergekit lives in an environment of its own: TVMERGE_MERGEKIT_PYTHON is that environment's python.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from checkpoints import read_model
from conformance.architectures import build as build_model
from conformance.recipes import CASES, FILTERED, RECIPES

from tvmerge.recipe import build, load_recipe

PYTHON = os.environ.get("TVMERGE_MERGEKIT_PYTHON")
RUNNER = Path(__file__).with_name("run_mergekit.py")
RELATIVE = 1e-5
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="mergekit is not here: make conformance"),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes the folder of an architecture once."""
    return cache(lambda architecture: merged(architecture, tmp_path_factory.mktemp("models")))


def merged(architecture: str, folder: Path) -> Path:
    """Models, recipes, and beside them what mergekit makes of these."""
    for seed, name in enumerate(("base", "a", "b")):
        build_model(architecture, folder / name, seed=seed)
    first, second = FILTERED[architecture]
    for name in [name for one, name in CASES if one == architecture]:
        text = RECIPES[name].replace("FIRST", first).replace("SECOND", second)
        (folder / f"{name}.yaml").write_text(text)
    assert PYTHON is not None
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    subprocess.run([PYTHON, RUNNER, "."], cwd=folder, check=True, timeout=500, env=offline)
    return folder


@pytest.mark.parametrize(("architecture", "name"), CASES)
def test_a_recipe_gives_the_tensors_of_mergekit(
    architecture: str,
    name: str,
    folders: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = folders(architecture)
    monkeypatch.chdir(folder)
    recipe = load_recipe(Path(f"{name}.yaml"))
    build(recipe).save(tmp_path / "out", dtype=recipe.output_dtype)
    ours, theirs = read_model(tmp_path / "out"), read_model(folder / f"{name}.out")
    assert ours.keys() == theirs.keys()
    for tensor, expected in theirs.items():
        off = np.abs(ours[tensor] - expected).max() / max(np.abs(expected).max(), 1e-30)
        assert off <= RELATIVE, f"{tensor}: relative difference {off:.2g}"
    told = [json.loads((place / "config.json").read_text()) for place in
            (tmp_path / "out", folder / f"{name}.out")]  # fmt: skip
    depths = [one.get("num_hidden_layers", one.get("n_layer")) for one in told]
    assert depths[0] == depths[1]
