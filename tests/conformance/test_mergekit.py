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
from conformance.architectures import build as build_model
from conformance.architectures import build_hollow, build_near
from conformance.method_recipes import DIFFERENT, METHOD_RECIPES, RANDOM
from conformance.recipes import CASES, FILTERED, RECIPES, STAGES
from support.checkpoints import read_model

from tvmerge.recipe import build, load_recipe

PYTHON = os.environ.get("TVMERGE_MERGEKIT_PYTHON")
RUNNER = Path(__file__).with_name("run_mergekit.py")
RELATIVE = 1e-5
OFFLINE = os.environ | {"HF_HUB_OFFLINE": "1"}
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
    first, second = FILTERED[architecture]
    build_models(architecture, folder, part=first)
    others = DIFFERENT | RANDOM if architecture == "llama" else {}
    for name, text in (RECIPES | METHOD_RECIPES | others).items():
        if (architecture, name) in CASES or name in others:
            text = text.replace("FIRST", first).replace("SECOND", second)
            (folder / f"{name}.yaml").write_text(text)
    assert PYTHON is not None
    subprocess.run([PYTHON, RUNNER, "."], cwd=folder, check=True, timeout=500, env=OFFLINE)
    return folder


def build_models(architecture: str, folder: Path, *, part: str) -> None:
    """The models that the recipes name."""
    base = folder / "base"
    for seed, name in enumerate(("base", "a", "b", "c")):
        build_model(architecture, folder / name, seed=seed)
        if name != "base":
            build_near(base, folder / f"near_{name}", seed=seed)
    build_near(base, folder / "part", seed=4, only=part)
    build_near(base, folder / "tiny_a", seed=5, by=1e-3)
    build_near(base, folder / "tiny_b", seed=6, by=1e-4)
    build_hollow(base, folder / "hollow", only=part)


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
    assert_same_merge(Path(f"{name}.yaml"), tmp_path / "out", folder / f"{name}.out")


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_said_to_differ_does(
    name: str, folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ours is instead, tests/methods/test_different_on_purpose.py says."""
    folder = folders("llama")
    monkeypatch.chdir(folder)
    with pytest.raises(AssertionError, match="relative difference"):
        assert_same_merge(Path(f"{name}.yaml"), tmp_path / "out", folder / f"{name}.out")


@pytest.mark.parametrize("name", RANDOM)
def test_what_is_drawn_at_random_has_the_same_share_and_norm(
    name: str, folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = folders("llama")
    monkeypatch.chdir(folder)
    build(load_recipe(Path(f"{name}.yaml"))).save(tmp_path / "out")
    base, tuned = read_model(Path("base")), read_model(Path("a"))
    for out in (read_model(tmp_path / "out"), read_model(Path(f"{name}.out"))):
        kept = elements = larger = 0
        for tensor, start in base.items():
            whole = 0.5 * (tuned[tensor].astype(np.float64) - start)
            part = out[tensor].astype(np.float64) - start
            mask = np.abs(part) > 1e-4 * np.abs(whole)
            gain = 1.0 if "not" in name else np.abs(whole).sum() / np.abs(whole[mask]).sum()
            assert np.allclose(part, gain * whole * mask, rtol=1e-4, atol=1e-6)
            kept, elements = kept + mask.sum(), elements + mask.size
            larger += mask[np.abs(whole) >= np.median(np.abs(whole), axis=-1, keepdims=True)].sum()
        # Five standard deviations; an epsilon of 0.3 gives the larger half 0.55.
        assert abs(kept / elements - 0.4) < 5 * (0.4 * 0.6 / elements) ** 0.5
        wanted = 0.55 if "della" in name else 0.4
        assert abs(larger / elements * 2 - wanted) < 5 * (0.5 / elements) ** 0.5 + 0.01


def test_stages_give_the_tensors_of_mergekit_multi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        build_model("llama", Path(name), seed=seed)
    Path("stages.yaml").write_text(STAGES)
    assert PYTHON is not None
    command = [Path(PYTHON).with_name("mergekit-multi"), "stages.yaml", "--out-path", "theirs"]
    more = ["--intermediate-dir", "between", "--no-copy-tokenizer", "--no-write-model-card"]
    subprocess.run([*command, *more], check=True, timeout=500, env=OFFLINE)
    assert_same_merge(Path("stages.yaml"), Path("ours"), Path("theirs"))


def assert_same_merge(path: Path, out: Path, expected: Path) -> None:
    recipe = load_recipe(path)
    build(recipe).save(out, dtype=recipe.output_dtype)
    ours, theirs = read_model(out), read_model(expected)
    assert ours.keys() == theirs.keys()
    for tensor, wanted in theirs.items():
        off = np.abs(ours[tensor] - wanted).max() / max(np.abs(wanted).max(), 1e-30)
        assert off <= RELATIVE, f"{tensor}: relative difference {off:.2g}"
    told = [json.loads((place / "config.json").read_text()) for place in (out, expected)]
    depths = [one.get("num_hidden_layers", one.get("n_layer")) for one in told]
    assert depths[0] == depths[1]
