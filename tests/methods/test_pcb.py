"""`pcb` as a recipe: beside what it shares with the methods that merge whole matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.matrices import pcb
from support.checkpoints import read_model, write_model
from support.method_models import MODELS, merge, recipe

from tvmerge.errors import ConfigError
from tvmerge.recipe import build, parse_recipe

pytest.importorskip("torch")


@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (4, 5, 6)])
def test_pcb_takes_tensors_of_any_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(7)
    for name in MODELS:
        array = np.asarray(generator.standard_normal(shape), np.float32)
        write_model(tmp_path / name, {"x": array, "y": array.reshape(-1)[:0]})
    out = merge(recipe(tmp_path, "pcb", {m: {} for m in "abc"}, ratio=0.3), tmp_path / "out")
    x = {name: read_model(tmp_path / name)["x"].astype(np.float64) for name in MODELS}
    deltas = [x[name] - x["base"] for name in "abc"]
    whole = pcb(deltas, 0.3) if x["base"].size > 1 else np.mean(deltas, axis=0)
    assert out["x"].shape == shape
    assert np.allclose(out["x"], x["base"] + whole, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1])
def test_pcb_refuses_what_is_no_share(folder: Path, value: float) -> None:
    text = recipe(folder, "pcb", {"a": {}}, ratio=value)
    with pytest.raises(ConfigError, match="expected more than 0 and 1 at most, found"):
        build(parse_recipe(Path("r"), text.encode()))
