"""The engine's consensus kernel against float64, for every dtype, option and instruction set."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from engine.native_sources import native_sources
from oracles.arithmetic import decode, random_array, round_once, ulps, within
from oracles.consensus import Part, consensus, largest, limits_of_rows, philox, values
from support.checkpoints import DTYPES, FLOATS

from tvmerge import _core
from tvmerge.errors import MemoryLimitError
from tvmerge.files.safetensors import read_header

ISAS = _core.available_isas()
SIZE = 70_003
WEIGHTS = (0.6, 0.35, -0.9)
ALL, NONE = (0, 2**64 - 1), (2**32 - 1, 0)


def run(
    folder: Path, arrays: Sequence[np.ndarray], dtype: str, task: _core.Consensus, **options: object
) -> np.ndarray:
    """What the engine writes for arrays[0] and deltas of the others."""
    paths, sources = native_sources(folder, arrays)
    out = np.empty_like(arrays[0])
    output = _core.Output(
        file=0,
        offset_bytes=0,
        dtype=dtype,
        reference=0,
        coefficients=[0.0] * len(arrays),
        consensus=task,
    )
    job = _core.CombineJob(sources=sources, elements=out.size, outputs=[output])
    kept: dict[str, object] = {
        "threads": 2, "slice_bytes": 1 << 18, "buffer_bytes": 1 << 26, **options,
    }  # fmt: skip
    _core.merge(paths, [(out.ctypes.data, out.nbytes)], [job], [], **kept)  # type: ignore[arg-type]
    return out


def arrays_of(dtype: str, *, wild: bool = False, models: int = len(WEIGHTS)) -> list[np.ndarray]:
    generator = np.random.default_rng(3)
    base = random_array(generator, dtype, (SIZE,), wild=wild)
    moved = [decode(base) + 0.1 * generator.standard_normal(SIZE) for _ in range(models)]
    return [base, *(round_once(one, dtype).reshape(SIZE) for one in moved)]


def check(
    out: np.ndarray,
    base: np.ndarray,
    parts: Sequence[Part],
    scale: float,
    dtype: str,
    *,
    elect: bool,
    normalize: bool,
    elect_first: bool = False,
    least: int = 0,
    largest: bool = False,
) -> None:
    """The rounding of the exact result within float32's error, but where that tips decisions."""
    voting = np.stack([values(base, part, weighted=not elect_first) for part in parts])
    size = np.abs(voting).sum(axis=0)
    exact = consensus(
        base, parts, scale,
        elect=elect, normalize=normalize, elect_first=elect_first, least=least, largest=largest,
    )  # fmt: skip
    share = min(abs(part.weight) for part in parts) if normalize else 1.0
    error = 2.0**-21 * (np.abs(decode(base)) + abs(scale) * size / share)
    total = voting.sum(axis=0)
    clear = (np.abs(total) > 1e-5 * size) | (size == 0) | (not elect)
    for part, value in zip(parts, voting, strict=True):
        short = part.threshold * np.abs(total - value) - np.abs(value)
        clear &= (np.abs(short) > 1e-5 * size) | (size == 0) | (part.threshold == 0)
    right = within(out, exact, error, dtype)
    assert right[clear].all()
    assert clear.mean() > 0.9


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize(
    ("elect", "elect_first"), [(False, False), (True, False), (True, True)], ids=str
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_values_are_summed_elected_and_normalized(
    tmp_path: Path, dtype: str, elect: bool, normalize: bool, elect_first: bool
) -> None:
    base, *tuned = arrays = arrays_of(dtype)
    task = _core.Consensus(
        parts=[_core.Part(source=k + 1, weight=w, gain=1.25) for k, w in enumerate(WEIGHTS)],
        scale=0.7,
        elect=elect,
        elect_first=elect_first,
        normalize=normalize,
    )
    results = [run(tmp_path, arrays, dtype, task, isa=isa) for isa in ISAS]
    results.append(run(tmp_path, arrays, dtype, task, threads=1, slice_bytes=1 << 14))
    everywhere = np.ones(SIZE, bool)
    parts = [Part(x, w, everywhere, 1.25) for x, w in zip(tuned, WEIGHTS, strict=True)]
    check(
        results[0],
        base,
        parts,
        0.7,
        dtype,
        elect=elect,
        normalize=normalize,
        elect_first=elect_first,
    )
    assert all(one.tobytes() == results[0].tobytes() for one in results)


@pytest.mark.parametrize("elect", [False, True])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_what_takes_part_alone_is_multiplied(tmp_path: Path, dtype: str, elect: bool) -> None:
    base, *tuned = arrays = arrays_of(dtype)
    made, parts = [], []
    for k, (x, w) in enumerate(zip(tuned, WEIGHTS, strict=True)):
        below, alone = (k + 1) << 30, 1.5 - k
        made.append(_core.Part(source=k + 1, weight=w, random_below=below, key=k, alone=alone))
        parts.append(Part(x, w, philox(k, SIZE) < below, alone=alone))
    task = _core.Consensus(parts=made, scale=0.7, elect=elect, normalize=True)
    results = [run(tmp_path, arrays, dtype, task, isa=isa) for isa in ISAS]
    check(results[0], base, parts, 0.7, dtype, elect=elect, normalize=True)
    assert all(one.tobytes() == results[0].tobytes() for one in results)


@pytest.mark.parametrize("elect", [False, True])
@pytest.mark.parametrize("models", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
def test_only_what_is_unanimous_takes_part(
    tmp_path: Path, dtype: str, models: int, elect: bool
) -> None:
    base, *tuned = arrays = arrays_of(dtype, models=models)
    weights = [(-1) ** k * (0.9 - 0.1 * k) for k in range(models)]
    made = [_core.Part(source=k + 1, weight=w) for k, w in enumerate(weights)]
    task = _core.Consensus(parts=made, scale=-0.7, elect=elect, least=models, normalize=True)
    results = [run(tmp_path, arrays, dtype, task, isa=isa) for isa in ISAS]
    parts = [Part(x, w, np.ones(SIZE, bool)) for x, w in zip(tuned, weights, strict=True)]
    check(results[0], base, parts, -0.7, dtype, elect=elect, least=models, normalize=True)
    assert all(one.tobytes() == results[0].tobytes() for one in results)


@pytest.mark.parametrize("least", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("elect", [False, True])
@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
def test_what_too_few_models_need_is_the_base(
    tmp_path: Path, dtype: str, elect: bool, least: int
) -> None:
    base, *tuned = arrays = arrays_of(dtype, models=5)
    weights, thresholds = (0.9, -0.8, 0.7, 0.6, -0.5), (0.0, 0.1, 0.2, 0.6, 0.05)
    made, parts = [], []
    for k, (x, w, t) in enumerate(zip(tuned, weights, thresholds, strict=True)):
        made.append(_core.Part(source=k + 1, weight=w, threshold=t))
        parts.append(Part(x, w, np.ones(SIZE, bool), threshold=t))
    task = _core.Consensus(parts=made, scale=-0.7, elect=elect, least=least, normalize=False)
    results = [run(tmp_path, arrays, dtype, task, isa=isa) for isa in ISAS]
    check(results[0], base, parts, -0.7, dtype, elect=elect, least=least, normalize=False)
    assert all(one.tobytes() == results[0].tobytes() for one in results)
    assert (results[0].tobytes() == base.tobytes()) == (least == 6)


@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("other", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_broken_shows_where_nothing_is_unanimous(
    tmp_path: Path, broken: float, other: float, threshold: float
) -> None:
    deltas = np.array([[0.0, 0.0], [broken, 1.0], [other, -1.0]], np.float32)
    made = [_core.Part(source=k, weight=1.0, threshold=threshold) for k in (1, 2)]
    task = _core.Consensus(parts=made, scale=1.0, elect=True, least=2, normalize=True)
    for isa in ISAS:
        out = run(tmp_path, list(deltas), "F32", task, isa=isa)
        assert not np.isfinite(out[0]) and out[1] == 0


@pytest.mark.parametrize("voter", [None, 0, 2])
@pytest.mark.parametrize("elect_first", [False, True])
@pytest.mark.parametrize("models", [1, 3, 5])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_largest_of_the_elected_sign_stands_for_their_sum(
    tmp_path: Path, dtype: str, models: int, elect_first: bool, voter: int | None
) -> None:
    """Everywhere, or where the voter has that sign."""
    base, *tuned = arrays = arrays_of(dtype, models=models)
    # Elected before their weights, values may be as large as others of the other sign.
    weights = [(1 if elect_first else (-1) ** k) * (0.9 - 0.1 * k) for k in range(models)]
    voter = None if voter is None else min(voter, models - 1)
    votes = [int(voter in (None, k)) for k in range(models)]
    given = list(enumerate(zip(weights, votes, strict=True)))
    task = _core.Consensus(
        parts=[_core.Part(source=k + 1, weight=w, votes=v) for k, (w, v) in given],
        scale=-0.7, elect=True, elect_first=elect_first, normalize=False,
        least=int(voter is not None), largest=True,
    )  # fmt: skip
    results = [run(tmp_path, arrays, dtype, task, isa=isa) for isa in ISAS]
    everywhere = np.ones(SIZE, bool)
    parts = [Part(tuned[k], w, everywhere, votes=v) for k, (w, v) in given]
    check(
        results[0], base, parts, -0.7, dtype, elect=True, elect_first=elect_first,
        normalize=False, least=int(voter is not None), largest=True,
    )  # fmt: skip
    assert all(one.tobytes() == results[0].tobytes() for one in results)


@pytest.mark.parametrize("votes", [(1, 1), (1, 0), (0, 1)])
@pytest.mark.parametrize("other", [1.0, -1.0, 0.0, 1e30, -1e30])
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_broken_shows_whoever_is_larger(
    tmp_path: Path, broken: float, other: float, votes: tuple[int, int]
) -> None:
    deltas = np.array([[0.0, 0.0], [broken, 1.0], [other, 2.0]], np.float32)
    for order in ((1, 2), (2, 1)):
        made = [_core.Part(source=k, weight=1.0, votes=votes[k - 1]) for k in order]
        task = _core.Consensus(
            parts=made, scale=1.0, elect=True, normalize=False, least=1, largest=True
        )
        for isa in ISAS:
            out = run(tmp_path, list(deltas), "F32", task, isa=isa)
            assert not np.isfinite(out[0]) and out[1] == 2


def test_random_numbers_are_philox() -> None:
    """The known answer of the authors' own library for counter 0 and key 0."""
    assert [hex(n) for n in philox(0, 1024)[::256]] == [
        "0x5f6fb709",
        "0xd893f64",
        "0x4f121f81",
        "0x4f730a48",
    ]


@pytest.mark.parametrize("density", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("key", [0, 0x0123_4567_89AB_CDEF])
def test_random_masks_depend_on_place_and_key_alone(
    tmp_path: Path, key: int, density: float
) -> None:
    base, *tuned = arrays = arrays_of("F32")
    below = int(density * 2**32)
    part = _core.Part(source=1, weight=1.0, gain=2.0, random_below=below, key=key)
    task = _core.Consensus(parts=[part], scale=1.0, elect=False, normalize=False)
    results = [run(tmp_path, arrays[:2], "F32", task, isa=isa) for isa in ISAS]
    kept = philox(key, SIZE) < below
    parts = [Part(tuned[0], 1.0, kept, 2.0)]
    check(results[0], base, parts, 1.0, "F32", elect=False, normalize=False)
    assert all(one.tobytes() == results[0].tobytes() for one in results)
    assert kept.mean() == pytest.approx(density, abs=0.01)


@pytest.mark.parametrize("row", [1, 7, 251, 256, 1000, 35_000])
@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
def test_probabilities_rise_with_the_rank_in_rows_that_slices_cut(
    tmp_path: Path, dtype: str, row: int
) -> None:
    size = SIZE // row * row
    generator = np.random.default_rng(row)
    base = np.zeros(size, DTYPES[dtype])
    # Few magnitudes in one, so that equal ones are many.
    tuned = [
        (generator.integers(-8, 9, size) * 0.25).astype(DTYPES[dtype]),
        generator.standard_normal(size).astype(DTYPES[dtype]),
    ]
    lowest, span = 1 << 30, 1 << 31
    made, parts = [], []
    for k, x in enumerate(tuned):
        keys = np.abs(decode(x)).astype(np.float32).view(np.uint32)
        kept = philox(k, size) < limits_of_rows(keys, row, lowest, span)
        made.append(
            _core.Part(
                source=k + 1, weight=1.0, random_below=lowest, key=k, row=row, random_span=span
            )
        )
        parts.append(Part(x, 1.0, kept))
        assert row < 7 or np.abs(decode(x))[kept].mean() > np.abs(decode(x)).mean()
    task = _core.Consensus(parts=made, scale=1.0, elect=False, normalize=False)
    results = [run(tmp_path, [base, *tuned], dtype, task, isa=isa) for isa in ISAS]
    for slice_bytes, threads in ((1 << 10, 1), (1 << 14, 3), (1 << 22, 2)):
        results.append(
            run(tmp_path, [base, *tuned], dtype, task, slice_bytes=slice_bytes, threads=threads)
        )
    check(results[0], base, parts, 1.0, dtype, elect=False, normalize=False)
    assert all(one.tobytes() == results[0].tobytes() for one in results)
    sums = delta_sums(tmp_path, size, dtype, made)
    for (_, some, *_), part in zip(sums, parts, strict=True):
        assert some == pytest.approx(np.abs(decode(part.tuned))[part.kept].sum(), rel=1e-12)


def delta_sums(
    folder: Path, size: int, dtype: str, parts: Sequence[_core.Part]
) -> list[tuple[float, float, float, int, int]]:
    """Of files that `run` has written."""
    paths = [str(folder / f"{k}.safetensors") for k in range(len(parts) + 1)]
    begins = [read_header(Path(path)).entries[0].begin for path in paths]
    sources = [_core.Source(k, begin, dtype) for k, begin in enumerate(begins)]
    job = _core.DeltaSumsJob(sources=sources, elements=size, parts=parts)
    return _core.delta_sums(paths, [job], threads=2, buffer_bytes=1 << 24)[0]


def test_rows_that_do_not_fill_the_tensor_are_refused(tmp_path: Path) -> None:
    part = _core.Part(source=1, weight=1.0, random_below=1 << 30, row=3, random_span=1)
    task = _core.Consensus(parts=[part], scale=1.0, elect=False, normalize=False)
    with pytest.raises(ValueError, match="no file or source"):
        run(tmp_path, [np.zeros(4, np.float32)] * 2, "F32", task)


def test_a_row_that_does_not_fit_the_memory_is_an_error(tmp_path: Path) -> None:
    part = _core.Part(source=1, weight=1.0, random_below=1 << 30, row=SIZE, random_span=1)
    task = _core.Consensus(parts=[part], scale=1.0, elect=False, normalize=False)
    with pytest.raises(MemoryLimitError, match="at least"):
        run(tmp_path, [np.zeros(SIZE, np.float32)] * 2, "F32", task, buffer_bytes=1 << 20)


@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
def test_cuts_keep_a_band_of_magnitudes_and_of_equal_ones_the_first(
    tmp_path: Path, dtype: str
) -> None:
    base = np.zeros(SIZE, DTYPES[dtype])
    generator = np.random.default_rng(0)
    tuned = (generator.integers(-8, 9, SIZE) * 0.25).astype(DTYPES[dtype])
    keys = np.abs(decode(tuned)).astype(np.float32).view(np.uint32)
    ranks = (SIZE // 2, SIZE // 10)
    cuts = []
    for rank in ranks:
        key = int(np.sort(keys)[::-1][rank - 1])
        left = rank - int((keys > key).sum())
        cuts.append((key, int(np.flatnonzero(keys == key)[left - 1]) + 1))
    part = _core.Part(source=1, weight=1.0, outer=cuts[0], inner=cuts[1])
    task = _core.Consensus(parts=[part], scale=1.0, elect=True, normalize=True)
    kept = largest(keys, ranks[0]) & ~largest(keys, ranks[1])
    for isa in ISAS:
        out = run(tmp_path, [base, tuned], dtype, task, isa=isa, slice_bytes=1 << 14)
        assert ulps(out, np.where(kept, tuned, base)) == 0


def test_nan_and_infinity_show_in_the_result(tmp_path: Path) -> None:
    base = np.zeros(4, np.float32)
    tuned = np.array([np.nan, np.inf, 1, 0], np.float32)
    other = np.array([1, 1, -3, 0], np.float32)
    task = _core.Consensus(
        parts=[_core.Part(source=1, weight=1.0), _core.Part(source=2, weight=1.0)],
        scale=1.0, elect=True, normalize=True,
    )  # fmt: skip
    out = run(tmp_path, [base, tuned, other], "F32", task)
    assert np.isnan(out[0])
    assert np.isinf(out[1])
    assert out[2:].tolist() == [-3, 0]


@pytest.mark.parametrize("dtype", FLOATS)
def test_values_are_cut_down_to_a_limit(tmp_path: Path, dtype: str) -> None:
    base, tuned, *_ = arrays_of(dtype)
    part = _core.Part(source=1, weight=-0.5, gain=1.5, limit=0.06)
    task = _core.Consensus(parts=[part], scale=2.0, elect=False, normalize=False)
    results = [run(tmp_path, [base, tuned], dtype, task, isa=isa) for isa in ISAS]
    value = np.clip(-0.75 * (decode(tuned) - decode(base)), -0.06, 0.06)
    error = 2.0**-21 * (np.abs(decode(base)) + 1)
    assert within(results[0], decode(base) + 2 * value, error, dtype).all()
    assert all(one.tobytes() == results[0].tobytes() for one in results)


def test_a_part_of_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    task = _core.Consensus(
        parts=[_core.Part(source=0, weight=1.0)], scale=1.0, elect=True, normalize=True
    )
    with pytest.raises(ValueError, match="no file or source"):
        run(tmp_path, [np.zeros(4, np.float32)] * 2, "F32", task)


def test_sums_of_deltas_are_exact_and_the_same_for_any_threads(tmp_path: Path) -> None:
    base, *tuned = arrays = arrays_of("BF16")
    paths, sources = native_sources(tmp_path, arrays)
    job = _core.DeltaSumsJob(
        sources=sources,
        elements=SIZE,
        parts=[
            _core.Part(source=k, weight=9.0, random_below=1 << 31, key=4 + k) for k in (1, 2, 3)
        ],
        counted=True,
    )
    found = {
        tuple(_core.delta_sums(paths, [job], threads=n, buffer_bytes=1 << 24, isa=isa)[0])
        for n, isa in itertools.product((1, 2, 5), ISAS)
    }
    (sums,) = found
    deltas = np.stack([np.abs(decode(x) - decode(base)) for x in tuned])
    deltas = deltas.astype(np.float32).astype(np.float64)
    kept = deltas * np.stack([philox(4 + k, SIZE) < 1 << 31 for k in (1, 2, 3)])
    alone = (kept != 0) & ((kept != 0).sum(axis=0) == 1)
    for k, (whole, some, square, *counts) in enumerate(sums):
        assert whole == pytest.approx(deltas[k].sum(), rel=1e-12)
        assert some == pytest.approx(kept[k].sum(), rel=1e-12)
        assert square == pytest.approx((kept[k] ** 2).sum(), rel=1e-12)
        assert counts == [(kept[k] != 0).sum(), alone[k].sum()]


@pytest.mark.parametrize("elected", [0, 1, 2])
@pytest.mark.parametrize("dtype", ["BF16", "F32", "F64"])
def test_sums_of_what_is_elected_are_exact_and_the_same_for_any_threads(
    tmp_path: Path, dtype: str, elected: int
) -> None:
    base, *tuned = arrays = arrays_of(dtype)
    paths, sources = native_sources(tmp_path, arrays)
    gains = (1.0, 1.5, 2.0)
    given = list(zip(WEIGHTS, gains, strict=True))
    job = _core.DeltaSumsJob(
        sources=sources,
        elements=SIZE,
        parts=[_core.Part(source=k + 1, weight=w, gain=g) for k, (w, g) in enumerate(given)],
        elected=elected,
    )
    found = {
        tuple(_core.delta_sums(paths, [job], threads=n, buffer_bytes=1 << 24, isa=isa)[0])
        for n, isa in itertools.product((1, 2, 5), ISAS)
    }
    (sums,) = found
    held = np.stack(
        [w * g * (decode(x) - decode(base)) for x, (w, g) in zip(tuned, given, strict=True)]
    )
    sign = np.where(held.sum(axis=0) < 0, -1, 1)
    largest = (sign * held).max(axis=0).clip(0) * (sign * held[elected] > 0)
    assert sums[elected][0] == pytest.approx(np.abs(held[elected]).sum(), rel=1e-6)
    assert sums[elected][1] == pytest.approx(largest.sum(), rel=1e-4)
    assert sums[elected][2] == pytest.approx((largest**2).sum(), rel=1e-4)
    assert all(one == (0, 0, 0, 0, 0) for k, one in enumerate(sums) if k != elected)


def test_a_sum_of_a_part_that_is_not_there_is_refused(tmp_path: Path) -> None:
    paths, sources = native_sources(tmp_path, [np.zeros(4, np.float32)] * 2)
    parts = [_core.Part(source=1, weight=1.0)]
    job = _core.DeltaSumsJob(sources=sources, elements=4, parts=parts, elected=1)
    with pytest.raises(ValueError, match="no source"):
        _core.delta_sums(paths, [job], threads=1, buffer_bytes=1 << 24)
