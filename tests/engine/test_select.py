"""Which elements of a delta are its largest: exact, equal ones in the order of their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from engine.native_sources import native_sources
from oracles.arithmetic import decode, random_array
from oracles.consensus import largest
from support.checkpoints import DTYPES, FLOATS

from tvmerge import _core

ISAS = _core.available_isas()
VARIANCE = -1
SIZES = (1, 31, 1025, 32_768, 32_769, 65_536, 300_007)


def keys(base: np.ndarray, tuned: Sequence[np.ndarray], source: int) -> np.ndarray:
    """The bits of |delta| in float32, or of the deltas' population variance."""
    with np.errstate(all="ignore"):
        if source == VARIANCE:
            deltas = [(decode(x) - decode(base)).astype(np.float32) for x in tuned]
            times, whole = np.float32(len(tuned)), sum(deltas, np.zeros_like(deltas[0]))
            square = np.zeros_like(whole)
            for delta in deltas:
                square += (delta * times - whole) * (delta * times - whole)
            values = square * (np.float32(1) / (times * times * times))
        else:
            values = (decode(tuned[source - 1]) - decode(base)).astype(np.float32)
    # Every NaN has the same key, above all others.
    found = np.asarray(values).view(np.uint32) & np.uint32(0x7FFFFFFF)
    return np.minimum(found, np.uint32(0x7F800001))


def chosen_by(ranked: np.ndarray, cut: tuple[int, int]) -> np.ndarray:
    key, ties_end = cut
    return (ranked > key) | ((ranked == key) & (np.arange(ranked.size) < ties_end))


def select(
    folder: Path,
    arrays: Sequence[np.ndarray],
    queries: Sequence[tuple[int, int | float]],
    **options: object,
) -> list[tuple[int, int]]:
    paths, sources = native_sources(folder, arrays)
    job = _core.SelectJob(sources=sources, elements=arrays[0].size, queries=queries)
    kept: dict[str, object] = {"threads": 2, "buffer_bytes": 1 << 26, **options}
    (cuts,) = _core.select(paths, [job], **kept)  # type: ignore[arg-type]
    return cuts


def bytes_read() -> int:
    """By this process so far, from page caches too."""
    counted = Path("/proc/self/io").read_text().splitlines()[0]
    return int(counted.removeprefix("rchar: "))


def values(kind: str, dtype: str, size: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    if kind == "wild":
        return random_array(generator, dtype, (size,), wild=True)
    if kind == "few":  # deltas of a few magnitudes: every cut goes through equal ones
        return (generator.integers(-2, 3, size) * 0.25).astype(DTYPES[dtype])
    if kind == "sorted":  # a sample of any part misleads about the others
        return np.sort(generator.standard_normal(size)).astype(DTYPES[dtype])
    return (generator.standard_normal(size) * 0.05).astype(DTYPES[dtype])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["usual", "wild", "few", "sorted"])
@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_a_cut_keeps_the_largest_and_of_equal_ones_the_first(
    tmp_path: Path, dtype: str, kind: str, size: int
) -> None:
    base, *tuned = arrays = [values(kind, dtype, size, seed) for seed in range(3)]
    shares = (0.0, 0.001, 0.2, 0.5, 0.9, 1.0)
    queries = [(k % 2 + 1, max(1, int(share * size))) for k, share in enumerate(shares)]
    queries += [(1, 0), (2, size), (VARIANCE, max(1, size // 10))]
    answers = {
        isa: select(tmp_path, arrays, queries, isa=isa, threads=threads)
        for isa, threads in zip(ISAS, (2, 1, 7), strict=False)
    }
    for (source, rank), cut in zip(queries, answers[ISAS[0]], strict=True):
        ranked = keys(base, tuned, source)
        assert np.array_equal(chosen_by(ranked, cut), largest(ranked, rank)), (source, rank)
    assert all(answer == answers[ISAS[0]] for answer in answers.values())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["usual", "few", "tail"])
def test_a_share_is_one_of_the_elements_that_are_not_0(
    tmp_path: Path, kind: str, size: int
) -> None:
    base = values("few" if kind == "few" else "usual", "F32", size, 0)
    moved = values("few" if kind == "few" else "usual", "F32", size, 1)
    still = np.random.default_rng(2).random(size) < 0.7
    if kind == "tail":  # the sample's chunks are no measure of how many are 0
        still = np.arange(size) % 4_800 < 600
    tuned = [np.where(still, base, moved), np.where(still, base, base + moved)]
    shares = (0.0, 0.001, 0.3, 0.97, 1.0)
    queries = [(source, share) for source in (1, VARIANCE) for share in shares]
    answers = [
        select(tmp_path, [base, *tuned], queries, isa=isa, threads=threads)
        for isa, threads in zip(ISAS, (2, 1, 7), strict=False)
    ]
    for (source, share), cut in zip(queries, answers[0], strict=True):
        ranked = keys(base, tuned, source)
        expected = largest(ranked, int(share * np.count_nonzero(ranked)))
        assert np.array_equal(chosen_by(ranked, cut), expected), (source, share)
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("dtype", FLOATS)
def test_inputs_may_have_any_dtype(tmp_path: Path, dtype: str) -> None:
    base, tuned = values("usual", "F32", 40_000, 0), values("usual", dtype, 40_000, 1)
    (cut,) = select(tmp_path, [base, tuned], [(1, 5_000)])
    ranked = keys(base, [tuned], 1)
    assert np.array_equal(chosen_by(ranked, cut), largest(ranked, 5_000))


def test_where_the_sample_sees_nothing_of_the_tail_the_cut_is_still_exact(tmp_path: Path) -> None:
    """The sample's chunks hold zeros only; all that counts lies between them."""
    size = 1 << 20
    tuned = np.zeros(size, np.float32)
    tuned[10_000:13_000] = np.random.default_rng(0).standard_normal(3_000)
    (cut,) = select(tmp_path, [np.zeros_like(tuned), tuned], [(1, 2_000)])
    ranked = keys(np.zeros_like(tuned), [tuned], 1)
    assert np.array_equal(chosen_by(ranked, cut), largest(ranked, 2_000))


@pytest.mark.parametrize("grid", [2**-24, 2**-15])
def test_many_values_are_read_once(tmp_path: Path, grid: float) -> None:
    """Also where the cut goes through equal keys that a sample does not foretell."""
    size = 1 << 21
    values = np.round(np.random.default_rng(0).standard_normal(size) / grid) * grid
    arrays = [np.zeros(size, np.float32), values.astype(np.float32)]
    before = bytes_read()
    (cut,) = select(tmp_path, arrays, [(1, size // 5)])
    read = bytes_read() - before
    ranked = keys(arrays[0], arrays[1:], 1)
    assert np.array_equal(chosen_by(ranked, cut), largest(ranked, size // 5))
    assert read < 1.2 * sum(array.nbytes for array in arrays)


def test_a_share_of_no_elements_is_none(tmp_path: Path) -> None:
    assert select(tmp_path, [np.zeros(0, np.float32)] * 2, [(1, 0.5)]) == [(2**32 - 1, 0)]


def test_a_query_of_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    arrays = [np.zeros(4, np.float32)] * 2
    for source in (-2, 0, 2):
        with pytest.raises(ValueError, match="no source that exists"):
            select(tmp_path, arrays, [(source, 1)])
