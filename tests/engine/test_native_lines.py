"""Rows and columns in the engine: their inner products, and sums with coefficients of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from engine.native_sources import native_sources
from oracles.arithmetic import decode, random_array, within
from support.checkpoints import FLOATS

from tvmerge import _core

pytestmark = pytest.mark.slow

ISAS = _core.available_isas()
# One coefficient for each of three sources: two deltas, and the base itself.
MEASURED = ((-1.0, 1.0, 0.0), (-1.0, 0.0, 1.0), (1.0, 0.0, 0.0))
PAIRS = [(r, s) for r in range(len(MEASURED)) for s in range(r + 1)]
RUNS: tuple[dict[str, object], ...] = (
    *({"isa": isa} for isa in ISAS),
    {"threads": 1},
    {"threads": 7, "buffer_bytes": 1 << 25, "slice_bytes": 1 << 14},
)


class Cut(NamedTuple):
    """An array of (count, run), or turned of (run, count): its rows, or its columns, are lines."""

    count: int
    run: int
    turned: bool

    @property
    def shape(self) -> tuple[int, int]:
        return (self.run, self.count) if self.turned else (self.count, self.run)

    @property
    def lines(self) -> dict[str, int]:
        return {"run": 1 if self.turned else self.run, "count": self.count}


# Lines shorter than a register, than a tile, of many tiles, and of several stretches; columns of
# which a tile has many, or a part, and of one block or several.
CUTS = [
    *(Cut(c, r, turned=False) for c, r in ((700, 1), (700, 3), (33, 513), (5, 1024), (3, 200_003))),
    *(Cut(c, r, turned=True) for c, r in ((700, 3), (7, 801), (513, 130), (1025, 1_501))),
]


def measured(
    folder: Path, arrays: Sequence[np.ndarray], cut: Cut, rows: Sequence[float], **options: object
) -> np.ndarray:
    paths, sources = native_sources(folder, arrays)
    job = _core.LineGramsJob(sources=sources, elements=arrays[0].size, rows=rows, **cut.lines)
    kept: dict[str, object] = {"threads": 2, "buffer_bytes": 1 << 26, **options}
    kept.pop("slice_bytes", None)
    (found,) = _core.line_grams(paths, [job], **kept)  # type: ignore[arg-type]
    return np.frombuffer(found).reshape(-1, cut.count)


def combined(
    folder: Path,
    arrays: Sequence[np.ndarray],
    dtype: str,
    lines: _core.LineCoefficients | None,
    coefficients: Sequence[float] = (),
    **options: object,
) -> np.ndarray:
    paths, sources = native_sources(folder, arrays)
    out = np.empty_like(arrays[0])
    output = _core.Output(
        file=0,
        offset_bytes=0,
        dtype=dtype,
        reference=0,
        coefficients=coefficients or [0.0] * len(arrays),
        lines=lines,
    )
    job = _core.CombineJob(sources=sources, elements=out.size, outputs=[output])
    kept: dict[str, object] = {
        "threads": 2, "slice_bytes": 1 << 18, "buffer_bytes": 1 << 26, **options,
    }  # fmt: skip
    _core.merge(paths, [(out.ctypes.data, out.nbytes)], [job], [], **kept)  # type: ignore[arg-type]
    return out


def arrays_of(cut: Cut, dtype: str = "F32", *, wild: bool = False) -> list[np.ndarray]:
    generator = np.random.default_rng(cut.count)
    return [random_array(generator, dtype, cut.shape, wild=wild) for _ in range(3)]


def table(
    cut: Cut, values: np.ndarray, sources: Sequence[int] = (0, 1, 2)
) -> _core.LineCoefficients:
    return _core.LineCoefficients(**cut.lines, sources=sources, values=values.tobytes())


@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_lines_are_measured_as_in_float64_whatever_runs_where(tmp_path: Path, cut: Cut) -> None:
    arrays = arrays_of(cut)
    rows = [c for row in MEASURED for c in row]
    found = [measured(tmp_path, arrays, cut, rows, **options) for options in RUNS]
    assert all(one.tobytes() == found[0].tobytes() for one in found)
    axis = 0 if cut.turned else 1
    vectors = [sum(c * decode(x) for c, x in zip(row, arrays, strict=True)) for row in MEASURED]
    for one, (r, s) in zip(found[0], PAIRS, strict=True):
        wanted = (vectors[r] * vectors[s]).sum(axis=axis)
        size = np.abs(vectors[r] * vectors[s]).sum(axis=axis)
        assert (np.abs(one - wanted) <= 1e-13 * size).all()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_lines_of_any_dtype_are_measured(tmp_path: Path, dtype: str, turned: bool) -> None:
    cut = Cut(40, 300, turned)
    arrays = arrays_of(cut, dtype)[:1]
    (found,) = measured(tmp_path, arrays, cut, [1.0])
    assert np.allclose(found, (decode(arrays[0]) ** 2).sum(axis=0 if turned else 1), rtol=1e-13)


def test_short_rows_have_the_sums_of_whole_tensors(tmp_path: Path) -> None:
    cut = Cut(1, 2_500, turned=False)
    arrays = arrays_of(cut)
    rows = [c for row in MEASURED for c in row]
    paths, sources = native_sources(tmp_path, arrays)
    job = _core.MeasureJob(sources=sources, elements=2_500, rows=rows)
    ((gram, _),) = _core.measure(paths, [job], threads=1, buffer_bytes=1 << 24)
    found = measured(tmp_path, arrays, cut, rows)[:, 0]
    assert found.tolist() == [gram[3 * r + s] for r, s in PAIRS]


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS)
def test_each_line_is_summed_with_its_own_coefficients(
    tmp_path: Path, cut: Cut, dtype: str
) -> None:
    arrays = arrays_of(cut, dtype)
    values = np.random.default_rng(1).uniform(-1, 1, (3, cut.count))
    values[:, ::5] = 0
    values[1, ::3] = 1
    found = [combined(tmp_path, arrays, dtype, table(cut, values), **o) for o in RUNS]
    assert all(one.tobytes() == found[0].tobytes() for one in found)
    each = values[:, None, :] if cut.turned else values[:, :, None]
    terms = each * np.stack([decode(x) for x in arrays])
    error = 3 * 2.0**-22 * np.abs(terms).sum(axis=0)
    assert within(found[0], terms.sum(axis=0), error, dtype).all()


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("wild", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
def test_lines_with_the_same_coefficients_have_the_bytes_of_a_plain_sum(
    tmp_path: Path, dtype: str, wild: bool, turned: bool
) -> None:
    cut = Cut(130, 97, turned)
    arrays = arrays_of(cut, dtype, wild=wild)
    for coefficients in ([0.7, -0.4, 0.2], [1.0, 0.0, 0.0], [0.0, 0.5, 1e-42], [0.0, 0.0, 1e39]):
        used = [k for k, c in enumerate(coefficients) if c]
        values = np.repeat([coefficients[k] for k in used], cut.count)
        found = combined(tmp_path, arrays, dtype, table(cut, values, used))
        assert found.tobytes() == combined(tmp_path, arrays, dtype, None, coefficients).tobytes()


def test_where_a_coefficient_is_0_the_source_is_no_term(tmp_path: Path) -> None:
    cut = Cut(4, 3, turned=False)
    arrays = [np.full(cut.shape, x, np.float32) for x in (-0.0, np.inf, np.nan)]
    values = np.array([[1, 0.5, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0]], float)
    out = combined(tmp_path, arrays, "F32", table(cut, values))
    assert np.array_equal(out[:, 0], [0, np.inf, np.nan, np.inf], equal_nan=True)
    assert np.signbit(out[0]).all()


def test_lines_have_to_fill_the_tensor(tmp_path: Path) -> None:
    cut = Cut(4, 3, turned=False)
    arrays = arrays_of(cut)
    for lines in ({"run": 0, "count": 4}, {"run": 3, "count": 5}, {"run": 1, "count": 5}):
        values = np.ones(3 * lines["count"]).tobytes()
        made = _core.LineCoefficients(**lines, sources=[0, 1, 2], values=values)
        with pytest.raises(ValueError, match="names no file or source"):
            combined(tmp_path, arrays, "F32", made)
        paths, sources = native_sources(tmp_path, arrays)
        job = _core.LineGramsJob(sources=sources, elements=12, rows=[1.0, 0.0, 0.0], **lines)
        with pytest.raises(ValueError, match="lines need sources"):
            _core.line_grams(paths, [job], threads=1, buffer_bytes=1 << 24)
    with pytest.raises(ValueError, match="names no file or source"):
        combined(tmp_path, arrays, "F32", table(cut, np.ones(4), [3]))
    with pytest.raises(ValueError, match="one coefficient for each"):
        table(cut, np.ones(5), [0])
