"""`ethos` by hand, and with auxiliary models: beside what it shares with other whole matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.matrices import ethos
from support.checkpoints import write_model
from support.method_models import SHAPES, Arrays, matrix_of, merge, recipe, wide

from tvmerge.errors import ConfigError
from tvmerge.methods.ethos import Ethos
from tvmerge.recipe import build, parse_recipe

torch = pytest.importorskip("torch")
# Orthogonal, and symmetric: its columns are the directions of H diag(...) H.
H = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
STRENGTHS = np.diag([8.0, 6.0, 4.0, 2.0])
# Along these directions: 8 is the largest, of which a quarter is 2.
ALONG = np.array([[8, 1, 0, 1.9], [-3, 0, -1, 0], [0, -1.9, 4, 0], [2.5, 0, 0, -8]])
ABOVE_A_QUARTER = np.array([[8, 0, 0, 0], [-3, 0, 0, 0], [0, 0, 4, 0], [2.5, 0, 0, -8]])
AUXILIARY = np.diag([4.0, 0.0, -2.0, 1.0])


def merged_by(base: np.ndarray, delta: np.ndarray, xi: float) -> np.ndarray:
    matrix = matrix_of(Ethos, base.shape, 1, xi=xi)
    return np.asarray(matrix.merged([torch.from_numpy(base), torch.from_numpy(delta)]))


def merged(folder: Path, models: dict[str, dict[str, float]], **more: float) -> np.ndarray:
    """By the models `task`, `general` and `none`, the first two together being H diag H apart."""
    base = H @ STRENGTHS @ H - AUXILIARY
    arrays = {"base": base, "task": base + H @ ALONG @ H, "general": base + AUXILIARY, "none": base}
    for name, values in arrays.items():
        write_model(folder / name, {"layers.0.w": values.astype(np.float32)})
    state = build(parse_recipe(Path("r"), recipe(folder, "ethos", models, **more).encode()))
    return np.asarray(state.state_dict()["layers.0.w"]) - base


def test_what_is_large_along_the_bases_directions_stays() -> None:
    found = merged_by(H @ STRENGTHS @ H, H @ ALONG @ H, 0.25)
    assert np.allclose(found, H @ ABOVE_A_QUARTER @ H)
    assert np.allclose(merged_by(H @ STRENGTHS @ H, H @ ALONG @ H, 0.0), H @ ALONG @ H)
    # By itself the base's directions would be those of the elements.
    assert np.allclose(merged_by(STRENGTHS, ALONG, 0.25), ABOVE_A_QUARTER)


def test_a_general_fine_tune_turns_the_directions_and_is_added_whole(tmp_path: Path) -> None:
    models = {"task": {"weight": -0.5}, "general": {"auxiliary": True}}
    found = merged(tmp_path, models, xi=0.25)
    assert np.allclose(found, AUXILIARY - 0.5 * H @ ABOVE_A_QUARTER @ H)
    # In the directions of the base alone it is another delta that is left.
    alone = merged(tmp_path, {"task": {"weight": -0.5}}, xi=0.25)
    assert not np.allclose(alone, -0.5 * H @ ABOVE_A_QUARTER @ H, atol=0.1)
    other = {"general": {"auxiliary": True}, "task": {"weight": -0.5}}
    assert np.allclose(merged(tmp_path, other, xi=0.25), found)


def test_a_general_fine_tune_that_is_the_base_changes_nothing(tmp_path: Path) -> None:
    models = {"task": {}, "none": {"auxiliary": True}}
    found = merged(tmp_path, models, xi=0.25)
    assert np.array_equal(found, merged(tmp_path, {"task": {}}, xi=0.25))
    (tmp_path / "link").symlink_to(tmp_path / "base")
    linked = merged(tmp_path, {"task": {}, "link": {"auxiliary": True}}, xi=0.25)
    assert np.array_equal(found, linked)


def test_a_model_without_a_delta_adds_nothing(tmp_path: Path) -> None:
    found = merged(tmp_path, {"task": {}, "none": {}}, xi=0.25)
    assert np.array_equal(found, merged(tmp_path, {"task": {}}, xi=0.25))


def test_beside_the_directions_lengths_count() -> None:
    """Of 4 x 2 elements the last two rows have no directions: 3 and 4 are 5, above half of 8."""
    base = np.zeros((4, 2))
    base[0, 0], base[1, 1] = 2, 1
    delta = np.array([[8.0, 5.0], [3.9, 1.0], [3.0, 2.0], [4.0, 3.0]])
    expected = np.array([[8.0, 5.0], [0.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
    assert np.allclose(merged_by(base, delta, 0.5), expected)
    wide_base, across = np.ascontiguousarray(base.T), np.ascontiguousarray(delta.T)
    assert np.allclose(merged_by(wide_base, across, 0.5), expected.T)


def test_a_base_of_low_rank_has_no_directions_of_chance() -> None:
    base = np.zeros((3, 3))
    base[0, 0] = 2
    delta = np.array([[8.0, 3.0, 4.0], [1.0, 4.0, 0.0], [1.0, 0.0, 3.0]])
    expected = np.array([[8.0, 3.0, 4.0], [0.0, 4.0, 0.0], [0.0, 0.0, 3.0]])
    assert np.allclose(merged_by(base, delta, 0.5), expected)
    assert np.allclose(merged_by(0 * base, delta, 0.5), delta)
    assert np.array_equal(merged_by(base, 0 * delta, 0.5), 0 * delta)


def test_xi_0_is_task_arithmetic(folder: Path, tmp_path: Path) -> None:
    models = {"a": {"weight": 0.7}, "b": {"weight": -0.4}}
    held = merge(recipe(folder, "task_arithmetic", models, **{"lambda": 0.8}), tmp_path / "plain")
    general = {"a": {"weight": 0.7}, "b": {"weight": -0.4, "auxiliary": True}}
    for number, own in enumerate((models, general)):
        text = recipe(folder, "ethos", own, **{"lambda": 0.8, "xi": 0.0})
        out = merge(text, tmp_path / str(number))
        for name in SHAPES:
            assert np.allclose(out[name], held[name], rtol=1e-6, atol=1e-6)


def test_random_models_with_an_auxiliary_one_are_the_papers_equation(
    folder: Path, held: dict[str, Arrays], tmp_path: Path
) -> None:
    models = {"a": {"weight": -0.7}, "b": {"auxiliary": True}, "c": {"weight": 0.4}}
    out = merge(recipe(folder, "ethos", models, **{"lambda": 0.5, "xi": 0.2}), tmp_path / "out")
    for name, shape in SHAPES.items():
        base = wide(held, "base", name).reshape(shape)
        a, b, c = (wide(held, m, name).reshape(shape) - base for m in "abc")
        plain = -0.7 * a + 0.4 * c
        if name.startswith("layers"):
            whole = ethos([-0.7 * a, 0.4 * c], base + b, 0.2)
            assert not np.allclose(whole, plain, atol=1e-3)
        else:
            whole = plain
        assert np.allclose(out[name], base + 0.5 * (b + whole), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", [1.0, 30.0])
def test_a_threshold_that_leaves_nothing_is_refused(folder: Path, value: float) -> None:
    text = recipe(folder, "ethos", {"a": {}}, xi=value)
    with pytest.raises(ConfigError, match=r"xi is a share .*: expected less than 1, found"):
        build(parse_recipe(Path("r"), text.encode()))


@pytest.mark.parametrize("names", ["a", "ab"])
def test_auxiliary_models_alone_are_refused(folder: Path, names: str) -> None:
    text = recipe(folder, "ethos", {name: {"auxiliary": True} for name in names})
    with pytest.raises(ConfigError, match=r"auxiliary is for general fine-tunes.*expected a model"):
        build(parse_recipe(Path("r"), text.encode()))
