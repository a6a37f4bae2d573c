"""Every number the engine writes is the linear combination, rounded once.

Outputs of 16 and 8 bits are summed in float32: then it is the rounding of some number within
n * 2**-23 * sum_k |c_k x_k| of the exact one, for n inputs. All else is summed in float64.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.arithmetic import (
    decode,
    linear,
    magnitude,
    random_array,
    round_once,
    ulps,
    within,
)
from support.checkpoints import DTYPES, FLOATS, read_file, same_bits, write_model

from tvmerge import Checkpoint, _core
from tvmerge.engine.run_options import RunOptions
from tvmerge.plans.batches import cut, run_batch
from tvmerge.plans.plan import plan_checkpoint

NARROW = ("F16", "BF16", "F8_E4M3", "F8_E5M2")
ISAS = _core.available_isas()
# Around the engine's tiles of 1024 (combine) and 512 (measure) elements.
SHAPES = [(), (0,), (3, 0, 2), (1,), (7,), (511,), (512,), (513,), (1023,), (1024,), (1025,),
          (3, 5, 7), (2049,)]  # fmt: skip


def combine(
    inputs: Sequence[dict[str, np.ndarray]],
    coefficients: Sequence[float],
    *,
    shards: Sequence[int] = (),
    dtype: str | None = None,
    isa: str = "",
) -> dict[str, np.ndarray]:
    """sum_k c_k * input_k through files, on one thread, also where the sum changes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        models = [
            Checkpoint(write_model(Path(folder) / str(k), held, shards=n))
            for k, (held, n) in enumerate(zip(inputs, shards or [1] * len(inputs), strict=True))
        ]
        model = Checkpoint.average(models, coefficients, normalize=False)
        plan = plan_checkpoint([model.coefficients], model.donor, dtype=dtype)
        files = [Path(folder) / shard.name for shard in plan.shards]
        for file, shard in zip(files, plan.shards, strict=True):
            file.write_bytes(shard.head.ljust(shard.size_bytes, b"\0"))
        for batch in cut(plan, files):
            run_batch(batch, RunOptions(threads=1, isa=isa).workspace())
        return {name: array for file in files for name, array in read_file(file).items()}


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


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", NARROW)
def test_under_cancellation_the_error_is_the_accumulators(dtype: str, isa: str) -> None:
    """0.7 a - 0.7 b with a and b alike to a few parts in a million."""
    generator = np.random.default_rng(2)
    a = generator.uniform(1, 2, 5000).astype(np.float32) * np.float32(2**20)
    b = (decode(a) * (1 + generator.uniform(1e-6, 4e-6, a.size))).astype(np.float32)
    factors = [0.7, -0.7]
    exact, error = linear([a, b], factors), 2 * 2.0**-23 * magnitude([a, b], factors)
    out = combine([{"w": a}, {"w": b}], factors, dtype=dtype, isa=isa)["w"]
    assert within(out, exact, error, dtype).all()
    assert not within(out, exact, error / 16, dtype).all()  # or the bound says nothing
    wide = combine([{"w": a}, {"w": b}], factors, dtype="F32", isa=isa)["w"]
    assert ulps(wide, round_once(exact, "F32")) <= 1


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
