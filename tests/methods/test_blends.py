"""Spherical and other blends, as recipes, against whole vectors in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.blends import karcher, model_stock, multislerp, slerp
from support.method_models import (
    MODELS,
    Arrays,
    assert_near,
    merge,
    recipe,
    wide,
)


def test_slerp_goes_from_the_base_to_the_other_model(
    folder: Path, held: dict[str, Arrays], tmp_path: Path
) -> None:
    out = merge(recipe(folder, "slerp", {"base": {}, "a": {}}, t=0.3), tmp_path / "out")
    assert_near(out, lambda n: slerp(wide(held, "base", n), wide(held, "a", n), 0.3))


@pytest.mark.parametrize("base", [None, "base"])
def test_nuslerp_goes_by_weights_between_models_or_task_vectors(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, base: str | None
) -> None:
    models = {"a": {"weight": 3.0}, "b": {"weight": 1.0}}
    out = merge(recipe(folder, "nuslerp", models, base=base), tmp_path / "out")

    def expected(name: str) -> np.ndarray:
        origin = wide(held, "base", name) if base else 0.0
        a, b = (wide(held, m, name) - origin for m in ("a", "b"))
        return np.asarray(origin + slerp(a, b, 0.25))

    assert_near(out, expected)


@pytest.mark.parametrize("base", [None, "base"])
def test_multislerp_takes_the_mean_of_directions_and_of_norms(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, base: str | None
) -> None:
    models = {"a": {"weight": 2.0}, "b": {"weight": 1.0}, "c": {"weight": 1.0}}
    out = merge(recipe(folder, "multislerp", models, base=base), tmp_path / "out")

    def expected(name: str) -> np.ndarray:
        origin = wide(held, "base", name) if base else 0.0
        vectors = [wide(held, m, name) - origin for m in MODELS[1:]]
        return np.asarray(origin + multislerp(vectors, (0.5, 0.25, 0.25)))

    assert_near(out, expected)


def test_karcher_finds_the_centre_of_the_directions(
    folder: Path, held: dict[str, Arrays], tmp_path: Path
) -> None:
    models: dict[str, dict[str, float]] = {m: {} for m in MODELS[1:]}
    text = recipe(folder, "karcher", models, base=None, max_iter=100, tol=1e-12)
    out = merge(text, tmp_path / "out")
    assert_near(out, lambda n: karcher([wide(held, m, n) for m in MODELS[1:]]))


def test_model_stock_lies_between_the_base_and_the_mean(
    folder: Path, held: dict[str, Arrays], tmp_path: Path
) -> None:
    out = merge(recipe(folder, "model_stock", {m: {} for m in MODELS[1:]}), tmp_path / "out")
    assert_near(
        out, lambda n: model_stock(wide(held, "base", n), [wide(held, m, n) for m in MODELS[1:]])
    )
