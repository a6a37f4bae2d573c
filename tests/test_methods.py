"""Merge methods as recipes: against the papers' equations in float64, and what must always hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from checkpoints import read_model, write_model
from click.testing import CliRunner
from reference import random_array
from reference_blends import karcher, model_stock, multislerp, slerp
from reference_consensus import Part, consensus, largest, limits_of_rows, philox

from tvmerge.algebra import Checkpoint
from tvmerge.cli import cli
from tvmerge.decisions import random_key
from tvmerge.errors import ConfigError
from tvmerge.merge import save_checkpoint
from tvmerge.methods import METHODS
from tvmerge.receipt_parsing import read_receipt
from tvmerge.recipe import build, parse_recipe
from tvmerge.replay import replay
from tvmerge.run_options import RunOptions

SHAPES = {"embed": (70, 33), "layers.0.w": (300, 251), "layers.1.w": (65, 7), "norm": (5,)}
MODELS = ("base", "a", "b", "c")
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four models in float32, the fine-tunes near the base."""
    place = tmp_path_factory.mktemp("models")
    generator = np.random.default_rng(5)
    base = {name: random_array(generator, "F32", s, wild=False) for name, s in SHAPES.items()}
    write_model(place / "base", {**base, "ids": np.arange(7)})
    for name in MODELS[1:]:
        moved = {
            key: value + (0.1 * generator.standard_normal(value.shape)).astype(np.float32)
            for key, value in base.items()
        }
        write_model(place / name, {**moved, "ids": np.arange(7)})
    return place


@pytest.fixture(scope="module")
def held(folder: Path) -> dict[str, Arrays]:
    return {name: read_model(folder / name) for name in MODELS}


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
    model = build(parse_recipe(Path("recipe.yaml"), text.replace("'", "").encode()))
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
    return delta.view(np.uint32) & np.uint32(0x7FFFFFFF)


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


@pytest.mark.parametrize(("density", "epsilon"), [(0.9, 0.1), (0.1, 0.1), (0.5, -0.1)])
def test_della_refuses_probabilities_beyond_0_and_1(
    folder: Path, density: float, epsilon: float
) -> None:
    text = recipe(folder, "della", weighted(density=density, epsilon=epsilon))
    with pytest.raises(ConfigError, match="must lie between 0 and 1"):
        build(parse_recipe(Path("r"), text.replace("'", "").encode()))


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


@pytest.mark.parametrize("method", ["nearswap", "ramplus_tl"])
def test_what_is_broken_in_an_input_shows(folder: Path, tmp_path: Path, method: str) -> None:
    base = read_model(folder / "base")
    broken = {name: value + value.dtype.type(1) for name, value in base.items() if name != "ids"}
    broken["embed"][3, 4:6] = np.nan, np.inf
    write_model(tmp_path / "base", {name: base[name] for name in broken})
    write_model(tmp_path / "a", broken)
    out = merge(recipe(tmp_path, method, {"a": {}}, **LEAST.get(method, {})), tmp_path / "out")
    assert not np.isfinite(out["embed"][3, 4:6]).any()
    assert np.isfinite(out["embed"]).sum() == base["embed"].size - 2


LEAST: dict[str, dict[str, float]] = {"nearswap": {"t": 0.01}}  # what a recipe has to say

ELABORATE = {
    "ties": {"density": 0.3},
    "dare_ties": {"density": 0.3},
    "dare_linear": {"density": 0.3},
    "della": {"density": 0.3},
    "della_linear": {"density": 0.3},
    "breadcrumbs": {"density": 0.3},
    "breadcrumbs_ties": {"density": 0.3},
}


@pytest.mark.parametrize("method", ELABORATE)
def test_weights_that_are_all_negative_subtract(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    """mergekit's ties adds here: it divides by a sum of weights that is negative too."""
    plus = merge(
        recipe(folder, method, {m: {"weight": 0.5, **ELABORATE[method]} for m in "abc"}),
        tmp_path / "plus",
    )
    minus = merge(
        recipe(folder, method, {m: {"weight": -0.5, **ELABORATE[method]} for m in "abc"}),
        tmp_path / "minus",
    )
    for name in SHAPES:
        base = held["base"][name].astype(np.float64)
        added, taken = plus[name] - base, minus[name] - base
        if method in ("ties", "dare_ties", "breadcrumbs_ties", "della"):
            # A sum of exactly 0 elects the positive: else the two are mirror images.
            assert np.allclose(added, -taken, rtol=1e-4, atol=1e-6)
        assert (added * taken).sum() < 0


@pytest.mark.parametrize("method", ELABORATE)
def test_lambda_0_gives_the_base_byte_for_byte(
    folder: Path, held: dict[str, Arrays], method: str
) -> None:
    text = recipe(folder, method, weighted(**ELABORATE[method]), **{"lambda": 0.0})
    model = build(parse_recipe(Path("r"), text.replace("'", "").encode()))
    state = model.state_dict()
    for name in SHAPES:
        assert state[name].numpy().tobytes() == held["base"][name].tobytes()


@pytest.mark.parametrize(
    "method", ["ties", "breadcrumbs_ties", "ram", "ramplus_tl", "sce", "model_stock"]
)
def test_the_order_of_the_models_does_not_matter(folder: Path, tmp_path: Path, method: str) -> None:
    own = {"weight": 0.5, **ELABORATE[method]} if method in ELABORATE else {}
    outs = [
        merge(recipe(folder, method, dict.fromkeys(order, own)), tmp_path / order)
        for order in ("abc", "cab")
    ]
    for name in SHAPES:
        assert np.allclose(outs[0][name], outs[1][name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["ties", "dare_ties", "breadcrumbs_ties", "della", "sce"])
def test_one_model_alone_with_all_of_it_kept_is_that_model(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, method: str
) -> None:
    own = {} if method == "sce" else {"weight": 1.0}
    out = merge(recipe(folder, method, {"a": own}), tmp_path / "out")
    for name in SHAPES:
        assert np.allclose(out[name], held["a"][name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    "method", ["ties", "dare_ties", "sce", "multislerp", "ramplus_tl", "della"]
)
def test_threads_batches_and_instruction_sets_change_no_bit_and_a_replay_finds_the_same(
    folder: Path, tmp_path: Path, method: str
) -> None:
    own = {} if method in ("sce", "ramplus_tl") else {"weight": 0.5, **ELABORATE.get(method, {})}
    more = {"select_topk": 0.3} if method == "sce" else {}
    text = recipe(folder, method, dict.fromkeys("abc", own), **more)
    runs = (
        RunOptions(threads=1),
        RunOptions(threads=3, slice_bytes=4096, batch_bytes=10_000),
        RunOptions(threads=2, isa="generic"),
    )
    held = []
    for number, options in enumerate(runs):
        merge(text, tmp_path / str(number), options)
        held.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert held[1:] == held[:-1]
    (tmp_path / "recipe.yaml").write_text(text.replace("'", ""))
    done = CliRunner().invoke(cli, ["merge", f"{tmp_path}/recipe.yaml", f"{tmp_path}/out"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == held[0]
    assert replay(read_receipt(tmp_path / "out")) == ()


def test_every_method_says_what_it_takes(folder: Path) -> None:
    for name, method in METHODS.items():
        assert (method.coefficients is None) != (method.decision is None), name
        with pytest.raises(ConfigError, match=re.escape("densty")):
            parse_recipe(Path("r"), recipe(folder, name, {"a": {}}, densty=1).encode())


def test_whole_models_of_checkpoints_stay_what_they_were(folder: Path) -> None:
    text = recipe(folder, "task_arithmetic", {"a": {"weight": 1.0}})
    assert isinstance(build(parse_recipe(Path("r"), text.replace("'", "").encode())), Checkpoint)
