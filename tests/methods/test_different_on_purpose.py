"""Where a method of mergekit's name means something else here: what it is instead.

docs/recipes.md has the reasons; tests/conformance holds that mergekit 0.1.5 does differ.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conformance.method_recipes import plain, recipe, weighted
from oracles.blends import by_line, model_stock
from oracles.consensus import Part, consensus
from support.checkpoints import read_model, write_model

from tvmerge.errors import ConfigError
from tvmerge.recipe import build, load_recipe

SIZE = 1000
ONES = np.ones(SIZE, bool)


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Models of one tensor in the current folder: random ones, 0, and some near the base."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    base, a, b = (generator.standard_normal(SIZE) for _ in range(3))
    models = {
        "base": base, "a": a, "b": b, "zero": 0 * base,
        "tiny_a": base + 1e-3 * a, "tiny_b": base + 1e-4 * (a + b),
    }  # fmt: skip
    single = {name: array.astype(np.float32) for name, array in models.items()}
    for name, array in single.items():
        write_model(Path(name), {"w": array})
    return {name: array.astype(np.float64) for name, array in single.items()}


def merged(text: str) -> np.ndarray:
    Path("recipe.yaml").write_text(text)
    shutil.rmtree("out", ignore_errors=True)
    build(load_recipe(Path("recipe.yaml"))).save("out")
    return read_model(Path("out"))["w"].astype(np.float64)


def same(out: np.ndarray, expected: np.ndarray) -> bool:
    return np.allclose(out, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "ties", "breadcrumbs"])
def test_negative_weights_subtract_where_they_are_divided_by(
    held: dict[str, np.ndarray], method: str
) -> None:
    """One model, of which nothing is trimmed: base - delta, and not base + delta."""
    out = merged(recipe(method, {"a": "weight: -0.5"}, "normalize: true"))
    assert same(out, held["base"] - (held["a"] - held["base"]))


def test_sce_weighs_tiny_deltas_by_their_energy(held: dict[str, np.ndarray]) -> None:
    out = merged(recipe("sce", plain(("tiny_a", "tiny_b"))))
    energy = [((held[name] - held["base"]) ** 2).sum() for name in ("tiny_a", "tiny_b")]
    shares = np.array(energy) / sum(energy)
    parts = [
        Part(held[name], share, ONES)
        for name, share in zip(("tiny_a", "tiny_b"), shares, strict=True)
    ]
    expected = consensus(held["base"], parts, 1.0, elect=True, elect_first=True, normalize=True)
    assert np.allclose(out - held["base"], expected - held["base"], rtol=1e-3, atol=3e-7)


def test_sce_of_one_model_is_that_model(held: dict[str, np.ndarray]) -> None:
    assert same(merged(recipe("sce", plain(("a",)), "select_topk: 0.1")), held["a"])


def test_model_stock_takes_the_true_cosine_of_tiny_deltas(held: dict[str, np.ndarray]) -> None:
    out = merged(recipe("model_stock", plain(("tiny_a", "tiny_b"))))
    expected = model_stock(held["base"], [held["tiny_a"], held["tiny_b"]])
    assert same(out, expected)
    assert not same(out, held["base"])


def test_slerp_from_0_is_a_straight_line(held: dict[str, np.ndarray]) -> None:
    assert same(merged(recipe("slerp", plain(("a",)), "t: 0.25", base="zero")), 0.25 * held["a"])


def test_nuslerp_with_a_delta_of_0_is_a_straight_line(held: dict[str, np.ndarray]) -> None:
    write_model(Path("still"), {"w": held["base"].astype(np.float32)})
    out = merged(recipe("nuslerp", {"a": "weight: 3", "still": "weight: 1"}))
    assert same(out, held["base"] + 0.75 * (held["a"] - held["base"]))


def test_nuslerp_row_wise_of_whole_tensors_is_an_error(held: dict[str, np.ndarray]) -> None:
    with pytest.raises(ConfigError, match="w: nuslerp_row_wise has no effect on whole tensors"):
        merged(recipe("nuslerp", weighted(("a", "b")), "nuslerp_row_wise: true"))


def test_rows_of_0_are_straight_lines_and_tiny_ones_have_their_true_angle(
    held: dict[str, np.ndarray],
) -> None:
    shape = (4, SIZE // 4)
    still = np.where(
        np.arange(4)[:, None] < 2, held["base"].reshape(shape), held["b"].reshape(shape)
    )
    matrices = {name: held[name].reshape(shape) for name in ("base", "a", "tiny_a", "tiny_b")}
    for name, array in {**matrices, "still": still}.items():
        write_model(Path(f"{name}_rows"), {"w": array.astype(np.float32)})
    own = {"a_rows": "weight: 3", "still_rows": "weight: 1"}
    out = merged(recipe("nuslerp", own, "nuslerp_flatten: false", base="base_rows"))
    straight = held["base"] + 0.75 * (held["a"] - held["base"])
    assert same(out[:2], straight.reshape(shape)[:2])
    assert not same(out[2:], straight.reshape(shape)[2:])
    own = plain(("tiny_a_rows", "tiny_b_rows"))
    out = merged(recipe("model_stock", own, "filter_wise: true", base="base_rows"))
    tuned = [matrices[name] for name in ("tiny_a", "tiny_b")]
    wanted = by_line(lambda base, *others: model_stock(base, others), [matrices["base"], *tuned])
    assert same(out, wanted)
    assert not same(out, matrices["base"])


def test_model_stock_of_deltas_that_oppose_each_other_is_the_base(
    held: dict[str, np.ndarray],
) -> None:
    start = np.round(held["base"])
    for name, by in (("flat", 0), ("up", 1), ("down", -1)):
        tensors = {"w": start + by, "v": np.full(SIZE, abs(by))}
        write_model(Path(name), {n: array.astype(np.float32) for n, array in tensors.items()})
    out = merged(recipe("model_stock", plain(("up", "down")), base="flat"))
    assert np.array_equal(out, start)


def test_means_of_directions_that_cancel_out_are_the_straight_mean(
    held: dict[str, np.ndarray],
) -> None:
    write_model(Path("longer"), {"w": (-2 * held["a"]).astype(np.float32)})
    three = {"a": "weight: 1", "longer": "weight: 1", "zero": "weight: 2"}
    out = merged(recipe("multislerp", three, "eps: 1.0e-6", base=None))
    assert same(out, -0.25 * held["a"])
    out = merged(recipe("karcher", plain(("a", "longer")), base=None))
    assert same(out, -0.5 * held["a"])


@pytest.mark.parametrize("method", ["nuslerp", "multislerp"])
def test_weights_that_are_to_be_divided_by_may_not_sum_to_0(
    held: dict[str, np.ndarray], method: str
) -> None:
    with pytest.raises(ConfigError, match="sum to 0"):
        merged(recipe(method, {"a": "weight: 1", "b": "weight: -1"}))


@pytest.mark.parametrize("method", ["karcher", "multislerp"])
def test_means_on_the_sphere_are_of_two_models_or_more(
    held: dict[str, np.ndarray], method: str
) -> None:
    own = plain(("a",)) if method == "karcher" else weighted(("a",))
    with pytest.raises(ConfigError, match="takes 2 models or more"):
        merged(recipe(method, own, base=None))


@pytest.mark.parametrize("method", ["ties", "breadcrumbs"])
def test_equal_magnitudes_take_part_by_their_place(
    held: dict[str, np.ndarray], method: str
) -> None:
    signs = np.where(held["a"] > 0, 0.5, -0.5)
    start = np.round(held["base"])  # sums are then exact, and all magnitudes equal
    for name, array in (("flat", start), ("moved", start + signs)):
        write_model(Path(name), {"w": array.astype(np.float32)})
    own = {"ties": "density: 0.25", "breadcrumbs": "density: 0.25, gamma: 0"}[method]
    out = merged(recipe(method, {"moved": f"weight: 1, {own}"}, base="flat"))
    assert np.flatnonzero(out != start).tolist() == list(range(SIZE // 4))
