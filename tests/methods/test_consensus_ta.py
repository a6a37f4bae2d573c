"""Consensus Task Arithmetic by hand: which models need an element, and what is left of the sum."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.consensus import Part, consensus
from support.checkpoints import write_model
from support.method_models import (
    WEIGHTS,
    Arrays,
    assert_near,
    flat,
    merge,
    parts_of,
    recipe,
    weighted,
)

from tvmerge.errors import ConfigError
from tvmerge.recipe import build, parse_recipe

BASE = [1.0, 1.0, 1.0, 1.0, -2.0, 8.0]
# Deltas of a: 4, 4, 4, 0, 0, 1; of b: 4, 1, -1, 3, 0, 2; of c: 2, 0.25, 0, 0, 0, -3.
A = [5.0, 5.0, 5.0, 1.0, -2.0, 9.0]
B = [5.0, 2.0, 0.0, 4.0, -2.0, 10.0]
C = [3.0, 1.25, 1.0, 1.0, -2.0, 5.0]


def merged(folder: Path, models: dict[str, dict[str, float]], **parameters: float) -> list[float]:
    for name, values in (("base", BASE), ("a", A), ("b", B), ("c", C)):
        write_model(folder / name, {"w": np.array(values, np.float32)})
    text = recipe(folder, "consensus_ta", models, **parameters)
    state = build(parse_recipe(Path("r"), text.encode())).state_dict()
    return [float(value) for value in state["w"]]


@pytest.mark.parametrize(
    ("weights", "mask", "parameters", "expected"),
    [
        # The sums are 10, 5.25, 3, 3, 0, 0. By 0.5 the first is needed by a and b (c: 2 < 4), the
        # second by a alone, the third by a alone (b: 1 < 2), the fourth by b alone.
        ((1, 1, 1), 0.5, {}, [11.0, 1.0, 1.0, 1.0, -2.0, 8.0]),
        ((1, 1, 1), 0.5, {"k": 1}, [11.0, 6.25, 4.0, 4.0, -2.0, 8.0]),
        ((1, 1, 1), 0.5, {"k": 3}, BASE),
        ((1, 1, 1), 0.5, {"lambda": -0.5}, [-4.0, 1.0, 1.0, 1.0, -2.0, 8.0]),
        # Equality is enough: 2 = 0.25 * 8, 1 = 0.25 * 4 but 1 < 0.25 * 4.25.
        ((1, 1, 1), 0.25, {"k": 3}, [11.0, 1.0, 1.0, 1.0, -2.0, 8.0]),
        ((1, 1, 1), 0.25, {}, [11.0, 1.0, 4.0, 1.0, -2.0, 8.0]),
        # At 0 a model needs what it changes, and without k all of the sum stays.
        ((1, 1, 1), 0, {}, [11.0, 6.25, 4.0, 1.0, -2.0, 8.0]),
        ((1, 1, 1), 9, {"k": 0}, [11.0, 6.25, 4.0, 4.0, -2.0, 8.0]),
        # Weights that are all multiplied by one number are another lambda, below 0 as well.
        ((-0.5, -0.5, -0.5), 0.5, {}, [-4.0, 1.0, 1.0, 1.0, -2.0, 8.0]),
        # Weighted deltas of the first are 1, 4, 2, of the second 1, 1, 0.25, of the last 0.25, 2,
        # -3: magnitudes count.
        ((0.25, 1, 1), 0.5, {}, [1.0, 3.25, 1.0, 1.0, -2.0, 7.25]),
        # A weight of 0 needs nothing: a and b alone, whose last deltas are 1 and 2.
        ((1, 1, 0), 0.5, {}, [9.0, 1.0, 1.0, 1.0, -2.0, 11.0]),
    ],
)
def test_sums_stay_where_k_models_need_them(
    tmp_path: Path,
    weights: tuple[float, ...],
    mask: float,
    parameters: dict[str, float],
    expected: list[float],
) -> None:
    models = {n: {"weight": w, "mask_lambda": mask} for n, w in zip("abc", weights, strict=True)}
    assert merged(tmp_path, models, **parameters) == expected


def test_each_model_has_a_threshold_of_its_own(tmp_path: Path) -> None:
    """By 0.25 b needs the third too, with a: -1 beside a sum of 4."""
    models = {n: {"weight": 1.0, "mask_lambda": t} for n, t in (("a", 0.5), ("b", 0.25), ("c", 3))}
    assert merged(tmp_path, models) == [11.0, 1.0, 4.0, 1.0, -2.0, 8.0]


def test_one_model_alone_is_its_task_arithmetic(tmp_path: Path) -> None:
    assert merged(tmp_path, {"b": {"weight": 0.5}}, k=1) == [3.0, 1.5, 0.5, 2.5, -2.0, 9.0]


@pytest.mark.parametrize("k", [1.5, 2, 1e300])
def test_more_than_there_are_models_cannot_need_an_element(tmp_path: Path, k: float) -> None:
    with pytest.raises(ConfigError, match=r"w: k .* at most 1, the number of models, found [12]"):
        merged(tmp_path, {"b": {"weight": 0.5}}, k=k)


@pytest.mark.parametrize("same_files", [False, True])
def test_a_model_that_is_the_base_needs_nothing(tmp_path: Path, same_files: bool) -> None:
    """Whether its deltas of 0 are read, or known because it is the base under another name."""
    for name, values in (("base", BASE), ("still", BASE), ("a", A)):
        write_model(tmp_path / name, {"w": np.array(values, np.float32)})
    (tmp_path / "link").symlink_to(tmp_path / "base")
    others = ("link" if same_files else "still", "a")
    text = recipe(tmp_path, "consensus_ta", {name: {"weight": 1.0} for name in others})
    state = build(parse_recipe(Path("r"), text.encode())).state_dict()
    assert state["w"].tolist() == BASE


@pytest.mark.parametrize("k", [1, 2, 3])
def test_random_models_are_the_papers_equation(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, k: int
) -> None:
    text = recipe(folder, "consensus_ta", weighted(), **{"lambda": -0.6, "k": k})
    out = merge(text, tmp_path / "out")

    def expected(of: str) -> np.ndarray:
        parts = parts_of(held, of, WEIGHTS, lambda m, _n: np.ones(flat(held, m, of).size, bool))
        parts = [Part(p.tuned, p.weight, p.kept, threshold=0.4) for p in parts]
        base = flat(held, "base", of)
        return consensus(base, parts, -0.6, elect=False, least=k, normalize=False)

    assert_near(out, expected)
    changed = np.mean(out["layers.0.w"] != held["base"]["layers.0.w"])
    assert (0 < changed < 1) == (k > 1)
