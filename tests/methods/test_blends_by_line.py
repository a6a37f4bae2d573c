"""Blends of rows and of columns, each by itself: by hand, in float64, and what never shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from oracles.blends import by_line, model_stock, slerp
from support.checkpoints import DTYPES, write_model
from support.method_models import merge, recipe

from tvmerge import _core
from tvmerge.engine import blending
from tvmerge.engine.run_options import RunOptions, Workspace
from tvmerge.errors import ConfigError, MemoryLimitError

ROWS = {"nuslerp_flatten": False}
COLUMNS = {"nuslerp_flatten": False, "nuslerp_row_wise": True}
SHAPES = {
    "embed": (700, 33), "w": (300, 251), "conv": (40, 3, 4), "column": (90, 1), "row": (1, 50),
    "norm": (33,), "one": (1,), "scalar": (),
}  # fmt: skip
PARALLEL = 1 - 1e-15


def models(folder: Path, dtype: str = "F32") -> dict[str, dict[str, np.ndarray]]:
    generator = np.random.default_rng(2)
    base = {name: generator.standard_normal(shape) for name, shape in SHAPES.items()}
    held = {}
    for number, model in enumerate(("base", "a", "b", "c")):
        moved = {n: x + 0.2 * number * generator.standard_normal(x.shape) for n, x in base.items()}
        single = {n: np.asarray(x, np.float32).astype(DTYPES[dtype]) for n, x in moved.items()}
        write_model(folder / model, single)
        held[model] = {name: x.astype(np.float64) for name, x in single.items()}
    return held


def of_matrices(folder: Path, text: str, **held: list[list[float]]) -> np.ndarray:
    for name, rows in held.items():
        write_model(folder / name, {"w": np.array(rows, np.float32)})
    return merge(text, folder / "out")["w"].astype(np.float64)


@pytest.mark.parametrize("across", [False, True])
def test_nuslerp_of_rows_by_hand(tmp_path: Path, across: bool) -> None:
    """At the middle of 90 degrees, of none, of 60 degrees, and of a row of 0."""
    half, wide = 0.5, 3**0.5 / 2
    a = [[1, 0, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    b = [[0, 1, 0, 0], [0, 4, 0, 0], [half, wide, 0, 0], [0, 0, 0, 4]]
    wanted = np.array(
        [[half**0.5, half**0.5, 0, 0], [0, 3, 0, 0], [wide, half, 0, 0], [0, 0, 0, 2]]
    )
    weights = {"a": {"weight": 1.0}, "b": {"weight": 1.0}}
    text = recipe(tmp_path, "nuslerp", weights, base=None, **(COLUMNS if across else ROWS))
    turned = [np.transpose(x).tolist() if across else x for x in (a, b)]
    out = of_matrices(tmp_path, text, a=turned[0], b=turned[1])
    assert np.allclose(out, wanted.T if across else wanted, rtol=1e-7, atol=0)


def test_model_stock_of_rows_by_hand(tmp_path: Path) -> None:
    """t = 2 cos / (1 + cos), cos being 0, 1, 0.6, -1 (of which nothing is taken)."""
    base = np.arange(16.0).reshape(4, 4)
    first = np.array([[1, 0, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    second = np.array([[0, 1, 0, 0], [0, 2, 0, 0], [3, 4, 0, 0], [-1, 0, 0, 0]])
    taken = np.array([[0, 0, 0, 0], [0, 2, 0, 0], [1.5, 1.5, 0, 0], [0, 0, 0, 0]])
    text = recipe(tmp_path, "model_stock", {"a": {}, "b": {}}, filter_wise=True)
    held = {"base": base, "a": base + first, "b": base + second}
    out = of_matrices(tmp_path, text, **{name: x.tolist() for name, x in held.items()})
    assert np.allclose(out, base + taken, rtol=1e-7, atol=0)


@pytest.mark.parametrize("base", [None, "base"])
@pytest.mark.parametrize("across", [False, True])
def test_nuslerp_turns_each_line_by_itself(tmp_path: Path, base: str | None, across: bool) -> None:
    held = models(tmp_path)
    weights = {"a": {"weight": 3.0}, "b": {"weight": 1.0}}
    text = recipe(tmp_path, "nuslerp", weights, base=base, **(COLUMNS if across else ROWS))
    out = merge(text, tmp_path / "out")
    for name in SHAPES:
        origin = held["base"][name] if base else np.zeros(SHAPES[name])
        deltas = [held[model][name] - origin for model in ("a", "b")]
        turned = by_line(lambda a, b: slerp(a, b, 0.25, PARALLEL), deltas, across=across)
        assert np.allclose(out[name], origin + turned, rtol=1e-6, atol=1e-6), name


def test_model_stock_has_an_angle_for_each_row(tmp_path: Path) -> None:
    held = models(tmp_path)
    text = recipe(tmp_path, "model_stock", {m: {} for m in ("a", "b", "c")}, filter_wise=True)
    out = merge(text, tmp_path / "out")
    for name in SHAPES:
        arrays = [held[model][name] for model in ("base", "a", "b", "c")]
        wanted = by_line(lambda base, *others: model_stock(base, others), arrays)
        near = np.isclose(out[name], wanted, rtol=1e-5, atol=1e-5)
        # Rows of one element: deltas of contrary signs have a mean cosine of -1/3, and t is -1.5.
        assert near.all(), name


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("parameters", [ROWS, COLUMNS], ids=["rows", "columns"])
def test_lines_are_the_same_from_any_threads_batches_and_instruction_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, parameters: dict[str, bool]
) -> None:
    models(tmp_path, dtype)
    text = recipe(tmp_path, "nuslerp", {"a": {"weight": 2.0}, "b": {"weight": 1.0}}, **parameters)
    runs = (
        RunOptions(threads=1),
        RunOptions(threads=3, slice_bytes=4096, batch_bytes=10_000),
        *(RunOptions(threads=2, isa=isa) for isa in _core.available_isas()),
    )
    held = []
    for number, options in enumerate(runs):
        merge(text, tmp_path / str(number), options)
        held.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    monkeypatch.setattr(blending, "_LINES_AT_ONCE", 17)
    merge(text, tmp_path / "few")
    held.append((tmp_path / "few" / "model.safetensors").read_bytes())
    assert held[1:] == held[:-1]


def test_a_matrix_of_one_row_is_blended_as_a_whole(tmp_path: Path) -> None:
    models(tmp_path)
    weights = {"a": {"weight": 2.0}, "b": {"weight": 1.0}}
    whole, rows, columns = (
        merge(recipe(tmp_path, "nuslerp", weights, **parameters), tmp_path / str(number))
        for number, parameters in enumerate(({}, ROWS, COLUMNS))
    )
    for name in ("row", "norm", "one", "scalar"):
        assert np.array_equal(rows[name], whole[name]), name
    for name in ("column", "norm", "one", "scalar"):
        assert np.array_equal(columns[name], whole[name]), name
    assert not np.array_equal(rows["w"], whole["w"])


def test_equal_rows_have_the_bytes_of_a_whole_tensor(tmp_path: Path) -> None:
    """Their angle is that of the whole; 512 elements are summed in the same order."""
    generator = np.random.default_rng(0)
    for model in ("a", "b"):
        row = generator.standard_normal(512).astype(np.float32)
        write_model(tmp_path / model, {"w": np.stack([row, row])})
    weights = {"a": {"weight": 2.0}, "b": {"weight": 1.0}}
    whole, rows = (
        merge(recipe(tmp_path, "nuslerp", weights, base=None, **parameters), tmp_path / str(number))
        for number, parameters in enumerate(({}, ROWS))
    )
    assert whole["w"].tobytes() == rows["w"].tobytes()


def test_rows_that_are_broken_leave_the_others_alone(tmp_path: Path) -> None:
    held = models(tmp_path)
    broken = {n: x.astype(np.float32) for n, x in held["a"].items()}
    broken["w"][7, 3], broken["w"][9, 4] = np.nan, np.inf
    write_model(tmp_path / "broken", broken)
    weights = {"a": {"weight": 2.0}, "b": {"weight": 1.0}}
    good = merge(recipe(tmp_path, "nuslerp", weights, **ROWS), tmp_path / "good")["w"]
    weights = {"broken" if m == "a" else m: w for m, w in weights.items()}
    bad = merge(recipe(tmp_path, "nuslerp", weights, **ROWS), tmp_path / "bad")["w"]
    others = np.ones(len(good), bool)
    others[[7, 9]] = False
    assert np.array_equal(good[others], bad[others])
    assert np.isnan(bad[7, 3]) and not np.isfinite(bad[9, 4])


def test_row_wise_without_vectors_is_refused(tmp_path: Path) -> None:
    models(tmp_path)
    weights = {"a": {"weight": 2.0}, "b": {"weight": 1.0}}
    with pytest.raises(ConfigError, match="Set nuslerp_flatten to false"):
        merge(recipe(tmp_path, "nuslerp", weights, nuslerp_row_wise=True), tmp_path / "out")


def test_coefficients_that_do_not_fit_beside_the_buffers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models(tmp_path)
    text = recipe(tmp_path, "model_stock", {m: {} for m in ("a", "b", "c")}, filter_wise=True)
    monkeypatch.setattr(Workspace, "room_bytes", property(lambda self: 10_000))
    with pytest.raises(MemoryLimitError, match="coefficients of rows or columns take 1 MiB"):
        merge(text, tmp_path / "out", RunOptions(threads=1, memory_mib=8192))
    assert not (tmp_path / "out").exists()
