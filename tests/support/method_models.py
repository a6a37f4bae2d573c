"""Recipes that merge four small models, and what the oracles need of these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from oracles.consensus import Part
from support.checkpoints import read_model

from tvmerge.engine.decisions import Delta, Matrix
from tvmerge.engine.run_options import RunOptions
from tvmerge.merging.merge import save_checkpoint
from tvmerge.recipe import build, parse_recipe

SHAPES = {"embed": (70, 33), "layers.0.w": (300, 251), "layers.1.w": (65, 7), "norm": (5,)}
MODELS = ("base", "a", "b", "c")
Arrays = dict[str, np.ndarray]


def recipe(
    folder: Path,
    method: str,
    models: dict[str, dict[str, float]],
    *,
    base: str | None = "base",
    **parameters: float | bool,
) -> str:
    lines = [f"merge_method: {method}"]
    if base:
        lines.append(f"base_model: {folder / base}")
    lines.append("models:")
    for name, own in models.items():
        lines.append(f"  - model: {folder / name}")
        if own:
            lines.append(f"    parameters: {own}")
    if parameters:
        values = {k: str(v).lower() if isinstance(v, bool) else v for k, v in parameters.items()}
        lines.append("parameters: {" + ", ".join(f"{k}: {v}" for k, v in values.items()) + "}")
    return "\n".join(lines) + "\n"


def merge(text: str, out: Path, options: RunOptions | None = None) -> Arrays:
    model = build(parse_recipe(Path("recipe.yaml"), text.encode()))
    if options is None:
        model.save(out)
    else:
        save_checkpoint(model.weighting, model.donor, out, dtype=None, options=options)
    return read_model(out)


def assert_near(out: Arrays, expected: Callable[[str], np.ndarray]) -> None:
    assert set(out) == {*SHAPES, "ids"}
    for name in SHAPES:
        wanted = expected(name).reshape(SHAPES[name])
        assert np.allclose(out[name], wanted, rtol=1e-6, atol=1e-7), name


def flat(held: dict[str, Arrays], model: str, name: str) -> np.ndarray:
    return held[model][name].reshape(-1)


def wide(held: dict[str, Arrays], model: str, name: str) -> np.ndarray:
    return flat(held, model, name).astype(np.float64)


def keys(held: dict[str, Arrays], model: str, name: str) -> np.ndarray:
    delta = flat(held, model, name) - flat(held, "base", name)
    return np.minimum(delta.view(np.uint32) & np.uint32(0x7FFFFFFF), np.uint32(0x7F800001))


def parts_of(
    held: dict[str, Arrays],
    name: str,
    weights: Sequence[float],
    kept: Callable[[str, int], np.ndarray],
    *,
    rescale: bool = False,
) -> list[Part]:
    """One part for each of a, b, c; `kept` by model and its number among the inputs."""
    parts = []
    for number, (model, weight) in enumerate(zip(MODELS[1:], weights, strict=True)):
        mask = kept(model, number)
        delta = np.abs(wide(held, model, name) - wide(held, "base", name))
        some = delta[mask].sum()
        gain = delta.sum() / some if rescale and some > 1e-7 else 1.0
        parts.append(Part(flat(held, model, name), weight, mask, gain))
    return parts


WEIGHTS = (0.7, -0.4, 0.2)


def weighted(**more: float) -> dict[str, dict[str, float]]:
    return {m: {"weight": w, **more} for m, w in zip(MODELS[1:], WEIGHTS, strict=True)}


def matrix_of(kind: type[Matrix], shape: tuple[int, ...], models: int, **more: float) -> Matrix:
    """A decision of the kind, about so many models' deltas."""
    deltas = tuple(Delta(number + 1, 1.0) for number in range(models))
    rows, columns = shape
    return kind(0, deltas, shape=(rows, columns), models=models, **more)
