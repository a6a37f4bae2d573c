"""Merges by every method that a card computes, of tensors that it cuts into several units."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from oracles.arithmetic import random_array
from support.checkpoints import DTYPES, digests, write_model
from support.method_models import recipe

from tvmerge.engine.run_options import RunOptions
from tvmerge.merging.merge import save_checkpoint
from tvmerge.recipe import build, parse_recipe

SHAPES = {"embed": (70, 33), "layers.0.w": (600, 225), "layers.1.w": (65, 7), "norm": (5,)}
MODELS = ("base", "a", "b", "c")
WEIGHTS = (0.7, -0.4, 0.2)
# method, parameters of the recipe, parameters of every model
METHODS = {
    "linear": ({"normalize": False}, {}),
    "task_arithmetic": ({}, {}),
    "ties": ({}, {"density": 0.3}),
    "dare_linear": ({"seed": 3}, {"density": 0.4}),
    "dare_ties": ({"seed": 3}, {"density": 0.4}),
    "della": ({"seed": 3}, {"density": 0.4, "epsilon": 0.1}),
    "della_linear": ({"seed": 3}, {"density": 0.4, "epsilon": 0.1}),
    "breadcrumbs": ({}, {"density": 0.5, "gamma": 0.1}),
    "breadcrumbs_ties": ({}, {"density": 0.5, "gamma": 0.1}),
    "sce": ({"select_topk": 0.4}, None),
    "ram": ({}, None),
    "ramplus_tl": ({}, None),
    "nearswap": ({"t": 0.05}, None),
    "arcee_fusion": ({}, None),
    "negmerge": ({"lambda": -0.8}, {}),
    "consensus_ta": ({"lambda": -0.8}, {"mask_lambda": 0.3}),
    "emr": ({"lambda": -0.8}, {}),
    "emr of b": ({}, {}),
    "slerp": ({"t": 0.3}, None),
    "nuslerp": ({}, {}),
    "multislerp": ({}, {}),
    "karcher": ({}, None),
    "model_stock": ({}, None),
    "tsv": ({}, {}),
    "pcb": ({"ratio": 0.4}, {}),
    "ethos": ({"xi": 0.4}, {}),
    "nuslerp of rows": ({"nuslerp_flatten": False}, {}),
    "nuslerp of columns": ({"nuslerp_flatten": False, "nuslerp_row_wise": True}, {}),
    "model_stock of rows": ({"filter_wise": True}, None),
}
FEW = {
    "nearswap": 1,
    "arcee_fusion": 1,
    "slerp": 1,
    "nuslerp": 2,
}  # how many models beside the base
WITHOUT_BASE = {"nuslerp", "karcher"}


def models(folder: Path, dtypes: list[str], *, wild: bool) -> Path:
    generator = np.random.default_rng(11)
    base = {n: random_array(generator, "F32", s, wild=False) for n, s in SHAPES.items()}
    for number, model in enumerate(MODELS):
        dtype = dtypes[number % len(dtypes)]
        held = {}
        for name, value in base.items():
            noise = 0.1 * number * generator.standard_normal(value.shape)
            held[name] = (value + noise).astype(np.float32).astype(DTYPES[dtype])
            if wild:
                anything = random_array(generator, dtype, value.shape, wild=True)
                held[name] = np.where(generator.random(value.shape) < 0.02, anything, held[name])
        write_model(folder / model, {**held, "ids": np.arange(7)}, shards=1 + number % 2)
    return folder


def merged(
    text: str, out: Path, device: str, threads: int = 3, memory: int | None = None
) -> tuple[object, object]:
    """The files' digests, and what the receipt says of tensors."""
    model = build(parse_recipe(Path("recipe.yaml"), text.encode()))
    options = RunOptions(device=device, threads=threads, device_memory_mib=memory)
    save_checkpoint(model.weighting, model.donor, out, dtype=None, options=options)
    held = digests(out)
    del held["README.md"], held["tvmerge_receipt.json"]  # these tell the time
    receipt = json.loads((out / "tvmerge_receipt.json").read_text())
    kept = {name: receipt[name] for name in receipt if name not in ("run", "files", "digest")}
    return held, json.dumps(kept)


def text_of(folder: Path, method: str) -> str:
    overall, own = METHODS[method]
    method, _, what = method.partition(" of ")
    names = MODELS[1:][: FEW.get(method, 3)]
    weighted = {
        name: {} if own is None else {"weight": weight, **own}
        for name, weight in zip(names, WEIGHTS, strict=False)
    }
    if what in weighted:
        weighted[what] |= {"task": True}
    base = None if method in WITHOUT_BASE or method == "linear" else "base"
    return recipe(folder, method, weighted, base=base, **overall)
