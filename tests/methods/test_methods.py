"""Methods that mask deltas, as recipes, against their papers' equations in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.consensus import consensus, largest, limits_of_rows, philox
from support.method_models import (
    MODELS,
    SHAPES,
    WEIGHTS,
    Arrays,
    assert_near,
    flat,
    keys,
    merge,
    parts_of,
    recipe,
    weighted,
    wide,
)

from tvmerge import _core
from tvmerge.engine import deciding
from tvmerge.engine.cuts import Cuts
from tvmerge.engine.decisions import Delta, random_key
from tvmerge.engine.run_options import Workspace
from tvmerge.errors import ConfigError, MemoryLimitError
from tvmerge.recipe import build, parse_recipe


@pytest.mark.parametrize("normalize", [True, False])
def test_ties_trims_elects_and_averages(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, normalize: bool
) -> None:
    text = recipe(folder, "ties", weighted(density=0.3), normalize=normalize, **{"lambda": 0.5})
    out = merge(text, tmp_path / "out")

    def expected(name: str) -> np.ndarray:
        def kept(model: str, _number: int) -> np.ndarray:
            ranked = keys(held, model, name)
            return largest(ranked, max(1, int(0.3 * ranked.size)))

        parts = parts_of(held, name, WEIGHTS, kept)
        base = flat(held, "base", name)
        return consensus(base, parts, 0.5, elect=True, normalize=normalize)

    assert_near(out, expected)


@pytest.mark.parametrize("method", ["dare_ties", "dare_linear"])
def test_dare_drops_at_random_and_makes_up_for_it(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    out = merge(recipe(folder, method, weighted(density=0.4), seed=9), tmp_path / "out")
    model = build(parse_recipe(Path("r"), recipe(folder, method, weighted()).encode()))
    assert model is not None

    def expected(name: str) -> np.ndarray:
        def kept(model: str, _number: int) -> np.ndarray:
            # Inputs are numbered as the recipe has them: the base first.
            key = random_key(9, name, MODELS.index(model))
            return philox(key, flat(held, "base", name).size) < round(0.4 * 2**32)

        parts = parts_of(held, name, WEIGHTS, kept, rescale=True)
        base = flat(held, "base", name)
        return consensus(base, parts, 1.0, elect=method == "dare_ties", normalize=False)

    assert_near(out, expected)


@pytest.mark.parametrize("method", ["della", "della_linear"])
def test_della_keeps_more_of_the_larger_elements_of_each_row(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    text = recipe(folder, method, weighted(density=0.4, epsilon=0.3), seed=9)
    out = merge(text, tmp_path / "out")
    lowest, span = round(0.1 * 2**32), round(0.6 * 2**32)

    def expected(name: str) -> np.ndarray:
        def kept(model: str, _number: int) -> np.ndarray:
            ranked = keys(held, model, name)
            limits = limits_of_rows(ranked, SHAPES[name][-1], lowest, span)
            return np.asarray(
                philox(random_key(9, name, MODELS.index(model)), ranked.size) < limits
            )

        parts = parts_of(held, name, WEIGHTS, kept, rescale=True)
        base, elect = flat(held, "base", name), method == "della"
        return consensus(base, parts, 1.0, elect=elect, normalize=elect)

    assert_near(out, expected)


DRAWING = {"della": {"density": 0.4, "epsilon": 0.3}, "dare_ties": {"density": 0.4}}


@pytest.mark.parametrize("method", DRAWING)
def test_the_same_is_written_whether_what_is_drawn_is_noted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    text = recipe(folder, method, weighted(**DRAWING[method]), seed=9)
    noted: list[bool] = []
    part = deciding._part

    def spy(delta: Delta, cuts: Cuts, *more: Any) -> _core.Part:
        noted.append(cuts.mask is not None)
        return part(delta, cuts, *more)

    monkeypatch.setattr(deciding, "_part", spy)
    first = merge(text, tmp_path / "first")
    assert noted
    assert all(noted)
    noted.clear()
    monkeypatch.setattr(deciding, "_MASK_BYTES", 0)
    second = merge(text, tmp_path / "second")
    assert noted
    assert not any(noted)
    assert {name: one.tobytes() for name, one in first.items()} == {
        name: one.tobytes() for name, one in second.items()
    }


@pytest.mark.parametrize("method", DRAWING)
def test_nothing_is_noted_where_memory_is_used_up(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def used_up(_workspace: Workspace) -> int:
        raise MemoryLimitError("used up")

    monkeypatch.setattr(Workspace, "room_bytes", property(used_up))
    text = recipe(folder, method, weighted(**DRAWING[method]), seed=9)
    assert set(merge(text, tmp_path / "out")) == {*SHAPES, "ids"}


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.1), (0.1, 0.1)])
def test_della_refuses_probabilities_beyond_0_and_1(
    folder: Path, density: float, epsilon: float
) -> None:
    text = recipe(folder, "della", weighted(density=density, epsilon=epsilon))
    with pytest.raises(ConfigError, match="must lie between 0 and 1"):
        build(parse_recipe(Path("r"), text.encode()))


@pytest.mark.parametrize("method", ["breadcrumbs", "breadcrumbs_ties"])
def test_breadcrumbs_drops_the_smallest_and_the_very_largest(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    text = recipe(folder, method, weighted(density=0.5, gamma=0.1))
    out = merge(text, tmp_path / "out")

    def expected(name: str) -> np.ndarray:
        def kept(model: str, _number: int) -> np.ndarray:
            ranked = keys(held, model, name)
            count, outliers = int(0.5 * ranked.size), int(0.1 * ranked.size)
            return largest(ranked, count + outliers) & ~largest(ranked, outliers)

        parts = parts_of(held, name, WEIGHTS, kept)
        base = flat(held, "base", name)
        return consensus(base, parts, 1.0, elect=method.endswith("ties"), normalize=False)

    assert_near(out, expected)


def test_sce_selects_by_variance_weighs_by_energy_and_erases(
    folder: Path, held: dict[str, Arrays], tmp_path: Path
) -> None:
    text = recipe(folder, "sce", {m: {} for m in MODELS[1:]}, select_topk=0.3)
    out = merge(text, tmp_path / "out")

    def expected(name: str) -> np.ndarray:
        base = flat(held, "base", name)
        deltas = np.stack([flat(held, m, name) - base for m in MODELS[1:]])
        third = np.float32(1) / np.float32(3)
        mean = (deltas[0] + deltas[1] + deltas[2]) * third
        squares = [(delta - mean) * (delta - mean) for delta in deltas]
        variance = (squares[0] + squares[1] + squares[2]) * third
        kept = largest(variance.view(np.uint32), int(0.3 * np.count_nonzero(variance)))
        energy = (np.where(kept, deltas, 0).astype(np.float64) ** 2).sum(axis=1)
        weights = energy / energy.sum()
        parts = parts_of(held, name, weights, lambda _m, _n: kept)
        return consensus(base, parts, 1.0, elect=True, elect_first=True, normalize=True)

    assert_near(out, expected)


def test_ram_adds_what_one_changed_and_averages_what_several_did(
    folder: Path, held: dict[str, Arrays], tmp_path: Path
) -> None:
    text = recipe(folder, "ram", {m: {} for m in MODELS[1:]}, epsilon=0.08)
    out = merge(text, tmp_path / "out")

    def expected(name: str) -> np.ndarray:
        base = wide(held, "base", name)
        deltas = np.stack([wide(held, m, name) - base for m in MODELS[1:]])
        changed = np.stack([keys(held, m, name) for m in MODELS[1:]]) > np.float32(0.08).view(
            np.uint32
        )
        count = np.maximum(1, changed.sum(axis=0))
        return np.asarray(base + np.where(changed, deltas, 0).sum(axis=0) / count)

    assert_near(out, expected)


def test_ramplus_tl_adds_more_of_what_one_changed_alone(
    folder: Path, held: dict[str, Arrays], tmp_path: Path
) -> None:
    more = {"epsilon": 0.1, "r": 0.5, "alpha": 1.3}
    out = merge(recipe(folder, "ramplus_tl", {m: {} for m in MODELS[1:]}, **more), tmp_path / "out")

    def expected(name: str) -> np.ndarray:
        base = wide(held, "base", name)
        deltas = np.stack([wide(held, m, name) - base for m in MODELS[1:]])
        changed = np.abs(deltas) > 0.1
        count = changed.sum(axis=0)
        total = np.where(changed & (count > 1), deltas, 0).sum(axis=0) / np.maximum(count, 1)
        for delta, own in zip(deltas, changed & (count == 1), strict=True):
            shared = (changed[0] | changed[1] | changed[2]) & (count > 1)
            shared &= np.abs(delta) > 0.1
            factor = 1 + 0.5 * min(1.3, shared.sum() / max(1, own.sum()))
            total += np.where(own, factor * delta, 0)
        return np.asarray(base + total)

    assert_near(out, expected)


@pytest.mark.parametrize("t", [0.05, 4e-7])
def test_nearswap_cuts_the_delta_down_to_t(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, t: float
) -> None:
    out = merge(recipe(folder, "nearswap", {"a": {}}, t=t), tmp_path / "out")

    def expected(name: str) -> np.ndarray:
        base, other = wide(held, "base", name), wide(held, "a", name)
        weight = np.clip(t / np.maximum(np.abs(base - other), 1e-6), 0, 1)
        return np.asarray(base + weight * (other - base))

    assert_near(out, expected)
