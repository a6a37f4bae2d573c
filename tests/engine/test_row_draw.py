"""What is drawn by ranks within rows is what a stable sort says, whatever the rows hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from engine.native_sources import native_sources
from oracles.arithmetic import decode
from oracles.consensus import limits_of_rows, philox
from support.checkpoints import DTYPES

from tvmerge import _core
from tvmerge.files.safetensors import read_header

ISAS = _core.available_isas()
LOWEST, SPAN = 1 << 29, 3 << 30
NAN = 0x7F80_0001  # csrc/core/ops_consensus.hpp: key_of


def normal(generator: np.random.Generator, size: int) -> np.ndarray:
    """Magnitudes that are nearly all different."""
    return generator.standard_normal(size)


def few(generator: np.random.Generator, size: int) -> np.ndarray:
    """Few magnitudes, 0 among them."""
    return generator.integers(-3, 4, size) * 0.25


def sparse(generator: np.random.Generator, size: int) -> np.ndarray:
    """Next to nothing but 0."""
    return np.where(generator.random(size) < 0.03, generator.standard_normal(size), 0.0)


def same(_generator: np.random.Generator, size: int) -> np.ndarray:
    """One magnitude with both signs."""
    return np.where(np.arange(size) % 3 == 0, -0.375, 0.375)


def close(generator: np.random.Generator, size: int) -> np.ndarray:
    """Different magnitudes, all of which one bin has."""
    return 1.0 + generator.random(size) / 1024


def far(generator: np.random.Generator, size: int) -> np.ndarray:
    """One magnitude far above all others."""
    values = generator.standard_normal(size)
    values[size // 2] = 1e6
    return values


def broken(generator: np.random.Generator, size: int) -> np.ndarray:
    """NaN, infinities, and numbers."""
    values = generator.standard_normal(size)
    values[generator.random(size) < 0.1] = np.inf
    values[generator.random(size) < 0.1] = -np.inf
    values[generator.random(size) < 0.1] = np.nan
    return values


def wide(generator: np.random.Generator, size: int) -> np.ndarray:
    """From the smallest numbers of bfloat16 and float32 to nearly the largest."""
    return np.exp2(generator.uniform(-132, 120, size))


KINDS = (normal, few, sparse, same, close, far, broken, wide)


def arrays_of(kind: Callable[..., np.ndarray], dtype: str, size: int) -> list[np.ndarray]:
    """A base of zeros, so that deltas are what the other array has."""
    with np.errstate(all="ignore"):
        values = kind(np.random.default_rng(size), size).astype(DTYPES[dtype])
    return [np.zeros(size, DTYPES[dtype]), values]


def part_of(row: int, key: int = 5, mask: _core.DrawnMask | None = None) -> _core.Part:
    """Of rows of so many elements; 0: all are drawn alike."""
    span = SPAN if row else 0
    return _core.Part(
        source=1, weight=1.0, random_below=LOWEST, random_span=span, row=row, key=key, mask=mask
    )


def merged(
    folder: Path, arrays: Sequence[np.ndarray], part: _core.Part, **options: object
) -> np.ndarray:
    """arrays[1] where it is drawn, else 0."""
    paths, sources = native_sources(folder, arrays)
    out = np.empty_like(arrays[0])
    output = _core.Output(
        file=0,
        offset_bytes=0,
        dtype=read_header(Path(paths[0])).entries[0].dtype,
        reference=0,
        coefficients=[0.0] * len(arrays),
        consensus=_core.Consensus(parts=[part], scale=1.0, elect=False, normalize=False),
    )
    job = _core.CombineJob(sources=sources, elements=out.size, outputs=[output])
    kept: dict[str, object] = {
        "threads": 2, "slice_bytes": 1 << 18, "buffer_bytes": 1 << 26, **options,
    }  # fmt: skip
    _core.merge(paths, [(out.ctypes.data, out.nbytes)], [job], [], **kept)  # type: ignore[arg-type]
    return out


def drawn(values: np.ndarray, row: int, key: int = 5) -> np.ndarray:
    """The mask by the oracle: a stable sort of every row."""
    with np.errstate(all="ignore"):
        held = np.abs(decode(values)).astype(np.float32)
    keys = np.where(np.isnan(held), np.uint32(NAN), held.view(np.uint32))
    return philox(key, values.size) < limits_of_rows(keys, row, LOWEST, SPAN)


def assert_drawn(out: np.ndarray, values: np.ndarray, mask: np.ndarray) -> None:
    expected = np.where(mask, decode(values), 0.0)
    assert np.array_equal(decode(out), expected, equal_nan=True)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_every_length_and_kind_are_drawn_as_if_they_were_sorted(
    tmp_path: Path, kind: Callable[..., np.ndarray], dtype: str
) -> None:
    for row, rows in ((1, 3), (127, 9), (128, 9), (129, 9), (255, 5), (256, 5), (257, 5),
                      (2048, 3), (9001, 2)):  # fmt: skip
        folder = tmp_path / str(row)
        folder.mkdir()
        arrays = arrays_of(kind, dtype, row * rows)
        results = [merged(folder, arrays, part_of(row), isa=isa) for isa in ISAS]
        assert_drawn(results[0], arrays[1], drawn(arrays[1], row))
        assert all(one.tobytes() == results[0].tobytes() for one in results)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_slices_cut_are_drawn_whole(
    tmp_path: Path, kind: Callable[..., np.ndarray]
) -> None:
    row = 100_000
    arrays = arrays_of(kind, "F32", 2 * row)
    mask = drawn(arrays[1], row)
    for slice_bytes, threads in ((1 << 10, 1), (1 << 16, 2)):
        out = merged(tmp_path, arrays, part_of(row), slice_bytes=slice_bytes, threads=threads)
        assert_drawn(out, arrays[1], mask)


def test_deltas_that_are_zero_only_in_float32_are_drawn_by_their_place(tmp_path: Path) -> None:
    row = 4096
    arrays = arrays_of(normal, "F64", 2 * row)
    arrays[1][::2] *= 1e-60
    assert_drawn(merged(tmp_path, arrays, part_of(row)), arrays[1], drawn(arrays[1], row))


@pytest.mark.parametrize("row", [0, 1000])
def test_what_sums_have_noted_is_merged_without_drawing(tmp_path: Path, row: int) -> None:
    size = 71_000  # of which words of 32 bits and tiles are no multiples
    arrays = arrays_of(normal, "BF16", size)
    paths, sources = native_sources(tmp_path, arrays)
    for isa in ISAS:
        mask = _core.DrawnMask(elements=size)
        job = _core.DeltaSumsJob(
            sources=sources, elements=size, parts=[part_of(row, key=7, mask=mask)]
        )
        _core.delta_sums(paths, [job], threads=2, buffer_bytes=1 << 24, isa=isa)
        # With another key other elements would be drawn.
        out = merged(tmp_path, arrays, part_of(row, key=8, mask=mask), isa=isa)
        assert_drawn(
            out, arrays[1], drawn(arrays[1], row, key=7) if row else philox(7, size) < LOWEST
        )


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    part = part_of(8, mask=_core.DrawnMask(elements=8))
    with pytest.raises(ValueError, match="no file or source"):
        merged(tmp_path, arrays_of(few, "F32", 16), part)
