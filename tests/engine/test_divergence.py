"""How far a row's softmax went from the base's, and which deltas are important by that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from engine.native_sources import native_sources
from oracles.arithmetic import random_array
from oracles.importance import divergences, important, scores
from support.checkpoints import DTYPES, FLOATS, read_model, write_model
from support.method_models import merge, recipe

from tvmerge import _core
from tvmerge.engine.run_options import RunOptions

ISAS = _core.available_isas()
# Rows shorter than a register, than a tile, of many tiles, of as many as are kept and more, and of
# several stretches.
ROWS = (
    (70, 2), (33, 7), (5, 1024), (9, 2_500), (4, 16_384), (4, 16_385), (3, 65_536), (2, 200_003),
    (1, 31),
)  # fmt: skip


def measured(
    folder: Path, arrays: Sequence[np.ndarray], row: int, **options: object
) -> _core.RowFactors:
    paths, sources = native_sources(folder, arrays)
    job = _core.DivergenceJob(sources=sources, elements=arrays[0].size, row=row)
    kept: dict[str, object] = {"threads": 2, "buffer_bytes": 1 << 26, **options}
    (found,) = _core.divergences(paths, [job], **kept)  # type: ignore[arg-type]
    return found


def moved(dtype: str, count: int, row: int, by: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(row)
    base = random_array(generator, "F32", (count, row), wild=False)
    tuned = base + by * generator.standard_normal(base.shape).astype(np.float32)
    return base.astype(DTYPES[dtype]), tuned.astype(DTYPES[dtype])


@pytest.mark.parametrize("by", [0.3, 1e-3])
@pytest.mark.parametrize(("count", "row"), ROWS)
def test_rows_diverge_as_in_float64_whatever_runs_where(
    tmp_path: Path, count: int, row: int, by: float
) -> None:
    base, tuned = moved("F32", count, row, by)
    found = [
        measured(tmp_path, [base, tuned], row, isa=isa, threads=threads).factors
        for isa, threads in zip([*ISAS, "generic"], (2, 1, 7, 3), strict=False)
    ]
    assert all(np.array_equal(one, found[0]) for one in found)
    wanted = divergences(base, tuned, row)
    assert np.allclose(found[0], wanted, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("dtype", FLOATS)
def test_rows_of_any_dtype_diverge_as_in_float64(tmp_path: Path, dtype: str) -> None:
    base, tuned = moved(dtype, 40, 300, 0.2)
    found = measured(tmp_path, [base, tuned], 300)
    assert found.row == 300
    assert np.allclose(found.factors, divergences(base, tuned, 300), rtol=1e-6)


def test_rows_that_are_equal_do_not_diverge(tmp_path: Path) -> None:
    base, _ = moved("F32", 4, 77, 0.0)
    assert measured(tmp_path, [base, base], 77).factors == [0.0] * 4


def test_values_far_apart_give_no_infinity(tmp_path: Path) -> None:
    base = np.array([[0, -1e30, 3e38], [-np.inf, 0, 1], [700, -700, 0]], np.float32)
    tuned = base[:, ::-1].copy()
    found = np.array(measured(tmp_path, [base, tuned], 3).factors)
    assert np.isfinite(found).all()
    assert np.allclose(found, divergences(base, tuned, 3), rtol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_row_that_is_broken_is_nan(tmp_path: Path, broken: float, side: int) -> None:
    arrays = [x.copy() for x in moved("F32", 3, 50, 0.1)]
    arrays[side][1, 7] = broken
    assert np.isnan(measured(tmp_path, arrays, 50).factors).tolist() == [False, True, False]


def test_rows_have_to_fill_the_tensor(tmp_path: Path) -> None:
    for row in (0, 7):
        with pytest.raises(ValueError, match="two sources and rows"):
            measured(tmp_path, moved("F32", 3, 50, 0.1), row)


# The first is one whose quartiles mergekit takes of a random sample.
SHAPES = {
    "embed": (1024, 1030), "w": (300, 251), "conv": (40, 3, 4), "column": (90, 1), "norm": (33,),
    "few": (4,), "one": (1,), "scalar": (),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_arcee_fusion_takes_what_is_important(tmp_path: Path, dtype: str) -> None:
    held = {
        name: moved(dtype, int(np.prod(s[:-1])), s[-1] if s else 1, 0.1)
        for name, s in SHAPES.items()
    }
    for number, model in enumerate(("base", "a")):
        write_model(tmp_path / model, {n: held[n][number].reshape(s) for n, s in SHAPES.items()})
    out = merge(recipe(tmp_path, "arcee_fusion", {"a": {}}), tmp_path / "out")
    for name, shape in SHAPES.items():
        base, tuned = held[name]
        (tmp_path / name).mkdir()
        factors = measured(tmp_path / name, [base, tuned], base.shape[1]).factors
        kept = important(scores(base, tuned, np.array(factors))).reshape(shape)
        assert kept.all() == (base.shape[1] == 1)
        expected = np.where(kept, tuned.reshape(shape), base.reshape(shape))
        assert np.array_equal(out[name], expected), name


def test_arcee_fusion_is_the_same_from_any_threads_batches_and_instruction_sets(
    tmp_path: Path,
) -> None:
    base, tuned = moved("BF16", 1_500, 401, 0.05)
    for model, array in (("base", base), ("a", tuned)):
        write_model(tmp_path / model, {"w": array, "v": array[:7], "u": array[0]})
    text = recipe(tmp_path, "arcee_fusion", {"a": {}})
    runs = (
        RunOptions(threads=1),
        RunOptions(threads=3, slice_bytes=4096, batch_bytes=10_000),
        *(RunOptions(threads=2, isa=isa) for isa in ISAS),
    )
    held = []
    for number, options in enumerate(runs):
        merge(text, tmp_path / str(number), options)
        held.append((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert held[1:] == held[:-1]


def test_what_hardly_any_row_changed_is_taken_whole(tmp_path: Path) -> None:
    """Three quartiles of 0 leave a threshold of 0, which everything reaches."""
    base, tuned = moved("F32", 20, 30, 0.1)
    tuned = np.where(np.arange(20)[:, None] < 4, tuned, base)
    write_model(tmp_path / "base", {"w": base})
    write_model(tmp_path / "a", {"w": tuned})
    out = merge(recipe(tmp_path, "arcee_fusion", {"a": {}}), tmp_path / "out")
    assert np.array_equal(out["w"], tuned)


def test_what_is_broken_shows_however_much_it_is(tmp_path: Path) -> None:
    base, tuned = moved("F32", 20, 30, 0.1)
    for rows in (1, 19):
        tuned[:rows, 3] = np.nan
        write_model(tmp_path / f"base{rows}", {"w": base})
        write_model(tmp_path / f"a{rows}", {"w": tuned})
        text = recipe(tmp_path, "arcee_fusion", {f"a{rows}": {}}, base=f"base{rows}")
        merge(text, tmp_path / f"out{rows}")
        out = read_model(tmp_path / f"out{rows}")["w"]
        assert np.isnan(out[:rows, 3]).all()
        assert np.isnan(out).sum() == rows
