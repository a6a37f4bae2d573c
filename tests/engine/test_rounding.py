"""Decoding and rounding of every dtype: all codes, all rounding boundaries, one NaN."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from oracles.arithmetic import CANONICAL_NAN, decode, finite_values, is_nan, midpoints, round_once
from support.checkpoints import DTYPES, FLOATS, codes, same_bits

from tvmerge import _core

NARROW = ("F16", "BF16", "F8_E4M3", "F8_E5M2")
ISAS = _core.available_isas()


def convert(array: np.ndarray, dtype: str, *, isa: str, coefficient: float = 1.0) -> np.ndarray:
    """One array through the engine: multiplied, and rounded to `dtype`."""
    kind = DTYPES[dtype]
    source = next(name for name in FLOATS if DTYPES[name] == array.dtype)
    with tempfile.TemporaryDirectory() as folder:
        given_file, out_file = Path(folder) / "in", Path(folder) / "out"
        given_file.write_bytes(array.tobytes())
        out_file.write_bytes(bytes(array.size * kind.itemsize))
        job = _core.CombineJob(
            sources=[_core.Source(0, 0, source)],
            elements=array.size,
            outputs=[
                _core.Output(
                    file=0, offset_bytes=0, dtype=dtype, reference=-1, coefficients=[coefficient]
                )
            ],
        )
        _core.merge(
            [str(given_file)], [str(out_file)], [job], [],
            threads=1, slice_bytes=1 << 20, buffer_bytes=1 << 24, isa=isa,
        )  # fmt: skip
        return np.frombuffer(out_file.read_bytes(), kind).reshape(array.shape)


def boundaries(dtype: str) -> np.ndarray:
    """Every finite value and rounding boundary of a narrow format, of both signs, as float64."""
    points = np.concatenate([finite_values(dtype), midpoints(dtype), [np.inf, np.nan]])
    return np.concatenate([points, -points])


def all_codes(dtype: str) -> np.ndarray:
    kind = DTYPES[dtype]
    return np.arange(1 << 8 * kind.itemsize, dtype=f"u{kind.itemsize}").view(kind)


def canonical(array: np.ndarray, dtype: str) -> np.ndarray:
    bits = np.where(is_nan(array), CANONICAL_NAN[dtype], codes(array))
    return bits.astype(codes(array).dtype).view(array.dtype)


@pytest.mark.parametrize("dtype", NARROW)
def test_oracle_agrees_with_ml_dtypes_on_float32_boundaries(dtype: str) -> None:
    exact = boundaries(dtype)
    with np.errstate(all="ignore"):
        values = np.concatenate(
            [np.nextafter(exact.astype("f4"), np.float32(to)) for to in (-np.inf, np.inf)]
            + [exact.astype("f4")]
        )
        theirs = values.astype(DTYPES[dtype])
    assert same_bits(round_once(values, dtype), canonical(theirs, dtype))


def test_oracle_rounds_once_where_ml_dtypes_rounds_twice() -> None:
    value = np.array([1 + 2.0**-8 + 2.0**-40])
    assert decode(round_once(value, "BF16"))[0] == 1 + 2.0**-7
    assert decode(value.astype(DTYPES["BF16"]))[0] == 1.0


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", NARROW)
def test_every_code_decodes_to_its_value(dtype: str, isa: str) -> None:
    given_codes = all_codes(dtype)
    for wide in ("F64", "F32"):
        expected = round_once(decode(given_codes), wide)
        assert same_bits(convert(given_codes, wide, isa=isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", NARROW)
def test_every_code_comes_back_through_its_own_dtype(dtype: str, isa: str) -> None:
    given_codes = all_codes(dtype)
    expected = canonical(given_codes, dtype)
    assert same_bits(convert(given_codes, dtype, isa=isa), expected)
    wide = convert(given_codes, "F64", isa=isa)
    assert same_bits(convert(wide, dtype, isa=isa), expected)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("source", ["F32", "F64"])
def test_every_rounding_boundary_and_its_neighbours_round_right(
    dtype: str, source: str, isa: str
) -> None:
    with np.errstate(all="ignore"):
        exact = boundaries(dtype).astype(DTYPES[source])
        below, above = (np.nextafter(exact, exact.dtype.type(to)) for to in (-np.inf, np.inf))
    values = np.concatenate([exact, below, above])
    assert same_bits(convert(values, dtype, isa=isa), round_once(decode(values), dtype))


@pytest.mark.parametrize("isa", ISAS)
def test_float64_rounds_to_float32_as_numpy_does(isa: str) -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 32, 50_000, dtype=np.uint32)
    exact = decode(bits.view(np.float32))
    with np.errstate(all="ignore"):
        ties = exact + (decode((bits + np.uint32(1)).view(np.float32)) - exact) / 2
        values = np.concatenate([ties, np.nextafter(ties, np.inf), np.nextafter(ties, -np.inf)])
    assert same_bits(convert(values, "F32", isa=isa), round_once(values, "F32"))


@pytest.mark.parametrize("dtype", NARROW)
def test_a_coefficient_beyond_float32_neither_overflows_nor_vanishes(dtype: str) -> None:
    values = np.array([0.0, 1.0, -2.0]).astype(DTYPES[dtype])
    for coefficient in (1e39, 1e-46, 3e-39):
        out = convert(values, dtype, isa="", coefficient=coefficient)
        assert same_bits(out, round_once(decode(values) * coefficient, dtype))
