"""NegMerge by hand: what each element comes to, and whose vote counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.consensus import consensus
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

from tvmerge.recipe import build, parse_recipe

BASE = [1.0, 1.0, 1.0, 1.0, -2.0, 8.0]
# Both up, both down, apart, one still, both still, both up by different amounts.
A = [2.0, 0.0, 3.0, 1.0, -2.0, 9.0]
B = [4.0, -1.0, 0.0, 7.0, -2.0, 16.0]


def merged(folder: Path, models: dict[str, dict[str, float]], **parameters: float) -> list[float]:
    for name, values in (("base", BASE), ("a", A), ("b", B)):
        write_model(folder / name, {"w": np.array(values, np.float32)})
    out = merge(recipe(folder, "negmerge", models, **parameters), folder / "out")
    return [float(value) for value in out["w"]]


@pytest.mark.parametrize(
    ("weights", "scale", "expected"),
    [
        ((1, 1), 1, [3.0, -0.5, 1.0, 1.0, -2.0, 12.5]),
        ((1, 1), -1, [-1.0, 2.5, 1.0, 1.0, -2.0, 3.5]),
        ((1, 1), -2, [-3.0, 4.0, 1.0, 1.0, -2.0, -1.0]),
        ((3, 1), 1, [2.5, -0.25, 1.0, 1.0, -2.0, 10.75]),
        ((-1, -1), 1, [-1.0, 2.5, 1.0, 1.0, -2.0, 3.5]),
        # Subtracted, b votes for the other sign: what a and b agreed on is now apart.
        ((1, -1), 1, [1.0, 1.0, 2.5, 1.0, -2.0, 8.0]),
        # A weight of 0 is no vote.
        ((1, 0), 1, A),
    ],
)
def test_elements_of_one_sign_are_averaged_and_the_others_are_the_base(
    tmp_path: Path, weights: tuple[float, float], scale: float, expected: list[float]
) -> None:
    models = {name: {"weight": w} for name, w in zip("ab", weights, strict=True)}
    assert merged(tmp_path, models, **{"lambda": scale}) == expected


def test_one_model_alone_is_that_model(tmp_path: Path) -> None:
    assert merged(tmp_path, {"b": {"weight": 0.5}}) == B


@pytest.mark.parametrize("same_files", [False, True])
def test_with_a_model_that_is_the_base_nothing_is_unanimous(
    tmp_path: Path, same_files: bool
) -> None:
    """Whether its deltas of 0 are read, or known because it is the base under another name."""
    for name, values in (("base", BASE), ("still", BASE), ("a", A)):
        write_model(tmp_path / name, {"w": np.array(values, np.float32)})
    (tmp_path / "link").symlink_to(tmp_path / "base")
    others = ("link" if same_files else "still", "a")
    text = recipe(tmp_path, "negmerge", {name: {"weight": 1.0} for name in others})
    state = build(parse_recipe(Path("r"), text.encode())).state_dict()
    assert state["w"].tolist() == BASE


@pytest.mark.parametrize("scale", [1.0, -0.6])
def test_random_models_are_the_papers_equation(
    folder: Path, held: dict[str, Arrays], tmp_path: Path, scale: float
) -> None:
    out = merge(recipe(folder, "negmerge", weighted(), **{"lambda": scale}), tmp_path / "out")

    def expected(of: str) -> np.ndarray:
        parts = parts_of(held, of, WEIGHTS, lambda m, _n: np.ones(flat(held, m, of).size, bool))
        base = flat(held, "base", of)
        return consensus(base, parts, scale, elect=True, least=3, normalize=True)

    assert_near(out, expected)
    # Three independent signs are the same in a quarter of all elements.
    assert 0.24 < np.mean(out["layers.0.w"] != held["base"]["layers.0.w"]) < 0.26
