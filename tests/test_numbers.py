"""Every number the engine writes is the exact linear combination, rounded once."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from checkpoints import DTYPES, FLOATS, codes, read_model, same_bits, write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import (
    CANONICAL_NAN,
    decode,
    finite_values,
    is_nan,
    linear,
    magnitude,
    midpoints,
    random_array,
    round_once,
    ulps,
    within,
)

from tvmerge import Checkpoint, _core
from tvmerge.errors import NothingChangedError
from tvmerge.merge import RunOptions, save_checkpoint

NARROW = ("F16", "BF16", "F8_E4M3", "F8_E5M2")
ISAS = _core.available_isas()
# Around the engine's tiles of 1024 (combine) and 512 (measure) elements.
SHAPES = [(), (0,), (3, 0, 2), (1,), (7,), (511,), (512,), (513,), (1023,), (1024,), (1025,),
          (3, 5, 7), (2049,)]  # fmt: skip


def convert(array: np.ndarray, dtype: str, *, isa: str, coefficient: float = 1.0) -> np.ndarray:
    """One array through the engine: multiplied, and rounded to `dtype`."""
    kind = DTYPES[dtype]
    source = next(name for name in FLOATS if DTYPES[name] == array.dtype)
    with tempfile.TemporaryDirectory() as folder:
        given_file, out_file = Path(folder) / "in", Path(folder) / "out"
        given_file.write_bytes(array.tobytes())
        out_file.write_bytes(bytes(array.size * kind.itemsize))
        job = _core.CombineJob(
            sources=[_core.Source(0, 0, source, coefficient)],
            elements=array.size,
            out_file=0,
            out_offset_bytes=0,
            out_dtype=dtype,
            reference=-1,
        )
        _core.merge(
            [str(given_file)], [str(out_file)], [job], [],
            threads=1, slice_bytes=1 << 20, buffer_bytes=1 << 24, isa=isa,
        )  # fmt: skip
        return np.frombuffer(out_file.read_bytes(), kind).reshape(array.shape)


def combine(
    inputs: Sequence[dict[str, np.ndarray]],
    coefficients: Sequence[float],
    *,
    shards: Sequence[int] = (),
    dtype: str | None = None,
) -> dict[str, np.ndarray]:
    """sum_k c_k * input_k through files and the public API, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        models = [
            Checkpoint(write_model(Path(folder) / str(k), held, shards=n))
            for k, (held, n) in enumerate(zip(inputs, shards or [1] * len(inputs), strict=True))
        ]
        model = Checkpoint.average(models, coefficients, normalize=False)
        options = RunOptions(threads=1)
        try:
            save_checkpoint(
                model.coefficients, model.donor, Path(folder) / "out", dtype=dtype, options=options
            )
        except NothingChangedError:
            return dict(inputs[0])  # so it says, and the caller checks
        return read_model(Path(folder) / "out")


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


# ---- properties ------------------------------------------------------------------------------


coefficient = st.one_of(
    st.sampled_from([1.0, -1.0, 0.5, -0.5, 2.0, 0.1, 1 / 3]),
    st.floats(-4, 4).filter(lambda c: c != 0),
    st.floats(1e-60, 1e60),
)


@st.composite
def cases(
    draw: st.DrawFn, *, wild: bool
) -> tuple[list[dict[str, np.ndarray]], list[float], list[int]]:
    """Inputs with the same tensors, each of its own dtype; coefficients; shards of each input."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 4))
    shapes = draw(st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4))
    inputs = [
        {
            f"t{i}": random_array(generator, draw(st.sampled_from(FLOATS)), shape, wild=wild)
            for i, shape in enumerate(shapes)
        }
        for _ in range(count)
    ]
    factors = draw(st.lists(coefficient, min_size=count, max_size=count))
    shards = draw(
        st.lists(st.integers(1, len(shapes)), min_size=count, max_size=count),
    )
    return inputs, factors, shards


def accumulator_unit(arrays: Sequence[np.ndarray], dtype: str, factors: Sequence[float]) -> float:
    """The documented unit of the accumulator: float32 for 16- and 8-bit outputs, else float64."""
    tiny, huge = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    narrow = dtype in NARROW and all(array.dtype.itemsize < 8 for array in arrays)
    return 2.0**-23 if narrow and all(tiny <= abs(c) <= huge for c in factors) else 2.0**-51


@settings(max_examples=80, deadline=None)
@given(case=cases(wild=True), wanted=st.sampled_from([None, None, *FLOATS]))
def test_any_combination_is_within_the_stated_bound(
    case: tuple[list[dict[str, np.ndarray]], list[float], list[int]], wanted: str | None
) -> None:
    inputs, factors, shards = case
    out = combine(inputs, factors, shards=shards, dtype=wanted)
    for name, array in out.items():
        arrays = [held[name] for held in inputs]
        dtype = next(d for d in FLOATS if DTYPES[d] == array.dtype)
        assert dtype == wanted or (wanted is None and array.dtype == arrays[0].dtype)
        if len(arrays) == 1 and factors == [1.0] and array.dtype == arrays[0].dtype:
            assert same_bits(array, arrays[0])  # copied
            continue
        exact, sizes = linear(arrays, factors), magnitude(arrays, factors)
        unit = accumulator_unit(arrays, dtype, factors)
        largest = np.finfo(np.float32 if unit == 2.0**-23 else np.float64).max
        special = np.any([~np.isfinite(decode(x)) for x in arrays], axis=0)
        # Sums that overflow the accumulator on the way are outside of the promise.
        stated = (sizes < largest) & ~special
        least = np.finfo(np.float32 if unit == 2.0**-23 else np.float64).smallest_subnormal
        with np.errstate(invalid="ignore", over="ignore"):
            error = np.where(stated, len(arrays) * (unit * sizes + least), 0)
        assert within(array, exact, error, dtype)[stated].all(), (dtype, factors)
        # NaN and infinity pass through, provided that the finite rest does not overflow.
        finite = [np.where(np.isfinite(decode(x)), decode(x), 0) for x in arrays]
        passes = special & (magnitude(finite, factors) < largest)
        assert same_bits(array[passes], round_once(exact, dtype).reshape(array.shape)[passes])


@settings(max_examples=60, deadline=None)
@given(case=cases(wild=False), wanted=st.sampled_from([None, None, *FLOATS]))
def test_without_cancellation_results_are_within_one_ulp(
    case: tuple[list[dict[str, np.ndarray]], list[float], list[int]], wanted: str | None
) -> None:
    inputs, factors, shards = case
    factors = [abs(c) for c in factors]
    inputs = [
        {name: np.abs(decode(x)).astype(x.dtype) for name, x in held.items()} for held in inputs
    ]
    for name, array in combine(inputs, factors, shards=shards, dtype=wanted).items():
        dtype = next(d for d in FLOATS if DTYPES[d] == array.dtype)
        expected = round_once(linear([held[name] for held in inputs], factors), dtype)
        # A float64 output is as wide as its accumulator, and as the oracle's.
        allowed = 1 if dtype != "F64" else 2 * len(inputs)
        assert ulps(array, expected.reshape(array.shape)) <= allowed, (dtype, factors)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from([d for d in FLOATS if d != "F64"]),
    delta_dtype=st.sampled_from(["F32", "BF16", "F16"]),
    scales=st.lists(st.floats(0.01, 1.5), min_size=1, max_size=4),
)
def test_negated_fine_tunes_are_within_one_ulp(
    seed: int, dtype: str, delta_dtype: str, scales: list[float]
) -> None:
    """base - sum_k s_k * (tuned_k - base), where each weight moved by up to a tenth of itself."""
    generator = np.random.default_rng(seed)
    base = round_once(generator.standard_normal(1030), dtype)
    tuned = [
        round_once(decode(base) * (1 + generator.uniform(-0.1, 0.1, 1030)), delta_dtype)
        for _ in scales
    ]
    factors = [1 + sum(scales), *(-s for s in scales)]
    out = combine([{"w": x} for x in (base, *tuned)], factors)["w"]
    assert ulps(out, round_once(linear([base, *tuned], factors), dtype)) <= 1


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from(["F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"]),
    scale=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
)
def test_sums_that_the_accumulator_holds_exactly_equal_the_oracle(
    seed: int, dtype: str, scale: float
) -> None:
    """base + scale * (tuned - base) on coarse values: no bit is lost before the one rounding."""
    generator = np.random.default_rng(seed)
    base, tuned = (
        {"w": round_once(generator.integers(-128, 129, 1500) / 64, dtype)} for _ in range(2)
    )
    factors = [1 - scale, scale] if scale != 1 else [0.5, 0.5]
    out = combine([base, tuned], factors)["w"]
    assert same_bits(out, round_once(linear([base["w"], tuned["w"]], factors), dtype))
