"""Recipes of several documents, and what a merge of them by hand makes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from support.checkpoints import read_model

from tvmerge.cli import cli
from tvmerge.receipts.receipt import RecipeText
from tvmerge.recipe import Recipe, build, load_recipe

MODELS = ("base", "a", "b")
EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 4,
    "layer_types": ["full", "sliding", "full", "other"],
    "torch_dtype": "float32",
}

TIES = """merge_method: ties
base_model: base
models:
  - {model: a, parameters: {weight: 1, density: 0.5}}
  - {model: b, parameters: {weight: 0.5, density: 0.4}}
"""
LINEAR = """merge_method: linear
models:
  - {model: a, parameters: {weight: [0.2, 0.8]}}
  - {model: b, parameters: {weight: 0.5}}
"""
DARE = TIES.replace("ties", "dare_ties")
SLERP = "merge_method: slerp\nbase_model: first\nmodels: [{model: a}]\nparameters: {t: 0.3}\n"
TALL = """merge_method: linear
slices:
  - sources:
      - {model: a, layer_range: [0, 3], parameters: {weight: ONE}}
      - {model: b, layer_range: [1, 4], parameters: {weight: 0.5}}
  - sources: [{model: b, layer_range: [2, 4], parameters: {weight: 1}}]
"""
# The documents of a recipe, the first ones with a name.
CHAINS: dict[str, Sequence[tuple[str, str]]] = {
    "ties into slerp": [("first", TIES), ("", SLERP)],
    "in another dtype": [("first", TIES + "dtype: bfloat16\n"), ("", SLERP)],
    "in another dtype for its output": [
        ("first", TIES + "dtype: float32\nout_dtype: bfloat16\n"),
        ("", SLERP + "dtype: float16\n"),
    ],
    "linear into ties": [
        ("first", LINEAR + "dtype: float16\n"),
        ("", TIES.replace("{model: b", "{model: first")),
    ],
    "a base made by ties": [
        ("first", DARE),
        ("", "merge_method: task_arithmetic\nbase_model: first\n"
         "models: [{model: a, parameters: {weight: -0.5}}]\n"),
    ],
    "dare, linear, model stock": [
        ("first", DARE),
        ("mean", LINEAR.replace("model: a", "model: first") + "dtype: bfloat16\n"),
        ("", "merge_method: model_stock\nbase_model: base\n"
         "models: [{model: first}, {model: mean}, {model: b}]\n"),
    ],
    "stacked layers": [
        ("low", TALL.replace("ONE", "1")),
        ("high", TALL.replace("ONE", "2") + "dtype: bfloat16\n"),
        ("", TIES.replace("base_model: base", "base_model: low").replace("model: a", "model: high")
         .replace("  - {model: b, parameters: {weight: 0.5, density: 0.4}}\n", "")),
    ],
    "two that are the same": [
        ("first", TIES),
        ("twin", TIES),
        ("", TIES.replace("{model: a", "{model: first").replace("{model: b", "{model: twin")),
    ],
    "one that folds into one that is written": [
        ("half", LINEAR.replace("[0.2, 0.8]", "1.5") + "dtype: float16\n"),
        ("first", "merge_method: passthrough\nmodels: [{model: half, parameters: {scale: 2}}]\n"),
        ("", SLERP),
    ],
}  # fmt: skip
# Of which each has to be written, in this order.
WRITTEN = {
    **{chain: ["first"] for chain in CHAINS},
    "dare, linear, model stock": ["first", "mean"],
    "stacked layers": ["low", "high"],
}
# What is merged by hand where a stage is folded: with half of 1.5 and of 0.5.
UNFOLDED = {
    "one that folds into one that is written": [
        ("first", LINEAR.replace("[0.2, 0.8]", "1.5") + "parameters: {normalize: false}\n"),
        ("", SLERP),
    ],
}


def text_of(chain: Sequence[tuple[str, str]]) -> str:
    return "---\n".join(f"name: {name}\n{text}" if name else text for name, text in chain)


def recipe_of(text: str) -> Recipe:
    Path("recipe.yaml").write_text(text)
    return load_recipe(Path("recipe.yaml"))


def save(text: str, out: str = "out") -> None:
    recipe = recipe_of(text)
    build(recipe).save(out, dtype=recipe.output_dtype)


def by_hand(chain: Sequence[tuple[str, str]]) -> Path:
    """Each document merged for itself, into the folder of its name."""
    for name, text in chain:
        save(text, name or "by-hand")
    return Path("by-hand")


def run(*args: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli, [*args, "--json"])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def assert_same(out: Path, expected: Path) -> None:
    found, wanted = read_model(out), read_model(expected)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].tobytes() == tensor.tobytes(), name
    for file in ("config.json", "model.safetensors.index.json"):
        assert (out / file).read_text() == (expected / file).read_text()


def save_with_receipt(recipe: Recipe, out: str = "out") -> None:
    text = RecipeText(recipe.method, recipe.text)
    build(recipe).save(out, dtype=recipe.output_dtype, recipe=text)
