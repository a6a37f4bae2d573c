"""Linear merges of three models whose vocabularies differ, and what their rows come to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from recipe.tiny_tokenizers import ids, write_model
from support.checkpoints import read_model

from tvmerge.receipts.receipt import RecipeText
from tvmerge.recipe import Recipe, build, load_recipe

TOKENS = {"base": "u a b c", "x": "u b a x", "y": "a u b c x y"}
SPECIAL = {"base": ["<s>"], "x": ["<s>", "<x>"], "y": []}
WEIGHTS = {"base": 1.0, "x": 1.0, "y": 2.0}
BASED = "base_model: base\n"


def write(name: str, **more: Any) -> Path:
    shutil.rmtree(name, ignore_errors=True)
    return write_model(Path(name), TOKENS[name].split(), special=SPECIAL[name], **more)


def merged(tokenizer: str, *, base: str = BASED, folder: str = "out") -> dict[str, np.ndarray]:
    """The linear merge of all three."""
    return saved(linear(tokenizer, base=base), folder)


def linear(tokenizer: str, *, base: str = BASED) -> str:
    lines = [f"- {{model: {n}, parameters: {{weight: {w}}}}}" for n, w in WEIGHTS.items()]
    return "\n".join([f"merge_method: linear\n{base}{tokenizer}\nmodels:", *lines, ""])


def saved(text: str, folder: str = "out") -> dict[str, np.ndarray]:
    recipe = recipe_of(text)
    build(recipe).save(folder, recipe=RecipeText(recipe.method, recipe.text))
    return read_model(Path(folder))


def recipe_of(text: str) -> Recipe:
    Path("recipe.yaml").write_text(text)
    return load_recipe(Path("recipe.yaml"))


def rows_of(name: str, tensor: str, token: str) -> np.ndarray | None:
    """The row of a token in a model, that has one."""
    held = ids(Path(name))
    return read_model(Path(name))[tensor][held[token]] if token in held else None


def expected(tensor: str, token: str, base: str | None = "base") -> np.ndarray:
    """The weighted mean of the rows, missing ones filled as mergekit 0.1.5 does."""
    rows = {name: rows_of(name, tensor, token) for name in TOKENS}
    having = [row for row in rows.values() if row is not None]
    own = None if base is None else rows[base]
    fill = np.mean(having, axis=0) if own is None else own
    terms = [w * (fill if rows[n] is None else rows[n]) for n, w in WEIGHTS.items()]
    return np.asarray(sum(terms) / sum(WEIGHTS.values()))
