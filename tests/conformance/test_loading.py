"""Models made of other models' layers load with transformers, whatever their architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
from conformance.architectures import auto_class
from conformance.architectures import build as build_model
from conformance.recipes import FILTERED

from tvmerge.recipe import build, load_recipe

STACKED = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [1, 4]}]
"""


@pytest.mark.parametrize("architecture", FILTERED)
def test_stacked_layers_load_with_transformers(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a", "b")):
        build_model(architecture, Path(name), seed=seed, as_saved=True)
    Path("recipe.yaml").write_text(STACKED)
    build(load_recipe(Path("recipe.yaml"))).save("out")
    model, told = auto_class(architecture).from_pretrained("out", output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert model.config.get_text_config().num_hidden_layers == 6
    with torch.no_grad():
        assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
