"""Layers are found in the names as they stand on disk, whatever the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tvmerge.files.safetensors import Entry
from tvmerge.recipe.layers import Layers, is_after_layers, split

VISION_LANGUAGE = [
    *(f"vision_tower.encoder.layers.{n}.mlp.fc1.weight" for n in range(6)),
    *(f"language_model.model.layers.{n}.mlp.up_proj.weight" for n in range(3)),
    "vision_tower.embeddings.patch.weight",
    "multi_modal_projector.mlp.0.weight",
    "multi_modal_projector.mlp.2.weight",
    "language_model.lm_head.weight",
]
EXPERTS = [
    f"model.layers.{n}.mlp.experts.{e}.w1.weight" for n in range(2) for e in range(8)
]  # fmt: skip
NAMES = {
    "llama": ([f"model.layers.{n}.mlp.weight" for n in range(12)], "model.layers.", 12),
    "gpt2": ([f"h.{n}.attn.c_attn.weight" for n in range(3)], "h.", 3),
    "bert": ([f"bert.encoder.layer.{n}.output.weight" for n in range(2)], "bert.encoder.layer.", 2),
    "numbers first": ([f"{n}.weight" for n in range(2)], "", 2),
    "experts": (EXPERTS, "model.layers.", 2),
    "vision and language": (VISION_LANGUAGE, "language_model.model.layers.", 3),
    "none": (["weight"], None, 0),
    "gaps": (["mlp.0.weight", "mlp.2.weight"], None, 0),
}
CONFIGS: Mapping[str, Any] = {"vision and language": {"text_config": {"num_hidden_layers": 3}}}


def entries(names: list[str]) -> dict[str, Entry]:
    return {name: Entry(name, "F32", (4,), 0, 16) for name in names}


@pytest.mark.parametrize("architecture", NAMES)
def test_the_stack_that_the_config_counts_is_found(architecture: str) -> None:
    names, prefix, depth = NAMES[architecture]
    layers = Layers(entries(names), CONFIGS.get(architecture, {}))
    assert layers.main == prefix
    assert layers.depths.get(prefix or "", 0) == depth


def test_experts_are_parts_of_their_layer() -> None:
    place = split(EXPERTS[-1])
    assert place is not None
    assert (place.prefix, place.number) == ("model.layers.", 1)
    assert place.suffix == ".mlp.experts.7.w1.weight"


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("model.embed_tokens.weight", False),
        ("model.norm.weight", True),
        ("lm_head.weight", True),
        ("transformer.ln_f.bias", True),
        ("wpe.weight", False),
        ("bert.embeddings.LayerNorm.weight", False),
        ("gpt_neox.final_layer_norm.weight", True),
        ("embed_out.weight", True),
        ("classifier.weight", True),
    ],
)
def test_what_comes_after_the_layers_is_told_by_its_name(name: str, after: bool) -> None:
    assert is_after_layers(name) is after
