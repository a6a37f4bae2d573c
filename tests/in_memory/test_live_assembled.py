"""Models in memory that a recipe assembles tensor by tensor: the bits that `save` writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conformance.method_recipes import recipe
from in_memory.torch_models import COUNT, EMBED, HEAD, Small, bits, weights
from safetensors.torch import load_file
from support.checkpoints import write_model
from transformers import AutoModelForCausalLM

from tvmerge import Checkpoint
from tvmerge.algebra.assembled import Assembled
from tvmerge.algebra.sweep import sweep
from tvmerge.errors import ConfigError, MismatchError, NothingChangedError
from tvmerge.recipe import build, load_recipe

WEIGHTED = {"a": "weight: 0.7, density: 0.5", "b": "weight: -0.4, density: 0.5"}
RECIPES = {
    "ties": recipe("ties", WEIGHTED, "normalize: false"),
    "dare": recipe("dare_linear", WEIGHTED, "seed: 3"),
    "slerp": recipe("slerp", {"a": ""}, "t: 0.3"),
    "filter": recipe("task_arithmetic", {"a": "weight: [{filter: head, value: 2}, {value: 0.5}]"}),
}


def assembled(text: str) -> Assembled:
    Path("recipe.yaml").write_text(text)
    model = build(load_recipe(Path("recipe.yaml")))
    assert isinstance(model, Assembled)
    return model


def saved_bits(out: str) -> object:
    files = sorted(Path(out).glob("*.safetensors"))
    return bits({name: tensor for file in files for name, tensor in load_file(file).items()})


@pytest.fixture(autouse=True)
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("base", "a", "b")):
        write_model(Path(name), weights(seed), shards=2)


@pytest.mark.parametrize("kind", RECIPES)
def test_a_model_that_is_filled_is_the_one_that_is_saved_at_every_scale(kind: str) -> None:
    expression, model = assembled(RECIPES[kind]), Small()
    told: list[tuple[int, int]] = []
    loaded = expression.load_into(model, progress=lambda done, of: told.append((done, of)))
    report = expression.save("out")
    assert bits(model.state_dict()) == saved_bits("out")
    assert bits(expression.state_dict(threads=1)) == saved_bits("out")
    assert loaded.edit.changed == report.changed_elements > 0
    assert told[-1][0] == told[-1][1]
    sweep(expression, [0.3, -2], "swept")
    for scale in (0.3, -2, 0.3):
        loaded.rescale(scale)
        assert bits(model.state_dict()) == saved_bits(f"swept/scale-{scale}")
        assert loaded.scale == scale
    loaded.restore()
    assert bits(model.state_dict()) == saved_bits("base")


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("kind", ["ties", "slerp"])
def test_sums_are_rounded_once_to_the_dtype_that_the_model_has(kind: str, dtype: str) -> None:
    expression = assembled(RECIPES[kind])
    model = Small().to(getattr(torch, dtype))
    expression.load_into(model)
    expression.save("out", dtype=dtype)
    assert bits(model.state_dict()) == saved_bits("out")


def test_tensors_that_the_engine_cannot_write_to_get_the_same_bits() -> None:
    expression, plain, strided = assembled(RECIPES["ties"]), Small(), Small()
    strided.embed.weight = torch.nn.Parameter(torch.zeros(6, 16).T)
    expression.load_into(plain)
    expression.load_into(strided)
    assert bits(strided.state_dict()) == bits(plain.state_dict())


def test_stacked_layers_fill_a_model_of_as_many(tiny_base: Path) -> None:
    expression = assembled(
        f"merge_method: passthrough\nslices:\n"
        f"  - sources: [{{model: {tiny_base}, layer_range: [0, 2]}}]\n"
        f"  - sources: [{{model: {tiny_base}, layer_range: [1, 2]}}]\n"
    )
    expression.save("out")
    expected = AutoModelForCausalLM.from_pretrained("out")
    model = AutoModelForCausalLM.from_config(expected.config)
    loaded = expression.load_into(model)
    assert bits(model.state_dict()) == bits(expected.state_dict())
    assert model.config.num_hidden_layers == 3
    assert loaded.scale == 1
    few = AutoModelForCausalLM.from_pretrained(tiny_base)
    before = bits(few.state_dict())
    with pytest.raises(MismatchError, match=r"layers\.2\..*missing in the model"):
        expression.load_into(few)
    assert bits(few.state_dict()) == before


TIED = {
    "the same sums of the same": ("ties", None),
    "other inputs": ("ties", r"a: head.weight and embed.weight differ, but are one tensor"),
    "masks of their own": ("dare", r"head.weight and embed.weight differ, but are one tensor"),
    "other weights": ("filter", r"head.weight and embed.weight differ, but are one tensor"),
}


@pytest.mark.parametrize("kind", TIED)
def test_tied_tensors_have_to_come_out_the_same(kind: str) -> None:
    method, error = TIED[kind]
    for seed, name in enumerate(("base", "a", "b")):
        held = weights(seed)
        if kind != "other inputs" or name == "base":
            held[HEAD] = held[EMBED]
        write_model(Path(name), held, shards=2)
    expression, model = assembled(RECIPES[method]), Small(tied=True)
    before = bits(model.state_dict())
    if error is None:
        expression.load_into(model)
        expression.save("out")
        assert bits(model.state_dict()) == saved_bits("out")
        return
    with pytest.raises(MismatchError, match=error):
        expression.load_into(model)
    assert bits(model.state_dict()) == before


def test_no_start_and_no_scale_but_a_number() -> None:
    expression = assembled(RECIPES["ties"])
    with pytest.raises(ConfigError, match="give no start"):
        expression.load_into(Small(), start=Checkpoint("base"))
    loaded = expression.load_into(Small())
    with pytest.raises(ConfigError, match="expected a finite number"):
        loaded.rescale(np.inf)
    with pytest.raises(NothingChangedError, match=r"now holds .*base again, bit for bit"):
        loaded.rescale(1e-12)
    assert COUNT in loaded.model.state_dict()
