"""Recipes of several documents whose stages are written first: the bytes of merges by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import tiny_tokenizers
from recipe.staged import (
    CHAINS,
    LINEAR,
    MODELS,
    SLERP,
    TIES,
    UNFOLDED,
    WRITTEN,
    assert_same,
    by_hand,
    recipe_of,
    save,
    save_with_receipt,
    text_of,
)
from support.adapters import write_adapter
from support.checkpoints import read_model, write_file

from tvmerge.errors import ConfigError
from tvmerge.receipts.parsing import read_receipt
from tvmerge.receipts.verify import verify
from tvmerge.recipe import build
from tvmerge.replay import replay

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize("chain", CHAINS)
def test_stages_are_merges_by_hand(chain: str, cache: Path, written: list[str]) -> None:
    recipe = recipe_of(text_of(CHAINS[chain]))
    model = build(recipe)
    assert not cache.exists()  # nothing is written before the merge is run
    model.save("out", dtype=recipe.output_dtype)
    assert written == WRITTEN[chain]
    del model
    assert not any(cache.iterdir())
    assert_same(Path("out"), by_hand(UNFOLDED.get(chain, CHAINS[chain])))


def test_a_stage_that_two_others_need_is_written_once_and_goes_when_they_are_written(
    cache: Path, written: list[str]
) -> None:
    chain = [
        ("first", TIES),
        ("second", SLERP),
        ("third", SLERP.replace("t: 0.3", "t: 0.6")),
        ("fourth", SLERP.replace("first", "second").replace("model: a", "model: third")),
        ("", SLERP.replace("first", "fourth").replace("t: 0.3", "t: 0.5")),
    ]
    recipe, held = recipe_of(text_of(chain)), []
    told = lambda _done, _whole: held.append(len([*cache.glob("*/model*")]))  # noqa: E731
    build(recipe).save("out", progress=told)
    assert written == ["first", "second", "third", "fourth"]
    assert max(held) == 3  # the first one is gone when the fourth is begun
    assert held[-1] == 1
    assert not any(cache.iterdir())
    assert_same(Path("out"), by_hand(chain))


def test_a_stage_is_folded_into_one_and_written_for_another(written: list[str]) -> None:
    chain = [
        ("first", LINEAR + "dtype: float16\n"),
        ("second", "merge_method: linear\nparameters: {weight: 1}\n"
         "models: [{model: first}, {model: base}]\n"),
        ("", TIES.replace("{model: a", "{model: first").replace("{model: b", "{model: second")),
    ]  # fmt: skip
    save(text_of(chain))
    assert sorted(written) == ["first", "second"]
    save(f"name: first\n{LINEAR}---\n{chain[1][1]}", "second")
    save(chain[0][1], "first")
    save(chain[2][1], "by-hand")
    assert_same(Path("out"), Path("by-hand"))


def test_a_stage_of_stored_layers_needs_no_file(cache: Path, written: list[str]) -> None:
    tall = "merge_method: passthrough\nslices:\n  - sources: [{model: NAME, layer_range: [0, 3]}]\n"
    tall += "  - sources: [{model: NAME, layer_range: [1, 4]}]\n"
    chain = [
        *((f"tall-{name}", tall.replace("NAME", name)) for name in MODELS),
        ("", TIES.replace("base_model: ", "base_model: tall-").replace("model: a", "model: tall-a")
         .replace("model: b,", "model: tall-b,")),
    ]  # fmt: skip
    save(text_of(chain))
    assert not written
    assert not cache.exists()
    assert_same(Path("out"), by_hand(chain))


def test_stages_of_one_vocabulary_are_written_with_it(written: list[str]) -> None:
    for seed, (name, tokens) in enumerate((("x", "u a b c"), ("y", "u b d"))):
        tiny_tokenizers.write_model(Path(name), tokens.split(), seed=seed)
    union = "merge_method: linear\nbase_model: x\ntokenizer_source: union\nmodels:\n"
    union += "  - {model: x, parameters: {weight: 1}}\n  - {model: y, parameters: {weight: 2}}\n"
    chain = [
        ("first", union),
        ("second", union.replace("weight: 2", "weight: 3")),
        ("", SLERP.replace("model: a", "model: second")),
    ]
    recipe = recipe_of(text_of(chain))
    save_with_receipt(recipe)
    assert written == ["first", "second"]
    assert verify(Path("out"), inputs=True).intact
    assert not replay(read_receipt(Path("out")))
    by_hand(chain)
    found, wanted = read_model(Path("out")), read_model(Path("by-hand"))
    assert {n: t.tobytes() for n, t in found.items()} == {n: t.tobytes() for n, t in wanted.items()}
    assert tiny_tokenizers.ids(Path("out")) == tiny_tokenizers.ids(Path("by-hand"))
    assert json.loads(Path("out/config.json").read_text())["vocab_size"] == 5


def test_pipelines_have_stages_of_all_their_models(written: list[str]) -> None:
    for seed, name in enumerate(MODELS):
        shutil.rmtree(name)
        generator = np.random.default_rng(seed)
        for model in ("unet", "vae"):
            held = {f"{n}.weight": generator.standard_normal((4, 4)) for n in ("down", "up")}
            held = {tensor: array.astype(np.float32) for tensor, array in held.items()}
            write_file(Path(name) / model / "diffusion_pytorch_model.safetensors", held)
        index = {"_class_name": "X", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}
        (Path(name) / "model_index.json").write_text(json.dumps(index))
    save(text_of(CHAINS["in another dtype"]))
    assert written == ["first"]
    by_hand(CHAINS["in another dtype"])
    for model in ("unet", "vae"):
        file = f"{model}/diffusion_pytorch_model.safetensors"
        assert Path("out", file).read_bytes() == Path("by-hand", file).read_bytes()


def test_an_adapter_goes_into_a_stage(written: list[str]) -> None:
    first = SLERP.replace("first", "base").replace("model: a", "model: base+lora")
    module = "base_model.model.model.layers.0.mlp"
    generator = np.random.default_rng(9)
    factors = {
        f"{module}.lora_{letter}.weight": generator.standard_normal(shape).astype(np.float32)
        for letter, shape in (("A", (3, 8)), ("B", (8, 3)))
    }
    write_adapter(Path("lora"), factors)
    chain = [("first", first), ("", SLERP)]
    save_with_receipt(recipe_of(text_of(chain)))
    assert written == ["first"]
    assert not replay(read_receipt(Path("out")))
    assert_same(Path("out"), by_hand(chain))


def test_models_in_memory_are_those_of_files() -> None:
    model = build(recipe_of(text_of(CHAINS["in another dtype"])))
    held = model.state_dict()
    model.save("out")
    for name, tensor in read_model(Path("out")).items():
        assert held[name].view(torch.uint8).numpy().tobytes() == tensor.tobytes()


@pytest.mark.slow
def test_there_may_be_many_stages_and_not_any_number() -> None:
    first, second = ("0", TIES), ("1", SLERP.replace("first", "0"))
    later = [
        (
            str(n),
            f"merge_method: ties\nbase_model: {n - 1}\n"
            f"models: [{{model: '{n - 2}', parameters: {{weight: -1}}}}]\n",
        )
        for n in range(2, 64)
    ]
    chain = [first, second, *later[:-1], ("", later[-1][1])]
    chain = [(f"'{name}'" if name else "", text) for name, text in chain]
    chain = [(n, re.sub(r"base_model: (\d+)", r"base_model: '\1'", text)) for n, text in chain]
    model = build(recipe_of(text_of(chain)))
    model.save("out")
    with pytest.raises(ConfigError, match=r"stage 65, expected 64 at most"):
        recipe_of(text_of([("more", TIES), *chain]))
