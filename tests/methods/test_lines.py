"""LiNeS: task vectors scaled linearly with the depth of their layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.blends import lines
from support.checkpoints import read_model, write_model
from support.method_models import recipe

from tvmerge.algebra.operands import Checkpoint
from tvmerge.recipe import build, parse_recipe

LAYERS = 5
NAMES = ("embed.weight", *(f"layers.{n}.w" for n in range(LAYERS)), "norm.weight", "head.weight")
Arrays = dict[str, np.ndarray]


@pytest.fixture
def held(tmp_path: Path) -> dict[str, Arrays]:
    """Base, a and b with five layers, as stored in folders of these names."""
    generator = np.random.default_rng(3)
    made = {
        model: {name: generator.standard_normal((4, 3)).astype(np.float32) for name in NAMES}
        for model in ("base", "a", "b")
    }
    for model, arrays in made.items():
        write_model(tmp_path / model, arrays)
    return made


def built(folder: Path, models: dict[str, dict[str, float]], **parameters: float) -> Arrays:
    text = recipe(folder, "lines", models, **parameters)
    state = build(parse_recipe(Path("r"), text.encode())).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


def test_the_scale_grows_with_the_layer_and_is_alpha_outside(
    tmp_path: Path, held: dict[str, Arrays]
) -> None:
    models = {"a": {"weight": 0.7}, "b": {"weight": -0.4}}
    out = built(tmp_path, models, alpha=0.2, beta=0.6, **{"lambda": 1.5})
    base, vectors = held["base"], [held["a"], held["b"]]
    depth = {f"layers.{n}.w": n / (LAYERS - 1) for n in range(LAYERS)}
    for name in NAMES:
        wanted = lines(
            base[name], [v[name] for v in vectors], (0.7, -0.4),
            scale=1.5 * (0.2 + 0.6 * depth.get(name, 0.0)),
        )  # fmt: skip
        assert np.allclose(out[name], wanted, rtol=1e-6, atol=1e-6), name


def test_a_vector_of_ones_shows_the_scales_of_three_layers(tmp_path: Path) -> None:
    """By hand: alpha 0.25 and beta 0.5 give 0.25, 0.5 and 0.75."""
    names = ("embed", "layers.0.w", "layers.1.w", "layers.2.w", "norm")
    for model, value in (("base", 1.0), ("a", 2.0)):
        write_model(tmp_path / model, {n: np.full(2, value, np.float32) for n in names})
    out = built(tmp_path, {"a": {"weight": 1.0}}, alpha=0.25, beta=0.5)
    assert [float(out[name][0]) for name in names] == [1.25, 1.25, 1.5, 1.75, 1.25]
    # The authors' defaults: nothing in the first layer, all of it in the last.
    out = built(tmp_path, {"a": {"weight": 1.0}})
    assert [float(out[name][0]) for name in names] == [1.0, 1.0, 1.5, 2.0, 1.0]


def test_lambda_0_gives_the_base_and_a_flat_line_is_task_arithmetic(
    tmp_path: Path, held: dict[str, Arrays]
) -> None:
    models = {"a": {"weight": 0.7}, "b": {"weight": 0.3}}
    out = built(tmp_path, models, **{"lambda": 0.0})
    assert all(out[name].tobytes() == held["base"][name].tobytes() for name in NAMES)
    flat = recipe(tmp_path, "lines", models, alpha=0.5, beta=0.0, **{"lambda": 0.5})
    plain = recipe(tmp_path, "task_arithmetic", models, **{"lambda": 0.25})
    found, wanted = (build(parse_recipe(Path("r"), one.encode())) for one in (flat, plain))
    assert isinstance(found, Checkpoint) and isinstance(wanted, Checkpoint)
    assert list(found.coefficients.values()) == list(wanted.coefficients.values())


def test_it_is_task_arithmetic_with_a_gradient_over_the_layers(
    tmp_path: Path, held: dict[str, Arrays]
) -> None:
    own = build(parse_recipe(Path("r"), recipe(
        tmp_path, "lines", {"a": {"weight": 1.0}}, alpha=0.25, beta=0.5,
    ).encode()))  # fmt: skip
    text = recipe(tmp_path, "task_arithmetic", {"a": {"weight": 1.0}})
    other = build(parse_recipe(Path("r"), f"{text}parameters: {{lambda: [0.25, 0.75]}}\n".encode()))
    own.save(tmp_path / "own")
    other.save(tmp_path / "other")
    left, right = read_model(tmp_path / "own"), read_model(tmp_path / "other")
    assert all(left[name].tobytes() == right[name].tobytes() for name in NAMES)
